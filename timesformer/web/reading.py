"""Reads untrusted videos in a separate process, which may hang, crash or need too much memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from fvcore.common.config import CfgNode

from timesformer.datasets.clips import ClipMaker, SampledClip
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.workers.pool import Outcome, given_up, in_processes, without_path
from timesformer.inference.clip_batches import make_views
from timesformer.localization.window_reader import WindowClips, WindowReader
from timesformer.visualization.players import is_playable
from timesformer.web.uploads import Limits, RefusedError

with suppress(ImportError):
    import resource  # not on Windows


Span = tuple[float, float]
"""Start and end of a window in seconds after the first frame."""


@dataclass(frozen=True)
class DecodedVideo:
    """The clips of a video, and its properties."""

    clips: list[SampledClip]
    num_frames: int
    fps: float  # 0.0 if unknown, like the length
    seconds: float
    width: int
    height: int
    is_playable: bool  # by browsers
    is_seekable: bool  # the file tells when its frames are shown


def start_process_server() -> None:
    """Loads what reading needs in the background, so that the first visitor does not wait for it."""
    Thread(target=lambda: list(in_processes(_do_nothing, [None], 1)), daemon=True).start()


def _do_nothing(_: None) -> None:
    """Only the imports of the other process matter."""


def sample_clips(cfg: CfgNode, path: str) -> list[SampledClip]:
    """All views of a video, as in a test."""
    maker = ClipMaker(cfg, "test")
    return make_views(maker, path, range(maker.num_views), cfg.RNG_SEED)


def no_clips(path: str) -> list[SampledClip]:
    """For `read_video`, which then only inspects the video."""
    return []


def read_video(path: Path, sample: Callable[[str], list[SampledClip]], limits: Limits) -> DecodedVideo:
    """Reads a video in another process, with `sample`, which must be picklable; RefusedError if that is impossible."""
    (outcome,) = in_processes(partial(_read, sample, limits), [str(path)], 1, limits.decoding_seconds)
    video: DecodedVideo = _result(outcome, str(path), limits)
    return replace(video, clips=[replace(clip, clip=torch.from_numpy(clip.clip)) for clip in video.clips])


def read_windows(
    path: Path, cfg: CfgNode, parts: Sequence[Sequence[Span]], limits: Limits, is_seekable: bool = True
) -> Iterator[list[WindowClips]]:
    """Reads windows of a video in another process, a part at a time; the next part is read meanwhile.

    Without seeking, there is one part, whose windows have one length and one distance. Each part may take as long as a
    video in `read_video`. Raises RefusedError as that.
    """
    items = [(str(path), tuple(part)) for part in parts]
    reading = in_processes(partial(_read_windows, cfg, limits, is_seekable), items, 1, limits.decoding_seconds, ahead=1)
    with closing(reading) as outcomes:
        for outcome in outcomes:
            windows = _result(outcome, str(path), limits)
            yield [window._replace(clips=[torch.from_numpy(clip) for clip in window.clips]) for window in windows]


def _read_windows(cfg: CfgNode, limits: Limits, is_seekable: bool, item: tuple[str, Sequence[Span]]) -> list[Any] | str:
    """In the other process: windows with arrays instead of tensors, or why the video is refused."""
    path, spans = item
    _limit_memory(limits.decoding_bytes)
    try:
        with WindowReader(cfg, path) as reader:
            length, stride = spans[0][1] - spans[0][0], spans[min(1, len(spans) - 1)][0] - spans[0][0]
            found = reader.read_at(spans) if is_seekable else reader.read(length, stride or length)
            return [window._replace(clips=[clip.numpy() for clip in window.clips]) for window in found]
    except VideoError as error:
        return _refusal(str(error), path)


def _read(sample: Callable[[str], list[SampledClip]], limits: Limits, path: str) -> DecodedVideo | str:
    """In the other process: the video, with arrays instead of tensors, or why it is refused."""
    _limit_memory(limits.decoding_bytes)
    try:
        with open_video(path) as reader:
            properties = (reader.num_frames, reader.fps, reader.seconds, *reader.size)
            is_seekable = reader.known_ticks() is not None
        _, _, seconds, width, height = properties
        limits.check_frames(width, height, seconds)
        clips: list[Any] = [replace(clip, clip=clip.clip.numpy()) for clip in sample(path)]
    except RefusedError as error:
        return str(error)
    except VideoError as error:
        return _refusal(str(error), path)
    return DecodedVideo(clips, *properties, is_playable(path), is_seekable)


def _result(outcome: Outcome, path: str, limits: Limits) -> Any:
    """What the other process returned; RefusedError if it refused the video, or ended."""
    if outcome.problem == given_up(limits.decoding_seconds):
        allowed = f"{limits.decoding_seconds:g} seconds"
        raise RefusedError(f"Reading the video takes longer than {allowed}. Cut the video, or lower its resolution.")
    if outcome.problem:
        raise RefusedError(_refusal(outcome.problem, path))
    if isinstance(outcome.result, str):
        raise RefusedError(outcome.result)
    return outcome.result


def _refusal(problem: str, path: str) -> str:
    return f"This file cannot be read: {without_path(problem, path).rstrip('.')}."


def _limit_memory(size: int) -> None:
    """Limits this process to `size` more bytes than it has; on Linux only."""
    with suppress(OSError, NameError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + size, used + size))
