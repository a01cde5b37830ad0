import math
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import opened, pixel
from PIL import ImageColor

from distreid.errors import OptionError
from distreid.evaluation.metrics import Floats
from distreid.report import plots as pictures
from distreid.report.plots import (
    BLUE,
    NO_VALUE,
    VERMILLION,
    camera_pairs,
    cmc_curve,
    epoch_curves,
    open_set_curves,
    score_histogram,
)

matplotlib = pytest.importorskip("matplotlib", reason="pip install 'distreid[pictures]'")
from matplotlib.figure import Figure  # noqa: E402

EDGES = np.linspace(-1, 1, 257)


def rising(first: float, last: float = 1.0) -> Floats:
    return np.linspace(first, last, 50)


def counts(**at: int) -> Any:
    """256 bins; `counts(b12=3)` has 3 in bin 12."""
    result = np.zeros(256, np.int64)
    for name, count in at.items():
        result[int(name[1:])] = count
    return result


def pairs(values: list[list[float]]) -> bytes:
    return camera_pairs([1, 2], np.array(values), np.array([[5, 7], [8, 9]]))


PLOTS: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "cmc": (lambda: cmc_curve({"a": rising(0.5), "b": rising(0.7)}), (1200, 900)),
    "epochs": (lambda: epoch_curves([1, 5], {"mAP": [0.5, 0.7]}, "epoch"), (1200, 900)),
    "histogram": (
        lambda: score_histogram(EDGES, counts(b200=4), counts(b100=9), {"t": 0.3}),
        (1200, 900),
    ),
    "roc": (lambda: open_set_curves(rising(0.01), rising(0.5), 0.9), (1200, 900)),
    "cameras": (lambda: pairs([[math.nan, 0.5], [0.6, math.nan]]), (1200, 1060)),
}


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> Figure:
    """What the next plot draws, as artists instead of pixels."""
    figure = Figure()

    def keep(paint: Callable[[Any, Any], None], *, height_in: float) -> bytes:
        paint(figure, figure.add_subplot())
        return b""

    monkeypatch.setattr(pictures, "_png", keep)
    return figure


def bars(figure: Figure) -> list[Any]:
    """Values and edges of the outlines and areas of both histograms, non-matches first."""
    patches: list[Any] = list(figure.axes[0].patches)
    return [patch.get_data() for patch in patches]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("name", PLOTS)
def test_plots_have_their_size_and_tell_no_date(name: str) -> None:
    draw, size = PLOTS[name]
    png = draw()
    assert opened(png).size == size
    chunks, place = [], 8
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        chunks.append(kind)
        place += 12 + length
    assert set(chunks) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


@pytest.mark.parametrize("name", PLOTS)
def test_the_same_values_give_the_same_bytes_whatever_the_user_has_set(name: str) -> None:
    draw, _ = PLOTS[name]
    png = draw()
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "black", "savefig.dpi": 50, "savefig.bbox": "tight"}
    ):
        before = dict(matplotlib.rcParams)
        assert draw() == png
        assert dict(matplotlib.rcParams) == before


def test_cmc_curves_are_drawn_in_percent_over_ranks_with_rank_1_in_the_legend(
    figure: Figure,
) -> None:
    cmc_curve({"ours": rising(0.534), "short": rising(0.7)[:20], "none": np.full(50, np.nan)})
    axes = figure.axes[0]
    ours, short, _ = axes.lines
    np.testing.assert_array_equal(np.asarray(ours.get_xdata()), np.arange(1, 51))
    np.testing.assert_allclose(np.asarray(ours.get_ydata()), 100 * rising(0.534))
    assert len(np.asarray(short.get_ydata())) == 20
    assert legend(figure) == ["Rank-1 53.4 % · ours", "Rank-1 70.0 % · short", "Rank-1 – · none"]
    assert axes.get_xlim() == (1, 50)
    assert axes.get_ylim() == (40, 100)


