"""Batches of views of many videos that are only to be looked at, read by processes that may hang or crash over one.

All views of all videos, one video after the other, are cut into batches of one size; the last may be smaller. So which
clips are computed together, and where each stands in its batch, depends on the list of videos alone: not on speed, not
on which of them cannot be read, and not on which of them were done before, for all of those leave black clips.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.datasets.clips import ClipMaker, SampledClip, clip_rng, timeout_message
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.records import VideoRecord
from timesformer.datasets.workers.pool import Outcome, given_up, in_processes
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError


@dataclass(frozen=True)
class Part:
    """Views of one video that are in one batch.

    Attributes:
        batch: number of the batch.
        row: of the first of them in it.
        video: number of the video.
        views: numbers of the views.
        path: of the video.
        problem: why there is no need to open the video: it could not be read before; "" if it is to be read.
    """

    batch: int
    row: int
    video: int
    views: range
    path: str
    problem: str = ""

    @property
    def rows(self) -> slice:
        """Where the views are in the batch."""
        return slice(self.row, self.row + len(self.views))


@dataclass
class ClipBatch:
    """Clips to be computed together.

    Attributes:
        clips: uint8 [batch, 3, T, H, W]; black where no clip is.
        parts: what is where, of those that could be read.
        seconds: each part took to be read.
        sampled: the clips of each part, where they were asked for.
        errors: why videos could not be read, by number.
    """

    clips: Tensor
    parts: list[Part] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sampled: list[list[SampledClip]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)


def make_views(maker: ClipMaker, path: str, views: Sequence[int], seed: int) -> list[SampledClip]:
    """Views of a video, in which chance depends on the seed and the view alone, and not on the company of other videos.

    Raises:
        VideoError: if the video cannot be read.
    """
    return maker.make(VideoRecord(path, 0, path), views, [clip_rng(seed, 0, 0, view) for view in views])


def views_in_time(cfg: CfgNode, path: str) -> Iterator[list[SampledClip]]:
    """All views of one video, read in this process, TEST.BATCH_SIZE at a time.

    Raises:
        VideoError: if the video cannot be read, or such a batch takes more than DATA.DECODE_TIMEOUT.
    """
    maker, size = ClipMaker(cfg, "test"), cfg.TEST.BATCH_SIZE
    with closing(TimeLimit(cfg.DATA.DECODE_TIMEOUT)) as in_time:
        for start in range(0, maker.num_views, size):
            views = range(start, min(start + size, maker.num_views))
            try:
                clips = in_time(lambda views=views: make_views(maker, path, views, cfg.RNG_SEED))
            except TookTooLongError:
                raise VideoError(timeout_message(path, cfg.DATA.DECODE_TIMEOUT)) from None
            yield clips


class ClipBatches:
    """Batches of the views of videos, as they get complete, which may be in another order than that of the videos.

    Args:
        cfg: how clips are made (as of the test split), TEST.BATCH_SIZE and DATA.DECODE_TIMEOUT, the seconds after which
            the views of a video that are in one batch are given up.
        paths: of the videos.
        workers: processes that read; 0: read in this one.
        keep: give the clips one by one, too.
        finished: of each video, 1 where it is left out; empty: none is.
    """

    def __init__(
        self, cfg: CfgNode, paths: Sequence[str], workers: int, keep: bool = False, finished: bytes | bytearray = b""
    ) -> None:
        self._cfg, self._paths, self._workers, self._keep = cfg, paths, workers, keep
        self._finished = bytes(finished) or bytes(len(paths))  # as it is now, for all threads
        self._maker = ClipMaker(cfg, "test")
        self._views, self._size = self._maker.num_views, cfg.TEST.BATCH_SIZE
        self._items = len(paths) * self._views
        self._problems: dict[int, str] = {}  # of videos some views of which are still to be read

    def __iter__(self) -> Iterator[ClipBatch]:
        batches: dict[int, tuple[ClipBatch, int]] = {}
        with closing(self._outcomes()) as outcomes:
            for outcome in outcomes:
                number = outcome.item.batch
                batch, missing = batches.pop(number, None) or self._begin(number)
                self._put(outcome, batch)
                if missing > 1:
                    batches[number] = batch, missing - 1
                else:
                    yield batch

    def _outcomes(self) -> Iterator[Outcome]:
        read = partial(_read_alone if self._workers else _read, self._maker, self._cfg.RNG_SEED, self._keep)
        parts = (part for number in range(-(-self._items // self._size)) for part in self._parts(number))
        if not self._workers:
            return _in_this_process(read, parts, self._cfg.DATA.DECODE_TIMEOUT)
        # What is ahead are parts of the next batches, by which the one that computes never has to wait.
        ahead = 2 * max(1, self._size // self._views)
        return in_processes(read, parts, self._workers, self._cfg.DATA.DECODE_TIMEOUT or float("inf"), ahead)

    def _parts(self, number: int) -> Iterator[Part]:
        """What is to be read for a batch."""
        start, stop = number * self._size, min((number + 1) * self._size, self._items)
        for video in range(start // self._views, (stop - 1) // self._views + 1):
            if not self._finished[video]:
                first, last = max(start, video * self._views), min(stop, (video + 1) * self._views)
                views = range(first - video * self._views, last - video * self._views)
                problem = self._problems.get(video, "")
                yield Part(number, first - start, video, views, self._paths[video], problem)

    def _begin(self, number: int) -> tuple[ClipBatch, int]:
        """An empty batch, and how many parts it waits for."""
        rows = min(self._size, self._items - number * self._size)
        black = self._maker.padding_clip()
        return ClipBatch(black.expand(rows, *black.shape).clone()), sum(1 for _ in self._parts(number))

    def _put(self, outcome: Outcome, batch: ClipBatch) -> None:
        part, problem = outcome.item, outcome.problem
        if problem:
            if problem == given_up(self._cfg.DATA.DECODE_TIMEOUT):
                problem = timeout_message(part.path, self._cfg.DATA.DECODE_TIMEOUT)
            elif not problem.startswith(part.path):
                problem = f"{part.path}: {problem}"
            batch.errors[part.video] = problem
            if part.views.stop < self._views:
                self._problems[part.video] = problem
            return
        clips, numbers_and_times, seconds = outcome.result
        batch.clips[part.rows] = torch.from_numpy(clips)
        batch.parts.append(part)
        batch.seconds.append(seconds)
        if self._keep:
            made = zip(batch.clips[part.rows].clone(), numbers_and_times, part.views, strict=True)
            is_bgr = self._cfg.DATA.REVERSE_INPUT_CHANNEL
            batch.sampled.append([SampledClip.of(clip, *known, view, is_bgr) for clip, known, view in made])


Read = tuple[np.ndarray, list[tuple[tuple[int, ...], tuple[float, ...]]], float]


def _read(maker: ClipMaker, seed: int, keep: bool, part: Part) -> Read:
    """The clips of a part, uint8 [views, 3, T, H, W]; numbers and times of their frames; and the seconds it took."""
    if part.problem:
        raise VideoError(part.problem)
    start = time.perf_counter()
    made = make_views(maker, part.path, part.views, seed)
    clips = np.stack([clip.clip.numpy() for clip in made])
    known = [(clip.numbers, clip.times) for clip in made] if keep else []
    return clips, known, time.perf_counter() - start


def _read_alone(maker: ClipMaker, seed: int, keep: bool, part: Part) -> Read:
    """The same in a process of which there is one for each core."""
    torch.set_num_threads(1)
    return _read(maker, seed, keep, part)


def _in_this_process(read: Callable[[Part], Read], parts: Iterable[Part], time_limit: float) -> Iterator[Outcome]:
    with closing(TimeLimit(time_limit)) as in_time:
        for part in parts:
            try:
                yield Outcome(part, in_time(lambda part=part: read(part)))
            except TookTooLongError:
                yield Outcome(part, problem=given_up(time_limit))
            except Exception as error:
                yield Outcome(part, problem=str(error) or type(error).__name__)
