"""The command line that datasets/<name>/prepare.py of all datasets have in common."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from timesformer.arguments import as_path
from timesformer.datasets.manifest import NAME, Row
from timesformer.datasets.sources.clip_files import class_of, parent_name, stray_line
from timesformer.datasets.workers.pool import TIME_LIMIT
from timesformer.errors import UserError, shorten
from timesformer.preparation.clips_on_disk import find_clips, find_empty_classes
from timesformer.preparation.convert import NOTE, convert
from timesformer.preparation.download import ARCHIVES, download
from timesformer.preparation.jpeg_frames import extract_frames
from timesformer.preparation.list_check import LISTED, find_problems
from timesformer.preparation.manifest_check import check
from timesformer.preparation.reencode import reencode

INTERRUPTED = "interrupted; the same command goes on from here"
SMALLEST = 16
"""Short side, in pixels, that clips can be scaled down to."""
_LABEL_OF: dict[str, Callable[[str], str] | None] = {"folder": class_of, "ssv2": None, "muwiges": None}
"""The class of a clip by its path, where that is not the folder that it lies in; None where paths do not tell."""
SHOWN = 20
"""Clips that a summary on the screen names; the file it points to names all."""


def main(dataset: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of a dataset.

    Args:
        dataset: its name in TRAIN.DATASET.
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit status: 0 if all was done and every clip is readable, 1 if some are not, a class has none or the
        lists do not fit, 2 for a mistake or a place that cannot be reached or written, 130 after Ctrl-C.
    """
    options = _parse(dataset, arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a clip's name need not be text that the screen can show
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _prepare(dataset, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130


def _parse(dataset: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"datasets/{dataset}/prepare.py",
        description="Prepares the dataset in ROOT, in this order: download, conversion, check. Each step goes on where "
        "it was interrupted when the same command is started again.",
    )
    parser.add_argument("root", type=as_path, metavar="ROOT", help="folder of the dataset")
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
        type=whole_number(SMALLEST),
        metavar="PIXELS",
        help="re-encode every clip as H.264 with closely spaced key frames, the short side scaled down to this: 256 is "
        "enough for training on 224; with --frames, the size of the images",
    )
    parser.add_argument("--frames", action="store_true", help="make a folder of JPEG frames of every clip")
    parser.add_argument(
        "--quality", type=whole_number(1, 95), default=90, help="of the JPEG frames, 1 to 95 (default: 90)"
    )
    parser.add_argument(
        "--output",
        type=as_path,
        help="folder for the clips made (default: ROOT with _<PIXELS>, _frames or _<PIXELS>_frames after it)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"decode every clip (those made, if any are) and write {NAME}, which training uses"
        + ("; see whether the dataset's lists fit the clips" if dataset in LISTED else ""),
    )
    parser.add_argument(
        "--workers", type=whole_number(1), default=os.cpu_count(), help="processes (default: all cores)"
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help=f"after which the work on a clip is given up (default: {TIME_LIMIT:g})",
    )
    options = parser.parse_args(arguments)
    download = "--download, " if dataset in ARCHIVES else ""
    if not (getattr(options, "download", False) or options.short_side or options.frames or options.check):
        parser.error(f"nothing to do: give one or more of {download}--short-side 256, --frames and --check")
    if options.short_side and options.short_side % 2 and not options.frames:
        parser.error(f"argument --short-side: {options.short_side} found, an even number expected, as H.264 has no odd")
    return options


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that is a number from `least` to `most`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            limits = f"from {least}" + (f" to {most}" if most is not None else "")
            raise argparse.ArgumentTypeError(f"{text!r} found, a whole number {limits} expected")
        return int(text)

    return parse


def _prepare(dataset: str, options: argparse.Namespace) -> int:
    folder, failed, remarks = options.root, {}, []
    label_of = _LABEL_OF.get(dataset, parent_name)
    if getattr(options, "download", False):
        download(dataset, folder, options.url)
        print(f"{folder} has the videos and lists of {dataset}")
    clips = find_clips(folder) if options.short_side or options.frames or options.check else []
    if label_of and (empty := find_empty_classes(folder, clips, only_split_lists=dataset == "folder")):
        remarks.append(f"{folder}: classes without clips: {shorten(empty)}; put clips there, or remove these folders")
    strays = [clip for clip in clips if not class_of(clip)] if dataset == "folder" and options.check else []
    if 0 < len(strays) < len(clips):  # a folder without classes is not for training
        remarks.append(f"{folder}: {stray_line(strays)}")
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
        rows = check(folder, find_clips(folder), options.workers, options.time_limit, label_of=label_of)
        broken = [row for row in rows if row.problem]
        print(summary(folder, rows, failed))
        if dataset in LISTED:
            remarks += [f"training would refuse the dataset: {text}" for text in find_problems(dataset, folder)]
    for remark in remarks:
        print(remark)
    return 1 if failed or broken or remarks else 0


def summary(folder: Path, rows: Sequence[Row], told: Collection[str] = ()) -> str:
    """What a check found, and the first of the clips that cannot be read but those `told` before, for the screen."""
    good = [row for row in rows if not row.problem]
    frames, hours = sum(row.frames for row in good), sum(row.seconds for row in good) / 3600
    size = sum(row.bytes for row in rows) / 1e9
    line = f"{folder / NAME}: {len(rows)} clips, {frames} frames, {hours:.2f} hours, {size:.2f} GB; "
    if len(good) == len(rows):
        return line + "all can be read"
    broken = [row for row in rows if row.problem]
    news = [f"{row.path}: {row.problem}" for row in broken if row.path not in told]
    line += f"{len(broken)} cannot be read"
    if len(news) < len(broken):
        line += f", {len(broken) - len(news)} of them listed above"
    return line + ":\n  " + shorten(news, "\n  ", SHOWN) if news else line