def test_scores_are_drawn_in_percent_over_epochs_with_the_first_best_in_the_legend(
    figure: Figure,
) -> None:
    epoch_curves([10, 20, 40], {"Rank-1": [0.5, 0.9, 0.9], "mAP": [0.4, 0.3, 0.2]}, "epoch")
    rank1, mean_ap = figure.axes[0].lines
    np.testing.assert_array_equal(np.asarray(rank1.get_xdata()), [10, 20, 40])
    np.testing.assert_allclose(np.asarray(mean_ap.get_ydata()), [40, 30, 20])
    assert legend(figure) == ["Rank-1, at most 90.0 % at 20", "mAP, at most 40.0 % at 10"]
    assert figure.axes[0].get_xlabel() == "epoch"
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())


def test_equal_curves_are_both_seen() -> None:
    seen = opened(cmc_curve({"a": rising(0.5), "b": rising(0.5)})).convert("RGB")
    colours = {colour for _, colour in seen.crop((300, 0, 1200, 650)).getcolors(1 << 20) or []}
    assert {ImageColor.getrgb(BLUE), ImageColor.getrgb(VERMILLION)} <= colours


def test_a_name_can_hold_anything_and_is_one_line_of_the_legend(figure: Figure) -> None:
    cmc_curve({"_$a$\n\udcff": rising(0.5), "x" * 200: rising(0.5)})
    assert legend(figure)[0] == "Rank-1 50.0 % · _$a$ \\udcff"
    assert len(legend(figure)[1]) == pictures.LABEL_LENGTH
    assert legend(figure)[1].endswith("x…")


def test_a_dollar_in_a_name_is_no_formula() -> None:
    assert opened(cmc_curve({"$\\frac{$": rising(0.5)})).size == (1200, 900)


def test_each_histogram_is_a_share_of_its_own_kind(figure: Figure) -> None:
    score_histogram(EDGES, counts(b200=1, b201=3), counts(b190=500), {})
    non_matches, _, matches, _ = bars(figure)
    assert non_matches.values.sum() == matches.values.sum() == 100
    first = int(np.flatnonzero(matches.values)[0])
    np.testing.assert_array_equal(matches.values[first : first + 2], [25, 75])
    assert matches.edges[first] == EDGES[200]
    assert legend(figure) == ["500 non-matches", "4 matches"]
    assert figure.axes[0].get_xlim() == (EDGES[190], EDGES[202])


def test_many_bins_are_drawn_as_few_with_the_same_pairs(figure: Figure) -> None:
    everywhere = np.arange(256)
    score_histogram(EDGES, everywhere, everywhere[::-1], {})
    matches = bars(figure)[2]
    assert len(matches.values) == 64
    np.testing.assert_allclose(
        matches.values, 100 * everywhere.reshape(64, 4).sum(axis=1) / everywhere.sum()
    )
    np.testing.assert_array_equal(matches.edges, EDGES[::4])


def test_bins_drawn_as_one_are_of_equal_width_wherever_the_scores_begin(figure: Figure) -> None:
    score_histogram(EDGES, counts(b101=1), counts(b3=5), {})
    matches = bars(figure)[2]
    np.testing.assert_array_equal(matches.edges, EDGES[2:103:2])
    assert matches.values[-1] == 100


def test_thresholds_are_lines_at_their_scores_inside_the_axis(figure: Figure) -> None:
    thresholds = {"FPR 1 %": 0.9, "EER": 0.5, "FPR 0.1 %": math.nan}
    score_histogram(EDGES, counts(b200=1), counts(b190=5), thresholds)
    at = [float(np.asarray(line.get_xdata())[0]) for line in figure.axes[0].lines]
    assert at == [0.5, 0.9]
    assert legend(figure)[2:] == ["threshold 0.500 · EER", "threshold 0.900 · FPR 1 %"]
    assert figure.axes[0].get_xlim()[1] == 0.9


def test_a_histogram_of_nothing_says_so(figure: Figure) -> None:
    score_histogram(EDGES, counts(), counts(), {})
    assert legend(figure) == ["0 non-matches", "0 matches"]
    assert figure.axes[0].get_xlim() == (-1, 1)


