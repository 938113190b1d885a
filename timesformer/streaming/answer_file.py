"""Answers of a stream, and breaks of its connection, as JSON lines."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from timesformer.atomic import report_write_errors
from timesformer.runtime.signals import defer_signals
from timesformer.streaming.events import StreamEvent
from timesformer.streaming.live import Stream, StreamAnswer

_REMEDY = "choose another --output"


class AnswerFile:
    """A file to which every answer is appended as one line, at once; a context manager, which writes the last line.

    The lines have `event` start, answer, end or the kind of a `StreamEvent` (docs/streams.md). Lines of an earlier
    stream stay, unless `overwrite`; if the last one was cut short, the next one begins on a new line. Raises WriteError
    if a line cannot be written.
    """

    def __init__(self, path: Path, stream: Stream, checkpoint: str, overwrite: bool = False) -> None:
        self._path, self._stream = path, stream
        with report_write_errors(path, _REMEDY):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb+" if overwrite else "ab+", buffering=0)
            if self._file.seek(0, os.SEEK_END) and (self._file.seek(-1, os.SEEK_END), self._file.read(1))[1] != b"\n":
                self._file.write(b"\n")
        self._write("start", datetime.now(UTC), source=stream.name, checkpoint=checkpoint)

    def add(self, answer: StreamAnswer) -> None:
        """Append an answer."""
        self._write(
            "answer",
            answer.time,
            start=round(answer.start, 3),
            end=round(answer.end, 3),
            **{"class": answer.class_name or None},
            probability=round(answer.probability, 6),
            changed=answer.changed,
            top=[{"class": name, "probability": round(probability, 6)} for name, probability in answer.top],
            latency=round(answer.latency, 4),
        )

    def add_event(self, event: StreamEvent) -> None:
        """Append what has happened to the connection."""
        self._write(event.kind, event.time, reason=event.reason)

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            problem = (
                self._stream.problem or (error and not isinstance(error, KeyboardInterrupt) and str(error)) or None
            )
            self._write("end", datetime.now(UTC), problem=problem, **self._stream.statistics.to_dict())
        finally:
            self._file.close()

    def _write(self, event: str, time: datetime, **fields: object) -> None:
        entry = {"event": event, "time": time.isoformat(timespec="milliseconds"), **fields}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        with report_write_errors(self._path, _REMEDY), defer_signals():
            self._file.write(line)
