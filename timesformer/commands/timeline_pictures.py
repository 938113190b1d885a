"""`predict --timeline --overlay --page`: videos with labels, and a page with a player (docs/long_videos.md)."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timesformer.atomic import check_absent
from timesformer.errors import UserError

if TYPE_CHECKING:
    from timesformer.localization.timeline import Timeline


def check_pictures(args: argparse.Namespace, videos: Sequence[str]) -> None:
    """UserError if a file cannot be written under its name, or exists and is not to be overwritten.

    `videos` may be a file of windows, whose videos are not known yet.
    """
    if args.page and args.page.suffix != ".html":
        raise UserError(f"--page {args.page}: expected a name that ends in .html")
    outputs = _overlays(args, videos)
    for path, times in Counter(outputs).items():
        if times > 1:
            raise UserError(f"--overlay {args.overlay}: {times} videos would be {path}; rename them")
    for output in set(outputs):
        if output.exists() and any(os.path.exists(video) and output.samefile(video) for video in videos):
            raise UserError(f"--overlay {output} is the video itself: choose another name for the copy with labels")
    if not args.overwrite:
        check_absent((*outputs, args.page), "give another name, or --overwrite")


def write_pictures(
    args: argparse.Namespace, timelines: "Sequence[Timeline]", class_names: Sequence[str], fps: float | None
) -> list[str]:
    """Writes --overlay and --page; returns the errors of videos that cannot be copied.

    `fps` is the frame rate of videos without one.
    """
    if not args.overlay and not args.page:
        return []
    from timesformer.atomic import report_write_errors
    from timesformer.datasets.decoding.open import VideoError
    from timesformer.visualization.labelled_video import Labels, write_overlay
    from timesformer.visualization.pages.timeline_page import VideoTimeline, write_timeline_page
    from timesformer.visualization.thumbnails import read_thumbnails

    known = [timeline for timeline in timelines if timeline.windows]
    overlays = _overlays(args, [timeline.video for timeline in known])
    copies: dict[str, Path] = {}
    errors = []
    for path in (*overlays, *filter(None, [args.page])):
        with report_write_errors(path, "choose another folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
    for timeline, output in zip(known, overlays, strict=False):
        labels = Labels(timeline.windows, timeline.segments, class_names)
        try:
            notes = write_overlay(timeline.video, labels, output, fps, args.quiet)
        except VideoError as error:
            errors.append(str(error))
            continue
        copies[timeline.video] = output
        for note in notes:
            print(f"note: {timeline.video}: {note}", file=sys.stderr)
    if args.page and known:
        shown = [
            VideoTimeline(
                timeline.video,
                timeline.windows,
                timeline.segments,
                read_thumbnails(timeline.video, fps),
                copies.get(timeline.video),
            )
            for timeline in known
        ]
        write_timeline_page(args.page, shown, class_names, [t.error for t in timelines if t.error])
    return errors


def _overlays(args: argparse.Namespace, videos: Sequence[str]) -> list[Path]:
    """The copies with labels, one for each video; none without --overlay."""
    if not args.overlay:
        return []
    if args.overlay.suffix.lower() == ".mp4":
        if len(videos) > 1:
            raise UserError(f"--overlay {args.overlay}: there are {len(videos)} videos, name a folder for their copies")
        return [args.overlay] * len(videos)
    return [args.overlay / f"{Path(os.path.basename(os.path.normpath(video))).stem}.mp4" for video in videos]
