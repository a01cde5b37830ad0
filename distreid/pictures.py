"""Numbers to pictures: plain values in, the bytes of a PNG out.

Shares come in as 0..1 and are drawn in percent; NaN is "there is no value". The same values
give the same bytes with one version of matplotlib and Pillow, whatever the user has set for
his own figures. The plots are 6 in wide at 200 dpi: sharp at 600 px on a screen of double
density, and in a paper. The colours are those of Okabe and Ito (2008), which the colour-blind
tell apart, and no difference is shown by colour alone.

In names: B bins, C cameras, T thresholds.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from distreid.errors import ImageError, OptionError
from distreid.manifest import DISTRACTOR, JUNK, NO_CAMERA, NO_PERSON
from distreid.metrics import Floats
from distreid.preprocess import decode, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
LINE_COLOURS = (BLUE, VERMILLION, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# Each on top of the one before, so that equal curves are seen through each other's gaps.
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
INK, FAINT, NO_VALUE = "#222222", "#dddddd", "#e4e4e4"

WIDTH_IN, DPI = 6.0, 200
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "hatch.color": "#c4c4c4",
    "hatch.linewidth": 0.6,
}
LABEL_LENGTH = 56  # characters of a legend's line that fit into the width
DRAWN_BINS = 64  # more of them show noise
LOWEST_FPR = 1e-6  # labels of more decades would overlap


def cmc_curve(curves: Mapping[str, Floats]) -> bytes:
    """Cumulative match characteristics by name, each (depth,) from Rank-1 on; 1200 × 900 px.

    A curve of NaN has its name in the legend, and no line.
    """
    depth = max((len(curve) for curve in curves.values()), default=1)
    lowest = min((100 * curve[0] for curve in curves.values() if curve[0] >= 0), default=0)

    def paint(figure: Figure, axes: Axes) -> None:
        handles = [
            axes.plot(
                np.arange(1, len(curve) + 1),
                100 * curve,
                color=LINE_COLOURS[place % len(LINE_COLOURS)],
                linestyle=DASHES[place % len(DASHES)],
                linewidth=2,
                clip_on=False,
            )[0]
            for place, curve in enumerate(curves.values())
        ]
        axes.set(xlabel="rank", ylabel="queries with a match up to this rank (%)")
        axes.set_xticks([1, *[rank for rank in (5, 10, 20, 30, 40, 50) if rank <= depth]])
        axes.set(xlim=(1, max(depth, 2)), ylim=(max(0, 10 * math.floor(lowest / 10 - 0.5)), 100))
        labels = [f"Rank-1 {_percent(curve[0])} · {name}" for name, curve in curves.items()]
        _legend(figure, handles, labels)

    return _png(paint, height_in=4.5)


def score_histogram(
    edges: Floats,
    matches: NDArray[np.int64],
    non_matches: NDArray[np.int64],
    thresholds: Mapping[str, float],
) -> bytes:
    """The cosines of matches and of non-matches, each as shares of its own kind; 1200 × 900 px.

    `edges` (B + 1,) ascends; the counts are (B,). 2, 4, … bins are drawn as one where more than
    64 lie between the lowest score and the highest. A threshold of NaN has no line.
    """
    drawn = {name: value for name, value in thresholds.items() if math.isfinite(value)}
    filled = np.flatnonzero(matches + non_matches)
    first, stop = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, len(matches))
    step = 1 << ((stop - first - 1) // DRAWN_BINS).bit_length()
    starts = np.arange(first - first % step, stop, step)
    edges = np.append(edges[starts], edges[min(starts[-1] + step, len(matches))])
    matches, non_matches = (np.add.reduceat(count, starts) for count in (matches, non_matches))
    shown = [edges[0], edges[-1], *drawn.values()]

    def paint(figure: Figure, axes: Axes) -> None:
        handles: list[Any] = []
        labels = []
        for name, counts, colour, hatch in (
            ("non-matches", non_matches, VERMILLION, "////"),
            ("matches", matches, BLUE, None),
        ):
            share = 100 * counts / max(1, counts.sum())
            axes.stairs(share, edges, color=colour, linewidth=1.2)
            filling: dict[str, Any] = {"color": colour, "hatch": hatch, "linewidth": 0}
            handles.append(axes.stairs(share, edges, fill=True, alpha=0.25, **filling))
            labels.append(f"{counts.sum():,} {name}")
        for place, (name, value) in enumerate(sorted(drawn.items(), key=lambda item: item[1])):
            dashes = DASHES[(place + 1) % len(DASHES)]
            handles.append(axes.axvline(value, color=INK, linestyle=dashes, linewidth=1.2))
            labels.append(f"threshold {value:.3f} · {name}")
        axes.set(xlabel="score (cosine)", ylabel="pairs per bin (% of their kind)")
        axes.set(xlim=(min(shown), max(shown)))
        axes.set_ylim(0, None if len(filled) else 1)
        _legend(figure, handles, labels)

    return _png(paint, height_in=4.5)


def open_set_curves(fpr: Floats, tpr: Floats, auc: float | None) -> bytes:
    """The ROC over thresholds, (T,) each in any order, with a logarithmic FPR; 1200 × 900 px.

    A step: at an FPR stands the best TPR that no more false positives give. The axis starts
    at the decade of the smallest FPR above 0, and not below 0.0001 %.
    """
    order = np.lexsort((tpr, fpr))
    fpr, tpr = fpr[order], tpr[order]
    area = "–" if auc is None or math.isnan(auc) else f"{auc:.4f}"
    smallest = max(min(fpr[fpr > 0], default=0.1), 1.1 * LOWEST_FPR)
    lowest = math.floor(math.log10(smallest) - 1e-9)
    low, decades = 10.0**lowest, 10.0 ** np.arange(lowest, 1)
    # Powers of their own: 100 × 1e-6 would be written 0.0000999….
    percents = [np.format_float_positional(x, trim="-") for x in 10.0 ** np.arange(lowest + 2, 3)]
    start = max(0, int(np.searchsorted(fpr, low, side="right")) - 1)

    def paint(figure: Figure, axes: Axes) -> None:
        roc = axes.step(
            fpr[start:].clip(low),
            100 * tpr[start:],
            where="post",
            color=BLUE,
            linewidth=2,
            clip_on=False,
        )[0]
        chance_T = np.geomspace(low, 1)
        chance = axes.plot(chance_T, 100 * chance_T, color="#888888", linewidth=1, linestyle=":")[0]
        axes.set(xlabel="false-positive rate: non-matches accepted (%)")
        axes.set(ylabel="true-positive rate: matches accepted (%)")
        axes.set_xscale("log")
        axes.set_xticks(decades, percents)
        axes.set(xlim=(low, 1), ylim=(0, 100))
        _legend(figure, [roc, chance], [f"AUC {area}", "chance"])

    return _png(paint, height_in=4.5)


def camera_pairs(
    cameras: Sequence[int], value_CC: Floats, count_CC: NDArray[np.int64], measure: str = "mAP"
) -> bytes:
    """A share per camera of the query (down) and of the gallery (across); 1200 × 1060 px.

    Each cell has its value and, small, its number of queries (up to 16 cameras). A cell of
    NaN is grey and hatched.
    """
    known = 100 * value_CC[np.isfinite(value_CC)]
    low = min(90, 10 * math.floor(known.min(initial=100) / 10))
    high = min(100, 10 * math.floor(known.max(initial=low) / 10 + 1))
    size_pt = min(12.0, 105 / max(1, len(cameras)))

    def paint(figure: Figure, axes: Axes) -> None:
        axes.patch.set(facecolor=NO_VALUE, hatch="///", edgecolor="#c4c4c4")
        cells = axes.imshow(
            np.ma.masked_invalid(100 * value_CC), cmap="Blues", vmin=low, vmax=high, aspect="auto"
        )
        for (row, column), value in np.ndenumerate(value_CC):
            no_value = math.isnan(value)
            # From there on, white stands out better than ink.
            dark = not no_value and (100 * value - low) / (high - low) > 0.7
            cell: dict[str, Any] = {"color": "white" if dark else INK, "ha": "center"}
            text = "–" if no_value else f"{100 * value:.1f}"
            alone = no_value or len(cameras) > 16
            axes.text(column, row, text, size=size_pt, va="center" if alone else "bottom", **cell)
            if not alone:
                count = f"{count_CC[row, column]:,}"
                axes.text(column, row + 0.12, count, size=0.7 * size_pt, va="top", **cell)
        axes.set(xlabel="camera of the gallery image", ylabel="camera of the query")
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(range(len(cameras)), [str(camera) for camera in cameras])
            set_ticks(np.arange(1, len(cameras)) - 0.5, minor=True)
        axes.tick_params(which="both", length=0)
        axes.grid(visible=False)
        axes.grid(which="minor", color="white", linewidth=1.5)
        for side in axes.spines.values():
            side.set_visible(False)
        meaning = f"{measure} (%), and below it the number of queries"
        figure.colorbar(cells, label=meaning, fraction=0.04).ax.set_frame_on(False)

    return _png(paint, height_in=5.3)


@dataclass(frozen=True, kw_only=True)
class RankedImage:
    """A gallery image in a query's ranking."""

    image: Path
    person: int
    camera: int
    score: float
    correct: bool | None
    """Whether it shows the query's person; None if that is not known."""


