"""Metrics of temporal action localization: mean average precision at temporal IoU, and frame accuracy.

The average precision follows the evaluation code of ActivityNet (github.com/activitynet/ActivityNet,
eval_detection.py): detections of a class are ranked over all videos by their probability. Each takes the annotated
segment with the highest temporal IoU that is not taken yet, if the IoU reaches the threshold; else it is incorrect.
Precision is replaced by its maximum at the same or a higher recall, as in PASCAL VOC since 2010, and averaged over the
annotated segments. THUMOS 2014 averages precision without this maximum, which gives the same or lower values.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


class Interval(NamedTuple):
    """An annotated or detected segment of a video."""

    video: str
    start: float  # seconds
    end: float
    class_name: str
    probability: float = 1.0


class LocalizationMetrics(NamedTuple):
    """Metrics in percent, over the videos that were evaluated."""

    average_precision: dict[str, list[float]]  # by annotated class, at each of the IoU thresholds
    mean_average_precision: list[float]  # over the classes, at each of the IoU thresholds
    frame_accuracy: float  # of all time, with "no action" as a class
    action_accuracy: float  # of the annotated time; NaN without any
    thresholds: tuple[float, ...]  # temporal IoU

    def to_dict(self) -> dict[str, Any]:
        """Returns what `json.dumps` accepts."""
        return {
            "iou_thresholds": list(self.thresholds),
            "mean_average_precision": [_or_none(value) for value in self.mean_average_precision],
            "average_precision": self.average_precision,
            "frame_accuracy": _or_none(self.frame_accuracy),
            "action_accuracy": _or_none(self.action_accuracy),
        }

    def __str__(self) -> str:
        """A table of the average precision by class, and a line with the frame accuracy."""
        width = max(map(len, ("mean", *self.average_precision)))
        rows = [*self.average_precision.items(), ("mean", self.mean_average_precision)]
        lines = [
            f"{'average precision (%) at temporal IoU':{width}}",
            f"{'':{width}}  " + "  ".join(f"{threshold:5.1f}" for threshold in self.thresholds),
            *(f"{name:{width}}  " + "  ".join(f"{value:5.1f}" for value in values) for name, values in rows),
            f"frame accuracy {self.frame_accuracy:.1f} %; of the annotated time {self.action_accuracy:.1f} %",
        ]
        return "\n".join(lines)


def _or_none(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if np.isnan(value) else value


def evaluate_localization(
    detected: Sequence[Interval],
    annotated: Sequence[Interval],
    durations: Mapping[str, float],
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> LocalizationMetrics:
    """Compares detected with annotated segments of the videos in `durations`, which has their length in seconds.

    Time without a segment is "no action". Detections of classes without annotations do not change the mean average
    precision, as in ActivityNet's code, but the frame accuracy. Detected segments of a video must not overlap.
    """
    precisions = {}
    for name in sorted({interval.class_name for interval in annotated}):
        of_class = [[i for i in intervals if i.class_name == name] for intervals in (detected, annotated)]
        precisions[name] = [100 * average_precision(*of_class, threshold) for threshold in thresholds]
    means = np.mean(list(precisions.values()), axis=0).tolist() if precisions else [float("nan")] * len(thresholds)
    total, action = np.zeros(2), np.zeros(2)  # seconds that are correct, and all
    for video, duration in durations.items():
        times = _compare_times(
            [i for i in detected if i.video == video], [i for i in annotated if i.video == video], duration
        )
        for seconds, correct, is_annotated in times:
            total += (seconds * correct, seconds)
            action += (seconds * correct * is_annotated, seconds * is_annotated)
    accuracies = [100 * float(part[0] / part[1]) if part[1] else float("nan") for part in (total, action)]
    return LocalizationMetrics(precisions, means, *accuracies, tuple(thresholds))


def average_precision(detected: Iterable[Interval], annotated: Sequence[Interval], threshold: float) -> float:
    """Average precision, 0 to 1, of the detections of one class at a temporal IoU; 0 without detections.

    Of equally probable detections, the first in `detected` ranks first.
    """
    free = set(range(len(annotated)))
    correct = []
    for detection in sorted(detected, key=lambda interval: -interval.probability):
        overlaps = [(temporal_iou(detection, annotated[number]), -number) for number in free]
        overlap, number = max(overlaps, default=(0.0, 0))
        correct.append(overlap > 0 and overlap >= threshold - 1e-9)
        if correct[-1]:
            free.remove(-number)
    return interpolated_precision(np.array(correct, bool), len(annotated))


def interpolated_precision(correct: NDArray[np.bool_], total: int) -> float:
    """Area under the interpolated precision-recall curve; `correct` in the order of the ranks, of `total` to find."""
    if not correct.any():
        return 0.0
    precision = correct.cumsum() / np.arange(1, len(correct) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at the same or a higher recall
    return float(highest[correct].sum() / total)


def temporal_iou(one: Interval, other: Interval) -> float:
    """Shared time divided by the time of both, 0 to 1; 0 for different videos."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    if one.video != other.video or shared <= 0:
        return 0.0
    return shared / (one.end - one.start + other.end - other.start - shared)


def _compare_times(
    detected: Sequence[Interval], annotated: Sequence[Interval], duration: float
) -> Iterable[tuple[float, bool, bool]]:
    """Seconds of each part of a video, whether its class is correct, and whether it is annotated."""
    ends = [second for interval in (*detected, *annotated) for second in (interval.start, interval.end)]
    borders = np.unique(np.clip([0.0, duration, *ends], 0.0, duration))
    for start, end in pairwise(borders.tolist()):
        true, found = _classes_at(annotated, start, end), _classes_at(detected, start, end)
        yield end - start, bool(true & found) if true else not found, bool(true)


def _classes_at(intervals: Sequence[Interval], start: float, end: float) -> Collection[str]:
    return {interval.class_name for interval in intervals if interval.start <= start and end <= interval.end}
