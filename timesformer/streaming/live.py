"""Classification of a stream while it is received."""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.inference.classifier import Classifier
from timesformer.localization.segments import THRESHOLD
from timesformer.localization.window_clips import WindowClipMaker, last_end, window_info
from timesformer.localization.window_length import default_window
from timesformer.localization.window_reader import TOLERANCE, WindowClips
from timesformer.localization.windows import WindowBatch, check_lengths
from timesformer.numeric_arguments import check_positive, check_whole
from timesformer.streaming.changes import AnswerTracker
from timesformer.streaming.connection import Clock
from timesformer.streaming.events import StreamEvent
from timesformer.streaming.receiver import BufferedFrame, OnFrame, Part, Receiver
from timesformer.streaming.sources import parse_source
from timesformer.streaming.statistics import StreamStatistics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StreamAnswer:
    """The prediction for a window of a stream, and the answer after it.

    Attributes:
        start, end: of the window, in seconds from the first frame.
        class_name: the answer, after smoothing and hysteresis; "" if no class reaches the threshold.
        probability: smoothed probability of the answer; without one, of the most probable class.
        changed: whether the answer differs from the one before; True for the first.
        top: the most probable classes of this window alone, in descending order.
        probabilities: float32 [classes], of this window, calibrated.
        time: when the newest frame of the window was received.
        latency: seconds from then to this answer.
    """

    start: float
    end: float
    class_name: str
    probability: float
    changed: bool
    top: list[tuple[str, float]]
    probabilities: np.ndarray
    time: datetime
    latency: float

    def __str__(self) -> str:
        name = self.class_name or f"no class (at most {self.top[0][0]})"
        return f"{self.end:9.2f} s  {name} {100 * self.probability:.1f} %"


class _Closed(Exception):
    """The stream was closed."""


