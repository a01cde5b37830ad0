"""Numbers to pictures: plain values in, the bytes of a PNG out.

Shares come in as 0..1 and are drawn in percent; NaN is "there is no value". The same values
give the same bytes with one version of matplotlib and Pillow, whatever the user has set for
his own figures. The plots are 6 in wide at 200 dpi: sharp at 600 px on a screen of double
density, and in a paper. The colours are those of Okabe and Ito (2008), which the colour-blind
tell apart, and no difference is shown by colour alone.

In names: B bins, C cameras, E epochs, T thresholds.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import OptionError
from distreid.evaluation.metrics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
LINE_COLOURS = (BLUE, VERMILLION, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# Each on top of the one before, so that equal curves are seen through each other's gaps.
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
READABLE_CAMERAS = 40
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
        labels = [f"Rank-1 {percent(curve[0])} · {name}" for name, curve in curves.items()]
        _legend(figure, handles, labels)

    return _png(paint, height_in=4.5)


def epoch_curves(epochs: Sequence[int], curves: Mapping[str, Sequence[float]], axis: str) -> bytes:
    """Scores by name, each (E,), over E ascending epochs; 1200 × 900 px.

    No score is NaN. The best of each, the first of equals, is in the legend.
    """

    def paint(figure: Figure, axes: Axes) -> None:
        handles, labels = [], []
        for place, (name, curve) in enumerate(curves.items()):
            handles += axes.plot(
                epochs,
                100 * np.array(curve),
                color=LINE_COLOURS[place],
                linestyle=DASHES[place],
                marker="os^D"[place],
                linewidth=2,
                clip_on=False,
            )
            best = int(np.argmax(curve))
            labels.append(f"{name}, at most {percent(curve[best])} at {epochs[best]}")
        axes.set(xlabel=axis, ylabel="score (%)")
        axes.locator_params(axis="x", integer=True)
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
    cameras: Sequence[int | str],
    value_CC: Floats,
    count_CC: NDArray[np.int64],
) -> bytes:
    """The mAP per camera of the query (down) and of the gallery (across); 1200 × 1060 px.

    Each cell has its value (up to `READABLE_CAMERAS`) and, small, its number of queries (up to 16).
    A cell of NaN is grey and hatched.
    """
    known = 100 * value_CC[np.isfinite(value_CC)]
    low = min(90, 10 * math.floor(known.min(initial=100) / 10))
    high = min(100, 10 * math.floor(known.max(initial=low) / 10 + 1))
    size_pt = min(12.0, 105 / max(1, len(cameras)))
    is_readable = len(cameras) <= READABLE_CAMERAS

    def paint(figure: Figure, axes: Axes) -> None:
        axes.patch.set(facecolor=NO_VALUE, hatch="///", edgecolor="#c4c4c4")
        cells = axes.imshow(
            np.ma.masked_invalid(100 * value_CC), cmap="Blues", vmin=low, vmax=high, aspect="auto"
        )
        for (row, column), value in np.ndenumerate(value_CC if is_readable else value_CC[:0]):
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
            if not is_readable:
                set_ticks([])
                continue
            set_ticks(range(len(cameras)), [str(camera) for camera in cameras])
            set_ticks(np.arange(1, len(cameras)) - 0.5, minor=True)
        axes.tick_params(which="both", length=0)
        axes.grid(visible=False)
        axes.grid(which="minor", color="white", linewidth=1.5)
        for side in axes.spines.values():
            side.set_visible(False)
        below = ", and below it the number of queries" if len(cameras) <= 16 else ""
        meaning = f"mAP (%){below}"
        figure.colorbar(cells, label=meaning, fraction=0.04).ax.set_frame_on(False)

    return _png(paint, height_in=5.3)


def percent(share: float) -> str:
    """With one decimal, as there is room for."""
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
