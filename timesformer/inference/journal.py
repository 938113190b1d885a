"""Results of a command over many videos while it runs, so that it can be interrupted at any time and resumed."""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fvcore.common.config import CfgNode

from timesformer.atomic import report_write_errors
from timesformer.config.differences import affecting
from timesformer.errors import UserError, shorten
from timesformer.inference.classifier import Classifier


def settings_of(classifier: Classifier, cfg: CfgNode, **arguments: Any) -> dict[str, Any]:
    """Returns what results depend on: the weights, the temperature, `arguments` and the options `cfg`."""
    options = affecting(cfg, "model", "clips", "evaluation")
    fitted = {"weights": classifier.fingerprint(), "temperature": classifier.temperature(cfg)}
    return {**fitted, **arguments, **options}


class Journal:
    """A file with a line of JSON for the settings, and one for each finished result; a context manager.

    Raises UserError if it cannot be written, another process writes it, or it has results of other settings; unless
    `overwrite`, which removes them. `elsewhere` is another remedy for messages.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool, elsewhere: str) -> None:
        self.path, self._elsewhere = path, elsewhere
        self._file = open_locked(path, elsewhere)
        self._check_settings(settings, overwrite)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, and keeps it."""
        with suppress(OSError):  # `add` has written everything, or has raised
            self._file.close()

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the offset and content of each result, and removes an incomplete one at the end."""
        self._file.seek(0)
        self._file.readline()
        for line in iter(self._file.readline, b""):
            offset = self._file.tell() - len(line)
            if not line.endswith(b"\n"):
                self._file.truncate(offset)
                break
            yield offset, json.loads(line)

    def add(self, entry: Mapping[str, Any]) -> int:
        """Appends a result; returns its offset."""
        with report_write_errors(self.path, self._elsewhere):
            offset = self._file.seek(0, 2)
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        return offset

    def read(self, offsets: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yields the results at these offsets."""
        for offset in offsets:  # closing another descriptor of the file would release its lock
            self._file.seek(offset)
            yield json.loads(self._file.readline())

    def remove(self) -> None:
        """Removes the file."""
        with report_write_errors(self.path, self._elsewhere):
            self.path.unlink()

    def _check_settings(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Compares the first line with the settings, or writes it."""
        self._file.seek(0)
        line, problem = self._file.readline(), ""
        if line.endswith(b"\n"):
            before = json.loads(line) if line.startswith(b"{") else {}
            if before.keys() != settings.keys():
                problem = "is of another command, with or without --timeline, or of another version"
            elif changes := [f"{k} was {before[k]}, is {now}" for k, now in settings.items() if before[k] != now]:
                problem = f"holds predictions of other settings: {shorten(changes, '; ')}"
        if problem and not overwrite:
            raise UserError(f"{self.path} {problem}. Repeat the interrupted command, {self._elsewhere}, or --overwrite")
        if problem or not line.endswith(b"\n"):
            with report_write_errors(self.path, self._elsewhere):
                self._file.truncate(0)
            self.add(settings)


def open_locked(path: Path, elsewhere: str) -> BinaryIO:
    """Opens a file for reading and appending, which no other process may do; UserError if that fails."""
    with report_write_errors(path, elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(f"{path} is being written by another process: wait for it, or {elsewhere}") from error
    except OSError:
        pass  # a disk without locks
    return file
