"""The README's commands run, in its order, on a small copy of what it names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from conftest import REPOSITORY, Pack, draw

from distreid.datasets import LAYOUTS, SAMPLE_FOLDER, open_data
from distreid.models import MODELS

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_readmes_commands_work(tmp_path: Path, pack: Callable[[str], Pack]) -> None:
    pack("person_reid_baseline_pytorch/ft_net_r50_s2_512").save(tmp_path / "model/ft_ResNet50")
    manifest = open_data("sample")
    for row in [*range(4), *range(300, 306)]:
        file = manifest.file(row)
        part = "query" if file.parent.name == "query" else "gallery"
        target = tmp_path / "Market/pytorch" / part / file.name[:4] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for number in range(3):
        draw(tmp_path / "my_images" / f"{number}.jpg", number)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    commands = re.findall(r"^\$ (.*)$", README, flags=re.MULTILINE)
    assert len(commands) >= 5
    snippet = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "snippet.py").write_text(snippet[0] + "assert gallery.shape == (3, 512)\n")
    for command in [*commands, "python snippet.py"]:
        # Eight processes would take the two cores of a small machine a minute to start.
        done = subprocess.run(
            command.replace("--nproc_per_node=8", "--nproc_per_node=2"),
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_readme_names_every_layout_and_model_and_file() -> None:
    for name in (*LAYOUTS, *MODELS):
        assert f"`{name}`" in README, name
    tour = README[README.index("## File tour") :]
    for file in (REPOSITORY / "distreid").glob("*.py"):
        if not file.name.startswith("__"):
            assert file.name in tour, file.name


def test_the_readme_shows_what_the_demo_is_about() -> None:
    assert SAMPLE_FOLDER.is_dir()
    for line in ("./launch/demo", "./launch/test"):
        assert line in README
        assert os.access(REPOSITORY / line, os.X_OK)
