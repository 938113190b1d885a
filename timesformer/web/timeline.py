"""Scores windows over a long video of a visitor, in bounded time and memory."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode

from timesformer.inference.classifier import Classifier, Summary
from timesformer.localization.window_length import default_window
from timesformer.localization.window_reader import WindowClips
from timesformer.localization.windows import WindowScores
from timesformer.web.reading import DecodedVideo, Span
from timesformer.web.service import Service
from timesformer.web.uploads import RefusedError

MAX_WINDOWS = 240
_PART, _PART_BYTES = 8, 2**25  # windows that are read at once, and of their clips
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


def score_video(service: Service, path: Path, video: DecodedVideo, sampler: str) -> ScoredVideo:
    """Scores windows with one view each. RefusedError as `Readers`.

    After `Limits.decoding_seconds`, the windows that are computed by then are returned: they are computed in an order
    in which they always cover the whole video, first coarsely, then finely. Videos whose file does not tell when frames
    are shown are read in one go.
    """
    classifier, limits = service.classifier, service.limits
    cfg = classifier.options(views=1, crops=1, sampler=sampler)
    window = default_window(cfg, video.fps, classifier.clip_seconds)[0]
    clip_bytes = 3 * cfg.DATA.NUM_FRAMES * cfg.DATA.TEST_CROP_SIZE**2
    limit = MAX_WINDOWS if video.is_seekable else max(2, min(MAX_WINDOWS, _IN_ORDER_BYTES // clip_bytes))
    spans = plan_windows(video.seconds, window, limit)
    order = [spans[number] for number in coarse_to_fine(len(spans))]
    size = max(1, min(_PART, _PART_BYTES // clip_bytes))
    parts = [sorted(order[first : first + size]) for first in range(0, len(order), size)]
    if not video.is_seekable:
        parts = [spans]
    deadline = time.monotonic() + limits.decoding_seconds
    scores: list[WindowScores] = []
    pictures: list[Picture] = []
    with closing(service.readers.windows(path, cfg, parts, video.is_seekable)) as read:
        try:
            for windows in read:
                scores += _score(classifier, cfg, windows)
                pictures += [(window.start, _first_frame(window, cfg)) for window in windows]
                if time.monotonic() > deadline:
                    break
        except RefusedError:
            if not scores:
                raise
    scores.sort(key=lambda score: score.start)
    stride = (scores[-1].start - scores[0].start) / max(len(scores) - 1, 1)
    return ScoredVideo(without_gaps(scores), _spread(pictures), window, stride, len(spans))


def plan_windows(seconds: float, window: float, limit: int = MAX_WINDOWS) -> list[Span]:
    """Up to `limit` windows that overlap by half if there may be as many; the last one ends with the video."""
    if seconds <= window:
        return [(0.0, seconds)]
    number = min(limit, 1 + int(np.ceil(2 * (seconds - window) / window)))
    return [(start, start + window) for start in np.linspace(0, seconds - window, max(number, 2)).tolist()]


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


def _score(classifier: Classifier, cfg: CfgNode, windows: Sequence[WindowClips]) -> Iterator[WindowScores]:
    clips = [window.clips[0] for window in windows]
    parts = [clips[first : first + _PART] for first in range(0, len(clips), _PART)]
    logits = [row for part in parts for row in classifier.compute(torch.stack(part))[0]]
    for window, row in zip(windows, logits, strict=True):
        summary = Summary(cfg)
        summary.add(row.unsqueeze(0), None, [0])
        yield WindowScores(window.start, window.end, classifier.prediction("", summary, 1).probabilities)


def _first_frame(window: WindowClips, cfg: CfgNode) -> np.ndarray:
    frame = window.clips[0][:, 0]
    return (frame.flip(0) if cfg.DATA.REVERSE_INPUT_CHANNEL else frame).permute(1, 2, 0).contiguous().numpy()


def _spread(pictures: list[Picture]) -> list[Picture]:
    pictures = sorted(pictures, key=lambda picture: picture[0])
    places = np.linspace(0, len(pictures) - 1, min(_NUM_PICTURES, len(pictures))).round().astype(int)
    return [pictures[place] for place in places]
