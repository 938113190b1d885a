"""The page about long videos: a strip over time with segments, thumbnails and probabilities, and a player."""

import base64
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from timesformer.atomic import write_text_atomically
from timesformer.errors import counted
from timesformer.localization.segments import Segment
from timesformer.localization.windows import WindowScores
from timesformer.visualization.pages.class_colors import class_colors
from timesformer.visualization.pages.page import render_page
from timesformer.visualization.players import is_playable
from timesformer.visualization.thumbnails import Thumbnail
from timesformer.visualization.video_overlay import format_clock

_MAX_EMBEDDED, _MAX_EMBEDDED_ALL = 4 * 2**20, 24 * 2**20  # bytes of a video, and of all on a page
_MAX_POINTS = 500  # of a curve
_TYPES = {".webm": "video/webm"}  # others are MP4
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds between labels of the axis


@dataclass(frozen=True)
class VideoTimeline:
    """What happens in a video. Times are in seconds from the start of the file."""

    video: str  # path
    windows: Sequence[WindowScores]  # in the order of time
    segments: Sequence[Segment]  # in the order of time; without class name: no action
    thumbnails: Sequence[Thumbnail] = ()
    labelled: Path | None = None  # a copy with labels, played instead of a file that browsers cannot play


def write_timeline_page(
    path: Path, timelines: Sequence[VideoTimeline], class_names: Sequence[str], errors: Sequence[str] = ()
) -> None:
    """Writes a page about videos; WriteError if that fails.

    Small videos are embedded. Players of larger ones read the file at its path relative to the page.

    Args:
        timelines: at least one.
        class_names: in the order of `WindowScores.probabilities`.
        errors: notes on videos that cannot be read, or not to their end.
    """
    content = _content(path, timelines, class_names)
    write_text_atomically(path, render_page("timeline.html", **content, notes=list(errors)))


def _content(page: Path, timelines: Sequence[VideoTimeline], class_names: Sequence[str]) -> dict[str, Any]:
    space, videos = _MAX_EMBEDDED_ALL, []
    for timeline in timelines:
        source, used, note = _player(page, timeline, min(space, _MAX_EMBEDDED))
        space -= used
        videos.append({**_video(timeline, class_names), "source": source, "problem": note})
    names = [os.path.basename(timeline.video) for timeline in timelines]
    return {
        "title": names[0] if len(names) == 1 else f"Timelines of {len(names)} videos",
        "subtitle": timelines[0].video if len(names) == 1 and names[0] != timelines[0].video else "",
        "videos": videos,
    }


def _player(page: Path, timeline: VideoTimeline, space: int) -> tuple[str, int, str]:
    """Address of the file that is played ("": none), bytes of it in the page, and why it is another one or none."""
    path, note = Path(timeline.video), ""
    if not path.exists() and timeline.labelled is None:
        return "", 0, "The file was not found."
    if not is_playable(path):
        note = "Browsers cannot play this file"
        if timeline.labelled is None:
            return "", 0, f"{note}; the option --overlay writes a copy that they play."
        path, note = timeline.labelled, f"{note}. The player shows the copy with labels, {timeline.labelled.name}."
    if (size := path.stat().st_size) <= space:
        content = base64.b64encode(path.read_bytes()).decode()
        return f"data:{_TYPES.get(path.suffix.lower(), 'video/mp4')};base64,{content}", size, note
    try:
        relative = os.path.relpath(path, page.parent)
    except ValueError:  # on another drive
        return path.resolve().as_uri(), 0, note
    return quote(relative.replace(os.sep, "/").encode("utf-8", "surrogateescape")), 0, note


def _video(timeline: VideoTimeline, class_names: Sequence[str]) -> dict[str, Any]:
    windows, segments = timeline.windows, [segment for segment in timeline.segments if segment.class_name]
    ends = [window.end for window in windows] + [segment.end for segment in segments]
    seconds = max([*ends, *(thumbnail.time for thumbnail in timeline.thumbnails), 1e-3])
    colors = class_colors(windows, segments, class_names)
    colors = {name: f"var(--series-{number + 1})" for name, number in colors.items()}
    return {
        "name": os.path.basename(timeline.video),
        "path": timeline.video,
        "seconds": round(seconds, 3),
        "segments": [
            {
                "name": segment.class_name,
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "left": 100 * segment.start / seconds,
                "width": 100 * (segment.end - segment.start) / seconds,
                "from": format_clock(segment.start),
                "to": format_clock(segment.end),
                "length": round(segment.end - segment.start, 2),
                "probability": 100 * segment.probability,
                "color": colors.get(segment.class_name, "var(--muted)"),
            }
            for segment in segments
        ],
        "thumbnails": [
            (round(picture.time, 3), format_clock(picture.time), base64.b64encode(picture.jpeg).decode())
            for picture in timeline.thumbnails
        ],
        "curves": _curves(windows, seconds, colors, class_names),
        "ticks": _ticks(seconds),
        "summary": _summary(segments, seconds, len(windows)),
    }


def _summary(segments: Sequence[Segment], seconds: float, windows: int) -> str:
    found = counted(len(segments), "segment")
    labelled = sum(segment.end - segment.start for segment in segments)
    share = f"{100 * labelled / seconds:.0f} % of {format_clock(seconds)}"
    return f"{found}, {share}; {counted(windows, 'window')}"


def _curves(
    windows: Sequence[WindowScores], seconds: float, colors: dict[str, str], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Probabilities at the middles of windows, as points in a box of 1000 x 100; of several, the highest is kept."""
    size = math.ceil(len(windows) / _MAX_POINTS) or 1
    groups = [windows[first : first + size] for first in range(0, len(windows), size)]
    x = [500 * (group[0].start + group[-1].end) / seconds for group in groups]
    peaks = [np.max([window.probabilities for window in group], axis=0) for group in groups]
    number_of = {name: number for number, name in enumerate(class_names)}
    curves = []
    for name, color in colors.items():
        points = " ".join(
            f"{at:.1f},{100 - 100 * peak[number_of[name]]:.1f}" for at, peak in zip(x, peaks, strict=True)
        )
        curves.append({"name": name, "color": color, "points": points})
    return curves if windows else []


def _ticks(seconds: float) -> list[tuple[float, str]]:
    """Positions, in percent, and labels of up to 9 times."""
    step = next((step for step in _STEPS if seconds / step <= 8), 3600 * math.ceil(seconds / 8 / 3600))
    times = [number * step for number in range(math.floor(seconds / step) + 1)]
    return [(100 * time / seconds, format_clock(time) if step < 1 else format_clock(time)[:-2]) for time in times]
