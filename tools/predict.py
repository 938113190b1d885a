#!/usr/bin/env python3
"""What a trained model sees in videos: in one, or in a folder of ten thousand.

python tools/predict.py --checkpoint best.pyth clip.mp4
python tools/predict.py --checkpoint best.pyth folder --output predictions.csv --features embeddings.npz

Killed at any moment, the same command with --output or --features goes on where it was. Exit code: 0 if there is a
prediction for every video, 3 if some could not be read (they are listed), 2 if the command cannot be done as it is
given, 128 + N if signal N stopped it.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.arguments import as_path, as_source, parse_intermixed
from timesformer.config.load import resembles_key
from timesformer.datasets.sources.clip_files import is_video_name
from timesformer.errors import UserError, shorten
from timesformer.runtime.signals import exit_code, install_signal_handlers, raise_if_interrupted

if TYPE_CHECKING:
    from timesformer.inference.classifier import Classifier

Item = TypeVar("Item")

SOME_UNREADABLE = 3
LISTED = 100
"""Videos that could not be read and are named at the end; --output has all of them."""

# Where videos are read and clips computed on the same cores, threads that wait for each other must not keep those busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What a trained model sees in videos.",
        epilog="Exit code: 0 all videos predicted, 3 some could not be read, 2 not possible as given. "
        "See docs/predicting.md",
    )
    parser.add_argument(
        "--checkpoint", type=as_source, required=True, metavar="FILE", help="best.pyth, the folder of a run, ..."
    )
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="video files, folders of frames, and folders in which such are looked for at any depth; then, if wanted, "
        "KEY VALUE pairs that override the checkpoint's options; put -- before names that begin with a dash",
    )
    parser.add_argument("--top-k", type=at_least(1), default=5, metavar="N", help="classes listed of a video (5)")
    parser.add_argument(
        "--output", type=as_path, metavar="FILE", help=".csv or .json file; without it, lines are printed"
    )
    parser.add_argument("--features", type=as_path, metavar="FILE", help=".npz file for an embedding of each video")
    parser.add_argument("--overwrite", action="store_true", help="replace these files where they exist")
    parser.add_argument("--views", type=at_least(1), metavar="N", help="clips along the time of each video")
    parser.add_argument("--crops", type=int, choices=(1, 3), help="of each clip: the centre, or three")
    parser.add_argument("--sampler", help="of frames: dense, uniform, equidistant, random or segment")
    parser.add_argument("--batch-size", type=at_least(1), metavar="N", help="clips that are computed together")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; the GPU, if there is one")
    parser.add_argument(
        "--workers", type=at_least(0), metavar="N", help="processes that read videos; one for each core; 0: none"
    )
    parser.add_argument("--cfg", type=as_path, metavar="YAML", help="configuration, for checkpoints that hold none")
    parser.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    args = parse_intermixed(parser, "videos")
    videos, args.opts = split_overrides(args.videos)
    args.videos = [as_source(video) for video in videos]
    if not args.videos:
        parser.error("name a video, or a folder of videos")
    if args.output and args.output.suffix not in (".csv", ".json"):
        parser.error(f"--output {args.output}: expected a name that ends in .csv or .json")
    if args.features and args.features.suffix != ".npz":
        parser.error(f"--features {args.features}: expected a name that ends in .npz")
    given = {
        "TEST.NUM_ENSEMBLE_VIEWS": args.views,
        "TEST.NUM_SPATIAL_CROPS": args.crops,
        "TEST.BATCH_SIZE": args.batch_size,
    }
    args.opts += [part for key, value in given.items() if value for part in (key, str(value))]
    return args


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Videos, and the KEY VALUE pairs behind them; a missing CLIP.MP4 is a video."""
    pairs = (not os.path.lexists(word) and not is_video_name(word) and resembles_key(word) for word in words)
    start = next((number for number, is_pair in enumerate(pairs) if is_pair), len(words))
    return list(words[:start]), list(words[start:])


def at_least(least: int):  # a type for argparse
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number of {least} or more")
        return int(text)

    return number


def main() -> int:
    args = parse_args()
    install_signal_handlers()
    try:
        return run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        go_on = "; the same command goes on where it was" if args.output or args.features else ""
        print(f"interrupted{go_on}", file=sys.stderr)
        return exit_code(interrupt)


