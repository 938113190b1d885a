"""Scores windows over a long video of a visitor, in bounded time and memory."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.localization.timeline_files import sampling_settings
from timesformer.localization.window_length import default_window
from timesformer.localization.window_reader import WindowClips
from timesformer.localization.windows import WindowBatch, WindowScores
from timesformer.web.reading import DecodedVideo, Span
from timesformer.web.service import Service
from timesformer.web.uploads import RefusedError

MAX_WINDOWS = 240
_PART, _PART_BYTES = 8, 2**25  # clips that are read at once
_IN_ORDER_BYTES = 2**27  # of the clips of a video that can only be read from its start to its end
_NUM_PICTURES = 8

Picture = tuple[float, np.ndarray]
"""Time of a frame in seconds, and its pixels, uint8 [height, width, 3]."""


@dataclass(frozen=True)
class ScoredVideo:
    """Scores of a video; neighboring windows touch or overlap."""

    windows: list[WindowScores]  # in the order of time
    pictures: list[Picture]  # evenly spaced
    window: float  # seconds
    stride: float  # mean seconds between the starts of windows
    planned: int  # windows; those in `windows` were computed in time
    is_spread: bool  # they are further apart than half a window
    sampling: dict[str, Any]  # of their clips, from `sampling_settings`


def score_video(service: Service, path: Path, video: DecodedVideo, sampler: str, views: int) -> ScoredVideo:
    """Scores the windows of `timesformer predict --timeline`; if there are too many, fewer that are spread evenly.

    After `Limits.decoding_seconds`, the windows that are computed by then are returned: they are computed in an order
    in which they always cover the whole video, first coarsely, then finely. Videos whose file does not tell when frames
    are shown are read in one go. RefusedError as `Readers`.
    """
    classifier, limits = service.classifier, service.limits
    cfg = classifier.options(views=views, sampler=sampler)
    window = default_window(cfg, video.fps, classifier.clip_seconds)[0]
    num_clips = views * cfg.TEST.NUM_SPATIAL_CROPS  # of a window
    window_bytes = num_clips * 3 * cfg.DATA.NUM_FRAMES * cfg.DATA.TEST_CROP_SIZE**2
    spans = service.readers.spans(path, cfg, window, window / 2) if video.is_seekable else []
    is_seekable = bool(spans)
    limit = MAX_WINDOWS if is_seekable else max(2, min(MAX_WINDOWS, _IN_ORDER_BYTES // window_bytes))
    spans = spans or half_windows(video.seconds, window)
    if is_spread := len(spans) > limit:
        spans = spread_windows(spans[-1][1], window, limit)
    order = [spans[number] for number in coarse_to_fine(len(spans))]
    size = max(1, min(_PART // num_clips, _PART_BYTES // window_bytes))
    parts = [sorted(order[first : first + size]) for first in range(0, len(order), size)]
    if not is_seekable:
        parts = [spans]
    deadline = time.monotonic() + limits.decoding_seconds
    scores: list[WindowScores] = []
    pictures: list[Picture] = []
    batch = WindowBatch(classifier, cfg)
    with closing(service.readers.windows(path, cfg, parts, is_seekable)) as read:
        try:
            for windows in read:
                batch.windows = windows
                scores += batch.compute()
                pictures += [(window.start, _first_frame(window, cfg)) for window in windows]
                if time.monotonic() > deadline:
                    break
        except RefusedError:
            if not scores:
                raise
    scores.sort(key=lambda score: score.start)
    planned = len(spans) if is_seekable else len(scores)  # in one go, it is only known afterwards
    stride = window / 2
    if is_spread or len(scores) < planned:
        stride = (scores[-1].start - scores[0].start) / max(len(scores) - 1, 1)
    windows, sampling = without_gaps(scores), sampling_settings(cfg)
    return ScoredVideo(windows, _spread(pictures), window, stride, planned, is_spread, sampling)


def half_windows(seconds: float, window: float) -> list[Span]:
    """About the windows of a video whose file does not tell when frames are shown, each half a window after another."""
    number = 1 + max(0, int(np.ceil(2 * (seconds - window) / window - 1e-6)))
    return [(start * window / 2, start * window / 2 + window) for start in range(number)]


def spread_windows(seconds: float, window: float, number: int) -> list[Span]:
    """Windows that are spread evenly; the last one ends with the video."""
    return [(start, start + window) for start in np.linspace(0, seconds - window, number).tolist()]


def coarse_to_fine(number: int) -> list[int]:
    """All numbers below `number`, in an order of which any beginning is spread evenly (van der Corput's)."""
    bits = max(number - 1, 1).bit_length()
    reversed_numbers = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(2**bits))
    return [place for place in reversed_numbers if place < number]


def without_gaps(windows: Sequence[WindowScores]) -> list[WindowScores]:
    """Windows in the order of time, extended to the middle of the gaps between them."""
    filled = list(windows)
    for number, (before, after) in enumerate(pairwise(windows)):
        if before.end < after.start:
            middle = (before.end + after.start) / 2
            filled[number] = replace(filled[number], end=middle)
            filled[number + 1] = replace(filled[number + 1], start=middle)
    return filled


def _first_frame(window: WindowClips, cfg: CfgNode) -> np.ndarray:
    frame = window.clips[0][:, 0]
    return (frame.flip(0) if cfg.DATA.REVERSE_INPUT_CHANNEL else frame).permute(1, 2, 0).contiguous().numpy()


def _spread(pictures: list[Picture]) -> list[Picture]:
    pictures = sorted(pictures, key=lambda picture: picture[0])
    places = np.linspace(0, len(pictures) - 1, min(_NUM_PICTURES, len(pictures))).round().astype(int)
    return [pictures[place] for place in places]
