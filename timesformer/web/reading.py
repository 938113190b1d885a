"""Clips of a stranger's video, read in a process of its own, which may hang, crash, or ask for too much memory."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from fvcore.common.config import CfgNode

from timesformer.datasets.clips import ClipMaker, SampledClip
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.workers.pool import given_up, in_processes, without_path
from timesformer.inference.clip_batches import make_views
from timesformer.web.uploads import Limits, RefusedError

with suppress(ImportError):
    import resource  # Windows has none


@dataclass(frozen=True)
class Footage:
    """What was read of a video: its clips, and what it is.

    fps: frames per second, 0.0 where the file does not say. seconds: for how long it is shown, 0.0 where unknown.
    width, height: of a frame, in pixels.
    """

    clips: list[SampledClip]
    num_frames: int
    fps: float
    seconds: float
    width: int
    height: int


def prepare_processes() -> None:
    """Begins to load what reading needs, once for all processes that will read, so that the first need not wait."""
    Thread(target=lambda: list(in_processes(_nothing, [None], 1)), daemon=True).start()


def _nothing(_: None) -> None:
    """In the other process: only what is imported there counts."""


def sample_clips(cfg: CfgNode, path: str) -> list[SampledClip]:
    """All views of a video that a test would take of it."""
    maker = ClipMaker(cfg, "test")
    return make_views(maker, path, range(maker.num_views), cfg.RNG_SEED)


def read_clips(path: Path, sample: Callable[[str], list[SampledClip]], limits: Limits) -> Footage:
    """The clips that `sample` takes from the video at `path`.

    sample: given to another process, so it must be picklable.

    Raises RefusedError, whose message is for the visitor, if the video cannot be read or passes a limit.
    """
    (outcome,) = in_processes(partial(_read, sample, limits), [str(path)], 1, limits.decoding_seconds)
    if isinstance(outcome.result, str):
        raise RefusedError(outcome.result)
    if outcome.problem == given_up(limits.decoding_seconds):
        raise RefusedError(
            f"Reading the video took longer than {limits.decoding_seconds:g} seconds. "
            "Cut out the part that shows the action, or save the video in a lower resolution."
        )
    if outcome.problem:
        raise _unreadable(outcome.problem, str(path))
    footage: Footage = outcome.result
    return replace(footage, clips=[replace(clip, clip=torch.from_numpy(clip.clip)) for clip in footage.clips])


def read_here(path: str, sample: Callable[[str], list[SampledClip]], limits: Limits) -> Footage:
    """As `read_clips`, in this process."""
    try:
        with open_video(path) as video:
            facts = (video.num_frames, video.fps, video.seconds, *video.size)
        _, _, seconds, width, height = facts
        limits.check_frames(width, height, seconds)
        return Footage(sample(path), *facts)
    except VideoError as error:
        raise _unreadable(str(error), path) from error


def _read(sample: Callable[[str], list[SampledClip]], limits: Limits, path: str) -> Footage | str:
    """In the other process: the footage, with arrays in place of tensors, or why the video is refused."""
    _limit_memory(limits.decoding_bytes)
    try:
        footage = read_here(path, sample, limits)
    except RefusedError as error:
        return str(error)
    clips: list[Any] = [replace(clip, clip=clip.clip.numpy()) for clip in footage.clips]
    return replace(footage, clips=clips)


def _unreadable(problem: str, path: str) -> RefusedError:
    return RefusedError(f"This file cannot be read: {without_path(problem, path).rstrip('.')}.")


def _limit_memory(size: int) -> None:
    """Lets this process take so many bytes more than it has."""
    try:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (has + size, has + size))
    except (OSError, NameError, ValueError):
        return  # nowhere but on Linux
