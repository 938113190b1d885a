"""Figures of a study from the results of its cells."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.studies.conftest import content, finish
from timesformer.studies import figures
from timesformer.studies.figures import draw_figures
from timesformer.studies.plan import Choices, Plan
from timesformer.studies.study import read_study
from timesformer.visualization.charts import Curve


def test_cmc_curve_is_drawn_from_results(
    write_study: Callable[[dict], Path], choices: Choices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each seed and their mean; runs without this metric are named."""
    study = read_study(write_study(content() | {"figures": {"cmc": {"table": 1, "rows": ["base", "slow"]}}}))
    plan, drawn = Plan(study, choices), []
    base, slow = plan.tables[0].rows[:2]
    for cell, accuracy in zip(base.cells, ([70.0, 80.0, 100.0], [50.0, 90.0, 100.0]), strict=True):
        finish(cell, accuracy[0], metrics={"cmc": {"k": [1, 2, 3], "accuracy": accuracy}})
    finish(slow.cells[0], 50.0)
    line_chart = figures.charts.line_chart

    def draw(curves: list[Curve], *rest: str) -> object:
        drawn.extend(curves)
        return line_chart(curves, *rest)

    monkeypatch.setattr(figures.charts, "line_chart", draw)
    (picture,), (problem,) = draw_figures(plan)
    assert picture.title.endswith("table 1, base")
    assert np.asarray(Image.open(picture.path)).std() > 0
    assert [list(curve.y) for curve in drawn] == [[70, 80, 100], [50, 90, 100], [60, 85, 100]]
    assert "slow" in problem
    assert "metrics.cmc" in problem
