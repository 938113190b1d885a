"""The command `python tools/prepare.py DATASET ROOT`: downloads, converts, checks or splits a dataset."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from timesformer.arguments import as_path
from timesformer.datasets.manifest import NAME, Row
from timesformer.datasets.sources.clip_files import class_of, strays_line
from timesformer.datasets.workers.pool import TIME_LIMIT
from timesformer.errors import UserError, shorten
from timesformer.preparation.check import check_clips, check_lists
from timesformer.preparation.clips_on_disk import find_clips, find_empty_classes
from timesformer.preparation.convert import SETTINGS, convert
from timesformer.preparation.download import ARCHIVES, download
from timesformer.preparation.split import split_dataset

_DATASETS = ("folder", "hmdb51", "hmdb_simp", "kinetics", "muwiges", "ssv2", "ucf101")
_WITH_LISTS = ("hmdb51", "ucf101", "muwiges")  # datasets whose lists are always next to the clips
_WITHOUT_CLASS_FOLDERS = ("ssv2", "muwiges")
_NUM_SHOWN = 20  # clips that a summary names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; `arguments` are those of this process if None.

    Returns:
        The exit status: 0 if every clip is readable, 1 if some are not, a class has none or lists do not fit, 2 for a
        user error, 130 after Ctrl-C.
    """
    options = parse_arguments(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # clip names may not be text that the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.dataset == "hmdb_simp":
            output = options.output or options.root
            fractions = options.test, options.val
            return bool(split_dataset(options.root, output, options.seed, *fractions, options.workers, options.force))
        return _prepare(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command, for the dataset that is named first."""
    parser = argparse.ArgumentParser(prog="prepare.py", description="Prepares a dataset; see docs/preparing.md.")
    datasets = parser.add_subparsers(dest="dataset", metavar="DATASET", required=True, help=", ".join(_DATASETS))
    for dataset in _DATASETS:
        if dataset == "hmdb_simp":
            description = "Splits ROOT/<class>/<clip> into train.csv, val.csv and test.csv, after decoding every clip."
        else:
            description = "Downloads, converts and checks a dataset, in this order. An interrupted step continues."
        added = datasets.add_parser(dataset, description=description)
        added.add_argument("root", type=as_path, metavar="ROOT", help="folder of the dataset")
        added.add_argument("--output", type=as_path, help="folder for the files made (docs/preparing.md)")
        added.add_argument(
            "--workers", type=_whole_number(1), default=os.cpu_count(), help="processes (default: all cores)"
        )
        if dataset == "hmdb_simp":
            _add_split_options(added)
        else:
            _add_options(added, dataset)
    options = parser.parse_args(arguments)
    if options.dataset != "hmdb_simp":
        if not (options.download or options.short_side or options.frames or options.check):
            steps = "--download, " if options.dataset in ARCHIVES else ""
            parser.error(f"nothing to do: give one or more of {steps}--short-side 256, --frames and --check")
        if options.short_side and options.short_side % 2 and not options.frames:
            parser.error(f"argument --short-side: found {options.short_side}, expected an even number for H.264")
    return options


def _add_split_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=42, help="of the split (default: 42)")
    parser.add_argument("--test", type=_fraction, default=0.1, help="fraction of all clips for test (default: 0.1)")
    parser.add_argument("--val", type=_fraction, default=0.2, help="fraction of the remaining clips (default: 0.2)")
    parser.add_argument("--force", action="store_true", help="replace files of an earlier run")


def _add_options(parser: argparse.ArgumentParser, dataset: str) -> None:
    parser.set_defaults(download=False, url=("", ""))
    if dataset in ARCHIVES:
        defaults = " and ".join(archive.url for archive in ARCHIVES[dataset])
        parser.add_argument("--download", action="store_true", help="download and unpack what ROOT lacks")
        parser.add_argument(
            "--url", nargs=2, metavar=("VIDEOS", "LISTS"), help=f"archives, with #sha256=<hex> (default: {defaults})"
        )
    parser.add_argument(
        "--short-side",
        type=_whole_number(16),
        default=0,
        metavar="PIXELS",
        help="re-encode every clip as H.264 for fast reading, the short side scaled down to this, e.g. 256",
    )
    parser.add_argument("--frames", action="store_true", help="make a folder of JPEG frames of every clip instead")
    parser.add_argument("--quality", type=_whole_number(1, 95), default=90, help="of JPEG frames (default: 90)")
    parser.add_argument("--check", action="store_true", help=f"decode every clip and write {NAME}, which training uses")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help=f"after which a clip counts as unreadable (default: {TIME_LIMIT:g})",
    )


def _whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            limits = f"from {least}" + (f" to {most}" if most is not None else "")
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number {limits}")
        return int(text)

    return parse


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a fraction above 0 and below 1")
    return value


def _prepare(options: argparse.Namespace) -> int:
    dataset, folder, failed, remarks = options.dataset, options.root, {}, []
    if options.download:
        download(dataset, folder, options.url)
        print(f"{folder} has the videos and lists of {dataset}")
    clips = find_clips(folder) if options.short_side or options.frames or options.check else []
    empty = find_empty_classes(folder, clips, only_split_lists=dataset == "folder")
    if empty and dataset not in _WITHOUT_CLASS_FOLDERS:
        remarks.append(f"{folder}: classes without clips: {shorten(empty)}; add clips, or remove these folders")
    strays = [clip for clip in clips if not class_of(clip)] if dataset == "folder" and options.check else []
    if 0 < len(strays) < len(clips):  # a folder without any classes is not for training
        remarks.append(f"{folder}: {strays_line(strays)}")
    if options.short_side or options.frames:
        suffixes = [str(part) for part in (options.short_side, "frames" * options.frames) if part]
        output = options.output or folder.with_name("_".join([folder.resolve().name, *suffixes]))
        quality = options.quality if options.frames else 0
        failed = convert(folder, clips, output, options.short_side, quality, options.workers, options.time_limit)
        print(f"{output}: {len(clips) - len(failed)} of {len(clips)} clips made")
        if failed:
            lines = shorten((f"{clip}: {problem}" for clip, problem in sorted(failed.items())), "\n  ", _NUM_SHOWN)
            print(f"{len(failed)} could not be converted and were copied ({output / SETTINGS}):\n  {lines}")
        folder = output
    broken = []
    if options.check:
        label_of = {"folder": class_of, "ssv2": _no_class, "muwiges": _no_class}.get(dataset, _parent_name)
        rows = check_clips(folder, find_clips(folder), options.workers, options.time_limit, label_of)
        broken = [row for row in rows if row.problem]
        print(_summary(folder, rows, failed))
        if dataset in _WITH_LISTS:
            remarks += [f"training would refuse the dataset: {problem}" for problem in check_lists(dataset, folder)]
    for remark in remarks:
        print(remark)
    return 1 if failed or broken or remarks else 0


def _parent_name(clip: str) -> str:
    return clip.rpartition("/")[0].rpartition("/")[2]


def _no_class(clip: str) -> str:
    return ""


def _summary(folder: Path, rows: Sequence[Row], shown: Collection[str]) -> str:
    """What a check found, and the first clips that cannot be read, without those that were `shown` before."""
    broken = [row for row in rows if row.problem]
    frames, hours = sum(row.frames for row in rows), sum(row.seconds for row in rows) / 3600
    size = sum(row.bytes for row in rows) / 1e9
    line = f"{folder / NAME}: {len(rows)} clips, {frames} frames, {hours:.2f} hours, {size:.2f} GB; "
    if not broken:
        return line + "all can be read"
    new = [f"{row.path}: {row.problem}" for row in broken if row.path not in shown]
    line += f"{len(broken)} cannot be read"
    if len(new) < len(broken):
        line += f", {len(broken) - len(new)} of them listed above"
    return line + ":\n  " + shorten(new, "\n  ", _NUM_SHOWN) if new else line
