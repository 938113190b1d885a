"""When the answer for a stream changes: smoothing and hysteresis over its windows, without looking ahead."""

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from timesformer.errors import UserError
from timesformer.localization.segments import LEAVE_FRACTION, THRESHOLD, next_label
from timesformer.numeric_arguments import check_fraction, check_not_negative


class AnswerTracker:
    """The current class of a stream.

    As in `find_segments`, a class begins when it is the most probable one and reaches `threshold`. It ends when its
    probability falls below LEAVE_FRACTION of the threshold, or another class begins. Probabilities are means over the
    windows of the last `smooth` seconds. Classes in `background` are no answer, but can end one.

    Raises UserError for a value out of range or an unknown class.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        threshold: float = THRESHOLD,
        smooth: float = 0.0,
        background: Collection[str] = (),
    ) -> None:
        check_fraction("threshold", threshold)
        check_not_negative("smooth", smooth)
        if unknown := sorted(set(background) - set(class_names)):
            raise UserError(f"background {', '.join(unknown)}: expected one of the classes {', '.join(class_names)}")
        self._names, self._threshold, self._smooth, self._background = class_names, threshold, smooth, background
        self._windows: deque[tuple[float, np.ndarray]] = deque()
        self._label: int | None = None

    def update(self, end: float, probabilities: np.ndarray) -> tuple[str, float]:
        """Return the class after a window that ends at `end` seconds, and its probability.

        `probabilities` are float [classes]. Without a class (""), the probability is that of the most probable one.
        """
        self._windows.append((end, probabilities))
        while self._windows[0][0] < end - self._smooth:
            self._windows.popleft()
        scores = np.mean([scores for _, scores in self._windows], axis=0)
        self._label = next_label(self._label, scores, self._threshold, LEAVE_FRACTION * self._threshold)
        name = "" if self._label is None or self._names[self._label] in self._background else self._names[self._label]
        return name, float(scores[self._label] if name else scores.max())

    def restart(self) -> None:
        """Forget the windows before a gap in the stream; the current class stays until a window ends it."""
        self._windows.clear()
