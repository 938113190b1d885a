"""`predict --timeline`: when which action happens in long videos (docs/long_videos.md)."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from timesformer.arguments import as_path, given_options, positive, probability
from timesformer.atomic import unfinished_path
from timesformer.commands.timeline_pictures import check_pictures, write_pictures
from timesformer.errors import UserError, counted

if TYPE_CHECKING:
    from timesformer.inference.classifier import Classifier
    from timesformer.localization.timeline import Timeline

SUFFIXES = (".csv", ".json", ".vtt")
OF_TIMELINES = ("leave", "min_length", "gaps", "fps", "annotations", "page")
OF_TIMELINES += ("window", "stride", "threshold", "smooth", "background", "overlay")  # and of streams
NOT_OF_TIMELINES = ("features", "top_k")
OF_VIDEOS = ("checkpoint", "views", "crops", "sampler", "batch_size", "device", "workers", "cfg", "window", "stride")
"""Options that have no effect on saved scores."""

OF_SCORES = ("threshold", "leave", "smooth", "min_length", "background", "gaps")
"""Options that have no effect on saved segments."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of long videos; those of streams too are elsewhere."""
    group = parser.add_argument_group("long videos", "when which action happens (docs/long_videos.md)")
    add = group.add_argument
    add("--timeline", action="store_true", help="find segments; VIDEO may be a CSV file that --timeline has written")
    add(
        "--leave",
        type=probability,
        metavar="P",
        help="probability below which a segment ends; default: 0.8 x --threshold",
    )
    add("--min-length", type=positive, metavar="S", help="leave out shorter segments")
    add("--gaps", action="store_true", help="list the time without action too, with an empty class")
    add("--fps", type=positive, metavar="N", help="frame rate of folders of frames; default: DATA.TARGET_FPS")
    add("--annotations", type=as_path, metavar="CSV", help="video,start,end,class: measure the segments")
    add("--page", type=as_path, metavar="FILE", help=".html file with the segments over time and a player")


def option_problem(args: argparse.Namespace) -> str:
    """Returns which options do not fit together; "" if all do."""
    if not args.timeline:
        if (given := given_options(args, OF_TIMELINES)) and not args.stream:
            return f"{given[0]} is for long videos: add --timeline"
    elif given := given_options(args, NOT_OF_TIMELINES):
        return f"{given[0]} is not available with --timeline"
    elif all(map(is_saved, args.videos)) and (problem := _problem_with_saved(args)):
        return problem
    elif args.output and args.output.suffix not in SUFFIXES:
        return f"--output {args.output}: expected a name that ends in {', '.join(SUFFIXES)} for long videos"
    if not args.checkpoint and not (args.timeline and all(map(is_saved, args.videos))):
        return "the following arguments are required: --checkpoint"
    return ""


def _problem_with_saved(args: argparse.Namespace) -> str:
    """Which option has no effect on saved scores or segments; "" if all have one."""
    if given := [*given_options(args, OF_VIDEOS), *args.opts]:
        remedy = f"leave it out, or give the videos instead of {args.videos[0]}"
        return f"{given[0]} is for videos, but {args.videos[0]} has saved scores or segments: {remedy}"
    if args.fps and not (args.overlay or args.page):
        return "--fps is for --overlay and --page of saved scores: add one of them, or leave it out"
    return ""


def is_saved(video: str) -> bool:
    """Whether a video is a file of windows or segments."""
    return video.lower().endswith(".csv")


def run_timeline(args: argparse.Namespace, paths: Sequence[str], load: "Callable[[], Classifier]") -> list[str]:
    """Finds, prints or writes the segments of videos; returns the errors of unreadable videos.

    `load` returns the model; it is not called if all scores were saved before.
    """
    from timesformer.localization.saved import read_annotations
    from timesformer.localization.segments import with_defaults
    from timesformer.localization.timeline_files import check_output, metrics_path, windows_path, write_file

    options = {name: value for name in OF_SCORES if (value := getattr(args, name)) is not None}
    threshold = with_defaults(**options)["threshold"]
    if args.leave is not None and args.leave > threshold:
        expected = "expected at most the threshold, below which a segment ends"
        raise UserError(f"--leave {args.leave:g} is above --threshold {threshold:g}: {expected}")
    annotations = read_annotations(args.annotations) if args.annotations else None
    if args.output:
        saved = Path(paths[0]) if is_saved(paths[0]) else None
        is_resumed = args.overwrite or unfinished_path(args.output).exists()
        check_output(args.output, len(paths), is_resumed, bool(annotations), saved)
    check_pictures(args, paths)
    if all(map(is_saved, paths)):
        found = _read_saved(args, paths, options)
    elif any(map(is_saved, paths)):
        raise UserError("CSV files and videos cannot be given together: run the command twice")
    else:
        classifier = load()
        if annotations:
            annotations.check(paths, classifier.class_names)
        found = _compute(args, paths, classifier, options)
    timelines = found.timelines
    errors = [timeline.error for timeline in timelines if timeline.error]
    if annotations:
        metrics, note = annotations.evaluate(timelines, found.class_names)
        print("\n".join([str(metrics), *filter(None, [note])]), flush=True)
        if args.output:
            write_file(metrics_path(args.output), json.dumps(metrics.to_dict(), indent=2) + "\n")
    try:
        errors += write_pictures(args, timelines, found.class_names, found.fps)
    except KeyboardInterrupt:
        if args.output:
            again = f"--timeline {windows_path(args.output)} --overwrite"
            print(f"{args.output} is complete; {again} makes --overlay and --page without the model", file=sys.stderr)
        raise
    if args.output and not args.quiet:
        number = sum(len(timeline.segments) for timeline in timelines)
        print(f"{counted(number, 'segment')}: {args.output}")
    return errors


