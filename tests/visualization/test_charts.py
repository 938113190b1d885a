"""Charts: what they draw, and that their SVG fits into a page."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from tests.visualization.conftest import MakeRun
from timesformer.visualization import charts, metric_charts
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


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_charts_become_png_and_svg(name: str) -> None:
    figure = FIGURES[name]
    size = tuple((figure.get_size_inches() * 100).round().astype(int))
    assert Image.open(io.BytesIO(charts.png(figure))).size == size
    text = charts.svg(figure)
    assert text.rstrip().endswith("</svg>")
    assert "<style" not in text  # it would apply to the whole page
    text.encode("utf-8")


def test_calibration_of_older_results_is_share_of_correct_predictions(make_run: MakeRun) -> None:
    run = read_run(make_run("calibrated", 3))
    axes = metric_charts.uncalibrated(run).axes[0]
    confidence, correct = run.predictions.confidence, run.predictions.correct
    for number in np.unique((15 * confidence).astype(int)):
        in_interval = (15 * confidence).astype(int) == number
        (height,) = (bar.get_height() for bar in axes.patches if int(bar.get_center()[0] * 15 / 100) == number)
        assert height == pytest.approx(100 * correct[in_interval].mean())
