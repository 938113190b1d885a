"""Predicts the classes of videos with a trained model (docs/predicting.md).

python tools/predict.py --checkpoint best.pyth clip.mp4
python tools/predict.py --checkpoint best.pyth folder --output predictions.csv --features embeddings.npz
python tools/predict.py --checkpoint best.pyth --stream rtsp://camera.local/live --output answers.jsonl

Exit code: 0 if every video was predicted, 3 if some could not be read, 2 for a user error, 128 + N for signal N. With
--output or --features, the same command resumes an interrupted one.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, TypeVar

from timesformer.arguments import (
    Parser,
    add_device,
    add_import,
    as_path,
    as_source,
    at_least,
    not_negative,
    parse_intermixed,
    positive,
    probability,
)
from timesformer.atomic import unfinished_path
from timesformer.commands import predict_timeline
from timesformer.commands.command import run_command
from timesformer.commands.predict_stream import add_stream_options, check_sources, predict_stream, stream_problem
from timesformer.config.load import resembles_key
from timesformer.errors import shorten
from timesformer.runtime.signals import raise_if_interrupted

if TYPE_CHECKING:
    from timesformer.inference.classifier import Classifier

Item = TypeVar("Item")

SOME_UNREADABLE = 3
THRESHOLD = 0.5
TOP_K = 5
LISTED = 100
"""Maximum number of unreadable videos listed at the end; --output has all of them."""

OUTPUT_HELP = """.csv or .json file; with --timeline also .vtt, with --stream .jsonl; without it, lines are
printed"""
VIDEOS_HELP = """video files, folders of frames, and folders that are searched for them at any depth; then KEY VALUE
pairs that override the checkpoint's options; put -- before names that begin with a dash"""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Predicts the classes of videos with a trained model.",
        epilog="Exit code: 0 all videos predicted, 3 some could not be read, 2 user error. See docs/predicting.md",
    )
    add = parser.add_argument
    add("--checkpoint", type=as_source, metavar="FILE", help="best.pyth, the folder of a run, ...")
    add("videos", nargs="*", metavar="VIDEO", help=VIDEOS_HELP)
    add("--top-k", type=at_least(1), metavar="N", help=f"number of classes listed for a video ({TOP_K})")
    add("--output", type=as_path, metavar="FILE", help=OUTPUT_HELP)
    add("--features", type=as_path, metavar="FILE", help=".npz file for an embedding of each video")
    add("--overwrite", action="store_true", help="replace existing files")
    add("--views", type=at_least(1), metavar="N", help="number of clips along the time of each video")
    add("--crops", type=int, choices=(1, 3), help="crops of each clip: the center, or three")
    add("--sampler", help="of frames: dense, uniform, equidistant, random or segment")
    add("--batch-size", type=at_least(1), metavar="N", help="number of clips computed together")
    add_device(parser)
    add("--workers", type=at_least(0), metavar="N", help="processes that read videos; default: one per core; 0: none")
    add("--cfg", type=as_path, metavar="YAML", help="configuration, for checkpoints without one")
    add_import(parser)
    add("--quiet", action="store_true", help="print only errors, and predictions if there is no output file")
    group = parser.add_argument_group("long videos and streams")
    group.add_argument(
        "--window", type=positive, metavar="S", help="length of a window in seconds; default: a clip's span"
    )
    group.add_argument("--stride", type=positive, metavar="S", help="seconds between windows; default: half a window")
    group.add_argument("--threshold", type=probability, metavar="P", help=f"least probability of a class ({THRESHOLD})")
    group.add_argument("--smooth", type=not_negative, metavar="S", help="average over so many seconds (0)")
    background = "a class that is no action; repeatable"
    group.add_argument("--background", action="append", metavar="CLASS", help=background)
    group.add_argument(
        "--overlay",
        type=as_path,
        metavar="FILE",
        help=".mp4 file with the classes drawn into it; of several videos, a folder",
    )
    predict_timeline.add_options(parser)
    add_stream_options(parser)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    args = parse_intermixed(parser, "videos", arguments)
    videos, args.opts = split_overrides(args.videos)
    args.videos = [as_source(video) for video in videos]
    if problem := stream_problem(args):
        parser.error(problem)
    if not args.videos and not args.stream:
        parser.error("name a video, or a folder of videos")
    if problem := predict_timeline.option_problem(args):
        parser.error(problem)
    args.top_k = args.top_k or TOP_K
    if args.output and not (args.stream or args.timeline) and args.output.suffix not in (".csv", ".json"):
        parser.error(f"--output {args.output}: expected a name that ends in .csv or .json")
    if args.features and args.features.suffix != ".npz":
        parser.error(f"--features {args.features}: expected a name that ends in .npz")
    test = {"NUM_ENSEMBLE_VIEWS": args.views, "NUM_SPATIAL_CROPS": args.crops, "BATCH_SIZE": args.batch_size}
    args.opts += [part for key, value in test.items() if value for part in (f"TEST.{key}", str(value))]
    return args


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates videos from the KEY VALUE pairs that follow; a missing CLIP.MP4 is a video."""
    from timesformer.datasets.sources.clip_files import is_video_name

    pairs = (not os.path.lexists(word) and not is_video_name(word) and resembles_key(word) for word in words)
    start = next((number for number, is_pair in enumerate(pairs) if is_pair), len(words))
    return list(words[:start]), list(words[start:])


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may be invalid UTF-8
    return run_command(lambda: run(args), lambda: interrupted(args))


def interrupted(args: argparse.Namespace) -> str:
    """Returns the message of an interrupted command, without imports, which may be what was interrupted."""
    output = args.output or args.features
    resumes = output and not args.stream and (not args.timeline or unfinished_path(output).exists())
    return "interrupted; the same command resumes" if resumes else "interrupted"


def run(args: argparse.Namespace) -> int:
    from timesformer.datasets.sources.clip_files import find_videos, skipped_line

    check_sources(args)
    paths, skipped = find_videos(args.videos)  # before PyTorch is imported, which takes seconds
    if skipped and not args.quiet:
        print(skipped_line(skipped), file=sys.stderr)
    if args.stream:
        return predict_stream(args, load(args))
    if args.timeline:
        errors = predict_timeline.run_timeline(args, paths, lambda: load(args))
    else:
        errors = (write_files if args.output or args.features else print_lines)(args, load(args), paths)
    if errors:
        to_end = " to the end" if args.timeline else ""
        print(f"{len(errors)} of {len(paths)} videos could not be read{to_end}:", file=sys.stderr)
        print("  " + shorten(errors, "\n  ", LISTED), file=sys.stderr)
    return SOME_UNREADABLE if errors else 0


def load(args: argparse.Namespace) -> "Classifier":
    """Loads and describes the model."""
    from timesformer.datasets.workers.pool import SERVER
    from timesformer.inference.classifier import load_model

    if args.workers != 0 and not args.stream:
        SERVER.fork()
    classifier = load_model(args.checkpoint, args.device, args.opts, cfg=args.cfg)
    if not args.quiet:
        print(repr(classifier), file=sys.stderr, flush=True)
    return classifier


def show_progress(predictions: Iterator[Item], total: int, done: int, quiet: bool) -> Iterator[Item]:
    from timesformer.progress import Progress

    with nullcontext() if quiet or total == 1 else Progress("predicting", total, "video", done) as progress:
        for prediction in predictions:
            raise_if_interrupted()
            yield prediction
            if progress:
                progress.advance()


def print_lines(args: argparse.Namespace, classifier: "Classifier", paths: list[str]) -> list[str]:
    """Prints a line for each video, in order; returns the errors of unreadable videos."""
    from timesformer.inference.prediction import CoverageNotes

    options = {"top_k": args.top_k, "sampler": args.sampler}
    errors, notes = [], CoverageNotes()
    with closing(classifier.predict_many(paths, workers=args.workers, **options)) as predictions:
        for prediction in show_progress(predictions, len(paths), 0, args.quiet or sys.stdout.isatty()):
            if prediction.error:
                errors.append(prediction.error)
            else:
                print(prediction, flush=True)
                notes.add(prediction)
    notes.print(args.quiet)
    return errors


def write_files(args: argparse.Namespace, classifier: "Classifier", paths: list[str]) -> list[str]:
    """Writes --output and --features; returns the errors of unreadable videos."""
    from timesformer.inference.journal import settings_of
    from timesformer.inference.prediction import CoverageNotes
    from timesformer.inference.prediction_files import PredictionFiles
    from timesformer.models.parts import record_features

    cfg, features = classifier.options(sampler=args.sampler), bool(args.features)
    if features:
        with record_features(classifier.model):
            pass  # raises before there are files if the model gives no embeddings
    notes = CoverageNotes()
    settings = settings_of(classifier, cfg, top_k=args.top_k, features=features)
    with PredictionFiles(paths, settings, args.output, args.features, args.overwrite) as files:
        done = len(files.finished)
        if done and not args.quiet:
            print(f"resuming: {done} of {len(paths)} videos are predicted", file=sys.stderr, flush=True)
        with closing(
            classifier.as_completed(
                cfg, paths, args.top_k, features=features, workers=args.workers, finished=files.finished
            )
        ) as predictions:
            for number, prediction in show_progress(predictions, len(paths), done, args.quiet):
                files.add(number, prediction)
                notes.add(prediction)
        errors = list(files.errors())
        header = {"checkpoint": str(classifier.path), "class_names": list(classifier.class_names)}
        header["num_views"] = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        header["temperature"] = classifier.temperature(cfg)
        files.finish(header, min(args.top_k, len(classifier.class_names)))
    if not args.quiet:
        names = ", ".join(str(path) for path in (args.output, args.features) if path)
        print(f"{len(paths) - len(errors)} of {len(paths)} videos predicted: {names}")
    notes.print(args.quiet)
    return errors
