"""`distreid COMMAND`: parse, call one function, print."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distreid
from distreid.cluster.cluster_options import add_cluster_options
from distreid.errors import (
    CheckpointError,
    OptionError,
    StoreError,
    exit_status,
    printable,
    say_on_stderr,
)
from distreid.evaluation.protocol import CHOICES, PRESETS, Protocol
from distreid.evaluation.protocols.choice import chosen_protocols
from distreid.evaluation.protocols.rule import Benchmark
from distreid.export.export_options import ExportOptions, add_export_options
from distreid.extract import DESCRIPTION, extract
from distreid.host.counts import counted
from distreid.host.garbage import end_without_collecting
from distreid.interface.gallery_commands import (
    add_gallery_commands,
    add_index_options,
    build_index,
)
from distreid.interface.link_command import add_link_options, link
from distreid.interface.search_command import add_search_options, search
from distreid.job.options import (
    CommandParser,
    add_data_root,
    add_extract_options,
    add_how_options,
    add_label_options,
    add_layout_options,
    add_machine_options,
    add_network_options,
    add_what_options,
    box_request_of,
    choices_of,
    given_name,
    given_path,
    input_size,
    parse_extract_options,
)
from distreid.models.choices import flag
from distreid.serve.serve_command import add_serve_options, serve

if TYPE_CHECKING:
    from rich.console import Console

    from distreid.data.manifest import Manifest
    from distreid.store import FeatureStore
    from distreid.store.array_store import ArrayStore

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

FILE_OPTIONS = ("labels", "columns", "split_names", "test_ids")  # of features made elsewhere

# Handlers import what they need: torch takes seconds, and --help shall not wait for it.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and gives the exit status: 0 done, 2 the user's mistake."""
    if arguments is None:  # the process is the command's
        end_without_collecting()

    def run() -> None:
        parsed = command_parser().parse_args(arguments)
        parsed.run(parsed)

    return exit_status(run)


