"""Window scores of finished videos while others are read, so that a command can be interrupted and resumed."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timesformer.atomic import unfinished_path
from timesformer.inference.journal import Journal
from timesformer.localization.timeline import Timeline
from timesformer.localization.timeline_files import ELSEWHERE
from timesformer.localization.windows import WindowScores

_FLOAT = np.dtype("<f4")


class UnfinishedTimelines:
    """Writes timelines as they are made to `<output>.unfinished`; a context manager.

    Args:
        paths: of all videos, without repetition.
        settings: what window scores depend on; an earlier command is resumed only with equal settings.
        output: file of the segments.
        overwrite: whether to remove unfinished results of other settings.

    Attributes:
        finished: the timelines so far, without segments, by number of the video.

    Raises UserError as `Journal`.
    """

    def __init__(self, paths: Sequence[str], settings: Mapping[str, Any], output: Path, overwrite: bool) -> None:
        self._paths = paths
        self._journal = Journal(unfinished_path(output), settings, overwrite, ELSEWHERE)
        numbers = {path: number for number, path in enumerate(paths)}
        entries = (entry for _, entry in self._journal.entries() if entry["video"] in numbers)
        self.finished = {numbers[entry["video"]]: _timeline(entry) for entry in entries}

    def __enter__(self) -> "UnfinishedTimelines":
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def add(self, number: int, timeline: Timeline) -> None:
        """Writes the windows of a video."""
        scores = np.array([window.probabilities for window in timeline.windows], _FLOAT)
        self._journal.add(
            {
                "video": self._paths[number],
                "error": timeline.error,
                "spans": [(window.start, window.end) for window in timeline.windows],
                "scores": base64.b64encode(scores.tobytes()).decode(),
            }
        )

    def remove(self) -> None:
        """Removes the file, when the output is written."""
        self._journal.remove()


def _timeline(entry: Mapping[str, Any]) -> Timeline:
    spans = entry["spans"]
    if not spans:  # NumPy cannot infer the number of classes
        return Timeline(entry["video"], error=entry["error"])
    scores = np.frombuffer(base64.b64decode(entry["scores"]), _FLOAT).reshape(len(spans), -1)
    windows = [WindowScores(start, end, row) for (start, end), row in zip(spans, scores, strict=True)]
    return Timeline(entry["video"], windows=windows, error=entry["error"])
