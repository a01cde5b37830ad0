"""`distreid gallery …`: parse, call one function, print. Imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distreid.errors import OptionError, StoreError, printable
from distreid.host.counts import counted, whole_number
from distreid.job.options import given_name, given_path

if TYPE_CHECKING:
    from distreid.search.changes import Manner
    from distreid.search.gallery import Filter

KINDS = ("hnsw", "ivfpq")  # as search.approximate has them, which imports torch
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_gallery_commands(command: argparse.ArgumentParser) -> None:
    """The commands below `distreid gallery`."""
    commands = command.add_subparsers(required=True, metavar="COMMAND")

    create = _command(commands, "create", "a new gallery of one or several runs", _create)
    create.add_argument(
        "--run",
        dest="runs",
        required=True,
        nargs="+",
        type=given_path,
        metavar="RUN",
        help="complete runs, whose rows it has",
    )
    _add_copy(create)
    _add_writer(create)

    add = _command(commands, "add", "a run's rows to a gallery", _add)
    add.add_argument(
        "--run",
        dest="added",
        required=True,
        type=given_path,
        metavar="RUN",
        help="a complete run of the same feature space",
    )
    _add_copy(add)
    add.add_argument(
        "--prefix",
        default="",
        metavar="NAME",
        help="its persons are others than those of the same numbers or names: NAME12 (default: "
        "equal numbers and names are one person)",
    )
    _add_writer(add)

    remove = _command(commands, "remove", "hide rows, or erase them", _remove)
    remove.add_argument("--rows", type=given_path, metavar="FILE", help="row ids, one a line")
    add_filters(remove, "persons", "cameras")
    remove.add_argument(
        "--before", type=seconds, metavar="TIME", help="rows of an earlier time (ISO 8601, seconds)"
    )
    remove.add_argument(
        "--erase",
        action="store_true",
        help="these rows' features and paths are gone from every file of the gallery, also where "
        "they were hidden before",
    )
    remove.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="DURATION",
        help="how long erasing waits for readers (default: 60s)",
    )
    _add_writer(remove)

    _command(commands, "list", "what a gallery holds", _list)
    _command(commands, "verify", "check every byte of a gallery and its runs", _verify)
    compact = _command(
        commands,
        "compact",
        "leave hidden rows out for good, and renew what has become slow",
        _compact,
    )
    _add_writer(compact)

    push = _command(commands, "push", "a gallery's rows to a Milvus collection, kept alike", _push)
    push.add_argument(
        "--milvus", required=True, metavar="URI", help="a file for milvus-lite, or a server's"
    )
    push.add_argument(
        "--collection", required=True, metavar="NAME", help="made where there is none"
    )


def add_index_options(command: argparse.ArgumentParser) -> None:
    """The options of `distreid index`."""
    command.add_argument("gallery", type=given_path, metavar="GALLERY", help="its folder")
    command.add_argument("--kind", default="hnsw", choices=KINDS, help="(default: hnsw)")
    command.add_argument(
        "--recall",
        type=float,
        default=0.99,
        metavar="R",
        help="of the first ten, measured on rows of the gallery (default: 0.99)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead")
    _add_writer(command)


def build_index(parsed: argparse.Namespace) -> None:
    """Runs `distreid index`."""
    from distreid.search.approximate import build

    built = vars(build(parsed.gallery, parsed.kind, parsed.recall, _manner(parsed)))
    lost = "not known" if built["map_lost"] is None else f"{100 * built['map_lost']:.2f} %"
    line = (
        f"{parsed.gallery}: {built['kind']} of {built['rows']:,} rows in {built['seconds']:.1f} s, "
        f"{built['bytes'] / 1e6:.1f} MB; recall@10 {built['recall']:.4f} with effort "
        f"{built['effort']}, mAP lost {lost}"
    )
    _print(parsed, {"gallery": str(parsed.gallery)} | built, line)


def _command(commands: Any, name: str, what: str, run: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    command.add_argument("gallery", type=given_path, metavar="GALLERY", help="its folder")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    command.set_defaults(run=run)
    return command


def _add_copy(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--copy",
        action="store_true",
        help="the gallery has a copy of its own (default: it refers to the run where it is)",
    )


def _add_writer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-wait", action="store_true", help="fail where another changes the gallery"
    )
    command.add_argument(
        "--keep",
        type=duration,
        default=0.0,
        metavar="DURATION",
        help="how long earlier generations stay though nobody reads them, such as 1h (default: 0s)",
    )


def add_filters(command: Any, *names: str) -> None:
    """Options of which rows are meant: words that are names or numbers."""
    words = {
        "cameras": "rows of these cameras, by name or number",
        "persons": "rows of these persons, by name or number",
        "not_persons": "no rows of these persons",
    }
    for name in names:
        flag = f"--{name.replace('_', '-')}"
        command.add_argument(flag, nargs="+", type=given_name, metavar="NAME", help=words[name])


def duration(text: str) -> float:
    """Seconds of `30s`, `10m`, `2h`, `1d` or a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: a time such as 30s, 10m, 2h or 1d is wanted")
    return float(match[1]) * UNITS[match[2] or "s"]


