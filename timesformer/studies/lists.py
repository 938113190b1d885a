"""Lists of clips that a study makes itself: imbalanced training sets, and other splits of all clips."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit
from timesformer.studies.study import Row, Split

_Clips = dict[str, list[tuple[str, int]]]  # path and label of the clips of each split


def folder_name(row: Row) -> str:
    """Name of the folder for the lists of a row; empty if it has those of the dataset."""
    parts = [f"rarest_{row.rarest:g}"] if row.rarest < 1 else []
    if split := row.split:
        kind = "stratified" if split.stratified else "plain"
        parts.append(f"{kind}_{split.test:g}_{split.val:g}_seed{split.seed}")
    return "_".join(parts)


def write_lists(cfg: CfgNode, row: Row) -> None:
    """Writes train.csv, val.csv, test.csv and classes.txt of a row into DATA.SPLITS_DIR.

    Raises DataError if the clips cannot be split.
    """
    folder, complete = Path(cfg.DATA.SPLITS_DIR), cfg.clone()
    complete.DATA.SPLITS_DIR = ""
    splits = {name: load_split(complete, name) for name in SPLITS}
    clips = {name: list(_clips(split)) for name, split in splits.items()}
    if row.split:
        clips = _split_again(clips, row.split, cfg.DATA.PATH_TO_DATA_DIR)
    if row.rarest < 1:
        clips["train"] = _long_tail(clips["train"], row.rarest)
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in clips.items():
        lines = [f"{path}{cfg.DATA.PATH_LABEL_SEPARATOR}{label}\n" for path, label in members]
        write_text_atomically(folder / f"{name}.csv", "".join(lines))
    write_text_atomically(folder / "classes.txt", "".join(f"{name}\n" for name in splits["train"].class_names))


def _clips(split: DatasetSplit) -> Iterator[tuple[str, int]]:
    for record in split.records:
        yield str(Path(record.path).resolve()), int(record.label)


def _split_again(clips: _Clips, wanted: Split, data: str) -> _Clips:
    """All clips, split by scikit-learn."""
    from sklearn.model_selection import train_test_split  # slow to import

    rest, splits = sorted(clip for members in clips.values() for clip in members), {}
    for name, fraction in (("test", wanted.test), ("val", wanted.val)):
        labels = [label for _, label in rest] if wanted.stratified else None
        try:
            rest, splits[name] = train_test_split(rest, test_size=fraction, random_state=wanted.seed, stratify=labels)
        except ValueError as error:
            found = f"{data}: {len(rest)} clips cannot be split with {name} {fraction:g}"
            raise DataError(f"{found}: {error}; set other fractions") from error
    return {"train": sorted(rest), **{name: sorted(members) for name, members in splits.items()}}


def _long_tail(clips: list[tuple[str, int]], rarest: float) -> list[tuple[str, int]]:
    """Class c of C, in label order, keeps its first round(n * rarest ** (c / (C - 1))) clips, at least one.

    This is the "long tail" of Cui et al. 2019 (https://arxiv.org/abs/1901.05555).
    """
    counts = np.bincount([label for _, label in clips])
    kept = np.maximum(1, np.rint(counts * rarest ** (np.arange(len(counts)) / max(1, len(counts) - 1))))
    seen, chosen = np.zeros(len(counts), int), []
    for path, label in clips:
        seen[label] += 1
        if seen[label] <= kept[label]:
            chosen.append((path, label))
    return chosen
