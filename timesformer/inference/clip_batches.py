"""Batches of the views of many videos, read by processes that may hang or crash over a damaged file.

All views of all videos, in order, are cut into batches of one size. Which clips are computed together, and at which
position, depends on the list of videos alone: videos that are finished or unreadable leave black clips.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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


@dataclass
class Part:
    """Views of one video that are in one batch."""

    batch: int  # number of the batch
    rows: slice  # positions in the batch
    video: int  # number of the video
    path: str
    views: range  # their numbers
    problem: str = ""  # why earlier views of the video could not be read
    seconds: float = 0.0  # time that reading took
    clips: list[SampledClip] = field(default_factory=list)  # the views, if they are kept


@dataclass
class ClipBatch:
    """Clips that are computed together."""

    clips: Tensor  # uint8 [batch, 3, T, H, W]
    missing: int  # number of parts that are not read yet
    parts: list[Part] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)  # of unreadable videos, by number


def make_views(maker: ClipMaker, path: str, views: Sequence[int], seed: int) -> list[SampledClip]:
    """Reads views of a video (VideoError if that fails); what is random depends on the seed and the view alone."""
    return maker.make(VideoRecord(path, 0, path), views, [clip_rng(seed, 0, 0, view) for view in views])


def read_batches(
    cfg: CfgNode, paths: Sequence[str], workers: int, keep_clips: bool = False, finished: Collection[int] = ()
) -> Iterator[ClipBatch]:
    """Yields batches of the views of videos as they are complete, in any order.

    Args:
        cfg: its DATA.DECODE_TIMEOUT is the time limit in seconds for the views of a video in one batch.
        paths: of the videos.
        workers: number of processes that read; 0: read in this process.
        keep_clips: fill `Part.clips`.
        finished: numbers of the videos that are left out.
    """
    maker, timeout, size = ClipMaker(cfg, "test"), cfg.DATA.DECODE_TIMEOUT, cfg.TEST.BATCH_SIZE
    num_views, total = maker.num_views, len(paths) * maker.num_views
    problems: dict[int, str] = {}

    def parts_of(batch: int) -> Iterator[Part]:
        start, stop = batch * size, min((batch + 1) * size, total)
        for video in range(start // num_views, (stop - 1) // num_views + 1):
            if video not in finished:
                offset = video * num_views
                first, last = max(start, offset), min(stop, offset + num_views)
                rows, views = slice(first - start, last - start), range(first - offset, last - offset)
                yield Part(batch, rows, video, paths[video], views, problems.get(video, ""))

    parts = (part for batch in range(-(-total // size)) for part in parts_of(batch))
    read = partial(_read, maker, cfg.RNG_SEED, keep_clips, bool(workers))
    if workers:
        # Parts of the next batches are read ahead, so that the model does not wait.
        ahead = 2 * max(1, size // num_views)
        outcomes = in_processes(read, parts, workers, timeout or float("inf"), ahead)
    else:
        outcomes = _read_here(read, parts, timeout)
    batches: dict[int, ClipBatch] = {}
    with closing(outcomes):
        for outcome in outcomes:
            part = outcome.item
            if part.batch not in batches:
                rows, padding = min(size, total - part.batch * size), maker.padding_clip()
                empty = padding.expand(rows, *padding.shape).clone()
                batches[part.batch] = ClipBatch(empty, sum(1 for _ in parts_of(part.batch)))
            batch = batches[part.batch]
            if outcome.problem:
                path, problem = part.path, outcome.problem
                if problem == given_up(timeout):
                    problem = timeout_message(path, timeout)
                problem = problem if problem.startswith(path) else f"{path}: {problem}"
                batch.errors[part.video] = problems[part.video] = problem
            else:
                clips, times, part.seconds = outcome.result
                batch.clips[part.rows] = torch.from_numpy(clips)
                if keep_clips:
                    is_bgr, kept = cfg.DATA.REVERSE_INPUT_CHANNEL, batch.clips[part.rows].clone()
                    views = zip(kept, times, part.views, strict=True)
                    part.clips = [SampledClip.of(clip, *frames, view, is_bgr) for clip, frames, view in views]
                batch.parts.append(part)
            batch.missing -= 1
            if not batch.missing:
                yield batches.pop(part.batch)


Read = tuple[np.ndarray, list[tuple[tuple[int, ...], tuple[float, ...]]], float]


def _read(maker: ClipMaker, seed: int, keep_clips: bool, is_worker: bool, part: Part) -> Read:
    """Returns the clips of a part, uint8 [views, 3, T, H, W], numbers and times of their frames, and the seconds."""
    if is_worker:
        torch.set_num_threads(1)  # there is a process for each core
    if part.problem:
        raise VideoError(part.problem)
    start = time.perf_counter()
    clips = make_views(maker, part.path, part.views, seed)
    times = [(clip.numbers, clip.times) for clip in clips] if keep_clips else []
    return np.stack([clip.clip.numpy() for clip in clips]), times, time.perf_counter() - start


def _read_here(read: Callable[[Part], Read], parts: Iterable[Part], timeout: float) -> Iterator[Outcome]:
    with closing(TimeLimit(timeout)) as limited:
        for part in parts:
            try:
                yield Outcome(part, limited(partial(read, part)))
            except TookTooLongError:
                yield Outcome(part, problem=given_up(timeout))
            except Exception as error:
                yield Outcome(part, problem=str(error) or type(error).__name__)