def run(args: argparse.Namespace) -> int:
    paths = find_videos(args.videos, args.quiet)  # before torch is imported, which takes seconds
    from timesformer.inference.classifier import load_model

    classifier = load_model(args.checkpoint, args.device, args.opts, cfg=args.cfg)
    if not args.quiet:
        print(repr(classifier), file=sys.stderr, flush=True)
    errors = (write_files if args.output or args.features else print_lines)(args, classifier, paths)
    if errors:
        print(f"{len(errors)} of {len(paths)} videos could not be read:", file=sys.stderr)
        print("  " + printable(shorten(errors, "\n  ", LISTED)), file=sys.stderr)
    return SOME_UNREADABLE if errors else 0


def find_videos(places: Sequence[str], quiet: bool) -> list[str]:
    """Paths of the videos, each once; UserError for a folder that has none.

    quiet: do not name the files that are not videos.
    """
    from timesformer.datasets.decoding.open import is_image_name
    from timesformer.datasets.sources.clip_files import KINDS, find_below, skipped_line

    found: dict[str, None] = {}
    skipped: dict[str, None] = {}
    for given in places:
        if not os.path.isdir(given):
            found[given] = None
            continue
        below = find_below(Path(given))
        if below.clips:
            found.update(dict.fromkeys(os.path.join(given, clip) for clip in below.clips))
            skipped.update(dict.fromkeys(os.path.join(given, name) for name in below.skipped))
        elif any(map(is_image_name, os.listdir(given))):
            found[given] = None
        else:
            others = f"; {skipped_line(below.skipped)}" if below.skipped else ""
            raise UserError(f"{given} holds no videos: expected {KINDS}, at any depth{others}")
    if skipped and not quiet:
        print(printable(skipped_line(list(skipped))), file=sys.stderr)
    return list(found)


def shown(predictions: Iterator[Item], total: int, done: int, quiet: bool) -> Iterator[Item]:
    """Passes predictions on and shows how far they have come."""
    from timesformer.progress import Progress

    with nullcontext() if quiet or total == 1 else Progress("predicting", total, "video", done) as progress:
        for prediction in predictions:
            raise_if_interrupted()
            yield prediction
            if progress:
                progress.advance()


def printable(text: str) -> str:
    """Names of files that are no UTF-8 in a form that every screen takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def print_lines(args: argparse.Namespace, classifier: "Classifier", paths: list[str]) -> list[str]:
    """Prints a line for each video, in their order; returns why some could not be read."""
    options = {"top_k": args.top_k, "sampler": args.sampler}
    errors = []
    with closing(classifier.predict_many(paths, workers=args.workers, **options)) as predictions:
        for prediction in shown(predictions, len(paths), 0, args.quiet or sys.stdout.isatty()):
            if prediction.error:
                errors.append(prediction.error)
            else:
                print(printable(str(prediction)), flush=True)
    return errors


def write_files(args: argparse.Namespace, classifier: "Classifier", paths: list[str]) -> list[str]:
    """Writes the files asked for; returns why some videos could not be read."""
    import yaml

    from timesformer.inference.prediction_files import PredictionFiles

    cfg = classifier.options(sampler=args.sampler)
    text = yaml.safe_load(cfg.dump())
    facts = {
        "weights": classifier.fingerprint(),
        "top_k": args.top_k,
        "features": bool(args.features),
        **{section: text[section] for section in ("DATA", "MODEL", "TIMESFORMER", "VIVIT", "TEST", "RNG_SEED")},
        "TRAIN": {key: text["TRAIN"][key] for key in ("DATASET", "MIXED_PRECISION", "TF32")},
    }
    with PredictionFiles(paths, facts, args.output, args.features, args.overwrite) as files:
        done = sum(files.finished)
        if done and not args.quiet:
            print(f"going on: {done} of {len(paths)} videos were predicted before", file=sys.stderr, flush=True)
        predictions = classifier.as_completed(
            cfg, paths, args.top_k, features=bool(args.features), workers=args.workers, finished=files.finished
        )
        with closing(predictions):
            for number, prediction in shown(predictions, len(paths), done, args.quiet):
                files.add(number, prediction)
        errors = list(files.errors())
        head = {"checkpoint": str(classifier.path), "class_names": list(classifier.class_names)}
        head["num_views"] = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        files.finish(head, min(args.top_k, len(classifier.class_names)))
    if not args.quiet:
        names = ", ".join(str(path) for path in (args.output, args.features) if path)
        print(f"{len(paths) - len(errors)} of {len(paths)} videos predicted: {names}")
    return errors


if __name__ == "__main__":
    sys.exit(main())
