"""`distreid COMMAND`: parse, call one function, print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import distreid
from distreid.cluster_options import add_cluster_options
from distreid.errors import CheckpointError, OptionError, StoreError, exit_status, printable
from distreid.extract import DESCRIPTION, extract
from distreid.options import (
    CommandParser,
    add_extract_options,
    add_how_options,
    add_layout_options,
    add_machine_options,
    add_what_options,
    input_size,
    parse_extract_options,
)
from distreid.protocol import CHOICES, PRESETS, Protocol

CONVENTIONS = {
    "ap": "the mean of the precisions at the matches, or the area under trapezoids",
    "denominator": "divide by the queries with a match, or by all",
    "camera_rule": "cross: the query's own person in its own camera is left out",
    "distance": "euclidean and its square rank alike",
    "features": "raw: as the model gives them, before they are normalised",
    "query": "multi: the mean of the multi-query features of its person and camera",
    "gallery_shots": "single: CMC on 10 random galleries of one image of each person",
    "junk": "masked: among the neighbours in re-ranking and expansion, though never ranked",
    "rerank": "k-reciprocal re-ranking, as this project computes it",
    "expand": "aqe: α-weighted expansion of queries and gallery by their neighbours",
}

# Handlers import what they need: torch takes seconds, and --help shall not wait for it.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and gives the exit status: 0 done, 2 the user's mistake."""
    parsed = _parser().parse_args(arguments)
    return exit_status(lambda: parsed.run(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="distreid", description="Person re-identification features that can be trusted."
    )
    parser.add_argument("--version", action="version", version=f"distreid {distreid.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "extract",
        help="images and a checkpoint to a store and its scores, in one process",
        description=DESCRIPTION
        + " For several processes: torchrun --nproc_per_node=N -m distreid.extract …",
    )
    add_extract_options(command)
    command.set_defaults(run=extract)

    command = commands.add_parser(
        "submit",
        usage="%(prog)s [OPTIONS] -- OPTIONS OF distreid extract",
        help="the same as a job of a cluster: SLURM, or processes of this host",
        description="Checks a job here, and submits it to a cluster. " + DESCRIPTION,
    )
    add_cluster_options(command)
    command.set_defaults(run=_submit)

    command = commands.add_parser(
        "evaluate",
        help="score a complete run again, by any convention",
        description="Scores a complete run. By default the main conventions stand side by side; "
        "an option such as --ap changes each of the protocols named. The scores replace those in "
        "the run's metrics.json.",
    )
    _add_run(command)
    command.add_argument(
        "--protocol", metavar="NAME,…", help=f"whose numbers: {', '.join(PRESETS)}"
    )
    for name, choices in CHOICES.items():
        flag = f"--{name.replace('_', '-')}"
        command.add_argument(flag, choices=choices, help=CONVENTIONS[name])
    command.add_argument("--depth", type=int, metavar="K", help="the largest k of Rank-k")
    command.add_argument("--seed", type=int, metavar="N", help="of single-shot draws")
    command.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "fp64"),
        help="of the scores; re-ranking and expansion are in fp32",
    )
    command.add_argument(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="where scores are computed; re-ranking and expansion are on the CPU",
    )
    command.add_argument("--csv", type=Path, metavar="FILE", help="write a line for each query")
    _add_json(command)
    command.set_defaults(run=_evaluate)

    command = commands.add_parser(
        "compare",
        help="is one run better than another, and how sure is that",
        description="The difference B − A of two runs on the same images, with its interval and "
        "a paired test over persons.",
    )
    command.add_argument("a", type=Path, metavar="RUN_A")
    command.add_argument("b", type=Path, metavar="RUN_B")
    command.add_argument("--protocol", default="fastreid", choices=PRESETS)
    _add_json(command)
    command.set_defaults(run=_compare)

    command = commands.add_parser(
        "calibrate",
        help="thresholds for 'the same person' and 'not in the gallery'",
        description="Score distributions of matches and non-matches, and the thresholds for "
        "wished false-positive rates; written to calibration.json in the run.",
    )
    _add_run(command)
    _add_json(command)
    command.set_defaults(run=_calibrate)

    command = commands.add_parser(
        "report", help="one HTML page of a run: scores, pictures, breakdown, identity"
    )
    _add_run(command)
    command.set_defaults(run=_report)

    command = commands.add_parser("verify", help="check every byte of a run")
    _add_run(command)
    command.add_argument(
        "--repair",
        action="store_true",
        help="remove what is damaged, so that the same extraction makes just that again",
    )
    command.set_defaults(run=_verify)

    command = commands.add_parser("status", help="how far a run is, also while it is made")
    _add_run(command)
    _add_json(command)
    command.set_defaults(run=_status)

    command = commands.add_parser("inspect", help="what data or a checkpoint would be taken for")
    command.add_argument("--data", metavar="DIR|CSV|sample")
    add_layout_options(command)
    command.add_argument("--checkpoint", metavar="FILE|sample")
    command.add_argument("--model", default="auto", metavar="NAME")
    command.add_argument("--input-size", type=input_size, metavar="256x128")
    _add_json(command)
    command.set_defaults(run=_inspect)

    command = commands.add_parser(
        "bench",
        help="how fast this machine is with your images and checkpoint, and what holds it up",
        description="Measures each step of an extraction alone and all together. Shards are tried "
        "in a temporary folder, which TMPDIR moves to another disk.",
    )
    add_what_options(command)
    add_how_options(command)
    add_machine_options(command)
    command.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="for each figure (default: 3)"
    )
    command.add_argument(
        "--peer", action="store_true", help="run the plain PyTorch loop of test scripts beside it"
    )
    _add_json(command)
    command.set_defaults(run=_bench)
    return parser


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="RUN", help="--out of an extraction")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead")


