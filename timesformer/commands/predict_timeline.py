"""`predict --timeline`: when which action happens in long videos (docs/long_videos.md)."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timesformer.arguments import as_path, positive
from timesformer.commands.timeline_pictures import check_pictures, write_pictures
from timesformer.errors import UserError
from timesformer.runtime.signals import raise_if_interrupted

if TYPE_CHECKING:
    from timesformer.inference.classifier import Classifier
    from timesformer.localization.timeline import Timeline
    from timesformer.metrics.localization import LocalizationMetrics

SUFFIXES = (".csv", ".json", ".vtt")
NEEDS_TIMELINE = ("leave", "min_length", "background", "gaps", "fps", "annotations", "page")
FOR_STREAMS_TOO = ("window", "stride", "threshold", "smooth", "overlay")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of long videos; those of streams too are elsewhere."""
    group = parser.add_argument_group("long videos", "when which action happens (docs/long_videos.md)")
    add = group.add_argument
    add("--timeline", action="store_true", help="find segments; VIDEO may be a CSV file that --timeline has written")
    add("--leave", type=float, metavar="P", help="probability below which a segment ends; default: 0.8 x --threshold")
    add("--min-length", type=positive, metavar="S", help="leave out shorter segments")
    add("--background", action="append", metavar="CLASS", help="a class that is no action; repeatable")
    add("--gaps", action="store_true", help="list the time without action too, with an empty class")
    add("--fps", type=positive, metavar="N", help="frame rate of folders of frames; default: DATA.TARGET_FPS")
    add("--annotations", type=as_path, metavar="CSV", help="video,start,end,class: measure the segments")
    add("--page", type=as_path, metavar="FILE", help=".html file with the segments over time and a player")


def option_problem(args: argparse.Namespace) -> str:
    """Returns which options do not fit together; "" if all do."""
    if not args.timeline:
        names = NEEDS_TIMELINE if args.stream else (*NEEDS_TIMELINE, *FOR_STREAMS_TOO)
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)]
        if given:
            return f"{given[0]} is for long videos: add --timeline"
    elif args.stream or args.features:
        return f"{'--stream' if args.stream else '--features'} is not available with --timeline"
    elif args.output and args.output.suffix not in SUFFIXES:
        return f"--output {args.output}: expected a name that ends in {', '.join(SUFFIXES)} for long videos"
    if not args.checkpoint and not (args.timeline and all(map(is_saved, args.videos))):
        return "the following arguments are required: --checkpoint"
    return ""


def is_saved(video: str) -> bool:
    """Whether a video is a file of windows or segments."""
    return video.lower().endswith(".csv")


def run_timeline(args: argparse.Namespace, paths: Sequence[str], load: "Callable[[], Classifier]") -> list[str]:
    """Finds, prints or writes the segments of videos; returns the errors of unreadable videos.

    `load` returns the model; it is not called if all scores were saved before.
    """
    from timesformer.localization.saved import read_annotations
    from timesformer.localization.timeline_files import check_output, metrics_path, write_file, write_timelines

    names = {"threshold": args.threshold, "leave": args.leave, "smooth": args.smooth, "min_length": args.min_length}
    names |= {"background": args.background, "keep_gaps": args.gaps}
    options = {name: value for name, value in names.items() if value is not None}
    annotations = read_annotations(args.annotations) if args.annotations else None
    if args.output:
        check_output(args.output, len(paths), args.overwrite, bool(annotations))
    check_pictures(args, paths)
    if all(map(is_saved, paths)):
        timelines, class_names, header = _read_saved(paths, options)
        if args.output:
            check_output(args.output, len(timelines), args.overwrite, bool(annotations))
        if not class_names and (args.overlay or args.page):
            raise UserError(
                f"{paths[0]} has no scores for --overlay and --page: give the file ..._windows.csv next to it"
            )
        check_pictures(args, [timeline.video for timeline in timelines])
    elif any(map(is_saved, paths)):
        raise UserError("CSV files and videos cannot be given together: run the command twice")
    else:
        timelines, class_names, header = _compute(args, paths, load(), options)
    if args.output:
        write_timelines(args.output, timelines, class_names, header)
    else:
        print("\n".join(map(str, timelines)), flush=True)
    errors = [timeline.error for timeline in timelines if timeline.error]
    errors += write_pictures(args, timelines, class_names, header.get("fps") or args.fps)
    if annotations:
        metrics, note = annotations.evaluate(timelines, class_names)
        print(_metrics_table(metrics, note), flush=True)
        if args.output:
            write_file(metrics_path(args.output), json.dumps(metrics.to_dict(), indent=2) + "\n")
    if args.output and not args.quiet:
        print(f"{sum(len(timeline.segments) for timeline in timelines)} segments: {args.output}")
    return errors


