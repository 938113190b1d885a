"""The steps of `prepare`: download, convert, check and split a dataset; write shards; make the demo."""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from timesformer.datasets.manifest import NAME
from timesformer.datasets.sources.clip_files import class_of, strays_line
from timesformer.errors import counted, shorten
from timesformer.preparation import demo
from timesformer.preparation.check import Checked, check_clips
from timesformer.preparation.clips_on_disk import find_clips, find_empty_classes
from timesformer.preparation.convert import SETTINGS, convert
from timesformer.preparation.download import download
from timesformer.preparation.findings import examine, write_findings
from timesformer.preparation.leakage import FoundSplits, configuration, find_splits
from timesformer.preparation.shards import KEEP_LISTS, write_shards
from timesformer.preparation.split import split_dataset

_WITH_LISTS = ("hmdb51", "ucf101", "muwiges")  # datasets whose lists are always next to the clips
_WITHOUT_CLASS_FOLDERS = ("ssv2", "muwiges")


def make_demo(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    settings = options.seed, options.clips_per_class, options.workers, options.classes
    if demo.make(options.root, *settings):
        classes, seconds = len(set(options.classes)), time.perf_counter() - start
        count = classes * sum(options.clips_per_class)
        print(f"{options.root}: {counted(count, 'clip')} of {counted(classes, 'class')} in {seconds:.1f} s")
    else:
        print(f"{options.root}: this set exists already")
    return 0


def make_shards(options: argparse.Namespace) -> int:
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


def prepare_hmdb_simp(options: argparse.Namespace) -> int:
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


def prepare(options: argparse.Namespace) -> int:
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
    options: argparse.Namespace, clips: Sequence[Checked], root: Path, folder: Path, splits: FoundSplits
) -> None:
    """Writes the results of the check of the clips in `root` to files in `folder`, and prints a summary."""
    findings = examine(root, options.dataset, clips, splits, options.duplicates, options.frozen, options.run)
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
