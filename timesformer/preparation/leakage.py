"""Duplicates across the splits of a dataset: which clips leak, groups that prevent it, and accuracy without them."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from timesformer.config.load import load_config, load_for_use
from timesformer.datasets.catalog import find_clips
from timesformer.datasets.groups import COLUMNS, find_groups
from timesformer.datasets.manifest import frame_folder
from timesformer.datasets.records import SPLITS, DatasetSplit
from timesformer.errors import UserError


@dataclass
class FoundSplits:
    """The split of each clip by its path from the dataset's folder; `problems` say why training would refuse it.

    `label_of` has the name of its class, `test_names` that of each test clip in predictions.csv. `grouped` are pairs
    of clips that DATA.SPLIT_GROUPS has in one group.
    """

    split_of: dict[str, str] = field(default_factory=dict)
    label_of: dict[str, str] = field(default_factory=dict)
    test_names: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    grouped: list[tuple[str, str]] = field(default_factory=list)


class Accuracy(NamedTuple):
    """Test clips of a run and how many of them are predicted correctly: all of them, and without leaked clips."""

    correct: int
    clips: int
    correct_without: int
    clips_without: int


def configuration(dataset: str, root: Path, overrides: Sequence[str] = (), run: Path | None = None) -> CfgNode:
    """The options that determine the split of a dataset: of a run (its OUTPUT_DIR), else the defaults, overridden.

    Raises UserError if the run has no configuration or is of another dataset, and for incorrect options.
    """
    if run is None:
        cfg = load_config(None, overrides, check_values=False)
    else:
        path = run / "config.yaml"
        if not path.is_file():
            raise UserError(f"{path} not found: give --run the OUTPUT_DIR of a finished run")
        cfg, _ = load_for_use(path.read_text(encoding="utf-8"), str(path), None, overrides)
        if dataset not in (cfg.TRAIN.DATASET, cfg.TEST.DATASET):
            raise UserError(f"{path} is of the dataset {cfg.TRAIN.DATASET}, expected {dataset}: give another --run")
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    return cfg


def find_splits(cfg: CfgNode) -> FoundSplits:
    """The clips of each split of the dataset in DATA.PATH_TO_DATA_DIR, or of a fold with DATA.SPLIT_RULE folds."""
    found, folds = FoundSplits(), dict[str, DatasetSplit]()
    for split in SPLITS:
        try:
            listed = find_clips(cfg, split, folds)
        except UserError as error:
            if str(error) not in found.problems:
                found.problems.append(str(error))
            continue
        records = listed.records
        for name, label, path in zip(records.names, records.labels, records.paths(), strict=True):
            path = frame_folder(path) or path
            clip = os.path.relpath(path, cfg.DATA.PATH_TO_DATA_DIR).replace(os.sep, "/")
            found.split_of.setdefault(clip, split)
            found.label_of[clip] = listed.class_names[label]
            if split == "test":
                found.test_names[clip] = name
    if cfg.DATA.SPLIT_GROUPS and found.split_of:
        clips, first = list(found.split_of), {}
        numbers, _ = find_groups(cfg, clips, (os.path.join(cfg.DATA.PATH_TO_DATA_DIR, clip) for clip in clips))
        found.grouped = [(first.setdefault(n, clip), clip) for n, clip in zip(numbers.tolist(), clips, strict=True)]
    return found


def group(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The group of each clip of the pairs, named after its first clip: pairs that share a clip are in one group."""
    parents: dict[str, str] = {}

    def root_of(clip: str) -> str:
        while (parent := parents.setdefault(clip, clip)) != clip:
            parents[clip] = clip = parents[parent]
        return clip

    for pair in pairs:
        first, other = sorted(map(root_of, pair))
        parents[other] = first
    return {clip: root_of(clip) for clip in sorted(parents)}


def format_groups(groups: Mapping[str, str]) -> str:
    """The text of a CSV file for DATA.SPLIT_GROUPS."""
    text = io.StringIO()
    rows = sorted(groups.items(), key=lambda item: (item[1], item[0]))
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def measure_accuracy(run: Path, leaked: Iterable[str]) -> Accuracy:
    """Accuracy of the run in an OUTPUT_DIR on all test clips, and without those of the names `leaked`.

    Raises UserError if predictions.csv is missing or has other columns.
    """
    path, leaked = run / "predictions.csv", set(leaked)
    if not path.is_file():
        raise UserError(f"{path} not found: give --run the OUTPUT_DIR of a run that has been tested")
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"video", "label", "class_1"} <= set(rows[0]):
        raise UserError(f"{path}: expected the columns video, label and class_1; test the run again")
    kept = [row for row in rows if row["video"] not in leaked]
    return Accuracy(_correct(rows), len(rows), _correct(kept), len(kept))


def _correct(rows: Iterable[Mapping[str, str]]) -> int:
    return sum(row["label"] == row["class_1"] for row in rows)
