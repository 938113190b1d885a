"""Output files of tools/predict.py, which can be interrupted at any time and resumed.

Each prediction is appended to `<output>.unfinished`, a line of JSON, after its embedding was appended to
`<features>.float32.unfinished`. The output files are written from these at the end, in the order of the videos.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from timesformer.atomic import check_absent, report_write_errors, unfinished_path, write_atomically
from timesformer.inference.journal import Journal, open_locked
from timesformer.inference.prediction import Prediction

_ELSEWHERE = "give another --output or --features"
_FLOAT = np.dtype("<f4")


class PredictionFiles:
    """Writes predictions as they are made; a context manager. Raises UserError if files cannot be written.

    Args:
        paths: of all videos, without repetition.
        settings: what predictions depend on; an earlier, unfinished command is resumed only with equal settings.
        output: `.csv` or `.json` file of the most probable classes, or None.
        features: `.npz` file of embeddings, or None.
        overwrite: replace existing files, and unfinished files of other settings.

    Attributes:
        finished: numbers of the videos whose prediction is written, with the offsets of their lines.
    """

    def __init__(
        self,
        paths: Sequence[str],
        settings: dict[str, Any],
        output: Path | None,
        features: Path | None,
        overwrite: bool,
    ) -> None:
        self._paths, self._output, self._features = paths, output, features
        path = unfinished_path(output or features)
        self._rows_path = features and unfinished_path(features.with_name(f"{features.name}.float32"))
        if not overwrite and not path.exists():
            check_absent((output, features), f"{_ELSEWHERE}, or --overwrite")
        self.finished: dict[int, int] = {}
        self._journal = Journal(path, settings, overwrite, _ELSEWHERE)
        self._rows = open_locked(self._rows_path, _ELSEWHERE) if self._rows_path else None
        self._resume()

    def __enter__(self) -> "PredictionFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and not self.finished:  # there is nothing to resume
            for path in filter(None, (self._journal.path, self._rows_path)):
                with suppress(OSError):
                    path.unlink()
        self._journal.close()
        if self._rows:
            with suppress(OSError):  # `add` has written everything, or has raised
                self._rows.close()

    def add(self, number: int, prediction: Prediction) -> None:
        """Writes the prediction of a video."""
        line: dict[str, Any] = {"video": self._paths[number]}
        if prediction.error:
            line["error"] = prediction.error
        else:
            line["top"] = [[name, round(probability, 6)] for name, probability in prediction.top]
            line |= {"used": round(prediction.used, 3), "duration": round(prediction.duration, 3)}
        if self._rows and prediction.embedding is not None:
            line["embedding"] = [self._rows.tell(), len(prediction.embedding)]
            with report_write_errors(self._rows_path, _ELSEWHERE):
                self._rows.write(prediction.embedding.astype(_FLOAT).tobytes())
                self._rows.flush()
        self.finished[number] = self._journal.add(line)

    def errors(self) -> Iterator[str]:
        """Yields the errors of unreadable videos, in order."""
        return (line["error"] for line in self._lines() if "error" in line)

    def finish(self, header: dict[str, Any], num_classes: int) -> None:
        """Writes the output files, with `header` in JSON, and removes the unfinished ones."""
        write: Callable[[BinaryIO], None] = partial(self._write_csv, num_classes)
        if self._output and self._output.suffix == ".json":
            write = partial(self._write_json, header)
        for path, write_file in ((self._features, self._write_features), (self._output, write)):
            if path:
                with report_write_errors(path, _ELSEWHERE):
                    write_atomically(path, write_file)
        self._journal.remove()
        if self._rows_path:
            with report_write_errors(self._rows_path, _ELSEWHERE):
                self._rows_path.unlink()

    def _resume(self) -> None:
        """Finds the finished predictions and removes incomplete lines and rows."""
        rows_end = self._rows.seek(0, io.SEEK_END) if self._rows else 0
        used, numbers = 0, {path: number for number, path in enumerate(self._paths)}
        for offset, content in self._journal.entries():
            start, dim = content.get("embedding", (0, 0))
            end = start + dim * _FLOAT.itemsize
            if end <= rows_end:  # false only if the whole node crashed between the two writes
                used = max(used, end)
                if content["video"] in numbers:
                    self.finished[numbers[content["video"]]] = offset
        if self._rows:
            self._rows.truncate(used)
            self._rows.seek(used)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yields the lines of the videos, in order."""
        return self._journal.read(self.finished[number] for number in sorted(self.finished))

    def _write_csv(self, num_classes: int, file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        columns = [column for rank in range(1, num_classes + 1) for column in (f"class_{rank}", f"probability_{rank}")]
        writer.writerow(["video", *columns, "error"])
        for line in self._lines():
            cells = [cell for name, probability in line.get("top", ()) for cell in (name, f"{probability:.6f}")]
            writer.writerow([line["video"], *(cells or [""] * len(columns)), line.get("error", "")])
        text.detach()

    def _write_json(self, header: dict[str, Any], file: BinaryIO) -> None:
        file.write(json.dumps(header, indent=2).encode().removesuffix(b"\n}") + b',\n  "videos": [')
        separator = b"\n    "
        for line in self._lines():
            top = [{"class": name, "probability": probability} for name, probability in line.get("top", ())]
            lengths = {"used": line.get("used", 0.0), "duration": line.get("duration", 0.0)}
            video = {"video": line["video"], "top": top, "error": line.get("error", ""), **lengths}
            file.write(separator + json.dumps(video).encode())
            separator = b",\n    "
        file.write(b"\n  ]\n}\n")

    def _write_features(self, file: BinaryIO) -> None:
        found = [(line["video"], *line["embedding"]) for line in self._lines() if "embedding" in line]
        dim = found[0][2] if found else 0
        rows = np.fromfile(self._rows_path, _FLOAT).reshape(-1, dim) if found else np.empty((0, 0), _FLOAT)
        order = [offset // (dim * _FLOAT.itemsize) for _, offset, _ in found]
        np.savez(file, names=np.array([name for name, *_ in found], str), embeddings=rows[order])
