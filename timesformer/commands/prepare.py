"""Downloads, re-encodes, checks or splits a dataset: python tools/prepare.py DATASET ROOT (docs/preparing.md)."""

import argparse
import io
import logging
import os
import re
import sys
from collections.abc import Sequence

from timesformer.arguments import Parser, as_path, between, positive
from timesformer.commands.command import run_command
from timesformer.datasets.workers.pool import TIME_LIMIT
from timesformer.preparation.archive_urls import ARCHIVE_URLS
from timesformer.preparation.demo_classes import CLASSES

SIMILARITY = 0.82
FROZEN_FRACTION = 0.1
_DATASETS = ("folder", "hmdb51", "hmdb_simp", "kinetics", "muwiges", "ssv2", "ucf101")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every clip is readable, 1 if some are not, a class has none or lists do not fit."""
    options = parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # clip names may not be text that the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command(lambda: run(options), "interrupted; the same command continues")


def run(options: argparse.Namespace) -> int:
    from timesformer.commands import prepare_steps as steps

    special = {"hmdb_simp": steps.prepare_hmdb_simp, "demo": steps.make_demo, "shards": steps.make_shards}
    return special.get(options.dataset, steps.prepare)(options)


def make_parser() -> argparse.ArgumentParser:
    """The options of the command; they depend on the dataset."""
    parser = Parser(description="Prepares a dataset; see docs/preparing.md.")
    datasets = parser.add_subparsers(
        dest="dataset", metavar="DATASET", required=True, help=", ".join((*_DATASETS, "shards", "demo"))
    )
    for dataset in _DATASETS:
        description = "Downloads, converts and checks a dataset, in this order. An interrupted step continues."
        if dataset == "hmdb_simp":
            description = "Splits ROOT/<class>/<clip> into train.csv, val.csv and test.csv, after decoding every clip."
        added = datasets.add_parser(dataset, description=description)
        added.add_argument("root", type=as_path, metavar="ROOT", help="folder of the dataset")
        added.add_argument("--output", type=as_path, help="folder for the generated files (docs/preparing.md)")
        workers = "number of processes (default: all cores)"
        added.add_argument("--workers", type=between(int, 1), default=os.cpu_count(), help=workers)
        _add_report_options(added)
        (_add_split_options if dataset == "hmdb_simp" else _add_options)(added, dataset)
    _add_shard_options(datasets.add_parser("shards", description="Writes the clips of a dataset into tar shards."))
    _add_demo_options(datasets.add_parser("demo", description="Generates a small dataset of moving shapes."))
    for added in datasets.choices.values():
        added.set_defaults(parser=added)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    options, options.overrides = make_parser().parse_known_args(arguments)
    if unknown := [word for word in options.overrides[::2] if not re.fullmatch(r"[A-Z][A-Z0-9_.]*", word)]:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.dataset not in ("hmdb_simp", "shards", "demo"):
        if not (options.download or options.short_side or options.frames or options.check):
            steps = "--download, " if options.dataset in ARCHIVE_URLS else ""
            options.parser.error(f"nothing to do: give one or more of {steps}--short-side 256, --frames and --check")
        if options.short_side % 2 and not options.frames:
            options.parser.error(f"--short-side {options.short_side}: expected an even number for H.264")
    return options


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=as_path, metavar="FOLDER", help="folder to make, e.g. data/demo")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--clips-per-class",
        type=between(int, 1),
        nargs=3,
        default=(120, 20, 40),
        metavar=("TRAIN", "VAL", "TEST"),
        help="clips of each class in each split (default: 120 20 40)",
    )
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=list(CLASSES), help="default: all")
    parser.add_argument("--workers", type=between(int, 1), default=2, help="number of processes (default: 2)")


def _add_shard_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", choices=_DATASETS, metavar="DATASET", help=", ".join(_DATASETS))
    parser.add_argument("root", type=as_path, metavar="ROOT", help="folder of the dataset")
    parser.add_argument("--output", type=as_path, help="folder of the shards (default: ROOT_shards)")
    size = "of a shard in MB, except for larger clips (default: 500)"
    parser.add_argument("--max-size", type=between(float, 0.001), default=500, metavar="MB", help=size)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    add, number = parser.add_argument, between(float, 0, 1)
    threshold = f"least similarity of duplicates, from 0 to 1 (default: {SIMILARITY:g})"
    add("--duplicates", type=number, default=SIMILARITY, metavar="SIMILARITY", help=threshold)
    add("--no-duplicates", dest="duplicates", action="store_const", const=None, help="do not search them")
    freeze = f"least fraction of unchanged frames of frozen clips (default: {FROZEN_FRACTION:g})"
    add("--frozen", type=number, default=FROZEN_FRACTION, metavar="FRACTION", help=freeze)
    add("--run", type=as_path, metavar="OUTPUT_DIR", help="run to measure without leaked test clips")


def _add_split_options(parser: argparse.ArgumentParser, dataset: str) -> None:
    fraction = between(float, 0.001, 0.999)
    parser.add_argument("--seed", type=int, default=42, help="of the split (default: 42)")
    parser.add_argument("--test", type=fraction, default=0.1, help="fraction of all clips for test (default: 0.1)")
    parser.add_argument("--val", type=fraction, default=0.2, help="fraction of the remaining clips (default: 0.2)")
    parser.add_argument("--force", action="store_true", help="replace files of an earlier run")
    parser.add_argument("--check", action="store_true", help="keep the existing split: only decode and report")
    _add_download_options(parser, dataset)


def _add_download_options(parser: argparse.ArgumentParser, dataset: str) -> None:
    parser.set_defaults(download=False, url=("", ""))
    if urls := ARCHIVE_URLS.get(dataset):
        help_text = f"of the archives, with #sha256=<hex> if known (default: {' and '.join(urls)})"
        names = ("VIDEOS", "LISTS") if len(urls) == 2 else ("FRAMES",)
        parser.add_argument("--download", action="store_true", help="download and unpack what ROOT lacks")
        parser.add_argument("--url", nargs=len(names), metavar=names, help=help_text)


def _add_options(parser: argparse.ArgumentParser, dataset: str) -> None:
    _add_download_options(parser, dataset)
    short_side = "re-encode every clip as H.264 for fast reading, the short side scaled down to this, e.g. 256"
    parser.add_argument("--short-side", type=between(int, 16), default=0, metavar="PIXELS", help=short_side)
    parser.add_argument("--frames", action="store_true", help="make a folder of JPEG frames of every clip instead")
    parser.add_argument("--quality", type=between(int, 1, 95), default=90, help="of JPEG frames (default: 90)")
    parser.add_argument("--check", action="store_true", help="decode every clip and write manifest.csv for training")
    time_limit = f"after which a clip counts as unreadable (default: {TIME_LIMIT:g})"
    parser.add_argument("--time-limit", type=positive, default=TIME_LIMIT, metavar="SECONDS", help=time_limit)
