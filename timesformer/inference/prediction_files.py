"""Predictions of many videos in files, of which nothing is lost when the process that makes them is killed.

Each prediction is appended to `<output>.unfinished` as soon as it is known, a line of JSON, and its embedding to
`<features>.float32.unfinished`. When all are there, the files asked for are made of these, whole, in the order of the
videos, and these are removed. What a line says of an embedding is written after it, and a line that was cut off is not
believed: so at any moment, all that is there is right.
"""

import csv
import fcntl
import io
import json
import zipfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.engine.checkpoint import differences
from timesformer.errors import UserError, shorten
from timesformer.inference.classifier import Prediction

UNFINISHED = ".unfinished"
_ELSEWHERE = "give another --output or --features"
_FLOAT = np.dtype("<f4")
_AT_ONCE = 4096  # names made into an array together
_CHANGES_NOTHING = {"DATA.DECODE_TIMEOUT", "TEST.BATCH_SIZE"}


class PredictionFiles:
    """What becomes of predictions; use it as a context manager.

    Args:
        paths: of all videos, each once.
        facts: what predictions depend on, in plain values, such as the options; predictions of an earlier, unfinished
            call are taken over only where all of this is equal.
        output: `.csv` or `.json` file with the most probable classes; None: none.
        features: `.npz` file of embeddings; None: none.
        overwrite: replace what is there, but for what an earlier call of the same began.

    Attributes:
        finished: of each video, whether its prediction is there.

    Raises:
        UserError: if the files are there already, are being written by somebody else, were begun with other facts, or
            cannot be written.
    """

    def __init__(
        self,
        paths: Sequence[str],
        facts: dict[str, Any],
        output: Path | None,
        features: Path | None,
        overwrite: bool = False,
    ) -> None:
        self._paths, self._facts, self._output, self._features = paths, facts, output, features
        files = [path for path in (output, features) if path]
        self._journal_path = files[0].with_name(files[0].name + UNFINISHED)
        self._rows_path = features and features.with_name(f"{features.name}.float32{UNFINISHED}")
        there = [str(path) for path in files if path.exists()]
        if there and not overwrite and not self._journal_path.exists():
            found = f"{' and '.join(there)} exist{'s' * (len(there) == 1)} already"
            raise UserError(f"{found}: {_ELSEWHERE}, or --overwrite to replace what is there")
        self._places = array("q", [-1]) * len(paths)  # where the line of each video begins
        self.finished = bytearray(len(paths))
        self._journal = self._open(self._journal_path)
        self._rows: BinaryIO | None = None
        try:
            self._compare(overwrite)
            self._rows = self._open(self._rows_path) if self._rows_path else None
            self._take_over()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "PredictionFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files."""
        self._journal.close()
        if self._rows:
            self._rows.close()

    def add(self, number: int, prediction: Prediction) -> None:
        """Keeps the prediction of a video.

        Raises:
            UserError: if the disk does not take it.
        """
        line: dict[str, Any] = {"video": self._paths[number]}
        with report_write_errors(self._journal_path, _ELSEWHERE):
            if prediction.error:
                line["error"] = prediction.error
            else:
                line["top"] = [[name, round(probability, 6)] for name, probability in prediction.top]
            if self._rows and prediction.embedding is not None:
                line["embedding"] = [self._rows.tell(), len(prediction.embedding)]
                self._rows.write(prediction.embedding.astype(_FLOAT).tobytes())
                self._rows.flush()
            place = self._journal.tell()
            self._write_line(line)
        self._places[number], self.finished[number] = place, True

    def errors(self) -> Iterator[str]:
        """Why videos could not be read, in their order."""
        return (line["error"] for line in self._lines() if "error" in line)

    def finish(self, head: dict[str, Any], listed: int) -> None:
        """Writes the files asked for and removes the unfinished ones.

        Args:
            head: what the JSON file says beside the videos.
            listed: classes of each video.

        Raises:
            UserError: if they cannot be written; all that was known still is.
        """
        if self._features:
            _write(self._features, self._write_features)
        if self._output and self._output.suffix == ".json":
            _write(self._output, lambda file: self._write_json(file, head))
        elif self._output:
            _write(self._output, lambda file: self._write_csv(file, listed))
        with report_write_errors(self._journal_path, _ELSEWHERE):
            self._journal_path.unlink()
            if self._rows_path:
                self._rows_path.unlink()

    def _open(self, path: Path) -> BinaryIO:
        """A file to go on with, for this process alone."""
        with report_write_errors(path, _ELSEWHERE):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(
                f"{path} is being written by another process: wait until it has ended, or {_ELSEWHERE}"
            ) from error
        except OSError:
            pass  # a disk without locks
        return file

    def _compare(self, overwrite: bool) -> None:
        """Writes the facts, or sees to it that they are what they were."""
        self._journal.seek(0)
        line = self._journal.readline()
        problem = ""
        if line.endswith(b"\n"):
            then = _parse(line)
            if then is None or then.keys() != self._facts.keys():
                problem = "is none of this program's files"
            elif changed := differences(then, self._facts, {}, _CHANGES_NOTHING):
                problem = f"holds predictions that were made otherwise: {shorten(changed, '; ')}"
        if problem and not overwrite:
            raise UserError(
                f"{self._journal_path} {problem}. To go on with it, start the same command as then; else {_ELSEWHERE}, "
                "or --overwrite to begin anew"
            )
        if problem or not line.endswith(b"\n"):
            with report_write_errors(self._journal_path, _ELSEWHERE):
                self._journal.truncate(0)
                self._write_line(self._facts)

    def _take_over(self) -> None:
        """Finds out what an earlier call got done, and cuts off what it could not write to its end."""
        rows_end = self._rows.seek(0, io.SEEK_END) if self._rows else 0
        used = 0
        self._journal.seek(0)
        self._journal.readline()
        numbers: dict[str, int] = {}
        for line in iter(self._journal.readline, b""):
            begin = self._journal.tell() - len(line)
            if not line.endswith(b"\n"):
                self._journal.truncate(begin)
                break
            numbers = numbers or {path: number for number, path in enumerate(self._paths)}
            content = _parse(line) or {}
            start, dim = content.get("embedding", (0, 0))
            end = start + dim * _FLOAT.itemsize
            if end <= rows_end:  # else the machine, and not this process alone, was stopped between the two
                used = max(used, end)
                if (number := numbers.get(content.get("video"))) is not None:
                    self._places[number], self.finished[number] = begin, True
        self._journal.seek(0, io.SEEK_END)
        if self._rows:
            self._rows.truncate(used)
            self._rows.seek(used)

    def _write_line(self, content: dict[str, Any]) -> None:
        self._journal.write(json.dumps(content).encode() + b"\n")
        self._journal.flush()

    def _lines(self) -> Iterator[dict[str, Any]]:
        """What is known of each video, in their order."""
        with self._journal_path.open("rb") as file:
            for place in self._places:
                if place >= 0:
                    file.seek(place)
                    yield json.loads(file.readline())

    def _write_csv(self, file: BinaryIO, listed: int) -> None:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        columns = [column for rank in range(1, listed + 1) for column in (f"class_{rank}", f"probability_{rank}")]
        writer.writerow(["video", *columns, "error"])
        for line in self._lines():
            cells = [cell for name, probability in line.get("top", ()) for cell in (name, f"{probability:.6f}")]
            writer.writerow([line["video"], *(cells or [""] * len(columns)), line.get("error", "")])
        text.detach()

    def _write_json(self, file: BinaryIO, head: dict[str, Any]) -> None:
        file.write(json.dumps(head, indent=2).encode().removesuffix(b"\n}") + b',\n  "videos": [')
        separator = b"\n    "
        for line in self._lines():
            top = [{"class": name, "probability": probability} for name, probability in line.get("top", ())]
            video = {"video": line["video"], "top": top, "error": line.get("error", "")}
            file.write(separator + json.dumps(video).encode())
            separator = b",\n    "
        file.write(b"\n  ]\n}\n")

    def _write_features(self, file: BinaryIO) -> None:
        """As numpy.savez does, without having all of it in memory."""
        count = width = dim = 0
        for line in self._lines():
            if "embedding" in line:
                count, width, dim = count + 1, max(width, len(line["video"])), line["embedding"][1]
        names = np.dtype(f"<U{max(width, 1)}")
        with zipfile.ZipFile(file, "w") as archive:
            with _array(archive, "names", names, (count,)) as entry:
                some: list[str] = []
                for line in self._lines():
                    some += [line["video"]] if "embedding" in line else []
                    if len(some) == _AT_ONCE:
                        entry.write(np.array(some, names).tobytes())
                        some = []
                entry.write(np.array(some, names).tobytes())
            with _array(archive, "embeddings", _FLOAT, (count, dim)) as entry, self._rows_path.open("rb") as rows:
                for line in self._lines():
                    if "embedding" in line:
                        rows.seek(line["embedding"][0])
                        entry.write(rows.read(dim * _FLOAT.itemsize))


def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Any:
    """Opens an array in an archive for its values."""
    entry = archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    np.lib.format.write_array_header_1_0(entry, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return entry


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with report_write_errors(path, _ELSEWHERE):
        write_atomically(path, write)
