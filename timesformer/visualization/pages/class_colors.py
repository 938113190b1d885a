"""Which classes of a timeline have a color, and which one: the same on the timeline page and on the web page."""

from collections.abc import Sequence

import numpy as np

from timesformer.localization.segments import Segment
from timesformer.localization.windows import WindowScores
from timesformer.visualization.charts import SERIES

_MIN_PEAK = 0.1  # probability of a class without segments that is shown


def class_colors(
    windows: Sequence[WindowScores], segments: Sequence[Segment], class_names: Sequence[str]
) -> dict[str, int]:
    """Returns the classes to show, and the index of each one's color in SERIES; no two have the same.

    These are the classes with the longest segments, then those with the highest probability. A class of a model has the
    same color in every video, unless another one that is shown has taken it.

    Args:
        windows, segments: of a video; segments without a class name do not count.
        class_names: in the order of `WindowScores.probabilities`.
    """
    lengths = dict.fromkeys(class_names, 0.0)
    for segment in segments:
        if segment.class_name:
            lengths[segment.class_name] = lengths.get(segment.class_name, 0.0) + segment.end - segment.start
    peaks = np.zeros(len(class_names))
    for window in windows:
        peaks = np.maximum(peaks, window.probabilities)
    peak_of = dict(zip(class_names, peaks.tolist(), strict=True))
    found = [name for name in lengths if lengths[name] or peak_of.get(name, 0.0) >= _MIN_PEAK]
    shown = sorted(found, key=lambda name: (-lengths[name], -peak_of.get(name, 0.0)))[: len(SERIES)]
    number_of = {name: number for number, name in enumerate(lengths)}
    colors: dict[str, int] = {}
    for name in sorted(shown, key=number_of.__getitem__):
        wanted = [(number_of[name] + step) % len(SERIES) for step in range(len(SERIES))]
        colors[name] = next(color for color in wanted if color not in colors.values())
    return {name: colors[name] for name in shown}
