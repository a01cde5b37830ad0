import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from distreid.report.html import Table
from distreid.report.page import Page, render_page

VOID = {"meta", "link", "img", "wbr"}
ALLOWED_ATTRIBUTES = {
    *("lang", "charset", "name", "content", "rel", "href", "class", "scope", "role", "tabindex"),
    *("aria-label", "src", "alt", "width", "height"),
}

# Markup, both quotes, an entity, a byte that is no UTF-8, a line break, a reversed direction.
EVIL = (
    "</title></style><script>alert(\"1\")</script><img src=x onerror='x'>&amp;$title\udcff\n\u202e"
)
SHOWN = EVIL.replace("\udcff", "\\udcff").replace("\n", "\\n").replace("\u202e", "\\u202e")


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "PNG")
    return stream.getvalue()


def page(extra: str = "") -> Page:
    return Page(
        title=f"title{extra}",
        run=Path(f"run{extra}"),
        command=f"command{extra}",
        created=f"created{extra}",
        identity={
            "dim": 512,
            "model": {f"name{extra}": f"osnet{extra}"},
            "augmentation": {"scales": [1.0, 1.1], "flip": False, "crop": {"width": 3}},
        },
        data=[f"data{extra}", "gallery: 472"],
        scores=Table(
            title=f"scores{extra}",
            header=["", f"head{extra}", "mAP"],
            rows=[[f"row{extra}", f"cell{extra}", "46.85 %"], ["b", "c", "–"]],
        ),
        counts={f"bad_queries{extra}": 1234},
        diagnosis=[f"diagnosis{extra}"],
        pictures={f"caption{extra}": png(1200, 900), "wide": png(1812, 460)},
        breakdowns=[
            Table(title=f"breakdown{extra}", header=["camera", "mAP"], rows=[["1", "5 %"]])
        ],
    )


class Parsed(HTMLParser):
    """The page as a browser sees it; AssertionError where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
            self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.inside[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("extra", ["", EVIL], ids=["plain", "evil"])
def test_the_page_is_one_well_formed_file_without_scripts_or_links(extra: str) -> None:
    text = render_page(page(extra))
    text.encode()
    assert text.startswith("<!DOCTYPE html>\n")
    assert "http" not in text
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    parsed = Parsed(text)
    for tag, attributes in parsed.tags:
        assert attributes.keys() <= ALLOWED_ATTRIBUTES, tag
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert parsed.all("html") == [{"lang": "en"}]
    assert len(parsed.all("h1")) == 1
    assert parsed.inside["h2"] == ["Scores", "Pictures", "Breakdown", "Data", "Made by"]


def test_texts_may_hold_anything_and_are_shown_as_they_are() -> None:
    parsed = Parsed(render_page(page(EVIL)))
    for name, tag in {
        "title": "title",
        "run": "header",
        "command": "code",
        "created": "header",
        "name": "dt",
        "osnet": "dd",
        "data": "p",
        "head": "th",
        "row": "th",
        "cell": "td",
        "diagnosis": "li",
        "caption": "figcaption",
        "breakdown": "h3",
    }.items():
        assert any(f"{name}{SHOWN}" in text for text in parsed.inside[tag]), name
    assert any(f"bad queries{SHOWN}" in text for text in parsed.inside["dt"])
    labels = [attributes.get("aria-label") for attributes in parsed.all("div")]
    assert f"scores{SHOWN}" in labels
    assert f"breakdown{SHOWN}" in labels


def test_every_picture_is_there_once_with_its_words_at_half_its_pixels() -> None:
    shown = page(EVIL)
    parsed = Parsed(render_page(shown))
    images = parsed.all("img")
    prefix = "data:image/png;base64,"
    assert [base64.b64decode(image["src"].removeprefix(prefix)) for image in images] == list(
        shown.pictures.values()
    )
    assert [image["alt"] for image in images] == [f"caption{SHOWN}", "wide"]
    assert [(image["width"], image["height"]) for image in images] == [
        ("600", "450"),
        ("906", "230"),
    ]
    assert [image.get("class") for image in images] == [None, "wide"]
    assert parsed.inside["figcaption"] == [f"caption{SHOWN}", "wide"]


def test_tables_have_named_rows_and_columns_and_figures_stand_to_the_right() -> None:
    parsed = Parsed(render_page(page()))
    assert parsed.inside["th"] == ["", "head", "mAP", "row", "b", "camera", "mAP", "1"]
    assert parsed.inside["td"] == ["cell", "46.85 %", "c", "–", "5 %"]
    assert [(cell["scope"], cell.get("class")) for cell in parsed.all("th")] == [
        *(("col", None), ("col", None), ("col", "figure")),
        *(("row", None), ("row", None)),
        *(("col", None), ("col", "figure")),
        ("row", None),
    ]
    assert [cell.get("class") for cell in parsed.all("td")] == [
        *(None, "figure"),
        *(None, "figure"),
        "figure",
    ]


def test_nested_identity_is_shown_by_its_dotted_names() -> None:
    parsed = Parsed(render_page(page()))
    shown = dict(zip(parsed.inside["dt"], parsed.inside["dd"], strict=True))
    assert shown == {
        "bad queries": "1,234",
        "augmentation.crop.width": "3",
        "augmentation.flip": "false",
        "augmentation.scales": "[1.0, 1.1]",
        "dim": "512",
        "model.name": "osnet",
    }


def test_what_is_empty_is_left_out() -> None:
    empty = Table(title="empty", header=["a"], rows=[])
    bare = replace(
        page(),
        command="",
        identity={},
        data=[],
        scores=empty,
        counts={},
        diagnosis=[],
        pictures={},
        breakdowns=[empty],
    )
    parsed = Parsed(render_page(bare))
    assert not {"section", "h2", "h3", "table", "dl", "ul", "figure", "pre"} & parsed.inside.keys()
    assert parsed.inside["h1"] == ["title"]


def test_without_a_diagnosis_nothing_warns() -> None:
    assert "Read this first" in render_page(page())
    assert "Read this first" not in render_page(replace(page(), diagnosis=[]))


def test_the_page_fits_dark_screens_narrow_screens_and_paper() -> None:
    style = Parsed(render_page(page())).inside["style"][0]
    # On paper the colours stay light, whatever the screen prefers.
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert "@media (max-width: 40rem)" in style
    assert "@media print" in style


def test_a_picture_that_is_no_png_is_refused() -> None:
    with pytest.raises(ValueError, match="'broken' is no PNG"):
        render_page(replace(page(), pictures={"broken": b"\xff\xd8\xff"}))


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="scores: 2 columns, but a row"):
        Table(title="scores", header=["a", "b"], rows=[["1"]])