def _read_saved(paths: Sequence[str], options: dict[str, Any]) -> "tuple[list[Timeline], list[str], dict[str, Any]]":
    from timesformer.localization.saved import read_timelines

    if len(paths) > 1:
        raise UserError(f"{len(paths)} CSV files: expected one")
    saved = read_timelines(Path(paths[0]), **options)
    return saved.timelines, saved.class_names, {"windows": paths[0], "class_names": saved.class_names, **options}


def _compute(
    args: argparse.Namespace, paths: Sequence[str], classifier: "Classifier", options: dict[str, Any]
) -> "tuple[list[Timeline], list[str], dict[str, Any]]":
    from timesformer.datasets.decoding.open import VideoError
    from timesformer.localization.timeline import Timeline, find_actions
    from timesformer.localization.windows import default_window

    cfg = classifier.options(sampler=args.sampler)
    note = "" if args.window else default_window(cfg, 1.0)[1]
    if note and not args.quiet:
        print(f"note: {note}", file=sys.stderr, flush=True)
    timelines = []
    for number, path in enumerate(paths, start=1):
        label = f"video {number} of {len(paths)}" if len(paths) > 1 else "scoring"
        with _VideoProgress(label, args.quiet) as progress:
            try:
                timeline = find_actions(
                    classifier,
                    path,
                    window=args.window,
                    stride=args.stride,
                    fps=args.fps,
                    cfg=cfg,
                    on_open=progress.open,
                    on_frame=progress.frame,
                    **options,
                )
            except VideoError as error:
                timeline = Timeline(path, error=str(error))
            if not timeline.error:
                progress.finish()
        timelines.append(timeline)
    header = {"checkpoint": str(classifier.path), "class_names": list(classifier.class_names)}
    header |= {"window": args.window, "stride": args.stride, "fps": args.fps or cfg.DATA.TARGET_FPS}
    header |= {"temperature": classifier.temperature(cfg), **options}
    return timelines, list(classifier.class_names), header


class _VideoProgress:
    """Progress over the seconds of a video, and an answer to Ctrl-C."""

    def __init__(self, what: str, quiet: bool) -> None:
        self._what, self._quiet, self._total, self._done = what, quiet, 0, 0
        self._progress: Any = None

    def __enter__(self) -> "_VideoProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.__exit__()

    def open(self, duration: float) -> None:
        from timesformer.progress import Progress

        self._total = math.ceil(duration)
        if not self._quiet:
            self._progress = Progress(self._what, self._total or None, "second of video")
            self._progress.__enter__()

    def frame(self, time: float, _: object) -> None:
        raise_if_interrupted()
        self._advance(int(time))

    def finish(self) -> None:
        self._advance(self._total)

    def _advance(self, done: int) -> None:
        if self._progress and done > self._done:
            self._progress.advance(done - self._done)
            self._done = done


def _metrics_table(metrics: "LocalizationMetrics", note: str) -> str:
    width = max(map(len, ("mean", *metrics.average_precision)))
    rows = [*metrics.average_precision.items(), ("mean", metrics.mean_average_precision)]
    lines = [
        f"{'average precision (%) at temporal IoU':{width}}",
        f"{'':{width}}  " + "  ".join(f"{threshold:5.1f}" for threshold in metrics.thresholds),
        *(f"{name:{width}}  " + "  ".join(f"{value:5.1f}" for value in values) for name, values in rows),
        f"frame accuracy {metrics.frame_accuracy:.1f} %; of the annotated time {metrics.action_accuracy:.1f} %",
    ]
    return "\n".join([*lines, *([note] if note else [])])