def seconds(text: str) -> float:
    """Seconds since 1970 of ISO 8601, UTC where no zone is given, or of a number."""
    from distreid.data.image_table import seconds_since_1970

    try:
        if re.fullmatch(r"\d{4}", text, flags=re.ASCII):
            raise ValueError(f"for the year write {text}-01-01, for seconds since 1970 {text}.0")
        return float(seconds_since_1970(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def say(line: str) -> None:
    """For people, beside the output."""
    print(f"distreid: {printable(line)}", file=sys.stderr)


def _manner(parsed: argparse.Namespace) -> Manner:
    from distreid.search.changes import Manner

    return Manner(
        say=say,
        wait=not parsed.no_wait,
        keep_s=parsed.keep,
        timeout_s=getattr(parsed, "timeout", 60.0),
    )


def _print(parsed: argparse.Namespace, content: dict[str, Any], line: str) -> None:
    if parsed.json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print(printable(line))


def _how_held(copy: bool) -> str:
    return "copied" if copy else "by reference: keep the run where it is"


def _create(parsed: argparse.Namespace) -> None:
    from distreid.search.changes import create

    made = create(parsed.gallery, parsed.runs, _manner(parsed), copy=parsed.copy)
    content = {"gallery": str(parsed.gallery), "generation": made.generation, "rows": made.next_row}
    line = (
        f"{parsed.gallery}: {counted(made.next_row, 'row')} of {counted(len(made.segments), 'run')}"
    )
    _print(parsed, content, f"{line} ({_how_held(parsed.copy)})")


def _add(parsed: argparse.Namespace) -> None:
    from distreid.search.changes import add
    from distreid.search.generation import read_generation

    first = add(
        parsed.gallery, parsed.added, _manner(parsed), copy=parsed.copy, prefix=parsed.prefix
    )
    after = read_generation(parsed.gallery)
    last = first + after.segments[-1].count - 1
    content = {"gallery": str(parsed.gallery), "first_row": first, "last_row": last}
    line = f"{parsed.added}: rows {first} to {last} of {parsed.gallery}"
    _print(parsed, content, f"{line} ({_how_held(parsed.copy)})")


def _remove(parsed: argparse.Namespace) -> None:
    from distreid.search.changes import remove

    which, rows = _which(parsed), None
    if parsed.rows is not None:
        if which is not None:
            raise OptionError("--rows: alone, or persons, cameras and a time")
        rows = _row_ids(parsed.rows)
    elif which is None:
        raise OptionError("which rows? give --persons, --rows, --cameras or --before")
    done = remove(parsed.gallery, _manner(parsed), which=which, rows=rows, erase=parsed.erase)
    content = {
        "gallery": str(parsed.gallery),
        "rows": done.rows,
        "erased": done.erased,
        "still_in": list(done.elsewhere),
        "readers_stopped": done.readers,
    }
    _print(
        parsed,
        content,
        f"{parsed.gallery}: {counted(done.rows, 'row')} {'erased' if parsed.erase else 'hidden'}",
    )
    for run in done.elsewhere:
        say(f"{run}: not the gallery's own, and still holds erased rows: delete them there too")


def _which(parsed: argparse.Namespace) -> Filter | None:
    import math

    from distreid.search.gallery import Filter

    which = Filter(
        persons=None if parsed.persons is None else tuple(parsed.persons),
        cameras=None if parsed.cameras is None else tuple(parsed.cameras),
        until=None if parsed.before is None else math.nextafter(parsed.before, -math.inf),
    )
    return None if which.is_open else which


def _row_ids(file: Path) -> list[int]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split()
    except OSError as error:
        raise OptionError(f"--rows {file}: {error.strerror}; give a file of row ids") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"--rows {file}: no text; give row ids, one a line") from error
    if not lines:
        say(f"--rows {file}: empty, no row is named")
    rows = []
    for line in lines:
        if (row := whole_number(line)) is None or row < 0:
            raise OptionError(f"--rows {file}: {line[:40]!r} is no row id; give one a line")
        rows.append(row)
    return rows


def _list(parsed: argparse.Namespace) -> None:
    from distreid.search.gallery import Gallery

    opened = Gallery(parsed.gallery, with_features=False)
    generation, hidden = opened.generation, len(opened.hidden)
    runs = [
        {
            "run": segment.run,
            "copied": segment.owned,
            "rows": segment.count,
            "first_row": int(run.columns.row[0]),
            "last_row": int(run.columns.row[-1]),
            "prefix": segment.prefix,
        }
        for segment, run in zip(generation.segments, opened.runs, strict=True)
    ]
    content = {
        "gallery": str(parsed.gallery),
        "generation": generation.generation,
        "created": generation.created,
        "dim": generation.dim,
        "rows": sum(segment.count for segment in generation.segments),
        "hidden": hidden,
        "coded": generation.directions is not None,
        "runs": runs,
        "space": generation.space,
    }
    opened.close()
    if parsed.json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    how = "searched by codes" if content["coded"] else "few rows, searched without codes"
    print(
        printable(
            f"{parsed.gallery}: generation {generation.generation}, {content['rows']:,} rows × "
            f"{generation.dim:,}, {hidden:,} of them hidden; {how}"
        )
    )
    for each in runs:
        held = "copied" if each["copied"] else "by reference"
        print(printable(f"  {each['run']}: rows {each['first_row']} to {each['last_row']}, {held}"))


def _verify(parsed: argparse.Namespace) -> None:
    from distreid.search.gallery_check import verify_gallery

    problems = verify_gallery(parsed.gallery)
    if parsed.json:
        print(json.dumps({"gallery": str(parsed.gallery), "problems": problems}, indent=2))
    else:
        for line in problems:
            print(printable(line), file=sys.stderr)
    if problems:
        wrong = "1 thing is" if len(problems) == 1 else f"{len(problems):,} things are"
        raise StoreError(f"{parsed.gallery}: {wrong} wrong, named above")
    if not parsed.json:
        print(printable(f"{parsed.gallery}: every checksum fits"))


def _compact(parsed: argparse.Namespace) -> None:
    from distreid.search.changes import compact

    done = compact(parsed.gallery, _manner(parsed))
    learnt = ", codes learnt anew" if done["learnt_anew"] else ""
    line = f"{parsed.gallery}: {done['dropped']:,} hidden rows left out{learnt}"
    _print(parsed, {"gallery": str(parsed.gallery)} | done, line)


def _push(parsed: argparse.Namespace) -> None:
    from distreid.search.milvus import push

    done = vars(push(parsed.gallery, parsed.milvus, parsed.collection))
    line = (
        f"{parsed.milvus}/{parsed.collection}: {counted(done['rows'], 'row')}, "
        f"{done['inserted']:,} new, {done['deleted']:,} removed; recall@10 {done['recall']:.4f} "
        "of the exact answers"
    )
    _print(parsed, {"collection": parsed.collection} | done, line)
