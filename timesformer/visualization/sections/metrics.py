"""The sections about metrics and calibration in the reports, for `templates/_metrics.html`."""

from collections.abc import Sequence
from typing import Any

from timesformer.metrics.baselines import Baselines, baselines, describe_baselines
from timesformer.metrics.calibration import is_at_limit
from timesformer.visualization import metric_charts  # noqa: F401  registers its charts
from timesformer.visualization.run_charts import draw_charts
from timesformer.visualization.run_files import FinishedRun

Content = dict[str, Any]

_COMPARED = {
    "macro precision": ("macro", "precision"),
    "macro recall": ("macro", "recall"),
    "macro F1": ("macro", "f1"),
    "weighted F1": ("weighted", "f1"),
    "mean average precision": ("mean_average_precision",),
    "calibration error": ("calibration", "ece"),
    "with temperature": ("calibration", "ece_calibrated"),
}


def baselines_of(run: FinishedRun) -> Baselines | None:
    """Chance and the most frequent class of the test; None if the numbers of videos are unknown."""
    videos = [row.get("num_videos") for row in run.results.get("per_class") or []]
    return None if run.num_correct is None or None in videos else baselines(videos, run.num_correct)


def show_baselines(run: FinishedRun) -> str:
    """Chance and the accuracy of the most frequent class in percent, as text; "" if unknown."""
    found = baselines_of(run)
    return describe_baselines(found.chance, found.majority) if found else ""


def baseline_warning(run: FinishedRun) -> str:
    """A sentence if the result is not better than always predicting the most frequent class; else ""."""
    found = baselines_of(run)
    return found.warning(run.class_names) if found and not found.is_beaten else ""


def metrics_section(run: FinishedRun) -> Content | None:
    """Averages, curves and thresholds; None for results of older versions."""
    found = run.metrics_of_test
    if not found:
        return None
    two_classes = found.get("two_classes")
    scalars = [("Balanced accuracy", found["balanced_accuracy"], "{:.1f} %")]
    if two_classes:
        positive, of_classes = run.class_names.index(two_classes["positive_class"]), found["per_class"]
        scalars.append(("average precision", of_classes["average_precision"][positive], "{:.1f} %"))
        scalars.append(("area under the ROC curve", of_classes["roc_auc"][positive], "{:.3f}"))
    else:
        scalars.append(("mean average precision", found["mean_average_precision"], "{:.1f} %"))
    shown = ", ".join(f"{name} {text.format(value)}" for name, value, text in scalars if value is not None)
    return {
        "averages": [(name, *found[name].values()) for name in ("macro", "weighted")],
        "text": f"{shown}." if shown else "",
        "two_classes": two_classes,
        "charts": draw_charts("metrics", run),
    }


def calibration_section(run: FinishedRun) -> Content | None:
    """The calibration before and after temperature scaling; None without predictions."""
    charts, found = draw_charts("calibration", run), run.metrics_of_test.get("calibration") or {}
    if not charts:
        return None
    text = ""
    if found.get("temperature"):
        text = (
            f"A temperature of {found['temperature']:.2f}, fitted on {found['num_validation_videos']:,} validation "
            f"videos, changes the expected calibration error from {found['ece']:.1f} % to "
            f"{found['ece_calibrated']:.1f} %. Predictions and the web page use it. It does not change the "
            "predicted classes."
        )
        if is_at_limit(found["temperature"]):
            text += " It is at the limit of its range: these videos do not determine it."
    elif found.get("reason"):
        text = f"The probabilities are not calibrated: {found['reason']}."
    return {"text": text, "charts": charts}


def class_metrics(run: FinishedRun, name: str, number: int) -> float | None:
    """A metric of class `number` in percent, such as "f1"; None if it is unknown or undefined."""
    values = (run.metrics_of_test.get("per_class") or {}).get(name)
    return values[number] if values else None


def compare_metrics(runs: Sequence[FinishedRun]) -> Content | None:
    """Metrics of each run; None if no run has them. Metrics that no run has are left out."""
    rows = [[_find(run.metrics_of_test, path) for path in _COMPARED.values()] for run in runs]
    shown = [column for column in range(len(_COMPARED)) if any(row[column] is not None for row in rows)]
    if not shown:
        return None
    return {
        "titles": [title for column, title in enumerate(_COMPARED) if column in shown],
        "rows": [(run.name, [row[column] for column in shown]) for run, row in zip(runs, rows, strict=True)],
        "charts": draw_charts("metric comparison", runs),
    }


def _find(content: Any, path: Sequence[str]) -> float | None:
    for name in path:
        content = (content or {}).get(name)
    return content
