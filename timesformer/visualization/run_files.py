"""Reads the files that a run leaves in its folder. Files and values that older runs lack may be missing."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import yaml

from timesformer.config.differences import read_saved
from timesformer.errors import UserError
from timesformer.metrics.classification import drop_trivial_top5

NO_CLASS = -1


@dataclass(frozen=True)
class Predictions:
    """The content of predictions.csv: names of videos, true classes, and the k most probable classes, best first.

    Unreadable videos have NO_CLASS and NaN.
    """

    videos: list[str]
    labels: np.ndarray  # int64 (videos,)
    classes: np.ndarray  # int64 (videos, k)
    probabilities: np.ndarray  # float64 (videos, k), from 0 to 1

    @property
    def readable(self) -> np.ndarray:
        return self.classes[:, 0] != NO_CLASS

    @property
    def correct(self) -> np.ndarray:
        return self.classes[:, 0] == self.labels

    @property
    def confidence(self) -> np.ndarray:
        return self.probabilities[:, 0]

    def ranked(self, number: int) -> list[tuple[int, float]]:
        """Classes and probabilities of one video, best first."""
        pairs = zip(self.classes[number].tolist(), self.probabilities[number].tolist(), strict=True)
        return [(label, probability) for label, probability in pairs if label != NO_CLASS]


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of tests with the same classes and different videos."""
    k = min(part.classes.shape[1] for part in parts)
    return Predictions(
        [video for part in parts for video in part.videos],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.classes[:, :k] for part in parts]),
        np.concatenate([part.probabilities[:, :k] for part in parts]),
    )


@dataclass(frozen=True)
class FinishedRun:
    """A run that was trained, tested or both."""

    folder: Path
    name: str  # of the folder, with parents where names would be equal
    results: dict[str, Any]  # results.json; empty if nothing was tested
    predictions: Predictions | None
    metrics: dict[str, list[dict[str, Any]]]  # lines of metrics.jsonl by their kind
    unreadable: list[dict[str, str]]  # rows of unreadable.csv
    config: dict[str, Any]  # options by their keys, such as "DATA.NUM_FRAMES"
    notes: list[str] = field(default_factory=list)  # what is missing or damaged

    @property
    def class_names(self) -> list[str]:
        return list(self.results.get("class_names") or [])

    @property
    def metrics_of_test(self) -> dict[str, Any]:
        """`metrics` of results.json; empty for results of older versions."""
        return self.results.get("metrics") or {}

    @property
    def shuffled(self) -> dict[str, Any]:
        """`shuffled` of results.json, metrics with shuffled frames; empty if they were not measured."""
        return self.results.get("shuffled") or {}

    @property
    def num_correct(self) -> int | None:
        """Correct test predictions; None if unknown."""
        if self.predictions is not None:
            return int(self.predictions.correct.sum())
        rows = self.results.get("per_class") or [{}]
        return sum(row["correct"] for row in rows) if "correct" in rows[0] else None

    def metric(self, name: str) -> float | None:
        """A number of results.json, or "top1_shuffled"; None if it is missing or not finite."""
        value = self.shuffled.get("top1") if name == "top1_shuffled" else self.results.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        if name == "val_top1":  # in version 1, of the tested checkpoint for best.pyth only
            is_best = Path(str(self.results.get("checkpoint"))).name == "best.pyth"
            if value < 0 or (self.results.get("schema_version", 1) < 2 and not is_best):
                return None
        return value

    def series(self, kind: str, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of a metric; `kind` is "train_step", "train_epoch" or "val_epoch". null becomes NaN."""
        lines = [line for line in self.metrics.get(kind, []) if name in line]
        return [line["epoch"] for line in lines], [_to_float(line[name]) for line in lines]


def read_run(folder: Path) -> FinishedRun:
    """Reads an OUTPUT_DIR; UserError if it has neither results.json nor metrics.jsonl, or a damaged results.json."""
    notes: list[str] = []
    path = folder / "results.json"
    try:
        results = read_results(path) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): test the run again") from error
    config = results.get("config") or {}
    if not config and (folder / "config.yaml").is_file():
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config = read_saved(config)
    metrics = _read_metrics(folder / "metrics.jsonl", _num_classes(results) or config.get("MODEL.NUM_CLASSES", 0))
    if not results and not metrics:
        raise UserError(f"{folder} has neither results.json nor metrics.jsonl: give the OUTPUT_DIR of a finished run")
    predictions = None
    if not results:
        notes.append("This run has not been tested: there is no results.json.")
    else:
        try:
            predictions = _read_predictions(folder / "predictions.csv", results.get("class_names") or [])
        except (OSError, ValueError, KeyError, csv.Error) as error:
            reason = f"predictions.csv is missing or of another test ({type(error).__name__}: {error})"
            notes.append(f"Confusions, confidences and examples are left out: {reason}.")
    unreadable = _read_rows(folder / "unreadable.csv") if (folder / "unreadable.csv").is_file() else []
    name = folder.resolve().name
    return FinishedRun(folder, name, results, predictions, metrics, unreadable, config, notes)


def read_results(path: Path) -> dict[str, Any]:
    """The content of results.json, without a top-5 accuracy of five classes or fewer, which earlier versions wrote.

    Raises OSError, and ValueError if the file is damaged.
    """
    results = simplejson.loads(path.read_text(encoding="utf-8"))
    if not isinstance(results, dict):
        raise ValueError(f"found a {type(results).__name__}, expected an object")
    results = drop_trivial_top5(results, _num_classes(results))
    if shuffled := results.get("shuffled"):
        results["shuffled"] = drop_trivial_top5(shuffled, _num_classes(results))
    return results


def _num_classes(results: dict[str, Any]) -> int:
    """0 if unknown."""
    return results.get("num_classes") or len(results.get("class_names") or [])


def _read_metrics(path: Path, num_classes: int) -> dict[str, list[dict[str, Any]]]:
    metrics: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            values = drop_trivial_top5(simplejson.loads(line), num_classes)
            metrics.setdefault(values["kind"], []).append({**values, "epoch": float(values["epoch"])})
        except (ValueError, KeyError, TypeError):
            continue  # the incomplete last line of a killed process
    return metrics


def _read_predictions(path: Path, class_names: Sequence[str]) -> Predictions:
    rows = _read_rows(path)
    numbers = {name: number for number, name in enumerate(class_names)}
    k = max(1, sum(key.startswith("class_") for key in rows[0])) if rows else 1
    classes, probabilities = np.full((len(rows), k), NO_CLASS), np.full((len(rows), k), np.nan)
    for row, line in enumerate(rows):
        for rank in range(k):
            if name := line[f"class_{rank + 1}"]:
                classes[row, rank] = numbers[name]
                probabilities[row, rank] = _to_float(line[f"probability_{rank + 1}"])
    labels = np.array([numbers[line["label"]] for line in rows], np.int64)
    return Predictions([line["video"] for line in rows], labels, classes, probabilities)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def _to_float(value: float | str | None) -> float:
    return math.nan if value in (None, "") else float(value)
