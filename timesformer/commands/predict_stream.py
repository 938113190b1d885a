"""`predict --stream`: follows a camera, a network stream or a pipe (docs/streams.md)."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from timesformer.arguments import at_least, given_options
from timesformer.errors import UserError
from timesformer.runtime.signals import raise_if_interrupted

if TYPE_CHECKING:
    import numpy as np

    from timesformer.inference.classifier import Classifier
    from timesformer.streaming.answer_file import AnswerFile
    from timesformer.streaming.events import StreamEvent
    from timesformer.streaming.labelled_frames import LabelledFrames
    from timesformer.streaming.live import Stream, StreamAnswer

STREAM_LOST = 3
REPORT_EVERY = 60.0
"""Seconds between two lines with latency and frame rates."""

RETRIES = 10
ONLY_STREAMS = ("show", "every_window", "retries")
NOT_FOR_STREAMS = ("features", "timeline", "leave", "min_length", "gaps", "fps", "annotations", "page", "workers")

_BARS = 3  # classes drawn into a frame


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of streams."""
    add = parser.add_argument_group("streams").add_argument
    source = """follow a camera (0), an rtsp://, rtmp://, http(s):// or udp:// address, a named pipe, or - (the standard
input)"""
    add("--stream", metavar="SOURCE", help=source)
    add("--show", action="store_true", help="show the stream and its classes in a window")
    add(
        "--every-window", action="store_true", help="wait for the model instead of dropping frames: for files in a pipe"
    )
    add("--retries", type=at_least(0), metavar="N", help=f"failed attempts in a row to connect again ({RETRIES})")


def stream_problem(args: argparse.Namespace) -> str:
    """Returns which options do not fit together; "" if all do."""
    names = NOT_FOR_STREAMS if args.stream else ONLY_STREAMS
    given = given_options(args, names)
    if not args.stream:
        return f"{given[0]} is for streams: add --stream SOURCE" if given else ""
    if args.videos:
        return f"--stream follows one stream: leave out {args.videos[0]}"
    if given:
        return f"{given[0]} is not available with --stream: leave it out"
    if args.output and args.output.suffix != ".jsonl":
        return f"--output {args.output}: expected a name that ends in .jsonl for a stream"
    return ""


def check_sources(args: argparse.Namespace) -> None:
    """Raises UserError if one of the videos is a stream, or --stream is not."""
    from timesformer.streaming.sources import is_stream, parse_source, public_name

    if args.stream:
        parse_source(args.stream)
    for video in filter(is_stream, args.videos):
        raise UserError(
            f"{public_name(video)} is a stream, expected files or folders: use --stream SOURCE, or download it"
        )


def predict_stream(args: argparse.Namespace, classifier: "Classifier") -> int:
    """Follows the stream until it ends; returns 0, or STREAM_LOST if it broke and did not come back."""
    from timesformer.streaming.answer_file import AnswerFile
    from timesformer.streaming.labelled_frames import LabelledFrames, VideoFileWriter
    from timesformer.streaming.live import Stream
    from timesformer.streaming.sources import public_name
    from timesformer.streaming.window import Window, follow_in_window

    names = ("window", "stride", "threshold", "smooth", "background", "top_k")
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    with ExitStack() as stack:
        window = stack.enter_context(closing(Window(public_name(args.stream)))) if args.show else None
        writer = stack.enter_context(VideoFileWriter(args.overlay, args.overwrite)) if args.overlay else None
        frames = None
        if shown := [use for use in (window and window.show, writer and writer.write) if use]:
            frames = LabelledFrames(_draw, lambda image, seconds: [use(image, seconds) for use in shown])
            stack.enter_context(frames)
        stream = stack.enter_context(
            Stream(
                classifier,
                args.stream,
                every_window=args.every_window,
                retries=RETRIES if args.retries is None else args.retries,
                on_frame=frames.add if frames else None,
                on_event=lambda event: _report_event(event, file, args.quiet),
                cfg=classifier.options(sampler=args.sampler),
                **options,
            )
        )
        if frames and not stream.is_paced:
            frames.leave_out()
        file = None
        if args.output:
            file = stack.enter_context(AnswerFile(args.output, stream, str(classifier.path), args.overwrite))
        if not args.quiet:
            print(f"connected to {stream.name}; Ctrl-C ends", file=sys.stderr, flush=True)
        try:
            answers, prints = _report(stream, args.quiet), not (args.quiet and file)
            if window:
                follow_in_window(window, stream, lambda: _follow(answers, frames, file, prints))
            else:
                _follow(answers, frames, file, prints)
        finally:
            if not args.quiet:
                left_out = f", {frames.left_out} not drawn" if frames and frames.left_out else ""
                print(f"{stream.statistics}{left_out}", file=sys.stderr, flush=True)
    if stream.problem:
        print(f"error: {stream.problem}", file=sys.stderr)
    return STREAM_LOST if stream.problem else 0


def _draw(image: "np.ndarray", answer: "StreamAnswer | None", seconds: float) -> "np.ndarray":
    from timesformer.visualization.video_overlay import draw_labels

    return draw_labels(image, answer.top[:_BARS] if answer else [], seconds, answer.class_name if answer else "")


def _report(stream: "Stream", quiet: bool) -> Iterator["StreamAnswer"]:
    """Yields the answers; prints numbers of the stream from time to time."""
    reported = time.monotonic()
    for answer in stream:
        raise_if_interrupted()
        yield answer
        if not quiet and time.monotonic() >= reported + REPORT_EVERY:
            reported = time.monotonic()
            print(stream.statistics, file=sys.stderr, flush=True)


def _report_event(event: "StreamEvent", file: "AnswerFile | None", quiet: bool) -> None:
    if not quiet:
        print(event, file=sys.stderr, flush=True)
    if file:
        file.add_event(event)


def _follow(
    answers: Iterator["StreamAnswer"], frames: "LabelledFrames | None", file: "AnswerFile | None", prints: bool
) -> None:
    for answer in answers:
        if answer.changed and prints:
            print(answer, flush=True)
        if file:
            file.add(answer)
        if frames:
            frames.answer = answer
            frames.check()
