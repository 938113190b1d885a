"""Charts: what they draw, and that their SVG fits into a page."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from tests.visualization.conftest import MakeRun
from timesformer.visualization import charts, run_charts
from timesformer.visualization.charts import Curve, line_chart
from timesformer.visualization.run_files import read_run

COUNTS = np.random.default_rng(0).integers(0, 9, (5, 5))
NAMES = ["a", "b <&>", "$c_1$", "d" * 50, "\udce9"]
FIGURES = {
    "lines": line_chart([Curve("a", [1, 2, 3], [1.0, math.nan, 2.0]), Curve("b", [1], [2.0], 1)], "t"),
    "per class": charts.per_class(NAMES, [1, math.nan, 3, 4, 5]),
    "many classes": charts.per_class([*"ab"] * 100, [1.0] * 200),
    "confusion matrix": charts.confusion_matrix(COUNTS, NAMES, size=(5, 4)),
    "large confusion matrix": charts.confusion_matrix(np.eye(100, dtype=int), [*"ab"] * 50),
    "predicted as": charts.predicted_as(COUNTS[0], NAMES, 0, 3, (8, 4)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_charts_become_png_and_svg(name: str) -> None:
    figure = FIGURES[name]
    size = tuple((figure.get_size_inches() * 100).astype(int))
    assert Image.open(io.BytesIO(charts.png(figure))).size == size
    text = charts.svg(figure)
    assert text.startswith("<svg")
    assert text.rstrip().endswith("</svg>")
    assert "<style" not in text  # it would apply to the whole page
    assert "DejaVu" not in text
    text.encode("utf-8")


def test_svg_has_colors_of_the_page_and_is_reproducible() -> None:
    texts = {charts.svg(line_chart([Curve("a", [1, 2], [1.0, 2.0])], "t")) for _ in range(2)}
    assert len(texts) == 1
    assert "var(--series-1, #2563ec)" in texts.pop()


def test_line_chart_without_finite_values_is_none() -> None:
    assert line_chart([Curve("a", [], []), Curve("b", [1], [math.nan])], "t") is None


def test_line_chart_of_one_epoch_has_whole_epochs_on_its_axis() -> None:
    axes = line_chart([Curve("a", [1.0], [2.0])], "t").axes[0]
    assert axes.get_xlim() == (0, 2)


def test_long_lines_are_averaged() -> None:
    (line,) = line_chart([Curve("", np.arange(10000.0), np.tile([0.0, 2.0], 5000))], "t").axes[0].lines
    assert len(line.get_xdata()) == 400
    assert np.allclose(line.get_ydata(), 1, atol=0.05)


def test_small_confusion_matrix_has_counts() -> None:
    axes = charts.confusion_matrix(np.array([[7, 3], [0, 5]]), ["a", "b"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["7", "3", "5"]
    assert axes.images[0].get_array().tolist() == [[0.7, 0.3], [0.0, 1.0]]


def test_per_class_sorts_by_accuracy() -> None:
    axes = charts.per_class(["a", "b", "c"], [90.0, math.nan, 10.0]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a"]
    assert [bar.get_width() for bar in axes.patches] == [10.0, 90.0]


def test_predicted_as_shows_most_frequent_predictions() -> None:
    axes = charts.predicted_as(np.array([1, 5, 0, 3]), ["a", "b", "c", "d"], 1, 2, (4, 3)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "d"]
    assert [bar.get_width() for bar in axes.patches] == [5, 3]


def test_calibration_is_share_of_correct_predictions(make_run: MakeRun) -> None:
    run = read_run(make_run("calibrated", 3))
    axes = run_charts.calibration(run).axes[0]
    confidence, correct = run.predictions.confidence, run.predictions.correct
    for low in np.unique((10 * confidence).astype(int)) / 10:
        in_interval = (confidence >= low) & (confidence < low + 0.1)
        (height,) = (bar.get_height() for bar in axes.patches if bar.get_center()[0] == pytest.approx(100 * low + 5))
        assert height == pytest.approx(100 * correct[in_interval].mean())
