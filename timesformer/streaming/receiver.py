"""A thread that receives a stream, and connects again when it breaks; its newest frames are kept for the model."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from torch import Tensor

from timesformer.datasets.clips import as_video_error
from timesformer.streaming.connection import Clock, Connection, StreamError, StreamFrame
from timesformer.streaming.events import StreamEvent
from timesformer.streaming.sources import Source

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two attempts to connect
JUMP = 10.0  # seconds that the clock of a stream may run ahead from one frame to the next before it is corrected
_MEASURED = 50  # frames whose times give the frame rate of a stream that has none

Prepare = Callable[[np.ndarray], list[Tensor]]
OnFrame = Callable[[float, np.ndarray], object]


@dataclass(frozen=True, eq=False)
class Part:
    """A continuous part of a stream: a new one begins with a connection, and where the sender's clock jumps."""

    first_number: int  # of its first frame
    first_tick: int  # of its first frame
    time_base: Fraction  # seconds
    start: float  # seconds from the first frame of the stream to that of this part

    def seconds(self, tick: int) -> float:
        """Return the time of a frame, in seconds from the first frame of the stream."""
        return self.start + float((tick - self.first_tick) * self.time_base)


@dataclass(frozen=True, eq=False)
class BufferedFrame:
    """A frame in memory."""

    number: int  # counted from 0 over all connections
    part: Part
    tick: int  # when it is shown, in units of the time base of its part; rising
    seconds: float  # when it is shown, from the first frame of the stream; rising
    received: float  # on the receiver's clock
    pixels: list[Tensor]  # uint8, as returned by `prepare`


