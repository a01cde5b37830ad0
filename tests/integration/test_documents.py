"""Every command and snippet of the README and the manual runs, in the order of its page.

A page has a folder of its own, with small copies of what its blocks name.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pandas
import pytest
import torch
from conftest import REPOSITORY, draw

import distreid
from distreid.cli import command_parser, main
from distreid.data.source import LAYOUTS, SAMPLE_FOLDER
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.models.table import MODELS
from distreid.models.weights import read_checkpoint

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?P<comment>.*?) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
NOT_RUN = "not run: "
RUN = ("console", "python")
# Run in this process: starting one that imports torch takes seconds.
PLAIN = re.compile(r"distreid [^|<>;&~`$]*")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    why_not: str | None

    @property
    def commands(self) -> list[str]:
        return re.findall(r"^\$ (.*)$", self.text, flags=re.MULTILINE)


def blocks(page: Path) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        comment = match["comment"] or ""
        why_not = comment.removeprefix(NOT_RUN) if comment.startswith(NOT_RUN) else None
        found.append(Block(language=match["language"], text=match["text"], why_not=why_not))
    return found


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small copies of what the pages name."""
    root = tmp_path_factory.mktemp("copies")
    # A small network stands in for each of the pages' checkpoints.
    trained = read_checkpoint(REPOSITORY / "distreid/sample/osnet_x0_25.pth.tar").state
    for name, factor in {
        "ft_ResNet50/net_last": 1,
        "osnet/net_10": 0.99,
        "osnet/net_20": 1,
    }.items():
        file = root / f"model/{name}.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: value * factor for key, value in trained.items()}, file)
    persons = {f"{person:04d}" for person in range(1, 5)}
    for file in sorted(SAMPLE_FOLDER.glob("*/*.jpg")):
        if (person := file.name[:4]) not in persons:
            continue
        part = "query" if file.parent.name == "query" else "gallery"
        for target in (
            root / "Market-1501" / file.parent.name / file.name,
            root / "Market/pytorch" / part / person / file.name,
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    for number in range(3):
        draw(root / f"my_images/{number}.jpg", number)
        draw(root / f"shots/gate_{number}_c{number + 1}.jpg", number)
    (root / "people.csv").write_text(
        "path,person_id,camera_id,split,shop\n"
        "0.jpg,7,1,query,north\n1.jpg,7,2,gallery,north\n2.jpg,8,2,gallery,south\n"
    )
    (root / "herd.csv").write_text(
        "photo;who;weather;part\n"
        "0.jpg;cow_17;rain;seek\n1.jpg;cow_17;sun;found\n2.jpg;cow_18;sun;found\n"
    )
    (own,) = (b for b in blocks(DOCS / "your_own_protocol.md") if b.language == "toml")
    (root / "mine.toml").write_text(own.text)
    (root / "list.txt").write_text("0.jpg 7 1\n1.jpg 7 2\n")
    for number, name in enumerate(("gallery/cow_17/a", "query/cow_17/b", "query/cow_18/c")):
        draw(root / f"herd/{name}.jpg", number)
    (root / "shards").mkdir()
    for number in range(2):
        with tarfile.open(root / f"shards/s-{number:06d}.tar", "w") as archive:
            for image in range(2):
                (root / f"{image:06d}.json").write_text(json.dumps({"who": f"cow_{image}"}))
                archive.add(root / f"my_images/{image}.jpg", f"{image:06d}.jpg")
                archive.add(root / f"{image:06d}.json", f"{image:06d}.json")
    images = [(root / f"my_images/{number}.jpg").read_bytes() for number in range(3)]
    pandas.DataFrame({"image": images, "pid": [1, 2, 2]}).to_parquet(root / "people.parquet")
    (root / "boxes.csv").write_text(
        "path,x,y,w,h,score,person_id,camera_id\n0.jpg,10,5,24.5,60,0.98,7,1\n"
        "0.jpg,30,8,20,50,0.71,8,1\n1.jpg,4,4,30,58,0.93,7,2\n"
    )
    draw(root / "MOT/MOT-02/img1/000001.jpg", 1)
    (root / "MOT/MOT-02/seqinfo.ini").write_text("[Sequence]\nframeRate=25\n")
    for name, line in {"gt": "1,3,1,2,30,40,1,1,1", "det": "1,-1,1,2,30,40,0.9"}.items():
        (root / f"MOT/MOT-02/{name}").mkdir()
        (root / f"MOT/MOT-02/{name}/{name}.txt").write_text(line + "\n")
    distreid.extract_features(root / "Market-1501", "sample", root / "runs/market", num_workers=0)
    return root


def with_blocks_that_run(page: Path) -> bool:
    return any(block.language in RUN and block.why_not is None for block in blocks(page))


@pytest.mark.parametrize("page", [*filter(with_blocks_that_run, PAGES)], ids=page_name)
def test_what_a_page_shows_works(
    page: Path,
    copies: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(copies, folder, copy_function=os.link)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.why_not is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, page_name(page), "exec"), names)
        for command in block.commands if block.language == "console" else []:
            done = in_process(command, capsys) if PLAIN.fullmatch(command) else by_bash(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def in_process(
    command: str, capsys: pytest.CaptureFixture[str]
) -> subprocess.CompletedProcess[str]:
    words = [
        name for word in shlex.split(command)[1:] for name in sorted(glob.glob(word)) or [word]
    ]
    threads = torch.get_num_threads()
    capsys.readouterr()
    try:
        status = main(words)
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(command, status, *capsys.readouterr())


def by_bash(command: str) -> subprocess.CompletedProcess[str]:
    # Eight processes would take the two cores of a small machine a minute to start.
    return subprocess.run(
        ["bash", "-c", command.replace("--nproc_per_node=8", "--nproc_per_node=2")],
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_block_slips_through(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    assert 2 * len(found) == len(re.findall(r"^\s*(?:```|~~~)", text, flags=re.MULTILINE))
    assert f"<!-- {NOT_RUN}".rstrip() not in BLOCK.sub("", text), "a reason without a block"
    for block in found:
        # What Sphinx alone can show would stand as it is written in a checkout.
        assert block.language in (*RUN, "text", "toml", "{toctree}", "{eval-rst}"), block.language
        assert block.why_not is None or block.why_not.strip(), block.text
        assert block.language != "console" or block.commands, block.text


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_section_is_empty(page: Path) -> None:
    text = BLOCK.sub("a block\n", page.read_text(encoding="utf-8"))
    headings = list(re.finditer(r"^(#+) (.*)$", text, flags=re.MULTILINE))
    for one, after in zip(headings, [*headings[1:], None], strict=False):
        is_parent = after and len(after[1]) > len(one[1])
        assert is_parent or text[one.end() : after.start() if after else None].strip(), one[2]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:tests|launch|slurm|docs)/[\w./*-]+", text)
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", text)
    for name in named:
        name = name.rstrip(".")
        assert list(REPOSITORY.glob(name)) or name in NOT_IN_GIT, name
    for link in links:
        assert (page.parent / link).exists(), link


NOT_IN_GIT = ("docs/_build/html",)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_is_included_has_words_for_a_checkout(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    regions = re.findall(r"^<!-- built: (\S+) -->\n(.*?)\n<!-- end -->$", text, re.M | re.S)
    assert len(regions) == text.count("<!-- built: ") == text.count("<!-- end -->")
    for file, words in regions:
        assert "_generated/" in file or (page.parent / file).exists()
        assert words.strip() and "<!--" not in words


def test_the_readme_is_short_and_begins_with_what_works() -> None:
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    commands = [command for block in blocks(PAGES[0]) for command in block.commands]
    assert commands[0].startswith("./launch/demo") and commands[1].startswith("./launch/test")
    for script in ("demo", "test", "docs", "setup", "serve"):
        assert os.access(REPOSITORY / "launch" / script, os.X_OK)


def test_the_pictures_are_small() -> None:
    for file in (DOCS / "images").iterdir():
        assert file.stat().st_size < 250_000, file.name


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The pages that are made of the code."""
    sys.path.insert(0, str(DOCS))
    try:
        import generated
    finally:
        sys.path.remove(str(DOCS))
    return dict(generated.pages())


def test_the_manual_has_every_layout_model_and_command(made: dict[str, str]) -> None:
    for name in LAYOUTS:
        assert f"| `{name}` |" in made["layouts.md"], name
        assert not LAYOUTS[name].sketch or f"`{name}`" in made["sketches.md"], name
    for name in MODELS:
        assert f"`{name}`" in made["models.md"], name
    for name in BENCHMARKS:
        assert f"### `{name}`" in made["protocols.md"], name
    (commands,) = (a for a in command_parser()._actions if a.dest == "==SUPPRESS==" or a.choices)
    assert isinstance(commands.choices, dict)
    for name, command in commands.choices.items():
        _, _, section = made["commands.md"].partition(f"## distreid {name}\n")
        section, _, _ = section.partition("\n## ")
        for action in command._actions:
            for flag in action.option_strings:
                assert flag in section or flag in ("-h", "--help"), (name, flag)


def test_the_tour_names_every_file_with_its_purpose(made: dict[str, str]) -> None:
    for file in (REPOSITORY / "distreid").glob("*/*.py"):
        if file.name != "__init__.py" and file.parent.name != "sample":
            assert re.search(rf"^\| `{re.escape(file.name)}` \| \S", made["tour.md"], re.M), file


def test_every_page_made_of_the_code_is_shown(made: dict[str, str]) -> None:
    shown = {
        name
        for page in DOCS.glob("*.md")
        for name in re.findall(r"_generated/([\w.]+)", page.read_text(encoding="utf-8"))
    }
    assert shown == set(made)


def test_the_columns_of_the_figures_are_whole() -> None:
    """A row with a cell too few or too many loses a figure without a word."""
    for page in PAGES:
        widths: list[int] = []
        for line in [*page.read_text(encoding="utf-8").splitlines(), ""]:
            if line.startswith("|"):
                widths.append(len(re.findall(r"(?<!\\)\|", line)))
            else:
                assert len(set(widths)) <= 1, (page.name, line)
                widths = []