def command_parser() -> argparse.ArgumentParser:
    """The command line of `distreid`; the manual is made from it."""
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
        help="score a complete run again, or features of other programs, by any convention",
        description="Scores a complete run, or a file of features made elsewhere: .npz, .npy with "
        "a table, .mat, .pt, .h5, .parquet. By default the main conventions stand side by side; "
        "an option such as --ap changes each of the protocols named. The scores replace those in "
        "the run's metrics.json.",
    )
    _add_run_or_file(command)
    command.add_argument(
        "--distance-matrix",
        type=given_path,
        metavar="FILE",
        help="rank by these distances, an .npy of queries × gallery, smallest first",
    )
    command.add_argument(
        "--protocol",
        metavar="NAME,…",
        help=f"a benchmark's rule, which distreid protocols lists, or whose way of counting: "
        f"{', '.join(PRESETS)}",
    )
    command.add_argument(
        "--protocol-file",
        type=given_path,
        metavar="FILE",
        help="protocols of your own, in TOML; by their names, or all of them",
    )
    for name, choices in CHOICES.items():
        flag = f"--{name.replace('_', '-')}"
        command.add_argument(flag, choices=choices, help=CONVENTIONS[name])
    command.add_argument(
        "--exclude-same",
        metavar="camera,COLUMN,…",
        help="instead of the camera rule: leave out the query's person where all of these are the "
        "query's own, such as camera,clothes",
    )
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
        help="where features are multiplied; all else is done on the CPU",
    )
    command.add_argument(
        "--csv", type=given_path, metavar="FILE", help="write a line for each query"
    )
    _add_json(command)
    command.set_defaults(run=_evaluate)

    command = commands.add_parser(
        "rank",
        help="what each query finds, best first, as a file",
        description="Writes the ranked list of each query in the images' original names, with "
        "labels or without, as challenges want it.",
    )
    _add_run_or_file(command)
    command.add_argument(
        "--top", type=int, default=100, metavar="K", help="how many of each list (default: 100)"
    )
    command.add_argument(
        "--format",
        choices=("csv", "json", "parquet", "aicity", "txt"),
        help="aicity: a line of numbers for each query; txt: the same after its name (default: by "
        "the ending of --out)",
    )
    command.add_argument(
        "--out", required=True, type=given_path, metavar="FILE", help="where the lists go"
    )
    _add_protocol(
        command,
        "what a query does not find, see distreid protocols; nothing is drawn (default: its "
        "person in its camera, where these are known)",
    )
    command.add_argument("--rerank", choices=CHOICES["rerank"], help=CONVENTIONS["rerank"])
    command.set_defaults(run=_rank)

    command = commands.add_parser(
        "import",
        help="features of other programs to a run",
        description="Writes the features of a file as a run, which is compared, searched and "
        "served like any.",
    )
    command.add_argument(
        "folder", type=given_path, metavar="FILE", help="features that another program saved"
    )
    _add_file_options(command)
    command.add_argument(
        "--out", required=True, type=given_path, metavar="RUN", help="a new folder for the run"
    )
    command.add_argument(
        "--space",
        default="",
        metavar="NAME",
        help="what the features are of, such as a model's name: runs of one space are searched "
        "together (default: none)",
    )
    command.set_defaults(run=_import)

    command = commands.add_parser(
        "compare",
        help="is one run better than another, and how sure is that",
        description="The difference B − A of two runs on the same images, with its interval and "
        "a paired test over persons.",
    )
    for name, what in (("a", "a run, and"), ("b", "one that may be better")):
        metavar = f"RUN_{name.upper()}"
        command.add_argument(name, type=given_path, metavar=metavar, help=what)
    _add_protocol(command, "see distreid protocols (default: fastreid)")
    _add_json(command)
    command.set_defaults(run=_compare)

    command = commands.add_parser(
        "calibrate",
        help="thresholds for 'the same person' and 'not in the gallery'",
        description="Score distributions of matches and non-matches, and the thresholds for "
        "wished false-positive rates; written to calibration.json in the run.",
    )
    _add_run_or_file(command)
    _add_protocol(
        command,
        "count the pairs of a benchmark, see distreid protocols (default: those of all query and "
        "gallery rows)",
    )
    _add_json(command)
    command.set_defaults(run=_calibrate)

    command = commands.add_parser(
        "report",
        help="one HTML page of a run: scores, pictures, breakdown, identity",
        description="Writes report.html in the run: its scores with their intervals, curves, the "
        "worst queries with what they find, the mAP of each pair of cameras, how it was made.",
    )
    _add_run(command)
    command.set_defaults(run=_report)

    command = commands.add_parser(
        "show",
        help="write the picture of a row to a file",
        description="Writes a row's image as it lies there, in a folder or an archive, or the box "
        "cut out of its frame; with another ending, converted.",
    )
    _add_run(command)
    command.add_argument("--row", type=int, required=True, metavar="N", help="from 0")
    command.add_argument(
        "--out", type=given_path, required=True, metavar="FILE", help="where the picture goes"
    )
    command.add_argument(
        "--frame", action="store_true", help="of a box: its frame, and the box drawn"
    )
    command.set_defaults(run=_show)

    command = commands.add_parser(
        "gallery",
        help="runs to a gallery that grows and forgets",
        description="A gallery holds the rows of many runs, which are searched together.",
    )
    add_gallery_commands(command)

    command = commands.add_parser(
        "index",
        help="an approximate index of a gallery, with its measured recall",
        description="Builds what search --approximate takes: its parameters are raised until the "
        "recall measured on rows of the gallery is reached. Needs faiss.",
    )
    add_index_options(command)
    command.set_defaults(run=build_index)

    command = commands.add_parser(
        "search",
        help="who is this: the nearest rows of a gallery, proven to be",
        description="The rows of a gallery that are nearest to images, rows or features. The "
        "answer is brute force's, and proven to be.",
    )
    add_search_options(command)
    command.set_defaults(run=search)

    command = commands.add_parser(
        "export",
        help="a checkpoint to ONNX, OpenVINO, TorchScript or torch.export, proven by its ranks",
        description="Writes the whole network, from uint8 images to features of norm 1, and tries "
        "it by its own runtime: what finds other persons than the checkpoint is not published.",
    )
    add_export_options(command, input_size, given_path)
    add_network_options(command)
    command.set_defaults(run=_export)

    command = commands.add_parser(
        "link",
        help="group the rows or tracklets of a run into persons",
        description="Groups rows, or tracklets where the data has them, into persons by their "
        "features alone. Two that one camera sees at one time are never one person.",
    )
    add_link_options(command)
    command.set_defaults(run=link)

    command = commands.add_parser(
        "serve",
        help="a gallery behind HTTP, with a page to look for people",
        description="Answers searches, features and pictures at an address of this machine, and "
        "has a page there. Ends by SIGTERM or Ctrl-C when the running requests are answered.",
    )
    add_serve_options(command)
    command.set_defaults(run=serve)

    command = commands.add_parser(
        "verify",
        help="check every byte of a run, or an export's ranks",
        description="Reads every byte of a run and compares it with its checksums; of an export, "
        "tries again whether it finds the same persons on this machine.",
    )
    command.add_argument(
        "folder", type=given_path, metavar="RUN|EXPORT|FILE", help="what is checked"
    )
    command.add_argument(
        "--against",
        type=given_name,
        metavar="CHECKPOINT",
        help="of a network that others exported, FILE: which preprocessing it wants, found out by "
        "its checkpoint",
    )
    command.add_argument(
        "--repair",
        action="store_true",
        help="remove what is damaged, so that the same extraction makes just that again",
    )
    group = command.add_argument_group("of --against, as in distreid extract")
    group.add_argument("--model", metavar="NAME", help="of the checkpoint (default: auto)")
    add_network_options(group)
    command.set_defaults(run=_verify)

    command = commands.add_parser("status", help="how far a run is, also while it is made")
    _add_run(command)
    _add_json(command)
    command.set_defaults(run=_status)

    command = commands.add_parser("inspect", help="what data or a checkpoint would be taken for")
    command.add_argument(
        "--data", type=given_name, metavar="DIR|ARCHIVE|CSV|sample", help="images, as of extract"
    )
    add_layout_options(command)
    add_data_root(command)
    command.add_argument(
        "--checkpoint", type=given_name, metavar="FILE|sample", help="weights, as of extract"
    )
    command.add_argument(
        "--model", default="auto", metavar="NAME", help="as of extract (default: auto)"
    )
    add_network_options(command)
    _add_json(command)
    command.set_defaults(run=_inspect)

    command = commands.add_parser(
        "models", help="the networks that --model names", description="All that --model names."
    )
    _add_json(command)
    command.set_defaults(run=_models)

    command = commands.add_parser(
        "layouts",
        help="the arrangements of images that --data may have",
        description="All that --layout names, with a sketch of each folder.",
    )
    _add_json(command)
    command.set_defaults(run=_layouts)

    command = commands.add_parser(
        "protocols",
        help="the benchmarks and ways of counting that --protocol names",
        description="All that --protocol names: data set, rule, source.",
    )
    _add_json(command)
    command.set_defaults(run=_list_protocols)

    command = commands.add_parser(
        "bench",
        help="how fast this machine is with your images and checkpoint, and what holds it up",
        description="Measures each step of an extraction alone and all together. Shards are tried "
        "in a temporary folder, which TMPDIR moves to another disk.",
    )
    add_what_options(command, several=False)
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
    command.add_argument("folder", type=given_path, metavar="RUN", help="--out of an extraction")


