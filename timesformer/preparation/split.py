"""Splits a folder of classes into train.csv, val.csv and test.csv, with the same share of every class in each."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from timesformer.datasets.records import SPLITS, DataError, join_problems
from timesformer.datasets.sources.clip_files import KINDS, list_clips
from timesformer.datasets.sources.folder import CSV_HEADER
from timesformer.errors import counted
from timesformer.preparation.check import Checked, check_clips

Clip = tuple[str, str]  # class, path from the folder of the class


def split_dataset(
    root: Path, output: Path, seed: int, test: float, val: float, workers: int, force: bool = False
) -> list[Checked]:
    """Decode all clips in root/<class>/, and write a split of the readable ones, classes.txt and unreadable.csv.

    `test` is a fraction of all clips, `val` of the remaining ones. `root` gets manifest.csv if it can be written.
    Returns the checked clips. Raises DataError if `root` has no or too few clips, or is already split, or if
    `output` has such files and `force` is False.
    """
    files = [f"{split}.csv" for split in SPLITS] + ["classes.txt", "unreadable.csv"]
    if (present := [name for name in files if (output / name).exists()]) and not force:
        raise DataError(f"{output} has {', '.join(present)} already: give --force to replace them")
    clips = _find_clips(root)
    split_clips(clips, seed, test, val)  # to find errors before decoding
    output.mkdir(parents=True, exist_ok=True)
    folder = root if os.access(root, os.W_OK) else output
    checked = check_clips(root, ["/".join(clip) for clip in clips], workers, folder=folder)
    unreadable = {clip: row.problem for clip, (row, _) in zip(clips, checked, strict=True) if row.problem}
    problems = [f"{root.joinpath(*clip)}: {problem}" for clip, problem in unreadable.items()]
    readable = [clip for clip in clips if clip not in unreadable]
    if not readable:
        raise join_problems("no clip can be read", problems, f"expected clips in {root}")
    splits = split_clips(readable, seed, test, val)
    for name, members in splits.items():
        _write(output / f"{name}.csv", CSV_HEADER, members)
    classes = sorted({label for label, _ in readable})
    (output / "classes.txt").write_text("".join(f"{label}\n" for label in classes), encoding="utf-8")
    (output / "unreadable.csv").unlink(missing_ok=True)
    if unreadable:
        _write(output / "unreadable.csv", [*CSV_HEADER, "reason"], [(*clip, why) for clip, why in unreadable.items()])
        print(f"{len(unreadable)} of {len(clips)} clips are unreadable and left out (see {output / 'unreadable.csv'}):")
        print("\n".join(f"  {problem}" for problem in problems))
    counts = ", ".join(f"{name} {len(members)}" for name, members in splits.items())
    print(f"{counted(len(classes), 'class')}; {counts}; written to {output}")
    return checked


def _find_clips(root: Path) -> list[Clip]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected {root}/<class>/<video>")
    clips = list_clips(root)
    if not any(clips.values()):
        raise DataError(f"{root} has {counted(len(clips), 'folder')} without clips: expected {KINDS} in {root}/<class>")
    if {"train", "test"} <= set(clips):
        raise DataError(f"{root} has folders train and test, so it is already split: it can be used as it is")
    if empty := [str(root / label) for label, members in clips.items() if not members]:
        raise join_problems("classes without clips", empty, "add clips, or remove these folders")
    return [(label, clip) for label, members in clips.items() for clip in members]


def split_clips(clips: Sequence[Clip], seed: int, test: float, val: float) -> dict[str, list[Clip]]:
    """Split clips into train, val and test, stratified by class. Raises DataError if there are too few."""
    sizes = Counter(label for label, _ in clips)
    if small := [f"{label} ({size})" for label, size in sizes.items() if size < 3]:
        raise join_problems("classes with fewer than 3 readable clips", small, "add clips, or remove these classes")
    from sklearn.model_selection import train_test_split  # slow to import, and not needed by the worker processes

    def take(clips: list[Clip], fraction: float) -> tuple[list[Clip], list[Clip]]:
        labels = [label for label, _ in clips]
        return train_test_split(clips, test_size=fraction, random_state=seed, stratify=labels)

    try:
        rest, tested = take(sorted(clips), test)
        trained, validated = take(rest, val)
    except ValueError as error:
        raise DataError(
            f"{len(clips)} clips of {len(sizes)} classes cannot be split with clips of every class in each part: give "
            f"other fractions than --test {test:g} and --val {val:g}"
        ) from error
    return {"train": sorted(trained), "val": sorted(validated), "test": sorted(tested)}


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
