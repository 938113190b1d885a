"""Draws predicted classes and the time into frames of a video."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from timesformer.visualization import fonts

_FIRST_BAR, _OTHER_BAR = np.array([37, 99, 235], np.uint16), np.array([104, 112, 122], np.uint16)
_DARKENED = (np.arange(256) * 0.4).astype(np.uint8)  # by its value
_BAR_OPACITY = np.uint16(215)  # of 255
_MAX_HEIGHT = 0.45  # of the bars, as a fraction of the frame


def draw_labels(
    frame: np.ndarray, classes: Sequence[tuple[str, float]], time: float = math.nan, label: str = ""
) -> np.ndarray:
    """A copy of a frame with bars of probabilities at the bottom, and a label and the time at the top.

    Text is at least 10 pixels high. In small frames, long names are cut, and the last classes may have no space.

    Args:
        frame: uint8 [height, width, 3], RGB.
        classes: names and their probabilities from 0 to 1, the most probable first.
        time: in seconds; NaN: none is drawn.
        label: large text in the upper left corner; "": none.
    """
    frame = np.array(frame, order="C")
    height, width, _ = frame.shape
    size = max(10, round(min(height, width) / 26))
    pad, row = size // 3, size * 3 // 2
    left = width  # of the time
    if not math.isnan(time):
        clock = format_clock(time)
        left = max(0, width - 3 * pad - _width(clock, size))
        _darken(frame, left, pad, width - pad, pad + row)
        _write(frame, left + pad, pad + row * 3 // 4, clock, size)
    if label:
        large = size * 4 // 3
        text = _fit(label, large, left - 4 * pad)
        _darken(frame, pad, pad, 3 * pad + _width(text, large), pad + large * 3 // 2)
        _write(frame, 2 * pad, pad + large * 9 // 8, text, large)
    shown = classes[: max(1, int(_MAX_HEIGHT * height) // row)]
    top, right = height - pad - row * len(shown), min(width - pad, 20 * size)
    _darken(frame, pad, top, right, height - pad)
    for number, (name, probability) in enumerate(shown):
        y, length = top + number * row, round((right - pad) * min(max(probability, 0.0), 1.0))
        bar = frame[max(0, y) + 1 : y + row - 1, pad : pad + length]
        _blend(bar, _OTHER_BAR if number else _FIRST_BAR, _BAR_OPACITY)
        percent = f"{100 * probability:.0f} %"
        end = right - pad - _width(percent, size)
        _write(frame, end, y + row * 3 // 4, percent, size)
        _write(frame, 2 * pad, y + row * 3 // 4, _fit(name, size, end - 3 * pad), size)
    return frame


def format_clock(seconds: float) -> str:
    """A time as "m:ss.t" or "h:mm:ss.t", rounded to tenths of a second."""
    tenths = max(0, math.floor(10 * seconds + 0.5 + 1e-6))
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"


def _width(text: str, size: int) -> int:
    return fonts.draw_line(text, size)[0].shape[1]


@lru_cache(maxsize=2048)
def _fit(text: str, size: int, width: int) -> str:
    """The text, or its beginning and "…" if it is wider than `width` pixels."""
    if _width(text, size) <= width:
        return text
    end = len(text)
    while end and _width(f"{text[:end]}…", size) > width:
        end -= 1 + end // 20
    return f"{text[:end]}…"


def _darken(frame: np.ndarray, left: int, top: int, right: int, bottom: int) -> None:
    box = frame[max(0, top) : bottom, left:right]
    box[:] = _DARKENED[box]


def _blend(box: np.ndarray, color: np.ndarray, opacity: np.ndarray | np.uint16) -> None:
    """Draws a color, uint16 [3], over pixels with an opacity, uint16, from 0 to 255."""
    box[:] = (box * (255 - opacity) + color * opacity) // 255


def _write(frame: np.ndarray, x: int, baseline: int, text: str, size: int) -> None:
    """Writes white text; the part outside the frame is left out."""
    opacity, below = fonts.draw_line(text, size)
    top = baseline + below - len(opacity)
    opacity = opacity[max(0, -top) :]
    box = frame[max(0, top) : max(0, baseline + below), x:]
    opacity = opacity[: len(box), : box.shape[1], np.newaxis].astype(np.uint16)
    _blend(box[: opacity.shape[0], : opacity.shape[1]], np.full(3, 255, np.uint16), opacity)
