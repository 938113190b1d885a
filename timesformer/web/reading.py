"""Reads untrusted videos in separate processes, which may hang, crash or need too much memory."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from fvcore.common.config import CfgNode

from timesformer.datasets.clips import ClipMaker, SampledClip
from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.workers.pool import Outcome, ProcessPool, given_up, without_path
from timesformer.inference.clip_batches import make_views
from timesformer.localization.window_reader import WindowClips, WindowReader
from timesformer.runtime.resource_limits import available_cores
from timesformer.visualization.players import is_playable
from timesformer.web.uploads import Limits, RefusedError

with suppress(ImportError):
    import resource  # not on Windows

_RENEW_AFTER = 100  # videos or parts of them

_readers: "WeakSet[Readers]" = WeakSet()

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


def sample_clips(cfg: CfgNode, path: str) -> list[SampledClip]:
    """All views of a video, as in a test."""
    maker = ClipMaker(cfg, "test")
    return make_views(maker, path, range(maker.num_views), cfg.RNG_SEED)


def no_clips(path: str) -> list[SampledClip]:
    """For `Readers.video`, which then only inspects the video."""
    return []


class Readers:
    """Processes that read untrusted videos, each one at a time, and up to `_RENEW_AFTER` before it is replaced.

    A process that crashes, hangs or needs too much memory is replaced too. Processes start when they are needed.
    Videos that cannot be read, or exceed a limit, raise a RefusedError.
    """

    def __init__(self, limits: Limits, processes: int | None = None) -> None:
        """Of `processes`, the default is one per core."""
        self.limits = limits
        processes = processes or available_cores()
        self._pool = ProcessPool(_call, processes, limits.decoding_seconds, _RENEW_AFTER)
        _readers.add(self)

    def warm_up(self) -> "Future[object]":
        """Loads in the background what reading needs, which takes seconds; its result raises a UserError."""
        return self._pool.submit(_do_nothing)

    def submit_video(self, path: Path, sample: Callable[[str], list[SampledClip]]) -> "Future[Outcome]":
        """Starts to read a video with `sample`, which must be picklable; for `finish_video`."""
        return self._pool.submit(partial(_read, sample, self.limits, str(path)))

    def finish_video(self, outcome: Outcome) -> DecodedVideo:
        """The video of an outcome of `submit_video`."""
        video: DecodedVideo = _result(outcome, self.limits)
        return replace(video, clips=[replace(clip, clip=torch.from_numpy(clip.clip)) for clip in video.clips])

    def video(self, path: Path, sample: Callable[[str], list[SampledClip]]) -> DecodedVideo:
        """Reads a video with `sample`, which must be picklable."""
        return self.finish_video(self.submit_video(path, sample).result())

    def spans(self, path: Path, cfg: CfgNode, window: float, stride: float) -> list[Span]:
        """The windows of a video, as in `WindowReader.spans`."""
        read = partial(_find_spans, cfg, self.limits, window, stride, str(path))
        return _result(self._pool.submit(read).result(), self.limits)

    def windows(
        self, path: Path, cfg: CfgNode, parts: Sequence[Sequence[Span]], is_seekable: bool = True
    ) -> Iterator[list[WindowClips]]:
        """Reads windows of a video, a part at a time; the next part is read meanwhile.

        Without seeking, there is one part, whose windows have one length and one distance. Each part may take as long
        as a video in `video`.
        """
        waiting: deque[Future[Outcome]] = deque()
        remaining = iter(parts)
        try:
            while True:
                for part in islice(remaining, 2 - len(waiting)):
                    read = partial(_read_windows, cfg, self.limits, is_seekable, tuple(part), str(path))
                    waiting.append(self._pool.submit(read))
                if not waiting:
                    return
                windows = _result(waiting.popleft().result(), self.limits)
                yield [window.to_tensors() for window in windows]
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Ends the processes when all that was asked for is read."""
        self._pool.close()

    def stop(self) -> None:
        """Ends the processes now."""
        self._pool.stop()


def stop_readers() -> None:
    """Ends the processes of all `Readers`, so that the program can end while videos are read."""
    for readers in list(_readers):
        readers.stop()


def _call(function: Callable[[], Any]) -> Any:
    """In the other process."""
    return function()


def _do_nothing() -> None:
    """Only the imports of the other process matter."""


def _find_spans(cfg: CfgNode, limits: Limits, window: float, stride: float, path: str) -> list[Span]:
    """In the other process."""
    _limit_memory(limits.decoding_bytes)
    with WindowReader(cfg, path) as reader:
        return reader.spans(window, stride)


def _read_windows(
    cfg: CfgNode, limits: Limits, is_seekable: bool, spans: Sequence[Span], path: str
) -> list[WindowClips]:
    """In the other process: windows with arrays instead of tensors."""
    _limit_memory(limits.decoding_bytes)
    with WindowReader(cfg, path) as reader:
        length, stride = spans[0][1] - spans[0][0], spans[min(1, len(spans) - 1)][0] - spans[0][0]
        found = reader.read_at(spans) if is_seekable else reader.read(length, stride or length)
        return [window.to_arrays() for window in found]


def _read(sample: Callable[[str], list[SampledClip]], limits: Limits, path: str) -> DecodedVideo | str:
    """In the other process: the video, with arrays instead of tensors, or the limit that it exceeds."""
    _limit_memory(limits.decoding_bytes)
    with open_video(path) as reader:
        properties = (reader.num_frames, reader.fps, reader.seconds, *reader.size)
        is_seekable = reader.known_ticks() is not None
    _, _, seconds, width, height = properties
    try:
        limits.check_frames(width, height, seconds)
    except RefusedError as error:
        return str(error)
    clips: list[Any] = [replace(clip, clip=clip.clip.numpy()) for clip in sample(path)]
    return DecodedVideo(clips, *properties, is_playable(path), is_seekable)


def _result(outcome: Outcome, limits: Limits) -> Any:
    """What the other process returned; RefusedError if it refused the video, or failed."""
    if outcome.problem == given_up(limits.decoding_seconds):
        allowed = f"{limits.decoding_seconds:g} seconds"
        raise RefusedError(f"Reading the video takes longer than {allowed}. Cut the video, or lower its resolution.")
    if outcome.problem:
        *_, path = outcome.item.args
        raise RefusedError(f"This file cannot be read: {without_path(outcome.problem, path).rstrip('.')}.")
    if isinstance(outcome.result, str):
        raise RefusedError(outcome.result)
    return outcome.result


@cache
def _limit_memory(size: int) -> None:
    """Limits this process to `size` more bytes than it has at the first call; on Linux only."""
    with suppress(OSError, NameError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + size, used + size))