def test_the_roc_is_a_step_that_starts_with_what_no_false_positive_costs(figure: Figure) -> None:
    fpr, tpr = np.array([1, 0.5, 0.1, 0, 0]), np.array([1, 1, 0.9, 0.6, 0.2])
    open_set_curves(fpr, tpr, 0.98765)
    axes = figure.axes[0]
    roc = axes.lines[0]
    assert roc.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(np.asarray(roc.get_xdata()), [0.01, 0.1, 0.5, 1])
    np.testing.assert_allclose(np.asarray(roc.get_ydata()), [60, 90, 100, 100])
    assert axes.get_xscale() == "log"
    assert legend(figure) == ["AUC 0.9877", "chance"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10", "100"]


def test_the_roc_of_billions_of_pairs_ends_at_a_label_that_can_be_read(figure: Figure) -> None:
    open_set_curves(np.geomspace(1e-9, 1), np.linspace(0, 1), 0.9)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["0.0001", "0.001", "0.01", "0.1", "1", "10", "100"]


@pytest.mark.parametrize("auc", [None, math.nan])
def test_a_roc_without_pairs_has_no_line(auc: float | None, figure: Figure) -> None:
    open_set_curves(np.full(5, np.nan), np.full(5, np.nan), auc)
    assert legend(figure)[0] == "AUC –"
    assert np.isnan(np.asarray(figure.axes[0].lines[0].get_ydata())).all()


def test_camera_pairs_say_their_value_and_number_of_queries(figure: Figure) -> None:
    pairs([[math.nan, 0.512], [0.94, 1.0]])
    texts = {
        (text.get_position()[0], round(text.get_position()[1]), text.get_text())
        for text in figure.axes[0].texts
    }
    assert texts == {
        (0, 0, "–"),
        (1, 0, "51.2"),
        (1, 0, "7"),
        (0, 1, "94.0"),
        (0, 1, "8"),
        (1, 1, "100.0"),
        (1, 1, "9"),
    }
    assert figure.axes[0].images[0].get_clim() == (50, 100)


@pytest.mark.parametrize(
    ("lowest", "highest", "scale"),
    [(0.512, 0.735, (50, 80)), (0.05, 0.2, (0, 30)), (0.93, 0.97, (90, 100)), (0, 1, (0, 100))],
)
def test_the_scale_of_camera_pairs_is_the_whole_tens_around_them(
    figure: Figure, lowest: float, highest: float, scale: tuple[int, int]
) -> None:
    pairs([[math.nan, lowest], [highest, lowest]])
    assert figure.axes[0].images[0].get_clim() == scale


def test_a_camera_pair_without_a_value_is_grey_and_the_others_are_not() -> None:
    png = pairs([[math.nan, 0.5], [0.9, math.nan]])
    greys = {ImageColor.getrgb(NO_VALUE), ImageColor.getrgb("#c4c4c4")}
    for x, y in ((150, 120), (900, 900)):
        red, green, blue = pixel(png, x, y)
        assert red == green == blue
        cell = opened(png).convert("RGB").crop((x, y, x + 60, y + 60))
        assert greys <= {colour for _, colour in cell.getcolors(1 << 16) or []}, "hatched"
    light, dark = pixel(png, 900, 120), pixel(png, 150, 900)
    assert light[2] > light[0]
    assert dark[2] > dark[0] + 60
    assert sum(dark) < sum(light)


@pytest.mark.parametrize("value", [math.nan, 0.0, 1.0])
def test_camera_pairs_that_are_all_alike_are_drawn_on_a_true_scale(
    value: float, figure: Figure
) -> None:
    pairs([[value, value], [value, value]])
    low, high = figure.axes[0].images[0].get_clim()
    assert 0 <= low < high <= 100
    assert math.isnan(value) or low <= 100 * value <= high


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"pip install 'distreid\[pictures\]'") as error:
        cmc_curve({"a": rising(0.5)})
    assert "\n" not in str(error.value)


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, distreid.report.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_cameras_are_drawn_without_texts_that_nobody_can_read(figure: Figure) -> None:
    for count, has_texts in ((40, True), (41, False)):
        figure.clear()
        values = np.linspace(0, 1, count * count).reshape(count, count)
        camera_pairs(list(range(count)), values, np.ones((count, count), np.int64))
        axes = figure.axes[0]
        assert len(axes.texts) == (count * count if has_texts else 0)
        assert bool(axes.get_xticklabels()) == has_texts
