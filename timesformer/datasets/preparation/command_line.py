"""The command line that datasets/<name>/prepare.py of all datasets have in common."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from timesformer.datasets.manifest import NAME, Row
from timesformer.datasets.preparation.check import check
from timesformer.datasets.preparation.clips_on_disk import find_clips
from timesformer.datasets.preparation.convert import NOTE, convert
from timesformer.datasets.preparation.download import ARCHIVES, download
from timesformer.datasets.preparation.jpeg_frames import extract_frames
from timesformer.datasets.preparation.processes import TIME_LIMIT
from timesformer.datasets.preparation.reencode import reencode
from timesformer.errors import UserError, shorten

SHOWN = 20
"""Clips that a summary on the screen names; the file it points to names all."""


def main(dataset: str, arguments: Sequence[str] | None = None, label_by_folder: bool = True) -> int:
    """Run the command line of a dataset.

    Args:
        dataset: its name in TRAIN.DATASET.
        arguments: without the program's name; None for those of this process.
        label_by_folder: whether clips lie in folders named after their classes.

    Returns:
        The exit status: 0 if all was done and every clip is readable, 1 if some are not, 2 for a mistake or a place
        that cannot be reached or written, 130 after Ctrl-C.
    """
    options = _parse(dataset, arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a clip's name need not be text that the screen can show
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _prepare(dataset, options, label_by_folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parse(dataset: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"datasets/{dataset}/prepare.py",
        description="Prepares the dataset in ROOT, in this order: download, conversion, check. Each step goes on where "
        "it was interrupted when the same command is started again.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the dataset")
    if dataset in ARCHIVES:
        parser.add_argument("--download", action="store_true", help="fetch and unpack what ROOT lacks of the dataset")
        parser.add_argument(
            "--url",
            nargs=2,
            default=("", ""),
            metavar=("VIDEOS", "LISTS"),
            help="addresses of the archives, each with #sha256=<hex> after it if known (default: "
            + " and ".join(archive.url for archive in ARCHIVES[dataset])
            + ")",
        )
    parser.add_argument(
        "--short-side",
        type=_positive,
        metavar="PIXELS",
        help="re-encode every clip as H.264 with closely spaced key frames, the short side scaled down to this: 256 is "
        "enough for training on 224; with --frames, the size of the images",
    )
    parser.add_argument("--frames", action="store_true", help="make a folder of JPEG frames of every clip")
    parser.add_argument("--quality", type=_quality, default=90, help="of the JPEG frames, 1 to 95 (default: 90)")
    parser.add_argument(
        "--output", type=Path, help="folder for the clips made (default: ROOT with _<PIXELS> or _frames after it)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"decode every clip (those made, if any are) and write {NAME}, which training uses",
    )
    parser.add_argument("--workers", type=_positive, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help=f"after which the work on a clip is given up (default: {TIME_LIMIT:g})",
    )
    options = parser.parse_args(arguments)
    if not (getattr(options, "download", False) or options.short_side or options.frames or options.check):
        parser.error("nothing to do: give one or more of --download, --short-side 256, --frames and --check")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} found, a whole number from 1 expected")
    return number


def _quality(text: str) -> int:
    if _positive(text) > 95:
        raise argparse.ArgumentTypeError(f"{text} found, a whole number from 1 to 95 expected")
    return int(text)


def _prepare(dataset: str, options: argparse.Namespace, label_by_folder: bool) -> int:
    folder, failed = options.root, {}
    if getattr(options, "download", False):
        download(dataset, folder, options.url)
        print(f"{folder} has the videos and lists of {dataset}")
    clips = find_clips(folder) if options.short_side or options.frames or options.check else []
    if options.short_side or options.frames:
        names = [str(part) for part in (options.short_side, "frames" * options.frames) if part]
        output = options.output or folder.with_name("_".join([folder.resolve().name, *names]))
        make, suffix = (extract_frames, "") if options.frames else (reencode, ".mp4")
        failed = convert(
            *(folder, clips, output, make, suffix, options.short_side or 0, options.quality),
            *(options.workers, options.time_limit),
        )
        print(f"{output}: {len(clips) - len(failed)} of {len(clips)} clips made")
        if failed:
            lines = shorten((f"{clip}: {problem}" for clip, problem in sorted(failed.items())), "\n  ", SHOWN)
            print(f"{len(failed)} could not be converted and were copied as they are ({output / NOTE}):\n  {lines}")
        folder = output
    broken = []
    if options.check:
        rows = check(folder, find_clips(folder), options.workers, options.time_limit, label_by_folder=label_by_folder)
        broken = [row for row in rows if row.problem]
        print(summary(folder, rows))
    return 1 if failed or broken else 0


def summary(folder: Path, rows: Sequence[Row]) -> str:
    """What a check found, and the first of the clips that cannot be read, for the screen."""
    good = [row for row in rows if not row.problem]
    frames, hours = sum(row.frames for row in good), sum(row.seconds for row in good) / 3600
    size = sum(row.bytes for row in rows) / 1e9
    lines = [
        f"{folder / NAME}: {len(rows)} clips, {frames} frames, {hours:.2f} hours, {size:.2f} GB; "
        + (f"{len(rows) - len(good)} cannot be read:" if len(good) < len(rows) else "all can be read")
    ]
    if len(good) < len(rows):
        lines.append("  " + shorten((f"{row.path}: {row.problem}" for row in rows if row.problem), "\n  ", SHOWN))
    return "\n".join(lines)