def _add_run_or_file(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder",
        type=given_path,
        metavar="RUN|FILE",
        help="--out of an extraction, or features that another program saved",
    )
    _add_file_options(command)


def _add_file_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("of a file of features")
    group.add_argument(
        "--labels", type=given_path, metavar="FILE", help="a table with a row for each feature"
    )
    group.add_argument(
        "--test-ids",
        type=given_path,
        metavar="FILE",
        help="the persons who are tested, separated by commas or lines; others are left out",
    )
    add_label_options(group)


def _add_protocol(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--protocol", metavar="NAME", help=what)
    command.add_argument(
        "--protocol-file",
        type=given_path,
        metavar="FILE",
        help="a protocol of your own, in TOML; of several, --protocol names one",
    )


def _one_protocol(parsed: argparse.Namespace, **changes: Any) -> Protocol | Benchmark | None:
    """The one that is named, or that of --protocol-file, with some conventions changed; None
    without either."""
    own = _own_protocols(parsed)
    names = [parsed.protocol] if parsed.protocol is not None else [each.name for each in own]
    if len(names) > 1:
        raise OptionError(
            f"--protocol-file {parsed.protocol_file}: say which by --protocol: " + ", ".join(names)
        )
    chosen = chosen_protocols(names, changes, own) if names else None
    return chosen[0] if chosen else None


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead")


def _submit(parsed: argparse.Namespace) -> None:
    from distreid.cluster.submit import submit

    submit(parsed)


def _evaluate(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.evaluation.with_progress import evaluate_run
    from distreid.host.terminal import print_whole
    from distreid.nearest.similarity import Similarity
    from distreid.report.scores import (
        metrics_text,
        say_written,
        score_table,
        write_metrics,
        write_query_csv,
    )
    from distreid.store.run_folder import check_result

    for name in ("distance", "features"):
        if parsed.distance_matrix and getattr(parsed, name) not in (None, "given"):
            raise OptionError(f"--{name}: is not for a --distance-matrix; leave one of them out")
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    protocols = _protocols(parsed)
    store = _run_or_file(parsed, log)
    if parsed.csv:
        # Not only when all is computed.
        read = (parsed.labels, parsed.distance_matrix, parsed.protocol_file, parsed.test_ids)
        check_result(parsed.csv, store.run, *read)
    similarity = Similarity(precision=parsed.precision, device=parsed.device)
    distances = None
    if parsed.distance_matrix:
        from distreid.job.feature_files import open_distances

        distances = open_distances(parsed.distance_matrix, store)
    evaluation = evaluate_run(store, log, protocols, similarity, distances)
    # Nothing is written beside a file of features, and figures of a matrix are not the run's.
    keeps = store.run.is_dir() and distances is None
    written = [write_metrics(store, evaluation)] if keeps else []
    if parsed.csv:
        write_query_csv(store, evaluation, parsed.csv)
        written.append(parsed.csv)
    if parsed.json:
        print(metrics_text(store, evaluation), end="")
    else:
        print_whole(score_table(evaluation))
    say_written(log, written)


def _rank(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.evaluation.ranked_lists import rankings
    from distreid.host.progress import Steps
    from distreid.report.ranked_files import WRITERS, write_rankings
    from distreid.report.scores import say_written
    from distreid.store.run_folder import check_result

    kind = parsed.format or parsed.out.suffix.removeprefix(".").lower()
    if kind not in WRITERS:
        raise OptionError(f"--out {parsed.out}: say its --format, among {', '.join(WRITERS)}")
    changes = {} if parsed.rerank is None else {"rerank": parsed.rerank}
    protocol = _one_protocol(parsed, **changes) or replace(PRESETS["fastreid"], **changes)
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    store = _run_or_file(parsed, log)
    # Not only when all is computed.
    check_result(parsed.out, store.run, parsed.labels, parsed.protocol_file, parsed.test_ids)
    with Steps(log) as steps:
        found = rankings(store, protocol, parsed.top, progress=steps)
        said = write_rankings(store, found, kind, parsed.out, parsed.top)
    if isinstance(protocol, Benchmark) and protocol.draw:
        said.append(f"{protocol.name} draws: the lists are of all that it draws from")
    for line in said:
        log.print(line)
    say_written(log, [parsed.out])


def _run_or_file(parsed: argparse.Namespace, log: Console) -> FeatureStore:
    """The complete run, or the features of a file that another program made, which is described
    on `log`."""
    from distreid.store import FeatureStore

    if not parsed.folder.is_file():
        given = [flag for flag in FILE_OPTIONS if getattr(parsed, flag)]
        if given or parsed.ids != "auto":
            given = given or ["ids"]
            raise OptionError(f"--{given[0].replace('_', '-')}: {parsed.folder} is no file")
        return FeatureStore.open(parsed.folder)
    needs_features = not getattr(parsed, "distance_matrix", None)
    return _read_features(parsed, log, needs_features=needs_features)


def _read_features(
    parsed: argparse.Namespace, log: Console, *, needs_features: bool = True, space: str = ""
) -> ArrayStore:
    from distreid.data.image_files import LayoutRequest
    from distreid.data.summary import describe
    from distreid.job.feature_files import open_features

    asked = LayoutRequest(
        layout="csv", ids=parsed.ids, columns=parsed.columns, split_names=parsed.split_names
    )
    store = open_features(
        parsed.folder,
        labels=parsed.labels,
        asked=asked,
        space=space,
        needs_features=needs_features,
        test_ids=parsed.test_ids,
    )
    for line in [f"{parsed.folder}: {store.plan.dim:,} dimensions", *describe(store.manifest)]:
        log.print(printable(line), markup=False)
    return store


def _import(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.job.feature_import import import_features

    log = Console(stderr=True, highlight=False, soft_wrap=True)
    store = import_features(_read_features(parsed, log, space=parsed.space), parsed.out, log.print)
    rows = len(store.manifest)
    print(printable(f"{parsed.out}: {rows:,} features of {store.plan.dim:,} dimensions"))


def _protocols(parsed: argparse.Namespace) -> list[Protocol | Benchmark] | None:
    """The protocols asked for; None if the user asked for nothing in particular."""
    changes = {name: getattr(parsed, name) for name in (*CHOICES, "exclude_same", "depth", "seed")}
    names = None if parsed.protocol is None else parsed.protocol.split(",")
    changes = {name: value for name, value in changes.items() if value is not None}
    return chosen_protocols(names, changes, _own_protocols(parsed))


def _own_protocols(parsed: argparse.Namespace) -> Sequence[Benchmark]:
    if not parsed.protocol_file:
        return ()
    from distreid.evaluation.protocols.own import read_protocols

    return read_protocols(parsed.protocol_file)


def _compare(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.evaluation.with_progress import compare_runs
    from distreid.host.terminal import print_whole
    from distreid.report.comparison import comparison_json, comparison_table
    from distreid.store import FeatureStore

    stores = FeatureStore.open(parsed.a), FeatureStore.open(parsed.b)
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    protocol = _one_protocol(parsed) or PRESETS["fastreid"]
    comparison = compare_runs(*stores, protocol, log)
    if parsed.json:
        print(json.dumps(comparison_json(*stores, comparison), indent=2))
    else:
        print_whole(comparison_table(*stores, protocol, comparison))


def _calibrate(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.evaluation.with_progress import calibrate_run
    from distreid.host.terminal import print_whole
    from distreid.report.calibration import (
        calibration_table,
        calibration_text,
        write_calibration,
    )
    from distreid.report.scores import say_written

    log = Console(stderr=True, highlight=False, soft_wrap=True)
    benchmark = _one_protocol(parsed)
    if isinstance(benchmark, Protocol):
        raise OptionError(f"--protocol {parsed.protocol}: pairs are counted alike in each way")
    store = _run_or_file(parsed, log)
    calibration = calibrate_run(store, log, benchmark)
    written = [write_calibration(store, calibration)] if store.run.is_dir() else []
    if parsed.json:
        print(calibration_text(store, calibration), end="")
    else:
        print_whole(calibration_table(calibration))
    say_written(log, written)


def _report(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from distreid.report.run_page import write_page
    from distreid.store import FeatureStore

    if parsed.folder.is_file():
        raise StoreError(f"{parsed.folder}: a page needs a run; make one of it by distreid import")
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    print(printable(str(write_page(FeatureStore.open(parsed.folder), log))))


def _export(parsed: argparse.Namespace) -> None:
    from distreid.export.exporting import export
    from distreid.host.signals import signals_stop

    names = [each.name for each in fields(ExportOptions)]
    options = ExportOptions(**{name: getattr(parsed, name) for name in names})
    choices = choices_of(parsed)
    with signals_stop(continues=False):
        export(options, _say_on_stderr, parsed.input_size, parsed.model, choices)
    print(printable(str(options.out)))


def _say_on_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _show(parsed: argparse.Namespace) -> None:
    from distreid.report.row_picture import write_row_picture
    from distreid.store import FeatureStore

    store = FeatureStore.open(parsed.folder, checksum=False)
    write_row_picture(store, parsed.row, parsed.out, in_frame=parsed.frame)
    print(printable(str(parsed.out)))


def _verify(parsed: argparse.Namespace) -> None:
    from distreid.export.export_description import is_export
    from distreid.store.verification import repair_run, verify_run

    choices = choices_of(parsed)
    if parsed.against:
        from distreid.export.against import find_preprocessing

        if parsed.repair:
            raise OptionError("--repair: is for a run, and --against for a file of a network")
        said = parsed.model or "auto", parsed.input_size, choices
        _print_lines(str(parsed.folder), find_preprocessing(parsed.folder, parsed.against, *said))
        return
    for option in ("model", "input_size", *choices.given()):
        if getattr(parsed, option) is not None:
            raise OptionError(f"{flag(option)}: of --against, which is not given")
    if is_export(parsed.folder):
        from distreid.export.exporting import verify_export

        if parsed.repair:
            raise OptionError("--repair: is for a run; of an export that fails, export again")
        verify_export(parsed.folder, _say_on_stderr)
        print(printable(f"{parsed.folder}: the export holds"))
        return
    if parsed.folder.is_file() and is_export(parsed.folder.parent):
        raise OptionError(
            f"{parsed.folder}: a file of an export; give its folder, {parsed.folder.parent}, or "
            "--against CHECKPOINT"
        )
    findings = (repair_run if parsed.repair else verify_run)(parsed.folder)
    for what in findings.bad.values():
        print(printable(what), file=sys.stderr)
    print(printable(f"{parsed.folder}: {findings.describe()}"))
    if findings.bad and parsed.repair:
        files = counted(len(findings.bad), "file")
        print(f"removed {files}; run the same extraction again to mend the run")
    elif problem := findings.problem():
        raise StoreError(f"{parsed.folder}: {problem}")


def _status(parsed: argparse.Namespace) -> None:
    from distreid.job.status import run_status

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
        from distreid.data.inspection import inspect
        from distreid.data.source import at_own_root, open_data
        from distreid.data.summary import check_counts, shown_root
        from distreid.evaluation.left_queries import left_queries
        from distreid.images.same_pixels import same_pixels
        from distreid.images.turned_images import turned_images

        manifest = open_data(
            parsed.data,
            parsed.layout,
            parsed.multi_query,
            split=parsed.split,
            pattern=parsed.pattern,
            ids=parsed.ids,
            columns=parsed.columns,
            split_names=parsed.split_names,
            boxes=box_request_of(parsed),
            every=parsed.every,
        )
        if parsed.data_root is not None:
            manifest = at_own_root(manifest, parsed.data_root)
        found = inspect(manifest)
        left = left_queries(manifest)
        alike = same_pixels(manifest, [query for query, _ in found.duplicates])
        looked_at, turned = turned_images(manifest)
        if parsed.json:
            more = {
                "protocols": [each.to_json() for each in left],
                "same_pixels": None
                if alike is None
                else [[os.fsdecode(manifest.path[row]) for row in pair] for pair in alike],
                "turned_by_exif": {"looked_at": looked_at, "images": len(turned)},
            }
            print(json.dumps(found.to_json() | more, indent=2, ensure_ascii=False))
        else:
            lines = [*found.lines(), *_alike_lines(manifest, alike)]
            if turned:
                lines.append(
                    f"of {counted(looked_at, 'image')} looked at, {len(turned):,} would be turned "
                    f"by their EXIF, as {os.fsdecode(manifest.path[turned[0]])!r}: they are read "
                    "as they are stored, but with networks whose own code reads by OpenCV"
                )
            lines += [
                f"{each.protocol}: {each.with_match:,} of "
                f"{counted(each.queries, 'query', 'queries')} with a match among {each.gallery:,}"
                for each in left
            ]
            _print_lines(f"{shown_root(manifest)}: {manifest.layout}", lines)
        if parsed.strict_counts:
            check_counts(manifest)
    if parsed.checkpoint:
        _inspect_checkpoint(parsed)


def _alike_lines(manifest: Manifest, alike: list[tuple[int, int]] | None) -> list[str]:
    """Query images of the same pixels as others of the gallery, for people."""
    if alike is None:
        return ["too many images to compare their pixels"]
    if not alike:
        return []
    query, other = (os.fsdecode(manifest.path[row]) for row in alike[0])
    images = counted(len(alike), "query image has", "query images have")
    return [
        f"{images} the pixels of a gallery image of other bytes: {query!r} those of {other!r}"
        + (", …" if len(alike) > 1 else "")
    ]


def _models(parsed: argparse.Namespace) -> None:
    from distreid.host.terminal import print_whole
    from distreid.models.description import model_rows, terminal_tables

    if parsed.json:
        print(json.dumps(model_rows(), indent=2, ensure_ascii=False))
    else:
        print_whole(terminal_tables())
        print("also timm:NAME, torchvision:NAME, torchscript, export, and your own module:function")


def _layouts(parsed: argparse.Namespace) -> None:
    from distreid.data.layout_table import layout_lines, layout_rows

    if parsed.json:
        print(json.dumps(layout_rows(), indent=2, ensure_ascii=False))
    else:
        print(*layout_lines(), sep="\n")


def _list_protocols(parsed: argparse.Namespace) -> None:
    from distreid.evaluation.protocols.listing import protocol_lines, protocol_rows

    if parsed.json:
        print(json.dumps(protocol_rows(), indent=2, ensure_ascii=False))
    else:
        print(*protocol_lines(), sep="\n")


def _bench(parsed: argparse.Namespace) -> None:
    import tempfile

    from distreid.benchmark.bench import bench
    from distreid.benchmark.figures import bench_table
    from distreid.host.terminal import print_whole

    if not 0 < parsed.seconds < math.inf:
        raise OptionError(f"--seconds {parsed.seconds:g}: a number above 0 is wanted")
    with tempfile.TemporaryDirectory() as folder:
        parsed.out = Path(folder, "run")
        found = bench(parse_extract_options(parsed), parsed.seconds, parsed.peer, say_on_stderr)
    if parsed.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_whole(bench_table(found))


def _inspect_checkpoint(parsed: argparse.Namespace) -> None:
    from distreid.host.terminal import print_whole
    from distreid.models.checkpoint import file_of, load_model
    from distreid.models.checkpoint_tables import key_table, model_table
    from distreid.models.weights import read_checkpoint

    choices = choices_of(parsed)
    try:
        model = load_model(parsed.checkpoint, parsed.model, parsed.input_size, choices)
    except CheckpointError:
        with suppress(CheckpointError):  # what it holds may tell what it is
            state = read_checkpoint(file_of(parsed.checkpoint), choices.weights).state
            print_whole(key_table(state))
        raise
    print(printable(str(model.checkpoint.file)))
    print_whole(model_table(model))
    if model.checkpoint.state:  # else it is a graph
        print_whole(key_table(model.checkpoint.state, model.dropped))


def _print_lines(title: str, lines: Sequence[str]) -> None:
    print(printable(title), *map(printable, lines), sep="\n  ")
