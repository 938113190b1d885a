"""Charts: what they draw, and that their SVG fits into a page."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from timesformer.visualization import charts
from timesformer.visualization.charts import Curve, Figure


def every_chart() -> dict[str, Figure]:
    random = np.random.default_rng(0)
    counts = random.integers(0, 9, (5, 5))
    names = ["a", "b <&>", "$c_1$", "d" * 50, "\udce9"]
    return {
        "curves": charts.curves([Curve("a", [1, 2, 3], [1.0, math.nan, 2.0]), Curve("b", [1], [2.0], 1)], "t"),
        "no curves": charts.curves([Curve("a", [], []), Curve("b", [1], [math.nan])], "t", log=True),
        "reliability": charts.reliability(random.random(50), random.random(50) > 0.5),
        "no reliability": charts.reliability(np.zeros(0), np.zeros(0, bool)),
        "spread": charts.spread([10.0, 100.0], "t"),
        "dots": charts.dots([1, 2], [3, 4], "t", "x"),
        "per_class": charts.per_class(names, [1, math.nan, 3, 4, 5]),
        "many classes": charts.per_class([*"ab"] * 100, [1.0] * 200),
        "confusion": charts.confusion_matrix(counts, names),
        "many confusions": charts.confusion_matrix(np.eye(100, dtype=int), [*"ab"] * 50),
        "predicted_as": charts.predicted_as(counts[0], names, "a", 3, (8, 4)),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return every_chart()


def test_every_chart_is_a_picture_and_an_element_of_a_page(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        assert charts.pixels(figure).std() > 0, name
        text = charts.svg(figure)
        assert text.startswith("<svg"), name
        assert text.rstrip().endswith("</svg>"), name
        assert "<style" not in text  # it would be that of the whole page
        assert "DejaVu" not in text
        text.encode("utf-8")


def test_a_png_has_the_size_asked_for() -> None:
    figure = charts.confusion_matrix(np.eye(2, dtype=int), ["a", "b"], size=(3, 4))
    assert Image.open(io.BytesIO(charts.png(figure))).size == (300, 400)
    assert charts.pixels(figure).shape == (400, 300, 3)


def test_colours_are_those_of_the_page_around(drawn: dict[str, Figure]) -> None:
    text = charts.svg(drawn["curves"])
    assert "var(--series-1, #2563ec)" in text
    assert "var(--muted, #68707a)" in text


def test_the_same_chart_is_the_same_text() -> None:
    assert len({charts.svg(charts.curves([Curve("a", [1, 2], [1.0, 2.0])], "t")) for _ in range(2)}) == 1


def test_long_lines_are_thinned_to_means() -> None:
    x, y = np.arange(10000.0), np.tile([0.0, 2.0], 5000)
    figure = charts.curves([Curve("", x, y)], "t")
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) == 400
    assert np.allclose(line.get_ydata(), 1, atol=0.05)


def test_numbers_stand_in_a_matrix_of_few_classes() -> None:
    counts = np.array([[7, 3], [0, 5]])
    axes = charts.confusion_matrix(counts, ["a", "b"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["7", "3", "5"]
    assert axes.images[0].get_array().tolist() == [[0.7, 0.3], [0.0, 1.0]]


def test_classes_are_sorted_by_accuracy_and_those_without_one_left_out() -> None:
    axes = charts.per_class(["a", "b", "c"], [90.0, math.nan, 10.0]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a"]
    assert [bar.get_width() for bar in axes.patches] == [10.0, 90.0]


def test_predictions_of_a_class_are_its_most_frequent_ones() -> None:
    axes = charts.predicted_as(np.array([1, 5, 0, 3]), ["a", "b", "c", "d"], "b", 2, (4, 3)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "d"]
    assert [bar.get_width() for bar in axes.patches] == [5, 3]


def test_bars_of_confidence_are_the_shares_that_are_right() -> None:
    axes = charts.reliability(np.array([0.95, 1.0, 0.9, 0.15]), np.array([True, True, False, False])).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0.0, 200 / 3])