class Receiver:
    """Frames of a stream, received by a thread.

    The frames of the last `keep` seconds are in memory, all of one part. The newest frames replace the oldest; if the
    receiver is paced, it waits instead until the oldest are released.

    Attributes:
        received: number of frames so far.
        connections: number of connections so far.
        first_received, last_received: when the first and last frame were received, on the receiver's clock.
        fps: frames per second, measured if the stream does not tell; 0 if not yet known.
        is_paced: given, or because the stream is a file of known length.
        part_ended: whether the frames in memory are the last of their part, which must be released.
        is_connected: False from a break until the next frame.
        ended: whether no more frames will come.
        problem: why the stream ended early; "" if it did not.
    """

    def __init__(
        self,
        source: Source,
        *,
        prepare: Prepare,
        keep: Callable[[float], float],
        is_paced: bool = False,
        on_frame: OnFrame | None = None,
        retries: int = 10,
        timeout: float = 10.0,
        short_side: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        """Connect for the first time and start the thread; StreamError if that fails.

        Args:
            source: the stream.
            prepare: makes what the model needs of an image; called in the thread.
            keep: returns the seconds of frames to keep for a frame rate.
            is_paced: wait for `release`.
            on_frame: called in the thread for every frame, with its time and its pixels before `prepare`.
            retries: failed attempts in a row to connect again after which the stream ends.
            timeout: seconds without data after which a connection counts as broken.
            short_side: larger frames are scaled down to it when they are decoded; 0: as they are.
            clock: seconds of a monotonic clock.
        """
        self._source, self._prepare, self._keep, self._on_frame = source, prepare, keep, on_frame
        self._retries, self._timeout, self._short_side, self._clock = retries, timeout, short_side, clock
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._frames: deque[BufferedFrame] = deque()
        self._times: deque[float] = deque(maxlen=_MEASURED)
        self._released = float("-inf")
        self._failure: BaseException | None = None
        self._events: deque[StreamEvent] = deque()
        self.is_connected = True
        self.received = self.connections = 0
        self.first_received = self.last_received = clock()
        self.problem = ""
        self.ended = self.part_ended = False
        connection = self._connect()
        self._is_finite = connection.is_finite or source.kind == "pipe"
        self.is_paced = is_paced or connection.is_finite
        self.fps = connection.fps
        self._thread = threading.Thread(target=self._run, args=(connection,), name="stream receiver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; it ends when the next data come or the connection times out."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._stopping.is_set()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def wait(self, until: Callable[[list[BufferedFrame]], bool], seconds: float | None = None) -> list[BufferedFrame]:
        """Wait until a condition on the frames in memory holds, their part ends or the time is over; return the frames.

        An event ends it too. Raises what the thread raised.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.ended or self.part_ended or self.is_closed or self._events or until(list(self._frames)),
                seconds,
            )
            if self._failure:
                raise self._failure
            return list(self._frames)

    def take_events(self) -> list[StreamEvent]:
        """Remove and return what has happened to the connection since the last call."""
        with self._changed:
            events = list(self._events)
            self._events.clear()
            return events

    def _add_event(self, event: StreamEvent) -> None:
        with self._changed:
            self._events.append(event)
            self.is_connected = self.is_connected and event.kind != "disconnected"
            self._changed.notify_all()

    def release(self, seconds: float) -> None:
        """Allow a paced receiver to drop the frames that are not shown at or after `seconds`; infinity: all."""
        with self._changed:
            self._released = seconds
            self._drop(lambda: self._frames[1].seconds <= seconds)
            if seconds == float("inf"):
                self._frames.clear()
                self._released = float("-inf")
                self.part_ended = False
            self._changed.notify_all()

    def _connect(self) -> Connection:
        connection = Connection(self._source, self._timeout, self._short_side, self._clock)
        self.connections += 1
        return connection

    def _run(self, connection: Connection) -> None:
        try:
            self._receive(connection)
        except BaseException as error:  # raised again by `wait`
            self._failure = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _receive(self, connection: Connection | None) -> None:
        failures = 0
        while connection:
            before, problem, part = self.received, "", None
            with connection:
                try:
                    for frame in connection.frames():
                        if self._stopping.is_set():
                            return
                        part = self._add(frame, part, connection)
                except StreamError as error:
                    problem = str(error)
            if self._is_finite or self._stopping.is_set():
                self.problem = problem
                return
            failures = 0 if self.received > before else failures + 1
            connection = self._connect_again(problem or f"{self._source.name}: the sender ended the stream", failures)

    def _connect_again(self, problem: str, failures: int) -> Connection | None:
        """Return None if all attempts fail."""
        kind: Literal["disconnected", "failed"] = "disconnected"
        while failures < self._retries:
            pause = min(FIRST_PAUSE * 2 ** min(failures, 10), LONGEST_PAUSE)
            attempt = f"attempt {failures + 1} of {self._retries} to connect again in {pause:g} s"
            self._add_event(StreamEvent(kind, f"{problem}; {attempt}"))
            if self._stopping.wait(pause):
                return None
            try:
                connection = self._connect()
            except StreamError as error:
                kind, problem, failures = "failed", str(error), failures + 1
            else:
                self._add_event(StreamEvent("reconnected", f"{self._source.name}: connected again"))
                return connection
        self.problem = f"{problem}; {self._retries} attempts to connect again failed" if self._retries else problem
        return None

    def _add(self, frame: StreamFrame, part: Part | None, connection: Connection) -> Part:
        """Put a frame into memory; returns its part."""
        last = self._frames[-1] if self._frames else None
        if not self.received:
            self.first_received = self.last_received = frame.received
        ahead = part.seconds(frame.tick) - last.seconds if part and last else 0.0
        if part is None or last is None or not 0 < ahead < JUMP:
            start = self._next_start(frame, last, connection) if last else 0.0
            part = Part(self.received, frame.tick, connection.time_base, start)
        seconds = part.seconds(frame.tick)
        if self._on_frame:
            self._on_frame(seconds, frame.image)
        with as_video_error(self._source.name):  # a shape that cannot be cropped
            pixels = self._prepare(frame.image)
        with self._changed:
            if self._frames and self._frames[-1].part is not part:
                self._end_part()
            if part.first_number == self.received:
                self._times.clear()  # a gap is no frame interval
            self._times.append(seconds)
            self.fps = connection.fps or self._measured_fps()
            self._frames.append(BufferedFrame(self.received, part, frame.tick, seconds, frame.received, pixels))
            self.received += 1
            self.is_connected = True
            self.last_received = max(self.last_received, frame.received)  # decoders reorder frames
            self._changed.notify_all()
            if self.is_paced:  # what is to be kept may change while it waits
                self._wait_for_release(
                    lambda: seconds - max(self._released, self._frames[0].seconds) <= self._keep(self.fps)
                )
            else:
                keep = self._keep(self.fps)
                limit = 4 * keep * self.fps + _MEASURED  # times that hardly rise must not fill the memory
                self._drop(lambda: len(self._frames) > limit or seconds - self._frames[1].seconds > keep)
        return part

    def _end_part(self) -> None:
        if self.is_paced:
            self.part_ended = True
            self._changed.notify_all()
            self._wait_for_release(lambda: not self._frames)
        self._frames.clear()

    def _wait_for_release(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._stopping.is_set() or not self._frames or condition())

    def _next_start(self, frame: StreamFrame, last: BufferedFrame, connection: Connection) -> float:
        """When a new part starts: by the receiver's clock, or one frame after the last one of a file."""
        follows = last.seconds + 1 / (connection.fps or self.fps or 25.0)
        return follows if self._is_finite else max(follows, frame.received - self.first_received)

    def _measured_fps(self) -> float:
        seconds = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / seconds if seconds > 0 else 0.0

    def _drop(self, condition: Callable[[], bool]) -> None:
        while len(self._frames) > 1 and condition():
            self._frames.popleft()
