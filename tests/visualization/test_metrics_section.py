"""Metrics, calibration and baselines in the reports."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.visualization.conftest import MakeRun
from tests.visualization.test_report import Page, page_of
from timesformer.metrics.calibration import Calibration
from timesformer.metrics.evaluation import Evaluation
from timesformer.metrics.summary import summarize
from timesformer.visualization.report import write_report

pytestmark = pytest.mark.slow


def add_metrics(folder: Path, temperature: float | None = 2.0) -> dict:
    """Adds metrics of random scores to results.json, and returns them."""
    results, random = json.loads((folder / "results.json").read_text()), np.random.default_rng(0)
    counts = results["class_counts"]["test"]  # of the first classes
    labels = np.repeat(range(len(counts)), counts)
    logits = random.normal(size=(len(labels), results["num_classes"]))
    logits[range(len(labels)), labels] += 2.0
    scores, names = torch.from_numpy(logits), [f"v{number}" for number in range(len(labels))]
    evaluation = Evaluation(names, torch.from_numpy(labels), scores, scores, {}, 0.5, 1, 1.0)
    calibration = Calibration(temperature, 20, "" if temperature else "TEST.CALIBRATE is False")
    found = summarize(evaluation, results["class_names"], calibration)
    (folder / "results.json").write_text(json.dumps({**results, "metrics": found}))
    return found


def test_report_shows_metrics_and_calibration(make_run: MakeRun) -> None:
    folder = make_run("measured", 4)
    found, page = add_metrics(folder), page_of(folder)
    assert page.rows["metrics"][1] == ["macro", *(f"{value:.1f}" for value in found["macro"].values())]
    assert f"mean average precision {found['mean_average_precision']:.1f} %" in page.text
    listed = dict(zip(page.column("classes", "class"), page.column("classes", "AP (%)"), strict=True))
    assert listed["class1"] == f"{found['per_class']['average_precision'][1]:.1f}"
    assert listed["class3"] == "–"  # without videos
    errors = [f"{found['calibration'][key]:.1f} %" for key in ("ece", "ece_calibrated")]
    assert f"from {errors[0]} to {errors[1]}" in page.text
    assert "chance 25.0, most frequent class 33.3" in page.text
    assert "not significantly better" not in page.text


@pytest.mark.parametrize(("temperature", "warns"), [(2.0, False), (29.999, True), (0.1, True)])
def test_report_warns_about_a_temperature_at_the_limit(make_run: MakeRun, temperature: float, warns: bool) -> None:
    folder = make_run(f"limit_{temperature}", 3)
    add_metrics(folder, temperature)
    assert ("limit of its range" in page_of(folder).text) == warns


def test_two_classes_have_thresholds(make_run: MakeRun) -> None:
    folder = make_run("binary", ["no", "yes"], videos=40)
    results = json.loads((folder / "results.json").read_text())
    results["class_counts"]["test"] = [20, 20]
    (folder / "results.json").write_text(json.dumps(results))
    found, page = add_metrics(folder, None), page_of(folder)
    area = found["per_class"]["roc_auc"][1]
    assert f"area under the ROC curve {area:.3f}" in page.text
    row = found["two_classes"]["thresholds"][9]
    expected = ["0.50", *(f"{row[name]:.1f}" for name in ("precision", "recall", "f1"))]
    assert expected in page.rows["metrics"]
    assert "TEST.CALIBRATE is False" in page.text


def test_results_no_better_than_the_most_frequent_class(make_run: MakeRun) -> None:
    folder = make_run("frequent", ["one", "other"])  # the last class has no videos: all are of the first
    assert "not significantly better" in page_of(folder).text
    other = make_run("better", 4)
    page = Page(write_report([folder, other], folder / "comparison.html"))
    assert "frequent: The result is not significantly better" in page.text
    assert "better: The result" not in page.text
    assert page.column("results", "chance / majority")[:2] == ["50.0 / 100.0", "25.0 / 33.3"]


def test_comparison_of_metrics(make_run: MakeRun) -> None:
    folders = [make_run("new", 4), make_run("old", 4, seed=1)]
    found, page = add_metrics(folders[0]), Page(write_report(folders, folders[0] / "comparison.html"))
    values = [found["macro"]["f1"], found["mean_average_precision"], found["calibration"]["ece_calibrated"]]
    shown = [page.column("metrics", title) for title in ("macro F1", "mean average precision", "with temperature")]
    assert shown == [[f"{value:.1f}", "–"] for value in values]
