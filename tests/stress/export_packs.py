"""Every network of the golden packs through `distreid export` and its gate, one table.

    python tests/stress/export_packs.py [--format onnx] [--only NAME …]

A line for each pack: least cosine, images with other neighbours, seconds, or why it is refused. The
gate's images are the packs' 16, so that it takes minutes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import GOLDEN, GOLDEN_MODELS, GOLDEN_SAID, Pack

from distreid.errors import UserError
from distreid.export.export_options import FORMATS, ExportOptions
from distreid.export.exporting import export
from distreid.models.choices import Choices


def main() -> None:
    """Prints the table; status 1 if a network is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", default="onnx", choices=FORMATS)
    parser.add_argument("--only", nargs="+", default=GOLDEN_MODELS)
    given = parser.parse_args()
    refused = 0
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder, "images")
            shutil.copytree(
                GOLDEN / "images", images, ignore=shutil.ignore_patterns("*.npz", "*.json")
            )
            checkpoint = Pack(GOLDEN / name).save(Path(folder, "in"))
            options = ExportOptions(
                checkpoint=str(checkpoint), format=given.format, out=Path(folder, "out"),
                data=str(images),
            )  # fmt: skip
            started = time.monotonic()
            try:
                found = export(options, lambda line: None, choices=GOLDEN_SAID.get(name, Choices()))
                what = f"cosine {found.least_cosine:.7f}  others {found.other_neighbours}"
            except UserError as error:
                what, refused = f"refused: {error}", refused + 1
            print(f"{name:52} {time.monotonic() - started:6.1f} s  {what}", flush=True)
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
