"""Segments: from scores of overlapping windows to when which action happens."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from timesformer.errors import UserError
from timesformer.localization.windows import WindowScores
from timesformer.numeric_arguments import check_fraction, check_not_negative

THRESHOLD = 0.5
LEAVE_FRACTION = 0.8
"""A segment continues until its probability falls below this fraction of the threshold."""


@dataclass(frozen=True)
class Segment:
    """A part of a video with one action."""

    start: float  # seconds, as of `WindowScores`
    end: float
    class_name: str  # empty: no action
    probability: float  # mean over the windows that overlap it, weighted by the length of the overlap


@dataclass(frozen=True, eq=False)
class Moments:
    """Parts of a video between two neighboring borders of windows."""

    borders: np.ndarray  # float64 [moments + 1], in seconds, rising
    probabilities: np.ndarray  # float64 [moments, classes]; NaN where no window is

    @property
    def lengths(self) -> np.ndarray:
        """Seconds, float64 [moments]."""
        return np.diff(self.borders)


def find_segments(
    windows: Sequence[WindowScores],
    class_names: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    leave: float | None = None,
    smooth: float = 0.0,
    min_length: float = 0.0,
    background: Collection[str] = (),
    gaps: bool = False,
) -> list[Segment]:
    """Returns the segments of a video in order of time; they do not overlap.

    The probability of a class at a moment is its mean over the windows that contain the moment. The most probable class
    begins a segment when it reaches `threshold`. The segment ends when its probability falls below `leave`, or when
    another class is more probable and reaches `threshold`. Touching segments of one class are merged.

    Args:
        windows: the scores of a video in order of time, from `score_windows`.
        class_names: in the order of the scores.
        threshold: from 0 to 1.
        leave: from 0 to `threshold`; default: LEAVE_FRACTION of `threshold`.
        smooth: average the probabilities over so many seconds around each moment.
        min_length: leave out shorter segments, in seconds.
        background: classes that are no action; they can end a segment, but are not returned.
        gaps: return the time between segments too, with an empty class name and the probability of the most probable
            class.

    Raises UserError for a value out of range or an unknown class in `background`.
    """
    check_fraction("threshold", threshold)
    leave = LEAVE_FRACTION * threshold if leave is None else leave
    check_fraction("leave", leave, most=threshold)
    check_not_negative("smooth", smooth)
    check_not_negative("min_length", min_length)
    if unknown := sorted(set(background) - set(class_names)):
        raise UserError(f"background {', '.join(unknown)}: expected one of the classes {', '.join(class_names)}")
    if not windows:
        return []
    moments = average_windows(windows)
    if smooth:
        moments = smooth_moments(moments, smooth)
    labels = _label(moments.probabilities, threshold, leave)
    ignored = {number for number, name in enumerate(class_names) if name in background}
    labels = [None if label in ignored else label for label in labels]
    runs = _runs(labels)
    lengths = moments.lengths
    kept = [label is not None and lengths[first:stop].sum() >= min_length - 1e-9 for first, stop, label in runs]
    for (first, stop, _), keep in zip(runs, kept, strict=True):
        if not keep:
            labels[first:stop] = [None] * (stop - first)
    segments = []
    for first, stop, label in _runs(labels):
        scores = moments.probabilities[first:stop]
        scores = np.nanmax(np.nan_to_num(scores), axis=1) if label is None else scores[:, label]
        probability = float(np.average(scores, weights=lengths[first:stop]))
        name = "" if label is None else class_names[label]
        if name or gaps:
            segments.append(Segment(float(moments.borders[first]), float(moments.borders[stop]), name, probability))
    return segments


def with_defaults(**options: Any) -> dict[str, Any]:
    """Returns these arguments of `find_segments` and the defaults of all others, as `json.dumps` accepts them."""
    settings = {**find_segments.__kwdefaults__, **options}
    if settings["leave"] is None:
        settings["leave"] = round(LEAVE_FRACTION * settings["threshold"], 6)
    return settings | {"background": list(settings["background"])}


def average_windows(windows: Sequence[WindowScores]) -> Moments:
    """Returns the mean scores of the windows at each moment."""
    borders = np.unique([round(second, 6) for window in windows for second in (window.start, window.end)])
    total = np.zeros((len(borders) - 1, len(windows[0].probabilities)))
    number = np.zeros((len(borders) - 1, 1))
    for window in windows:
        first, stop = np.searchsorted(borders, (round(window.start, 6), round(window.end, 6)))
        total[first:stop] += window.probabilities
        number[first:stop] += 1
    with np.errstate(invalid="ignore"):
        return Moments(borders, total / number)


def smooth_moments(moments: Moments, seconds: float) -> Moments:
    """Returns the mean scores over the `seconds` around the middle of each moment, as far as there are windows."""
    borders, known = moments.borders, ~np.isnan(moments.probabilities[:, :1])
    weights = moments.lengths[:, None] * known
    # The integral of the scores from the start of the video, and of the time with scores, to each border.
    scores = np.cumsum(weights * np.nan_to_num(moments.probabilities), axis=0)
    scores = np.concatenate([np.zeros_like(scores[:1]), scores])
    times = np.concatenate([[0.0], np.cumsum(weights[:, 0])])
    middle = (borders[1:] + borders[:-1]) / 2
    low, high = (np.clip(middle + side * seconds / 2, borders[0], borders[-1]) for side in (-1, 1))
    spent = np.interp(high, borders, times) - np.interp(low, borders, times)
    columns = [np.interp(high, borders, column) - np.interp(low, borders, column) for column in scores.T]
    with np.errstate(invalid="ignore"):
        smoothed = np.stack(columns, axis=1) / spent[:, None]
    return Moments(borders, np.where(known, smoothed, np.nan))


def _label(probabilities: np.ndarray, threshold: float, leave: float) -> list[int | None]:
    """The class of each moment, None for no action."""
    labels: list[int | None] = []
    current: int | None = None
    for scores in probabilities:
        current = None if np.isnan(scores).any() else next_label(current, scores, threshold, leave)
        labels.append(current)
    return labels


def next_label(current: int | None, scores: np.ndarray, threshold: float, leave: float) -> int | None:
    """Returns the class that follows `current` at a moment with these scores, float [classes]; None: no action."""
    best = int(scores.argmax())
    if scores[best] >= threshold:
        return best
    return None if current is not None and scores[current] < leave else current


def _runs(labels: Sequence[int | None]) -> list[tuple[int, int, int | None]]:
    """First moment, the one after the last, and label of each longest run of equal labels."""
    runs: list[tuple[int, int, int | None]] = []
    for number, label in enumerate(labels):
        if runs and runs[-1][2] == label:
            runs[-1] = (runs[-1][0], number + 1, label)
        else:
            runs.append((number, number + 1, label))
    return runs