class Stream:
    """Answers for a stream, in order; an iterator, and a context manager that ends the stream.

    The newest frames win: when the model is ready, it gets the window that ends with the newest frame, and frames that
    came too fast are dropped. A file of known length, and any stream with `every_window`, waits for the model instead,
    and has the windows of `score_windows`.

    Attributes:
        name: of the source, without a password.
        problem: after the end, why the stream was lost; "" if it ended itself.
    """

    def __init__(
        self,
        classifier: Classifier,
        source: str,
        *,
        window: float | None = None,
        stride: float | None = None,
        threshold: float = THRESHOLD,
        smooth: float = 0.0,
        background: Collection[str] = (),
        top_k: int = 5,
        every_window: bool = False,
        retries: int = 10,
        timeout: float = 10.0,
        on_frame: OnFrame | None = None,
        on_event: Callable[[StreamEvent], object] | None = None,
        cfg: CfgNode | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Connect; the first window follows as soon as its frames are received.

        Args:
            classifier: the model.
            source: a camera, URL or pipe (docs/streams.md).
            window: length of a window in seconds; default: `default_window`.
            stride: least time between the ends of two windows in seconds; default: half of `window`.
            threshold, smooth, background: when the answer changes, see `AnswerTracker`.
            top_k: number of classes in `StreamAnswer.top`.
            every_window: wait for the model instead of dropping frames.
            retries: failed attempts in a row to connect again after which the stream ends.
            timeout: seconds without data after which the connection counts as broken.
            on_frame: called in another thread for every frame, with its time and its pixels, uint8 [height, width, 3].
            on_event: called by the iterator when the connection breaks, stalls or returns; default: logs a warning.
            cfg: other views, from `Classifier.options`; default: those of the checkpoint's tests.
            clock: seconds of a monotonic clock.

        Raises:
            UserError: if an argument is out of range, or `source` is not a stream.
            StreamError: if the stream cannot be opened.
        """
        check_lengths(window, stride)
        check_positive("timeout", timeout)
        check_whole("top_k", top_k, 1)
        check_whole("retries", retries, 0)
        self._classifier, self._cfg, self._clock = classifier, cfg or classifier.cfg, clock
        self._window, self._stride, self._top_k, self._timeout = window, stride, top_k, timeout
        self._tracker = AnswerTracker(classifier.class_names, threshold, smooth, background)
        self._maker = WindowClipMaker(self._cfg)
        self._batch = WindowBatch(classifier, self._cfg)
        self._on_event = on_event or (lambda event: logger.warning("%s", event))
        self._answer: str | None = None
        self._statistics = StreamStatistics()
        self._part_seconds = 0.0  # of a window and a stride of the part, where every window is predicted
        self._following = 0  # number of the first frame that was in no window so far
        parsed = parse_source(source)
        self.name, self._has_timeout = parsed.name, parsed.kind == "network"
        self._receiver = Receiver(
            parsed,
            prepare=self._maker.prepare,
            keep=self._kept_seconds,
            is_paced=every_window,
            on_frame=on_frame,
            retries=retries,
            timeout=timeout,
            short_side=self._cfg.DATA.DECODE_SHORT_SIDE,
            clock=clock,
        )
        self._answers = self._generate()

    def __iter__(self) -> Iterator[StreamAnswer]:
        return self

    def __next__(self) -> StreamAnswer:
        return next(self._answers)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; any thread may call this."""
        self._receiver.close()

    @property
    def is_paced(self) -> bool:
        """Whether the stream waits for the model."""
        return self._receiver.is_paced

    @property
    def problem(self) -> str:
        return self._receiver.problem

    @property
    def statistics(self) -> StreamStatistics:
        """Numbers so far."""
        receiver, statistics = self._receiver, self._statistics
        statistics.received, statistics.connections = receiver.received, receiver.connections
        statistics.seconds = receiver.last_received - receiver.first_received
        return statistics

    def _window_and_stride(self, fps: float) -> tuple[float, float]:
        window = (
            self._window
            or default_window(self._cfg, fps or self._cfg.DATA.TARGET_FPS, self._classifier.clip_seconds)[0]
        )
        return window, self._stride or window / 2

    def _kept_seconds(self, fps: float) -> float:
        return max(sum(self._window_and_stride(fps)), self._part_seconds) + 2 / (fps or 1.0)

    def _generate(self) -> Iterator[StreamAnswer]:
        with suppress(_Closed):
            yield from self._every_window() if self._receiver.is_paced else self._newest_windows()
            self._report_events()

    def _newest_windows(self) -> Iterator[StreamAnswer]:
        part, last = None, float("-inf")

        def is_due(frames: list[BufferedFrame]) -> bool:
            if frames and (self._receiver.ended or not self._receiver.is_connected):
                return frames[-1].number >= self._following  # no newer ones come now
            if not frames or not self._receiver.fps:
                return False
            window, stride = self._window_and_stride(self._receiver.fps)
            since = last + stride if frames[0].part is part else frames[0].part.start + window
            return _end_seconds(frames) >= since - TOLERANCE

        while True:
            frames = self._wait(is_due)
            if is_due(frames):
                end = _end_seconds(frames)
                if frames[0].part is not part:
                    part = frames[0].part
                    self._tracker.restart()
                yield self._predict(frames, max(end - self._window_and_stride(self._receiver.fps)[0], part.start), end)
                last = end
            elif self._receiver.ended:
                return

    def _every_window(self) -> Iterator[StreamAnswer]:
        while frames := self._wait(lambda frames: bool(frames and self._receiver.fps)):
            self._tracker.restart()
            yield from self._windows_of_part(frames[0].part)
            self._receiver.release(float("inf"))

    def _windows_of_part(self, part: Part) -> Iterator[StreamAnswer]:
        """Answers for windows as `score_windows` makes them: the last one ends with the part."""
        window, stride = self._window_and_stride(self._receiver.fps)
        self._part_seconds = window + stride
        self._receiver.release(part.start)  # it may wait for less: a measured frame rate changes
        for number in count():
            start, end = part.start + number * stride, part.start + number * stride + window
            frames = self._wait(lambda frames, end=end: bool(frames) and frames[-1].seconds >= end - TOLERANCE)
            if end > _end_seconds(frames) + TOLERANCE:
                break
            yield self._predict(frames, start, end)
            self._receiver.release(start)  # a last window could start here
        if not number or frames[-1].seconds >= end - stride - TOLERANCE:
            end = _end_seconds(frames)
            yield self._predict(frames, max(part.start, end - window), end)

    def _wait(self, until: Callable[[list[BufferedFrame]], bool]) -> list[BufferedFrame]:
        """Wait for frames; reports events, and a stall once."""
        reported = None
        while True:
            frames = self._receiver.wait(until, self._timeout)
            self._report_events()
            if self._receiver.is_closed:
                raise _Closed
            if self._receiver.ended or self._receiver.part_ended or until(frames):
                return frames
            last, silent = self._receiver.last_received, self._clock() - self._receiver.last_received
            if silent >= self._timeout and not self._has_timeout and reported != last:
                self._on_event(StreamEvent("stalled", f"{self.name}: no frames for {silent:.0f} s"))
                reported = last

    def _report_events(self) -> None:
        for event in self._receiver.take_events():
            self._on_event(event)

    def _predict(self, frames: list[BufferedFrame], start: float, end: float) -> StreamAnswer:
        """Return the answer for the frames that are first shown from `start` to before `end`."""
        seconds, part = [frame.seconds for frame in frames], frames[0].part
        first, stop = bisect_left(seconds, start - TOLERANCE), bisect_left(seconds, end - TOLERANCE)
        if first == stop:  # no frame begins in this time: the one before it is shown
            first, stop = max(first - 1, 0), max(first, 1)
        shown = frames[first:stop]
        end_tick = frames[stop].tick if stop < len(frames) else _end_tick(frames)
        info = window_info([frame.tick for frame in shown], end_tick, part.time_base)
        numbers = [frame.number for frame in shown]
        clips, views = self._maker.clips(
            self._maker.plans(info, numbers), {frame.number: frame.pixels for frame in shown}
        )
        self._batch.add(WindowClips(start, end, clips, views))
        (scores,) = self._batch.compute()
        if not self._receiver.is_paced:
            self._statistics.dropped += max(0, numbers[0] - self._following)
        self._following = max(self._following, numbers[-1] + 1)
        name, probability = self._tracker.update(end, scores.probabilities)
        changed, self._answer = name != self._answer, name
        latency = self._clock() - shown[-1].received
        self._statistics.latencies.append(latency)
        self._statistics.answers += 1
        best = np.argsort(-scores.probabilities, kind="stable")[: self._top_k].tolist()
        top = [(self._classifier.class_names[label], float(scores.probabilities[label])) for label in best]
        received = datetime.now(UTC) - timedelta(seconds=latency)
        return StreamAnswer(start, end, name, probability, changed, top, scores.probabilities, received, latency)


def _end_tick(frames: list[BufferedFrame]) -> int:
    part, last = frames[0].part, frames[-1]
    return last_end(part.first_tick, last.tick, last.number - part.first_number + 1)


def _end_seconds(frames: list[BufferedFrame]) -> float:
    """When the last frame ends."""
    return frames[0].part.seconds(_end_tick(frames))
