"""Split a folder of classes into train.csv, val.csv and test.csv: python datasets/hmdb_simp/prepare.py ROOT"""

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, installed or not

try:
    from timesformer.arguments import as_path
    from timesformer.datasets.records import SPLITS, DataError, join_problems
    from timesformer.datasets.sources.clip_files import KINDS, clip_names, list_classes, report_nested, report_skipped
    from timesformer.datasets.sources.folder import CSV_HEADER
    from timesformer.errors import UserError
    from timesformer.preparation.command_line import INTERRUPTED, whole_number
    from timesformer.preparation.manifest_check import check
except KeyboardInterrupt:  # nothing is begun yet
    sys.exit(130)

Row = tuple[str, str]  # class, video_name: the clip's path from the folder of its class


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 if clips cannot be read, else as the other prepare.py do."""
    parser = argparse.ArgumentParser(
        description="Split clips in ROOT/<class>/<video> (folders of frames, or video files) into train.csv, val.csv "
        "and test.csv, the same share of every class in each, and list the classes in classes.txt. Every clip is "
        "decoded first; what each one is goes into ROOT/manifest.csv, and those that cannot be read are left out and "
        "listed in unreadable.csv with the reason."
    )
    parser.add_argument("root", type=as_path, metavar="ROOT", help="folder with one folder per class")
    parser.add_argument("--output", type=as_path, help="folder for the files written (default: ROOT)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split (default: 42)")
    parser.add_argument("--test", type=_share, default=0.1, help="share of all clips for test (default: 0.1)")
    parser.add_argument("--val", type=_share, default=0.2, help="share of the remaining clips for val (default: 0.2)")
    parser.add_argument(
        "--workers", type=whole_number(1), default=os.cpu_count(), help="that decode (default: all cores)"
    )
    parser.add_argument("--force", action="store_true", help="replace files of an earlier run")
    options = parser.parse_args(arguments)
    try:
        return 1 if prepare(options) else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} found, a share above 0 and below 1 expected")
    return share


def prepare(options: argparse.Namespace) -> dict[Row, str]:
    """Check the clips, split them and write the files; returns those left out, and why. Raises DataError."""
    output = options.output or options.root
    files = [f"{split}.csv" for split in SPLITS] + ["classes.txt", "unreadable.csv"]
    present = [name for name in files if (output / name).exists()]
    if present and not options.force:
        raise DataError(f"{output} has {', '.join(present)} already: give --force to replace them")
    clips = find_clips(options.root)
    split_rows(clips, options.seed, options.test, options.val)
    output.mkdir(parents=True, exist_ok=True)
    unreadable = check_clips(options.root, clips, options.workers, output)
    rows = [row for row in clips if row not in unreadable]
    if not rows:
        problems = [f"{'/'.join(row)}: {problem}" for row, problem in unreadable.items()]
        raise join_problems("no clip can be read", problems, f"expected clips in {options.root}")
    splits = split_rows(rows, options.seed, options.test, options.val)

    for name, members in splits.items():
        _write(output / f"{name}.csv", CSV_HEADER, members)
    classes = sorted({label for label, _ in rows})
    (output / "classes.txt").write_text("".join(f"{label}\n" for label in classes), encoding="utf-8")
    (output / "unreadable.csv").unlink(missing_ok=True)
    if unreadable:
        rows_left_out = [(*row, problem) for row, problem in unreadable.items()]
        _write(output / "unreadable.csv", [*CSV_HEADER, "reason"], rows_left_out)
        print(f"{len(unreadable)} of {len(clips)} clips are unreadable and left out (see {output / 'unreadable.csv'}):")
        print("".join(f"  {options.root.joinpath(*row)}: {problem}\n" for row, problem in unreadable.items()), end="")
    counts = ", ".join(f"{name} {len(members)}" for name, members in splits.items())
    print(f"{len(classes)} classes; {counts}; written to {output}")
    return unreadable


def find_clips(root: Path) -> list[Row]:
    """All clips in root/<class>/; raises DataError for a root that is no folder of classes, and for empty classes."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected {root}/<class>/<video>")
    classes = list_classes(root)
    if not classes:
        raise DataError(f"{root} holds no class folders: expected {root}/<class>/<video>")
    if {"train", "test"} <= {path.name for path in classes}:
        raise DataError(f"{root} holds folders train and test, so it is split already: it can be used as it is")
    skipped: list[str] = []
    clips = {path: clip_names(path, skipped) for path in classes}
    report_skipped(root, skipped)
    if not any(clips.values()):
        raise DataError(
            f"{root} has {len(classes)} folders, and none holds a clip: is it the folder of the dataset? Expected "
            f"{KINDS} in {root}/<class>"
        )
    if empty := [str(path) for path, members in clips.items() if not members]:
        raise join_problems("classes without clips", empty, "put clips there, or remove these folders")
    rows = [(path.name, name) for path, members in clips.items() for name in members]
    report_nested(root, ["/".join(row) for row in rows if "/" in row[1]])
    return rows


def check_clips(root: Path, clips: Sequence[Row], workers: int, output: Path) -> dict[Row, str]:
    """Decode every frame of every clip and write the manifest; returns the clips that cannot be read, and why.

    The manifest belongs in `root`; where that may not be written, it goes to `output`.
    """
    names = ["/".join(row) for row in clips]
    rows = check(root, names, workers, folder=root if os.access(root, os.W_OK) else output)
    return {clip: row.problem for clip, row in zip(clips, rows, strict=True) if row.problem}


def split_rows(rows: Sequence[Row], seed: int, test: float, val: float) -> dict[str, list[Row]]:
    """Split into train, val and test, stratified by class: first `test` of all, then `val` of the rest.

    The same rows, in any order, and seed give the same split. Raises DataError where there are too few clips.
    """
    sizes = Counter(label for label, _ in rows)
    if small := [f"{label} ({n})" for label, n in sizes.items() if n < 3]:
        raise join_problems("classes with fewer than 3 readable clips", small, "add clips, or remove these classes")
    try:
        rest, tested = _split(sorted(rows), test, seed)
        trained, validated = _split(rest, val, seed)
    except ValueError as error:
        raise DataError(
            f"{len(rows)} clips of {len(sizes)} classes cannot be split into {test:g} of all for test, {val:g} of the "
            "rest for val and the others for train, each with clips of every class: give other --test and --val shares"
        ) from error
    return {"train": sorted(trained), "val": sorted(validated), "test": sorted(tested)}


def _split(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    from sklearn.model_selection import train_test_split  # here: the processes that decode need not wait for it

    kept, taken = train_test_split(rows, test_size=share, random_state=seed, stratify=[label for label, _ in rows])
    return kept, taken


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    sys.exit(main())
