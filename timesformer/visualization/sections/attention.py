"""Attention of correct and incorrect clips of the classes with the lowest accuracy."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timesformer.visualization.examples import Strip, read_strips
from timesformer.visualization.run_files import FinishedRun

ATTENTION = "attention.zip"
_CLASSES, _EACH = 3, 2  # classes; incorrect and correct clips of each


@dataclass(frozen=True)
class WeakClass:
    """A class, and numbers of test videos of it: the most confident incorrect and correct predictions."""

    label: int
    incorrect: list[int]
    correct: list[int]


def weakest_classes(run: FinishedRun) -> list[WeakClass]:
    """At most 3 classes with errors, by rising accuracy."""
    predictions, found = run.predictions, []
    if predictions is None:
        return []
    for label in np.unique(predictions.labels).tolist():
        of_class = predictions.readable & (predictions.labels == label)
        incorrect, correct = (
            rows[np.argsort(-predictions.confidence[rows], kind="stable")][:_EACH].tolist()
            for rows in (
                np.flatnonzero(of_class & ~predictions.correct),
                np.flatnonzero(of_class & predictions.correct),
            )
        )
        if incorrect:
            accuracy = predictions.correct[predictions.labels == label].mean()
            found.append((accuracy, label, WeakClass(label, incorrect, correct)))
    return [entry[-1] for entry in sorted(found, key=lambda entry: entry[:2])[:_CLASSES]]


def attention_section(run: FinishedRun, folder: Path) -> list[dict[str, Any]]:
    """Values of `templates/_attention.html`: examples by class, empty without any."""
    strips = read_strips(folder / ATTENTION)
    classes = []
    for weak in weakest_classes(run):
        examples = list(_examples(run, [*weak.incorrect, *weak.correct], strips))
        if examples:
            top1 = 100 * run.predictions.correct[run.predictions.labels == weak.label].mean()
            classes.append({"name": run.class_names[weak.label], "top1": top1, "examples": examples})
    return classes


def _examples(run: FinishedRun, numbers: list[int], strips: dict[str, Strip]) -> Iterator[dict[str, Any]]:
    for number in numbers:
        video = run.predictions.videos[number]
        if video in strips:
            yield {
                "video": video,
                "label": run.class_names[run.predictions.labels[number]],
                "predicted": run.class_names[run.predictions.classes[number, 0]],
                "confidence": f"{100 * run.predictions.confidence[number]:.1f} %",
                "correct": bool(run.predictions.correct[number]),
                "others": "",
                "times": "",
                "image": f"data:image/jpeg;base64,{base64.b64encode(strips[video].jpeg).decode()}",
            }
