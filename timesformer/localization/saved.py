"""Reading saved timelines, and annotated segments of videos."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from timesformer.errors import UserError, shorten
from timesformer.localization.segments import Segment
from timesformer.localization.timeline import Timeline
from timesformer.localization.timeline_files import COLUMNS, WINDOW_COLUMNS, class_of_column
from timesformer.localization.windows import WindowScores
from timesformer.metrics.localization import Interval, LocalizationMetrics, evaluate_localization

ANNOTATION_COLUMNS = ("video", "start", "end", "class")


class SavedTimelines(NamedTuple):
    """Timelines of one file; `class_names` is empty if the file has segments alone."""

    timelines: list[Timeline]
    class_names: list[str]


def read_timelines(path: Path, **options: Any) -> SavedTimelines:
    """Reads a CSV file of windows or segments that `write_timelines` has written; UserError if it is another file.

    `options` are those of `find_segments`. They apply to windows, whose segments are computed again.
    """
    columns, rows = _read_table(path)
    if columns[:4] == list(COLUMNS[:4]):
        return SavedTimelines(_saved_segments(path, rows), [])
    if columns[:3] != list(WINDOW_COLUMNS) or len(columns) < 4:
        expected = f"{','.join(COLUMNS)} or {','.join(WINDOW_COLUMNS)},CLASS,..."
        raise UserError(f"{path}: columns {shorten(columns)}, expected {expected}, as predict --timeline writes them")
    class_names = [class_of_column(column) for column in columns[3:]]
    videos: dict[str, list[WindowScores]] = {}
    for line, row in rows:
        start, end, *scores = (_number(path, line, name, row[name]) for name in columns[1:])
        videos.setdefault(row["video"], []).append(WindowScores(start, end, np.array(scores, np.float32)))
    saved = (Timeline(video, windows=windows) for video, windows in videos.items())
    timelines = [timeline.with_segments(class_names, **options) for timeline in saved]
    return SavedTimelines(timelines, class_names)


def _saved_segments(path: Path, rows: Iterator[tuple[int, dict[str, str]]]) -> list[Timeline]:
    videos: dict[str, Timeline] = {}
    for line, row in rows:
        before = videos.get(row["video"], Timeline(row["video"]))
        error = f"{row['video']}: {row['error']}" if row.get("error") else ""
        segments = []
        if not error:
            start, end, probability = (_number(path, line, name, row[name]) for name in ("start", "end", "probability"))
            segments = [Segment(start, end, row["class"], probability)]
        videos[row["video"]] = Timeline(row["video"], [*before.segments, *segments], error=error or before.error)
    return list(videos.values())


class Annotations(NamedTuple):
    """Annotated segments."""

    path: Path
    intervals: list[Interval]
    videos: list[str]  # also those without a segment

    def evaluate(self, timelines: Sequence[Timeline], class_names: Sequence[str]) -> tuple[LocalizationMetrics, str]:
        """Returns the metrics of the annotated videos, and notes on videos and classes that do not count.

        A video has the name in the annotations, or ends with it: a/b/c.mp4 is c.mp4 or b/c.mp4. Annotated time after
        the end of a video counts as missed. Times are rounded as in the files of segments, so that both give the same
        metrics. Errors as `check`.
        """
        names = self.check([timeline.video for timeline in timelines], class_names)
        annotated = [interval for interval in self.intervals if interval.video in names.values()]
        detected, durations = [], {}
        for timeline in timelines:
            if name := names.get(timeline.video):
                segments = [segment for segment in timeline.segments if segment.class_name]
                detected += [_as_saved(name, segment) for segment in segments]
                ends = [interval.end for interval in (*annotated, *detected) if interval.video == name]
                durations[name] = max([timeline.duration, *ends])
        left_out = [f"{len(timelines) - len(names)} without annotations"] if len(names) < len(timelines) else []
        missing = sorted(set(self.videos) - set(names.values()))
        left_out += [f"{len(missing)} annotated but not given ({shorten(missing)})"] if missing else []
        notes = [f"videos left out of the metrics: {'; '.join(left_out)}"] if left_out else []
        if others := sorted({i.class_name for i in detected} - {i.class_name for i in annotated}):
            effect = "this lowers the frame accuracy, but not the average precision"
            notes.append(f"predicted but never annotated: {shorten(others)}; {effect}")
        return evaluate_localization(detected, annotated, durations), "\n".join(notes)

    def check(self, videos: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
        """Returns the name in the annotations of each annotated video; `class_names` may be empty: unknown.

        Raises UserError if no video is annotated, two have the same name in the annotations, or a class is unknown.
        """
        unknown = sorted({interval.class_name for interval in self.intervals} - set(class_names or ()))
        if class_names and unknown:
            known = ", ".join(class_names)
            raise UserError(f"{self.path}: unknown classes {', '.join(unknown)}; the classes of the model are {known}")
        names = {video: name for video in videos if (name := self._name(video))}
        if len(set(names.values())) < len(names):
            named = sorted(video for video, name in names.items() if list(names.values()).count(name) > 1)
            raise UserError(f"{self.path}: {shorten(named)} have the same name in it; add their folders to the names")
        if not names:
            raise UserError(f"{self.path}: annotates {shorten(self.videos)}, but none of the videos {shorten(videos)}")
        return names

    def _name(self, video: str) -> str:
        parts = PurePath(video).parts
        candidates = (str(PurePath(*parts[first:])) for first in range(len(parts)))
        known = set(self.videos)
        return next((name for name in (video, *candidates) if name in known), "")


def _as_saved(video: str, segment: Segment) -> Interval:
    start, end = round(segment.start, 3), round(segment.end, 3)
    return Interval(video, start, end, segment.class_name, round(segment.probability, 6))


def read_annotations(path: Path) -> Annotations:
    """Reads a CSV file with the columns video, start, end and class, in seconds; others are ignored.

    A row with an empty class and no times names a video without any action. Raises UserError, with the line, if the
    file cannot be read.
    """
    columns, rows = _read_table(path)
    if missing := [name for name in ANNOTATION_COLUMNS if name not in columns]:
        expected = ",".join(ANNOTATION_COLUMNS)
        raise UserError(f"{path}: no column {' and '.join(missing)} among {shorten(columns)}, expected {expected}")
    intervals, videos = [], {}
    for line, row in rows:
        videos[row["video"]] = None
        if not (row["class"] or row["start"] or row["end"]):
            continue
        start, end = (_number(path, line, name, row[name]) for name in ("start", "end"))
        if not row["class"] or not 0 <= start < end:
            found = f"{row['class'] or 'no class'} from {start:g} to {end:g}"
            raise UserError(f"{path}, line {line}: {found}; expected a class, and 0 <= start < end in seconds")
        intervals.append(Interval(row["video"], start, end, row["class"]))
    return Annotations(path, intervals, list(videos))


def _read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns, and the lines with their numbers."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            columns = [name.strip() for name in reader.fieldnames or ()]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV file: {getattr(error, 'strerror', None) or error}") from error
    for line, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{path}, line {line}: another number of cells than the first line, which has {columns}")
    return columns, ((line, {name.strip(): cell.strip() for name, cell in row.items()}) for line, row in rows)


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}, line {line}: {column} is {text!r}, expected a number")
    return number
