"""A run read back from what it left in its folder, also where that is less than runs leave today."""

import csv
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import yaml

from timesformer.errors import UserError

logger = logging.getLogger(__name__)

NO_CLASS = -1


@dataclass(frozen=True)
class Predictions:
    """What predictions.csv tells of the test videos.

    Attributes:
        videos: names.
        labels: numbers of the true classes, int64 (videos,).
        classes: numbers of the most probable classes, the first the prediction, int64 (videos, listed); NO_CLASS
            where a video could not be read.
        probabilities: of those, float64 (videos, listed); NaN where a video could not be read.
        errors: why a video could not be read; empty where it could.
    """

    videos: list[str]
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    errors: list[str]

    @cached_property
    def readable(self) -> np.ndarray:
        """Bool (videos,)."""
        return self.classes[:, 0] != NO_CLASS

    @cached_property
    def right(self) -> np.ndarray:
        """Bool (videos,): whether the prediction is the true class."""
        return self.classes[:, 0] == self.labels

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the prediction, float64 (videos,); NaN where there is none."""
        return self.probabilities[:, 0]


@dataclass(frozen=True)
class FinishedRun:
    """What is left of a run.

    Attributes:
        folder: where it lies.
        name: of the run; the folder's, unless that is another run's, too.
        results: results.json; empty where nothing was tested.
        predictions: of the test; None without a legible predictions.csv.
        metrics: lines of metrics.jsonl by their kind.
        unreadable: rows of unreadable.csv.
        config: options by their keys with dots.
        notes: what is missing or damaged.
    """

    folder: Path
    name: str
    results: dict[str, Any]
    predictions: Predictions | None
    metrics: dict[str, list[dict[str, Any]]]
    unreadable: list[dict[str, str]]
    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """In label order."""
        return list(self.results.get("class_names") or [])

    def figure(self, name: str) -> float | None:
        """A number of results.json; None where it is missing or not finite."""
        value = self.results.get(name)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def val_top1(self) -> float | None:
        """Validation top-1 of the tested checkpoint in percent; None where it is not known.

        In results of version 1 it is the best of the run up to the checkpoint, which is its own in `best.pyth` alone.
        """
        value = self.figure("val_top1")
        if self.results.get("schema_version", 1) < 2 and Path(str(self.results.get("checkpoint"))).name != "best.pyth":
            return None
        return value if value is not None and value >= 0 else None

    def series(self, kind: str, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of a figure of metrics.jsonl; NaN for a value that is none."""
        lines = [line for line in self.metrics.get(kind, []) if name in line]
        return [line["epoch"] for line in lines], [_number(line[name]) for line in lines]


def read_run(folder: Path) -> FinishedRun:
    """Reads the files of a run.

    Args:
        folder: OUTPUT_DIR of the run.

    Raises:
        UserError: if there are neither results nor figures of training in the folder, or the results are damaged.
    """
    notes: list[str] = []
    results = _read_results(folder / "results.json")
    metrics = _read_metrics(folder / "metrics.jsonl")
    if not results and not metrics:
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist: give the OUTPUT_DIR of a run that was trained or tested")
        raise UserError(
            f"{folder} has neither results.json nor metrics.jsonl: give the OUTPUT_DIR of a run that was trained or "
            "tested"
        )
    if not results:
        notes.append("This run has not been tested: there is no results.json.")
    class_names = list(results.get("class_names") or [])
    try:
        predictions = _read_predictions(folder / "predictions.csv", class_names) if results else None
    except (OSError, ValueError, KeyError, csv.Error) as error:
        predictions = None
        notes.append(
            f"predictions.csv is missing or does not belong to the results ({_told(error)}), so there are no "
            "confusions, confidences and examples."
        )
    config = results.get("config") or _read_yaml(folder / "config.yaml")
    return FinishedRun(
        folder=folder,
        name=folder.resolve().name,
        results=results,
        predictions=predictions,
        metrics=metrics,
        unreadable=_read_rows(folder / "unreadable.csv"),
        config=dict(flat(config)),
        notes=notes,
    )


def flat(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The options of sections in sections, by their keys with dots."""
    if not isinstance(config, dict):
        return []
    options: list[tuple[str, Any]] = []
    for key, value in config.items():
        options += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return options


def _read_results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        results = simplejson.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): test the run again") from error
    if not isinstance(results, dict):
        raise UserError(f"{path} is no result of a test: found a {type(results).__name__}, expected an object")
    for key in ("class_names", "per_class"):
        if not isinstance(results.get(key) or [], list):
            raise UserError(f"{path} is damaged ({key} is {results[key]!r}, expected a list): test the run again")
    return results


def _read_metrics(path: Path) -> dict[str, list[dict[str, Any]]]:
    metrics: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            figures = simplejson.loads(line)
            metrics.setdefault(figures["kind"], []).append({**figures, "epoch": float(figures["epoch"])})
        except (ValueError, KeyError, TypeError):  # the torn last line of a killed process
            logger.debug("%s: passed over %r", path, line)
    return metrics


def _read_predictions(path: Path, class_names: Sequence[str]) -> Predictions:
    rows = _read_rows(path, must_exist=True)
    numbers = {name: number for number, name in enumerate(class_names)}
    listed = max(1, sum(key.startswith("class_") for key in rows[0])) if rows else 1
    classes = np.full((len(rows), listed), NO_CLASS)
    probabilities = np.full((len(rows), listed), np.nan)
    for row, line in enumerate(rows):
        for rank in range(listed):
            if name := line[f"class_{rank + 1}"]:
                classes[row, rank] = numbers[name]
                probabilities[row, rank] = _number(line[f"probability_{rank + 1}"])
    return Predictions(
        videos=[line["video"] for line in rows],
        labels=np.array([numbers[line["label"]] for line in rows], np.int64),
        classes=classes,
        probabilities=probabilities,
        errors=[line.get("error") or "" for line in rows],
    )


def _read_rows(path: Path, must_exist: bool = False) -> list[dict[str, str]]:
    if not path.is_file() and not must_exist:
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _told(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is no class of results.json"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