def _submit(parsed: argparse.Namespace) -> None:
    from distreid.submit import submit

    submit(parsed)


def _evaluate(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.report import (
        evaluate_aloud,
        say_written,
        score_table,
        write_metrics,
        write_query_csv,
    )
    from distreid.similarity import Similarity
    from distreid.store import FeatureStore

    store = FeatureStore.open(parsed.folder)
    similarity = Similarity(precision=parsed.precision, device=parsed.device)
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    evaluation = evaluate_aloud(store, log, _protocols(parsed), similarity)
    file = write_metrics(store, evaluation)
    if parsed.json:
        print(file.read_text(encoding="utf-8"), end="")
    else:
        Console(highlight=False).print(score_table(evaluation))
    written = [file]
    if parsed.csv:
        write_query_csv(store, evaluation, parsed.csv)
        written.append(parsed.csv)
    say_written(log, written)


def _protocols(parsed: argparse.Namespace) -> list[Protocol] | None:
    """The protocols asked for; None if the user asked for nothing in particular."""
    changes = {name: getattr(parsed, name) for name in (*CHOICES, "depth", "seed")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if parsed.protocol is None and not changes:
        return None
    protocols = []
    for name in (parsed.protocol or "fastreid").split(","):
        if name not in PRESETS:
            raise OptionError(f"--protocol {name}: choose among {', '.join(PRESETS)}")
        # A protocol that was changed is nobody's any more.
        mine: dict[str, Any] = {"name": f"{name}, changed", "as_in": ""} if changes else {}
        protocols.append(replace(PRESETS[name], **mine, **changes))
    return protocols


def _compare(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.compare import compare_runs, comparison_json, comparison_table
    from distreid.store import FeatureStore

    stores = FeatureStore.open(parsed.a), FeatureStore.open(parsed.b)
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    comparison = compare_runs(*stores, PRESETS[parsed.protocol], log)
    if parsed.json:
        print(json.dumps(comparison_json(*stores, comparison), indent=2))
    else:
        table = comparison_table(*stores, PRESETS[parsed.protocol], comparison)
        Console(highlight=False).print(table)


def _calibrate(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.calibrate import calibrate_run, calibration_table, write_calibration
    from distreid.report import say_written
    from distreid.store import FeatureStore

    store = FeatureStore.open(parsed.folder)
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    calibration = calibrate_run(store, log)
    file = write_calibration(store, calibration)
    if parsed.json:
        print(file.read_text(encoding="utf-8"), end="")
    else:
        Console(highlight=False).print(calibration_table(calibration))
    say_written(log, [file])


def _report(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.run_page import write_page
    from distreid.store import FeatureStore

    log = Console(stderr=True, highlight=False, soft_wrap=True)
    print(printable(str(write_page(FeatureStore.open(parsed.folder), log))))


def _verify(parsed: argparse.Namespace) -> None:
    from distreid.verify import repair_run, verify_run

    findings = (repair_run if parsed.repair else verify_run)(parsed.folder)
    for what in findings.bad.values():
        print(printable(what), file=sys.stderr)
    print(printable(f"{parsed.folder}: {findings.describe()}"))
    if findings.bad and parsed.repair:
        print(f"removed {len(findings.bad):,} files; run the same extraction again to mend the run")
    elif problem := findings.problem():
        raise StoreError(f"{parsed.folder}: {problem}")


def _status(parsed: argparse.Namespace) -> None:
    from distreid.status import run_status

    status = run_status(parsed.folder)
    if parsed.json:
        print(json.dumps(asdict(status), indent=2, ensure_ascii=False))
    else:
        print(printable(f"{parsed.folder}: {status.describe()}"))


def _inspect(parsed: argparse.Namespace) -> None:
    if not (parsed.data or parsed.checkpoint):
        raise OptionError("inspect: give --data, --checkpoint or both")
    if parsed.json and (parsed.checkpoint or not parsed.data):
        raise OptionError("inspect --json is of --data alone")
    if parsed.data:
        from distreid.datasets import open_data
        from distreid.datasets.inspection import inspect
        from distreid.datasets.summary import check_counts

        manifest = open_data(
            parsed.data,
            parsed.layout,
            parsed.multi_query,
            split=parsed.split,
            pattern=parsed.pattern,
        )
        found = inspect(manifest)
        if parsed.json:
            print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        else:
            _print_lines(f"{manifest.root}: {manifest.layout}", found.lines())
        if parsed.strict_counts:
            check_counts(manifest)
    if parsed.checkpoint:
        _inspect_checkpoint(parsed)


def _bench(parsed: argparse.Namespace) -> None:
    import tempfile

    from rich.console import Console

    from distreid.bench import bench
    from distreid.bench_figures import bench_table

    with tempfile.TemporaryDirectory() as folder:
        parsed.out = Path(folder, "run")
        found = bench(parse_extract_options(parsed), parsed.seconds, parsed.peer)
    if parsed.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        Console(highlight=False).print(bench_table(found))


def _inspect_checkpoint(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.inspection import key_table, model_table
    from distreid.models.checkpoint import file_of, load_model, read_checkpoint

    console = Console(highlight=False, markup=False)
    try:
        model = load_model(parsed.checkpoint, parsed.model, parsed.input_size)
    except CheckpointError:
        # What it holds may tell what it is.
        console.print(key_table(read_checkpoint(file_of(parsed.checkpoint)).state))
        raise
    print(printable(str(model.checkpoint.file)))
    console.print(model_table(model))
    console.print(key_table(model.checkpoint.state, model.dropped))


def _print_lines(title: str, lines: Sequence[str]) -> None:
    print(printable(title), *map(printable, lines), sep="\n  ")