@dataclass(frozen=True, kw_only=True)
class RankedQuery:
    """A query and what was found for it."""

    image: Path
    person: int
    camera: int
    ap: float
    """Its average precision in 0..1; NaN if it has no match."""
    ranked: Sequence[RankedImage]
    """Best first, without what the protocol leaves out."""


# Of the ranking gallery, in pixels of a screen of double density.
RANKS = 10
PHOTO, FRAME, GAP, MARGIN, QUERY_GAP = (128, 256), 8, 16, 20, 44
CELL = (PHOTO[0] + 2 * FRAME, PHOTO[1] + 2 * FRAME)
ABOVE, BELOW, LEGEND = 36, 76, 56
RED = "#cc3311"
FRAMES = {True: GREEN, False: RED, None: "#999999"}
MEANINGS = {BLUE: "query", GREEN: "same person", RED: "another person"}


def ranking_gallery(rows: Sequence[RankedQuery]) -> bytes:
    """A row for each query: its image framed blue, then its first ten, framed green if they
    show the same person, red if another, grey if that is not known.

    1,812 px wide; 76 px high, and 384 more for each query. An image that cannot be read any
    more is a grey box that says so. Needs no matplotlib.
    """
    width = 2 * MARGIN + (RANKS + 1) * CELL[0] + (RANKS - 1) * GAP + QUERY_GAP
    row_height = ABOVE + CELL[1] + BELOW
    canvas = Image.new("RGB", (width, LEGEND + len(rows) * row_height + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    left = MARGIN
    for colour, meaning in MEANINGS.items():
        draw.rectangle((left, 22, left + 15, 37), fill=colour)
        draw.text((left + 26, 30), meaning, fill=INK, font=_font(24), anchor="lm")
        left += 26 + round(draw.textlength(meaning, font=_font(24))) + 40
    for place, row in enumerate(rows):
        top = LEGEND + place * row_height
        above = "no match" if math.isnan(row.ap) else f"AP {_percent(row.ap)}"
        _cell(canvas, (MARGIN, top), row, BLUE, [above])
        for rank, found in enumerate(row.ranked[:RANKS], start=1):
            left = MARGIN + rank * (CELL[0] + GAP) + QUERY_GAP - GAP
            above_found = [str(rank), f"{found.score:.3f}"]
            _cell(canvas, (left, top), found, FRAMES[found.correct], above_found)
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return stream.getvalue()


def _cell(
    canvas: Image.Image,
    corner: tuple[int, int],
    shown: RankedQuery | RankedImage,
    colour: str,
    above: list[str],
) -> None:
    """One framed image: the first text above it at the left, the last one at the right."""
    left, top = corner[0], corner[1] + ABOVE
    right, bottom = left + CELL[0] - 1, top + CELL[1] - 1
    draw = ImageDraw.Draw(canvas)
    draw.text((left, top - 8), above[0], fill=INK, font=_font(26), anchor="ls")
    for text in above[1:]:
        draw.text((right, top - 8), text, fill=INK, font=_font(26), anchor="rs")
    draw.rectangle((left, top, right, bottom), fill=colour)
    canvas.paste(_photo(shown.image), (left + FRAME, top + FRAME))
    camera = "no camera" if shown.camera == NO_CAMERA else f"camera {shown.camera}"
    for place, text in enumerate((_person(shown.person), camera)):
        draw.text((left, bottom + 8 + 27 * place), text, fill="#555555", font=_font(23))


def _photo(file: Path) -> Image.Image:
    """The pixels that the model was given, letterboxed to PHOTO; or a box that says it cannot."""
    try:
        image = Image.fromarray(decode(read(file)))
    except (ImageError, OSError):
        box = Image.new("RGB", PHOTO, NO_VALUE)
        middle = (PHOTO[0] // 2, PHOTO[1] // 2)
        text = "cannot\nbe read"
        ImageDraw.Draw(box).text(
            middle, text, fill=INK, font=_font(24), anchor="mm", align="center"
        )
        return box
    return ImageOps.pad(image, PHOTO, Image.Resampling.BICUBIC, color="#f4f4f4")


def _person(person: int) -> str:
    names = {JUNK: "junk", DISTRACTOR: "distractor", NO_PERSON: "unknown"}
    return names.get(person, f"person {person}")


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Below the axes, where it hides nothing; each label in one line and cut if too long."""
    lines = [
        " ".join(label.encode("utf-8", "backslashreplace").decode().split()) for label in labels
    ]
    cut = [line if len(line) <= LABEL_LENGTH else line[: LABEL_LENGTH - 1] + "…" for line in lines]
    columns = 2 if len(cut) > 2 and max(map(len, cut)) <= LABEL_LENGTH // 2 else 1
    figure.legend(
        handles, cut, loc="outside lower center", handlelength=3, ncols=columns, columnspacing=3
    )


def _png(paint: Callable[[Figure, Axes], None], *, height_in: float) -> bytes:
    """What `paint` draws on one pair of axes, under our style only."""
    matplotlib = _matplotlib()
    stream = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = matplotlib.figure.Figure(
            figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained"
        )
        paint(figure, figure.add_subplot())
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _matplotlib() -> Any:
    """The module, which is no dependency of distreid; OptionError if it is missing."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise OptionError(
            "pictures need matplotlib: pip install 'distreid[pictures]', or do without them"
        ) from error
    return matplotlib
