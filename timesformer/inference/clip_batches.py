"""Batches of the views of many videos, read by processes that may hang or crash over a damaged file.

All views of all videos, in order, are cut into batches of one size. Which clips are computed together, and at which
position, depends on the list of videos alone: videos that are finished or unreadable leave black clips.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count, groupby, islice

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.datasets.clips import ClipMaker, SampledClip, as_video_error, clip_rng, timeout_message
from timesformer.datasets.decoding.open import SHOWN, Frames, Source, Video, VideoError, name_of, to_source
from timesformer.datasets.workers.pool import Outcome, given_up, in_processes
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError

Read = tuple[np.ndarray, list[tuple[tuple[int, ...], tuple[float, ...]]], float, float]
"""Clips, uint8 [views, 3, T, H, W], numbers and times of their frames, seconds that reading took, and of the video."""


@dataclass
class Part:
    """Views of one video that are in one batch."""

    batch: int  # number of the batch
    rows: slice  # positions in the batch
    video: int  # number of the video
    name: str  # of the video: its path, or a description
    source: Source | None  # None if it was read, or cannot be
    views: range  # their numbers
    problem: str = ""  # why the video cannot be read
    read: Read | None = None  # if it was read before it was handed to a process
    seconds: float = 0.0  # time that reading took
    clips: list[SampledClip] = field(default_factory=list)  # the views, if they are kept
    spans: list[tuple[float, float]] = field(default_factory=list)  # times of the first and last frame of each view
    duration: float = 0.0  # of the video in seconds, 0 if unknown


@dataclass
class ClipBatch:
    """Clips that are computed together."""

    clips: Tensor  # uint8 [batch, 3, T, H, W]
    missing: int  # number of parts that are not read yet
    parts: list[Part] = field(default_factory=list)
    failed: list[Part] = field(default_factory=list)  # of unreadable videos, with their `problem`


def make_views(
    maker: ClipMaker, video: Source, views: Sequence[int], seed: int, fps: float | None = None
) -> list[SampledClip]:
    """Reads views of a video (VideoError if that fails); what is random depends on the seed and the view alone."""
    with as_video_error(name_of(video)):
        reader = maker.open_source(video, fps)
    return maker.make_from(reader, views, [clip_rng(seed, 0, 0, view) for view in views])


def read_batches(
    cfg: CfgNode,
    videos: Iterable[Video],
    workers: int,
    keep_clips: bool = False,
    finished: Collection[int] = (),
    fps: float | None = None,
) -> Iterator[ClipBatch]:
    """Yields batches of the views of videos as they are complete, in any order.

    Args:
        cfg: its DATA.DECODE_TIMEOUT is the time limit in seconds for the views of a video in one batch.
        videos: as in `open_video`; taken as they are needed, with `workers` from another thread.
        workers: number of processes that read; 0: read in this process. Frames in memory are always read in this one.
        keep_clips: fill `Part.clips`.
        finished: numbers of the videos that are left out.
        fps: frame rate of videos without their own.
    """
    maker, timeout, size = ClipMaker(cfg, "test"), cfg.DATA.DECODE_TIMEOUT, cfg.TEST.BATCH_SIZE
    sizes: list[tuple[int, int]] = []  # of each batch, the number of clips and of parts
    problems: dict[int, str] = {}
    read = partial(_read, maker, cfg.RNG_SEED, fps)

    def all_parts() -> Iterator[Part]:
        for rows, parts in _plan(videos, maker.num_views, size, finished, fps):
            sizes.append((rows, len(parts)))
            for part in parts:
                part.problem = part.problem or problems.get(part.video, "")
                if workers and isinstance(part.source, Frames) and not part.problem:
                    _read_ahead(read, part)
                yield part

    if workers:
        # Parts of the next batches are read ahead, so that the model does not wait.
        ahead = 2 * max(1, size // maker.num_views)
        outcomes = in_processes(partial(_read_in_worker, read), all_parts(), workers, timeout or float("inf"), ahead)
    else:
        outcomes = _read_here(read, all_parts(), timeout)
    batches: dict[int, ClipBatch] = {}
    with closing(outcomes):
        for outcome in outcomes:
            part = outcome.item
            if part.batch not in batches:
                (rows, num_parts), padding = sizes[part.batch], maker.padding_clip()
                batches[part.batch] = ClipBatch(padding.expand(rows, *padding.shape).clone(), num_parts)
            batch = batches[part.batch]
            if outcome.problem:
                part.problem = problems[part.video] = name_problem(part.name, outcome.problem, timeout)
                batch.failed.append(part)
            else:
                clips, times, part.seconds, part.duration = outcome.result
                part.spans = [(min(shown), max(shown)) for _, shown in times]
                batch.clips[part.rows] = torch.from_numpy(clips)
                if keep_clips:
                    is_bgr, kept = cfg.DATA.REVERSE_INPUT_CHANNEL, batch.clips[part.rows].clone()
                    views = zip(kept, times, part.views, strict=True)
                    part.clips = [SampledClip.of(clip, *frames, view, is_bgr) for clip, frames, view in views]
                batch.parts.append(part)
            batch.missing -= 1
            if not batch.missing:
                yield batches.pop(part.batch)


def name_problem(name: str, problem: str, timeout: float) -> str:
    """Returns the problem of an `Outcome` with the name of its video; `timeout` is DATA.DECODE_TIMEOUT."""
    if problem == given_up(timeout):
        return timeout_message(name, timeout)
    return problem if problem.startswith(name[:SHOWN]) else f"{name}: {problem}"


def _plan(
    videos: Iterable[Video], num_views: int, size: int, finished: Collection[int], fps: float | None
) -> Iterator[tuple[int, list[Part]]]:
    """Yields the number of clips and the parts of each batch, in order."""
    views = (
        (number, source, problem, view)
        for number, (source, problem) in enumerate(_sources(videos, finished, fps))
        for view in range(num_views)
    )
    for batch in count():
        rows, parts = list(islice(views, size)), []
        if not rows:
            return
        for number, group in groupby(enumerate(rows), key=lambda row: row[1][0]):
            if number not in finished:
                (first, (_, source, problem, first_view)), *others = group
                length = 1 + len(others)
                name = f"video {number}" if source is None else name_of(source)
                view_range = range(first_view, first_view + length)
                parts.append(Part(batch, slice(first, first + length), number, name, source, view_range, problem))
        yield len(rows), parts


def _sources(
    videos: Iterable[Video], finished: Collection[int], fps: float | None
) -> Iterator[tuple[Source | None, str]]:
    """Yields each video, or None and what is wrong with it."""
    for number, video in enumerate(videos):
        source, problem = None, ""
        if number not in finished:
            try:
                source = to_source(video, fps)
            except VideoError as error:
                problem = str(error)
        yield source, problem


def _read(maker: ClipMaker, seed: int, fps: float | None, part: Part) -> Read:
    if part.read:
        return part.read
    if part.source is None or part.problem:
        raise VideoError(part.problem)
    start = time.perf_counter()
    clips = make_views(maker, part.source, part.views, seed, fps)
    times = [(clip.numbers, clip.times) for clip in clips]
    stacked = np.stack([clip.clip.numpy() for clip in clips])
    return stacked, times, time.perf_counter() - start, clips[0].duration


def _read_in_worker(read: Callable[[Part], Read], part: Part) -> Read:
    torch.set_num_threads(1)  # there is a process for each core
    return read(part)


def _read_ahead(read: Callable[[Part], Read], part: Part) -> None:
    """Reads frames in memory, which are larger than the clips, before a part is copied to a process."""
    try:
        part.read = read(part)
    except Exception as error:
        part.problem = str(error) or type(error).__name__
    part.source = None


def _read_here(read: Callable[[Part], Read], parts: Iterable[Part], timeout: float) -> Iterator[Outcome]:
    with closing(TimeLimit(timeout)) as limited:
        for part in parts:
            try:
                yield Outcome(part, limited(partial(read, part)))
            except TookTooLongError:
                yield Outcome(part, problem=given_up(timeout))
            except Exception as error:
                yield Outcome(part, problem=str(error) or type(error).__name__)
