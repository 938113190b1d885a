"""Folds of a cross-validation (DATA.SPLIT_RULE folds) over the clips of all splits of any dataset."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.groups import check_classes, find_groups
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, MissingSplitError, Records

logger = logging.getLogger(__name__)


Dataset = Callable[[CfgNode, str], DatasetSplit]


class _Clip(NamedTuple):
    """A clip of any split; the order of the fields is that of the clips before folds are drawn."""

    label: int
    name: str
    split: str
    path: str


def draw_folds(cfg: CfgNode, dataset: Dataset) -> dict[str, DatasetSplit]:
    """The splits "train", "val" and "test" of fold DATA.FOLD, drawn from the clips of all splits of `dataset`.

    Fold DATA.FOLD of DATA.NUM_FOLDS is for test, and about DATA.VAL_FRACTION of the rest for validation: one fold of
    it, another one for each DATA.FOLD. Folds are those of scikit-learn's StratifiedGroupKFold, shuffled by
    DATA.SPLIT_SEED, for the clips sorted by class and name; groups are those of DATA.SPLIT_GROUPS. A clip whose name is
    also that of a clip in another split is named `<split>/<name>`. Raises DataError.
    """
    clips, class_names = _find_all(cfg, dataset)
    clips.sort()
    labels = np.array([clip.label for clip in clips], np.int64)
    counts = Counter(clip.name for clip in clips)
    unique = [f"{clip.split}/{clip.name}" if counts[clip.name] > 1 else clip.name for clip in clips]
    names = [clip.name for clip in clips] if cfg.DATA.SPLIT_GROUPS else unique
    group_of, _ = find_groups(cfg, names, (clip.path for clip in clips))
    split_of = _assign(cfg, class_names, labels, group_of)

    found, sizes = {}, []
    for split in SPLITS:
        chosen = np.flatnonzero(split_of == SPLITS.index(split))
        check_classes(_where(cfg), split, class_names, labels[chosen])
        rows = (unique[row] for row in chosen), labels[chosen], (clips[row].path for row in chosen)
        found[split] = DatasetSplit(Records(*rows), class_names)
        sizes.append(f"{len(chosen)} for {split}")
    number = f"fold {cfg.DATA.FOLD} of {cfg.DATA.NUM_FOLDS}"
    logger.info("%s, %s: %d clips, %s", _where(cfg), number, len(clips), ", ".join(sizes))
    return found


def _find_all(cfg: CfgNode, dataset: Dataset) -> tuple[list[_Clip], tuple[str, ...]]:
    """The clips of the splits that the dataset has, and its classes. A clip that is in two splits counts once."""
    clips: dict[str, _Clip] = {}
    for split in SPLITS:
        try:
            found = dataset(cfg, split)
        except MissingSplitError:
            if split == "train":
                raise
            continue
        if split == "train":
            class_names = found.class_names
        columns = found.records.labels.tolist(), found.records.names, found.records.paths()
        for label, name, path in zip(*columns, strict=True):
            clips.setdefault(path, _Clip(label, name, split, path))
    return [*clips.values()], class_names


def _assign(cfg: CfgNode, class_names: tuple[str, ...], labels: np.ndarray, group_of: np.ndarray) -> np.ndarray:
    """The split of each clip, an index into SPLITS."""
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    data = cfg.DATA
    number, kind = group_of.max() + 1, "groups of DATA.SPLIT_GROUPS" if data.SPLIT_GROUPS else "clips"
    if number <= data.NUM_FOLDS:
        raise DataError(f"{_where(cfg)} has {number} {kind}, expected more than DATA.NUM_FOLDS {data.NUM_FOLDS}")
    counts = np.bincount(labels, minlength=len(class_names))
    smallest = counts.argmin()
    if counts[smallest] < data.NUM_FOLDS:
        found = f"class {class_names[smallest]} has {counts[smallest]} clips"
        raise DataError(f"{_where(cfg)}: {found}, expected DATA.NUM_FOLDS {data.NUM_FOLDS} or more")

    def fold(rows: np.ndarray, folds: int, number: int) -> np.ndarray:
        folds_of_rows = StratifiedGroupKFold(folds, shuffle=True, random_state=data.SPLIT_SEED)
        return rows[[*folds_of_rows.split(rows, labels[rows], group_of[rows])][number][1]]

    split_of = np.full(len(labels), SPLITS.index("train"), np.int8)
    split_of[fold(np.arange(len(labels)), data.NUM_FOLDS, data.FOLD - 1)] = SPLITS.index("test")
    rest = np.flatnonzero(split_of == SPLITS.index("train"))
    if (number := len(np.unique(group_of[rest]))) < 2:
        raise DataError(f"{_where(cfg)} has {number} {kind} outside of fold {data.FOLD}, expected 2 or more")
    counts = np.bincount(labels[rest])
    folds = max(2, int(min(round(1 / data.VAL_FRACTION), number, counts[counts > 0].min())))
    split_of[fold(rest, folds, (data.FOLD - 1) % folds)] = SPLITS.index("val")
    return split_of


def _where(cfg: CfgNode) -> str:
    return cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR
