"""Reads untrusted videos in a separate process, which may hang, crash or need too much memory."""

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
    import resource  # not on Windows


@dataclass(frozen=True)
class DecodedVideo:
    """The clips of a video, and its properties."""

    clips: list[SampledClip]
    num_frames: int
    fps: float  # 0.0 if unknown, like the length
    seconds: float
    width: int
    height: int


def start_process_server() -> None:
    """Loads what reading needs in the background, so that the first visitor does not wait for it."""
    Thread(target=lambda: list(in_processes(_do_nothing, [None], 1)), daemon=True).start()


def _do_nothing(_: None) -> None:
    """Only the imports of the other process matter."""


def sample_clips(cfg: CfgNode, path: str) -> list[SampledClip]:
    """All views of a video, as in a test."""
    maker = ClipMaker(cfg, "test")
    return make_views(maker, path, range(maker.num_views), cfg.RNG_SEED)


def read_video(path: Path, sample: Callable[[str], list[SampledClip]], limits: Limits) -> DecodedVideo:
    """Reads a video in another process, with `sample`, which must be picklable; RefusedError if that is impossible."""
    (outcome,) = in_processes(partial(_read, sample, limits), [str(path)], 1, limits.decoding_seconds)
    if outcome.problem == given_up(limits.decoding_seconds):
        allowed = f"{limits.decoding_seconds:g} seconds"
        raise RefusedError(f"Reading the video takes longer than {allowed}. Cut the video, or lower its resolution.")
    if outcome.problem:
        raise RefusedError(f"This file cannot be read: {without_path(outcome.problem, str(path)).rstrip('.')}.")
    if isinstance(outcome.result, str):
        raise RefusedError(outcome.result)
    video: DecodedVideo = outcome.result
    return replace(video, clips=[replace(clip, clip=torch.from_numpy(clip.clip)) for clip in video.clips])


def _read(sample: Callable[[str], list[SampledClip]], limits: Limits, path: str) -> DecodedVideo | str:
    """In the other process: the video, with arrays instead of tensors, or why it is refused."""
    _limit_memory(limits.decoding_bytes)
    try:
        with open_video(path) as reader:
            properties = (reader.num_frames, reader.fps, reader.seconds, *reader.size)
        _, _, seconds, width, height = properties
        limits.check_frames(width, height, seconds)
        clips: list[Any] = [replace(clip, clip=clip.clip.numpy()) for clip in sample(path)]
    except RefusedError as error:
        return str(error)
    except VideoError as error:
        return f"This file cannot be read: {without_path(str(error), path).rstrip('.')}."
    return DecodedVideo(clips, *properties)


def _limit_memory(size: int) -> None:
    """Limits this process to `size` more bytes than it has; on Linux only."""
    with suppress(OSError, NameError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + size, used + size))
