"""Files of timelines: segments as CSV, JSON or WebVTT, and the scores of the windows as CSV."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.atomic import check_absent, report_write_errors, write_atomically
from timesformer.datasets.transforms.sampling import build_sampler
from timesformer.errors import UserError
from timesformer.localization.timeline import Timeline, clock

SUFFIXES = (".csv", ".json", ".vtt")
COLUMNS = ("video", "start", "end", "class", "probability", "error")
WINDOW_COLUMNS = ("video", "start", "end")
ELSEWHERE = "give another --output"

_CLASS = "class:"  # before the names of classes that would be taken for another column


def windows_path(output: Path) -> Path:
    """Returns the path of the scores of the windows, next to the segments."""
    return output.with_name(f"{output.stem}_windows.csv")


def metrics_path(output: Path) -> Path:
    """Returns the path of the metrics, next to the segments."""
    return output.with_name(f"{output.stem}_metrics.json")


def check_output(
    output: Path, num_videos: int, overwrite: bool, with_metrics: bool = False, saved: Path | None = None
) -> None:
    """Raises UserError if a file exists and is not to be overwritten, or the kind of file cannot hold the videos.

    `saved` is the file of windows that the segments are made from.
    """
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {output}: expected a name that ends in {', '.join(SUFFIXES)}")
    if output.suffix == ".vtt" and num_videos != 1:
        raise UserError(f"--output {output}: WebVTT holds one video, but there are {num_videos}; use .csv or .json")
    if overwrite:
        return
    windows = None if is_same_file(windows_path(output), saved) else windows_path(output)
    if windows and windows.exists() and not output.exists():
        again = f"`predict --timeline {windows} --output {output}` makes segments of its scores without the model"
        raise UserError(f"{windows} already exists: {again}; else {ELSEWHERE}, or --overwrite")
    check_absent((output, windows, metrics_path(output) if with_metrics else None), f"{ELSEWHERE}, or --overwrite")


def is_same_file(path: Path, other: Path | None) -> bool:
    """Returns whether both exist, and are the same file."""
    return other is not None and path.exists() and other.exists() and path.samefile(other)


def write_timelines(
    output: Path,
    timelines: Sequence[Timeline],
    class_names: Sequence[str],
    header: dict[str, Any],
    saved: Path | None = None,
) -> None:
    """Writes the segments to `output`, in JSON with the entries of `header`, and the windows next to it.

    `saved` is the file that the windows were read from, which is not replaced. Without `class_names`, there are no
    windows.
    """
    text = timeline_text(output.suffix, timelines, header)
    if class_names and not is_same_file(windows_path(output), saved):
        write_file(windows_path(output), _windows_csv(timelines, class_names))
    write_file(output, text)


def sampling_settings(cfg: CfgNode) -> dict[str, Any]:
    """Returns how the clips of a window are sampled, for the header of a JSON file."""
    sampler = build_sampler(cfg, "test").name
    return {"sampler": sampler, "views": cfg.TEST.NUM_ENSEMBLE_VIEWS, "crops": cfg.TEST.NUM_SPATIAL_CROPS}


def timeline_text(suffix: str, timelines: Sequence[Timeline], header: dict[str, Any]) -> str:
    """Returns the content of a file of segments with one of the SUFFIXES; `header` is for JSON."""
    if suffix == ".json":
        return _json(timelines, header)
    return _csv(timelines) if suffix == ".csv" else _vtt(timelines)


def write_file(path: Path, text: str) -> None:
    """Writes one of the files of `output`; UserError if that fails."""
    with report_write_errors(path, ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def _csv(timelines: Iterable[Timeline]) -> str:
    rows: list[Sequence[object]] = []
    for timeline in timelines:
        for segment in timeline.segments:
            borders = f"{segment.start:.3f}", f"{segment.end:.3f}"
            rows.append((timeline.video, *borders, segment.class_name, f"{segment.probability:.6f}", ""))
        if timeline.error:
            rows.append((timeline.video, "", "", "", "", timeline.problem))
    return _table(COLUMNS, rows)


def _windows_csv(timelines: Iterable[Timeline], class_names: Sequence[str]) -> str:
    rows = (
        (timeline.video, f"{window.start:.6f}", f"{window.end:.6f}", *(f"{p:.6f}" for p in window.probabilities))
        for timeline in timelines
        for window in timeline.windows
    )
    return _table((*WINDOW_COLUMNS, *map(_column, class_names)), rows)


def _column(class_name: str) -> str:
    is_other = class_name in COLUMNS or class_name.startswith(_CLASS)
    return f"{_CLASS}{class_name}" if is_other else class_name


def class_of_column(column: str) -> str:
    """Returns the class whose scores a column of a file of windows has."""
    return column.removeprefix(_CLASS)


def _json(timelines: Iterable[Timeline], header: dict[str, Any]) -> str:
    return json.dumps({**header, "videos": [timeline.to_dict() for timeline in timelines]}, indent=2) + "\n"


def _vtt(timelines: Sequence[Timeline]) -> str:
    """A file of the WebVTT format (www.w3.org/TR/webvtt1), with a cue for each segment."""
    cues = ["WEBVTT"]
    for segment in timelines[0].segments:
        name = " ".join(segment.class_name.split()) or "no action"
        text = escape(f"{name} {100 * segment.probability:.0f} %", quote=False)
        cues.append(f"{clock(segment.start)} --> {clock(segment.end)}\n{text}")
    return "\n\n".join(cues) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()