class _Found(NamedTuple):
    timelines: "list[Timeline]"
    class_names: Sequence[str]  # empty if only segments were saved
    fps: float | None  # frame rate of videos without one


def _read_saved(args: argparse.Namespace, paths: Sequence[str], options: dict[str, Any]) -> _Found:
    from timesformer.localization.saved import read_timelines
    from timesformer.localization.segments import with_defaults
    from timesformer.localization.timeline_files import check_output, windows_path, write_timelines

    if len(paths) > 1:
        raise UserError(f"{len(paths)} CSV files: expected one")
    saved = Path(paths[0])
    timelines, class_names = read_timelines(saved, **options)
    if not class_names and (given := given_options(args, (*OF_SCORES, "overlay", "page"))):
        raise UserError(f"{saved} has no scores for {given[0]}: give {windows_path(saved)}, or leave out {given[0]}")
    located = [replace(timeline, video=_locate(timeline.video, saved.parent)) for timeline in timelines]
    check_pictures(args, [timeline.video for timeline in located])
    if args.output:
        check_output(args.output, len(timelines), args.overwrite, bool(args.annotations), saved)
        header: dict[str, Any] = {"segments": paths[0]}
        if class_names:
            header = {"windows": paths[0], "class_names": class_names, **with_defaults(**options)}
        write_timelines(args.output, timelines, class_names, header, saved)
    else:
        print("\n".join(map(str, timelines)), flush=True)
    return _Found(located, class_names, args.fps)


def _locate(video: str, folder: Path) -> str:
    """The path of a video, which may be relative to the folder of the file that names it."""
    return video if os.path.exists(video) or not (folder / video).exists() else str(folder / video)


def _compute(
    args: argparse.Namespace, paths: Sequence[str], classifier: "Classifier", options: dict[str, Any]
) -> _Found:
    from timesformer.inference.classifier import in_order
    from timesformer.inference.journal import settings_of
    from timesformer.localization.many_videos import VideoProgress, find_in_videos
    from timesformer.localization.segments import with_defaults
    from timesformer.localization.timeline_files import sampling_settings, write_timelines
    from timesformer.localization.unfinished import UnfinishedTimelines
    from timesformer.localization.window_length import default_window

    cfg, class_names = classifier.options(sampler=args.sampler), list(classifier.class_names)
    note = "" if args.window else default_window(cfg, 1.0, classifier.clip_seconds)[1]
    if note and not args.quiet:
        print(f"note: {note}", file=sys.stderr, flush=True)
    reading = {"window": args.window, "stride": args.stride, "fps": args.fps}
    with ExitStack() as stack:
        unfinished, timelines = None, {}
        if args.output:
            settings = settings_of(classifier, cfg, **reading)
            unfinished = stack.enter_context(UnfinishedTimelines(paths, settings, args.output, args.overwrite))
            timelines = {n: found.with_segments(class_names, **options) for n, found in unfinished.finished.items()}
        if timelines and not args.quiet:
            print(f"resuming: {len(timelines)} of {len(paths)} videos are predicted", file=sys.stderr, flush=True)
        progress = stack.enter_context(VideoProgress(len(paths), len(timelines), args.quiet))
        found = find_in_videos(
            classifier,
            paths,
            cfg=cfg,
            workers=args.workers,
            finished=set(timelines),
            on_part=progress.count,
            **reading,
            **options,
        )
        found = stack.enter_context(closing(found))
        if not unfinished:
            for number, timeline in enumerate(in_order(found)):
                timelines[number] = timeline
                print(timeline, flush=True)
        else:
            for number, timeline in found:
                unfinished.add(number, timeline)
                timelines[number] = timeline
        ordered = [timelines[number] for number in range(len(paths))]
        fps = args.fps or cfg.DATA.TARGET_FPS
        if unfinished:
            header = {"checkpoint": str(classifier.path), "class_names": class_names, **_lengths(args, ordered)}
            header |= {"fps": fps} if any(map(os.path.isdir, paths)) else {}  # of folders of frames
            header |= {"temperature": classifier.temperature(cfg), **sampling_settings(cfg), **with_defaults(**options)}
            write_timelines(args.output, ordered, class_names, header)
            unfinished.remove()
    return _Found(ordered, class_names, fps)


def _lengths(args: argparse.Namespace, timelines: "Sequence[Timeline]") -> dict[str, float | None]:
    """Window and stride in seconds; null if all videos are shorter than a window, or the window differs."""
    lengths = {
        round(timeline.windows[0].end - timeline.windows[0].start, 6)
        for timeline in timelines
        if len(timeline.windows) > 1
    }
    window = args.window or (lengths.pop() if len(lengths) == 1 else None)
    return {"window": window, "stride": args.stride or (window / 2 if window else None)}
