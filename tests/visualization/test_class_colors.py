"""Colors of classes in timelines."""

import numpy as np

from timesformer.localization.segments import Segment
from timesformer.localization.windows import WindowScores
from timesformer.visualization.pages.class_colors import class_colors

NAMES = [f"class {number}" for number in range(20)]


def colors(*shown: int, names: list[str] = NAMES) -> dict[str, int]:
    """Those of a video with a segment of each class, the first of which is the longest."""
    segments = [Segment(0.0, 30.0 - place, names[number], 0.9) for place, number in enumerate(shown)]
    return class_colors([WindowScores(0.0, 30.0, np.zeros(len(names)))], segments, names)


def test_a_class_has_the_same_color_in_every_video() -> None:
    assert colors(3, 1) == colors(1, 3) | colors(3)
    assert list(colors(3, 1)) == ["class 3", "class 1"]
    everything = colors(*range(8), names=NAMES[:8])
    for number in range(8):
        assert colors(number, names=NAMES[:8]).items() <= everything.items()


def test_eight_classes_have_different_colors() -> None:
    found = colors(0, 8, 16, 1, 9, 17, 2, 3, 4, 5)
    assert list(found) == [NAMES[number] for number in (0, 8, 16, 1, 9, 17, 2, 3)]
    assert sorted(found.values()) == list(range(8))


def test_probable_classes_without_segments_come_last() -> None:
    windows = [WindowScores(0.0, 1.0, np.array([0.2, 0.05, 0.75])), WindowScores(1.0, 2.0, np.array([0.3, 0.09, 0.61]))]
    assert list(class_colors(windows, [Segment(0.0, 1.0, "a", 0.3)], ["a", "b", "c"])) == ["a", "c"]
