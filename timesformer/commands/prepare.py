"""Downloads, re-encodes, checks or splits a dataset: python tools/prepare.py DATASET ROOT (docs/preparing.md)."""

import argparse
import io
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from timesformer.arguments import Parser, as_path, between
from timesformer.commands.command import run_command
from timesformer.datasets.manifest import NAME
from timesformer.datasets.sources.clip_files import class_of, strays_line
from timesformer.datasets.workers.pool import TIME_LIMIT
from timesformer.errors import shorten
from timesformer.preparation import demo
from timesformer.preparation.check import Checked, check_clips
from timesformer.preparation.clips_on_disk import find_clips, find_empty_classes
from timesformer.preparation.convert import SETTINGS, convert
from timesformer.preparation.download import ARCHIVES, download
from timesformer.preparation.duplicates import THRESHOLD
from timesformer.preparation.findings import FREEZE, examine, write_findings
from timesformer.preparation.leakage import FoundSplits, configuration, find_splits
from timesformer.preparation.shards import KEEP_LISTS, write_shards
from timesformer.preparation.split import split_dataset

_DATASETS = ("folder", "hmdb51", "hmdb_simp", "kinetics", "muwiges", "ssv2", "ucf101")
_WITH_LISTS = ("hmdb51", "ucf101", "muwiges")  # datasets whose lists are always next to the clips
_WITHOUT_CLASS_FOLDERS = ("ssv2", "muwiges")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every clip is readable, 1 if some are not, a class has none or lists do not fit."""
    options = parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # clip names may not be text that the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepare = {"hmdb_simp": _prepare_hmdb_simp, "demo": _make_demo, "shards": _write_shards}.get(
        options.dataset, _prepare
    )
    return run_command(lambda: prepare(options), "interrupted; the same command continues")


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
            steps = "--download, " if options.dataset in ARCHIVES else ""
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
    parser.add_argument("--classes", nargs="+", choices=demo.CLASSES, default=list(demo.CLASSES), help="default: all")
    parser.add_argument("--workers", type=between(int, 1), default=2, help="number of processes (default: 2)")


def _add_shard_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", choices=_DATASETS, metavar="DATASET", help=", ".join(_DATASETS))
    parser.add_argument("root", type=as_path, metavar="ROOT", help="folder of the dataset")
    parser.add_argument("--output", type=as_path, help="folder of the shards (default: ROOT_shards)")
    size = "of a shard in MB, except for larger clips (default: 500)"
    parser.add_argument("--max-size", type=between(float, 0.001), default=500, metavar="MB", help=size)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    threshold = f"least similarity of duplicates, from 0 to 1 (default: {THRESHOLD:g})"
    parser.add_argument(
        "--duplicates", type=between(float, 0, 1), default=THRESHOLD, metavar="SIMILARITY", help=threshold
    )
    parser.add_argument(
        "--no-duplicates", dest="duplicates", action="store_const", const=None, help="do not search them"
    )
    freeze = f"least fraction of unchanged frames of frozen clips (default: {FREEZE:g})"
    parser.add_argument("--frozen", type=between(float, 0, 1), default=FREEZE, metavar="FRACTION", help=freeze)
    parser.add_argument("--run", type=as_path, metavar="OUTPUT_DIR", help="run to measure without leaked test clips")


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
    if dataset in ARCHIVES:
        urls = " and ".join(archive.url for archive in ARCHIVES[dataset])
        urls = f"of the archives, with #sha256=<hex> if known (default: {urls})"
        names = ("VIDEOS", "LISTS") if len(ARCHIVES[dataset]) == 2 else ("FRAMES",)
        parser.add_argument("--download", action="store_true", help="download and unpack what ROOT lacks")
        parser.add_argument("--url", nargs=len(names), metavar=names, help=urls)


def _add_options(parser: argparse.ArgumentParser, dataset: str) -> None:
    _add_download_options(parser, dataset)
    short_side = "re-encode every clip as H.264 for fast reading, the short side scaled down to this, e.g. 256"
    parser.add_argument("--short-side", type=between(int, 16), default=0, metavar="PIXELS", help=short_side)
    parser.add_argument("--frames", action="store_true", help="make a folder of JPEG frames of every clip instead")
    parser.add_argument("--quality", type=between(int, 1, 95), default=90, help="of JPEG frames (default: 90)")
    parser.add_argument("--check", action="store_true", help=f"decode every clip and write {NAME}, which training uses")
    time_limit = f"after which a clip counts as unreadable (default: {TIME_LIMIT:g})"
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT, metavar="SECONDS", help=time_limit)


def _make_demo(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    settings = options.seed, options.clips_per_class, options.workers, options.classes
    if demo.make(options.root, *settings):
        classes, seconds = len(set(options.classes)), time.perf_counter() - start
        count = classes * sum(options.clips_per_class)
        print(f"{options.root}: {count} clips of {classes} classes in {seconds:.1f} s")
    else:
        print(f"{options.root}: this set exists already")
    return 0


def _write_shards(options: argparse.Namespace) -> int:
    root, dataset = options.root, options.source
    output = options.output or root.resolve().with_name(f"{root.resolve().name}_shards")
    done = write_shards(configuration(dataset, root, options.overrides), output, int(options.max_size * 1e6))
    print(f"{output}: {done.shards} shards, {done.clips} clips, {done.bytes / 1e9:.2f} GB. Train with")
    name = dataset if dataset in (*KEEP_LISTS, "hmdb_simp", "kinetics") else "folder"
    folders = f"{root} DATA.PATH_PREFIX {output}" if dataset in KEEP_LISTS else output
    print(f"  TRAIN.DATASET {name} TEST.DATASET {name} DATA.PATH_TO_DATA_DIR {folders}")
    if done.missing:
        print(f"{len(done.missing)} clips do not exist and are left out: {shorten(done.missing)}")
    return int(bool(done.missing))


def _prepare_hmdb_simp(options: argparse.Namespace) -> int:
    """Splits the clips, or with `--check` keeps the existing split, and reports."""
    root, output = options.root, options.output or options.root
    if options.download:
        download("hmdb_simp", root, options.url)
    if options.check:
        names = find_clips(root)
        output.mkdir(parents=True, exist_ok=True)
        clips, splits_dir = check_clips(root, names, options.workers, folder=output), []
    else:
        clips = split_dataset(root, output, options.seed, options.test, options.val, options.workers, options.force)
        splits_dir = ["DATA.SPLITS_DIR", str(output)]
    cfg = configuration("hmdb_simp", root, [*splits_dir, *options.overrides], options.run)
    _report(options, clips, root, output, find_splits(cfg))
    return int(any(clip.row.problem for clip in clips))


def _prepare(options: argparse.Namespace) -> int:
    dataset, folder, failed, broken, remarks = options.dataset, options.root, {}, [], []
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
        output = options.output or folder.resolve().with_name("_".join([folder.resolve().name, *suffixes]))
        quality = options.quality if options.frames else 0
        failed = convert(folder, clips, output, options.short_side, quality, options.workers, options.time_limit)
        print(f"{output}: {len(clips) - len(failed)} of {len(clips)} clips made")
        if failed:
            print(f"{len(failed)} could not be converted and were copied ({output / SETTINGS}):\n  {_lines(failed)}")
        folder = output
    if options.check:
        label_of = partial(_label_of, dataset)
        cfg = configuration(dataset, folder, options.overrides, options.run)
        clips = check_clips(folder, find_clips(folder), options.workers, options.time_limit, label_of)
        rows = [clip.row for clip in clips]
        broken = [row for row in rows if row.problem]
        frames, hours = sum(row.frames for row in rows), sum(row.seconds for row in rows) / 3600
        print(f"{folder / NAME}: {len(rows)} clips, {frames} frames, {hours:.2f} hours; {len(broken)} cannot be read")
        if new := {row.path: row.problem for row in broken if row.path not in failed}:
            print(f"  {_lines(new)}")
        splits = find_splits(cfg)
        if dataset in _WITH_LISTS:
            remarks += [f"training would refuse the dataset: {problem}" for problem in splits.problems]
        _report(options, clips, folder, folder, splits)
    for remark in remarks:
        print(remark)
    return 1 if failed or broken or remarks else 0


def _report(
    options: argparse.Namespace,
    clips: Sequence[Checked],
    root: Path,
    folder: Path,
    splits: FoundSplits,
) -> None:
    """Writes the results of the check of the clips in `root` to files in `folder`, and prints a summary."""
    thresholds = options.duplicates, options.frozen
    findings = examine(root, options.dataset, clips, splits, *thresholds, options.run)
    write_findings(findings, folder)
    print(f"frozen clips: {len(findings.frozen)}")
    if findings.threshold is not None:
        print(f"pairs of duplicates: {len(findings.pairs)}, clips in them: {len(findings.duplicated)}")
    for split in ("val", "test"):
        if leaked := findings.leaked(split):
            print(f"leaked {split} clips: {len(leaked)}, for example {leaked[0]}")
    if accuracy := findings.accuracy:
        for what, correct, clips in (("", *accuracy[:2]), (" without leaked clips", *accuracy[2:])):
            print(f"top-1{what}: {100 * correct / max(clips, 1):.2f} % ({correct} of {clips})")
    from timesformer.visualization.pages.data_page import write_data_page  # late: takes seconds to import

    print(write_data_page(findings, folder, options.workers))


def _label_of(dataset: str, clip: str) -> str:
    """The class of a clip by its path."""
    if dataset == "folder":
        return class_of(clip)
    return "" if dataset in _WITHOUT_CLASS_FOLDERS else PurePosixPath(clip).parent.name


def _lines(problems: dict[str, str]) -> str:
    return shorten((f"{clip}: {problem}" for clip, problem in sorted(problems.items())), "\n  ", limit=20)
