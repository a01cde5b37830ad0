"""Features that other programs saved to a run that compares, searches and serves like any."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from distreid.data.locators import is_address, path_of
from distreid.errors import OptionError
from distreid.host.folder_lock import hold
from distreid.store.array_store import ArrayStore
from distreid.store.feature_store import FeatureStore
from distreid.store.plan import shard_rows_for
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard


def import_features(store: ArrayStore, out: Path, say: Callable[[str], None]) -> FeatureStore:
    """Writes what `open_features` read as a run; an import that was interrupted is continued.

    StoreError if the folder holds another run, naming what differs.
    """
    if is_address(out):
        raise OptionError(f"--out {path_of(str(out))}: features are imported to a folder; give one")
    made = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv).encode("utf-8", "backslashreplace").decode(),
    }
    plan = replace(
        store.plan,
        provenance=store.plan.provenance | made,
        shard_rows=shard_rows_for(len(store.manifest)),
    )
    with hold(out, say):
        for shard in begin(out, plan):
            rows = slice(shard.start, shard.stop)
            values = Rows(
                features=store.array[rows], norm=store.norm[rows], status=store.status[rows]
            )
            write_shard(out, plan, shard, values)
        finish(out, plan)
    return FeatureStore.open(out)
