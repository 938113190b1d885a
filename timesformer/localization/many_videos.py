"""When which action happens in many videos, which processes read at the same time."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.workers.pool import Outcome, streams_in_processes
from timesformer.inference.classifier import Classifier
from timesformer.inference.clip_batches import name_problem
from timesformer.localization.segments import find_segments
from timesformer.localization.timeline import Timeline, find_actions
from timesformer.localization.window_parts import Part, PartReader, PartRequest, read_in_worker
from timesformer.localization.windows import WindowBatch, WindowScores, check_lengths
from timesformer.numeric_arguments import check_whole
from timesformer.progress import Progress
from timesformer.runtime.resource_limits import available_cores
from timesformer.runtime.signals import raise_if_interrupted


def find_in_videos(
    classifier: Classifier,
    paths: Sequence[str],
    *,
    window: float | None = None,
    stride: float | None = None,
    fps: float | None = None,
    cfg: CfgNode | None = None,
    workers: int | None = None,
    finished: Collection[int] = (),
    on_part: Callable[[Part], object] | None = None,
    **options: Any,
) -> Iterator[tuple[int, Timeline]]:
    """Yields the numbers of videos and their timelines as they are complete.

    `Timeline.error` says why a video cannot be read, or not to its end, also if its decoder hangs or crashes. The same
    windows are computed together as in `find_actions`.

    Args:
        classifier: the model.
        paths: of the videos.
        workers: processes that read, at most one for a video; default: one for each core, or one alone if the model is
            on the CPU too, so that videos are finished one after another; 0: read in this process.
        finished: numbers of the videos that are left out.

    All others are those of `find_actions`.
    """
    cfg = cfg or classifier.cfg
    check_lengths(window, stride)
    if workers is not None:
        check_whole("workers", workers, 0)
    find_segments([], classifier.class_names, **options)  # checks the options
    if workers is None:
        workers = 1 if classifier.device.type == "cpu" else available_cores()
    wanted = [number for number in range(len(paths)) if number not in finished]
    if not workers or not wanted:
        arguments = {"window": window, "stride": stride, "fps": fps, "cfg": cfg, "on_part": on_part, **options}
        for number in wanted:
            try:
                yield number, find_actions(classifier, paths[number], **arguments)
            except VideoError as error:
                yield number, Timeline(paths[number], error=str(error))
        return
    ended: set[int] = set()
    batches: dict[int, WindowBatch] = {}
    windows: dict[int, list[WindowScores]] = {}
    read = partial(read_in_worker, PartReader(cfg, window, stride, fps, classifier.clip_seconds))
    requests = (_requests(number, paths[number], ended) for number in wanted)
    workers, timeout = min(workers, len(wanted)), cfg.DATA.DECODE_TIMEOUT
    with closing(streams_in_processes(read, requests, workers, timeout or float("inf"), workers)) as outcomes:
        for outcome in outcomes:
            number = outcome.item.video
            if number in ended:
                continue
            part = _part(outcome, timeout)
            if part.is_last:
                ended.add(number)
            if on_part:
                on_part(part)
            batch = batches.setdefault(number, WindowBatch(classifier, cfg))
            windows.setdefault(number, []).extend(batch.score(part))
            if part.is_last:
                del batches[number]
                timeline = Timeline(paths[number], windows=windows.pop(number), error=part.problem)
                yield number, timeline.with_segments(classifier.class_names, **options)


def _requests(number: int, path: str, ended: Collection[int]) -> Iterator[PartRequest]:
    """Asks for the parts of a video until it is among the `ended` ones."""
    for part in count():
        if number in ended:
            return
        yield PartRequest(number, path, part)


def _part(outcome: Outcome, timeout: float) -> Part:
    if outcome.problem:
        return Part([], is_last=True, problem=name_problem(outcome.item.source, outcome.problem, timeout))
    part: Part = outcome.result
    return part._replace(windows=[window.to_tensors() for window in part.windows])


class VideoProgress:
    """Shows progress over the seconds of one video, or over several videos; a context manager.

    `done` videos were finished before; nothing is shown if `quiet`.
    """

    def __init__(self, num_videos: int, done: int, quiet: bool) -> None:
        self._is_single, self._shown = num_videos == 1, 0
        self._start = None if quiet else partial(self._make, num_videos, done)
        self._progress: Any = None

    def __enter__(self) -> "VideoProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.__exit__()

    def count(self, part: Part) -> None:
        """Counts a part of a video that is read, as `on_part`; KeyboardInterrupt after a signal."""
        raise_if_interrupted()
        is_unreadable = self._is_single and part.problem and not part.windows
        if self._start and not self._progress and not is_unreadable:
            self._progress = self._start(part)
        if self._progress and self._is_single:
            seconds = int(part.windows[-1].end) if part.windows else self._shown
            if part.is_last and not part.problem:
                seconds = max(seconds, math.ceil(part.duration))
            self._progress.advance(seconds - self._shown)
            self._shown = seconds
        elif self._progress and part.is_last:
            self._progress.advance()

    def _make(self, num_videos: int, done: int, part: Part) -> Any:
        if self._is_single:
            return Progress("scoring", math.ceil(part.duration) or None, "s of video").__enter__()
        return Progress("predicting", num_videos, "video", done).__enter__()
