"""Which runs `--repeats` makes of one configuration: official splits or folds, each with one or several seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.config.options import OPTIONS, set_option
from timesformer.errors import UserError
from timesformer.studies.cells import Cell

FORM = "splits=1,2,3 or folds=5, and seeds=3 or seeds=1,4,9"
_KEYS = {
    "splits": ("DATA.SPLIT",),
    "folds": ("DATA.SPLIT_RULE", "DATA.NUM_FOLDS", "DATA.FOLD"),
    "seeds": ("RNG_SEED",),
}


@dataclass(frozen=True)
class Repeats:
    """Numbers of official splits (DATA.SPLIT), number of folds (DATA.FOLD 1 to N), and training seeds (RNG_SEED).

    Empty or 0 leaves an option as it is. There is a run for each combination.
    """

    splits: tuple[int, ...] = ()
    folds: int = 0
    seeds: tuple[int, ...] = ()

    @property
    def keys(self) -> list[str]:
        """The options that differ between runs, or are the same in all of them because of folds."""
        return [key for name, keys in _KEYS.items() if getattr(self, name) for key in keys]

    def cells(self, cfg: CfgNode) -> list[Cell]:
        """The runs, in folders of OUTPUT_DIR such as `split_1`, `seed_2` or `fold_3_seed_1`."""
        parts = [*(("split", number) for number in self.splits), *(("fold", n + 1) for n in range(self.folds))]
        cells = []
        for part, seed in product(parts or [None], self.seeds or [None]):
            run, words = cfg.clone(), []
            if part is not None:
                words.append(f"{part[0]}_{part[1]}")
                set_option(run, f"DATA.{part[0].upper()}", part[1])
            if self.folds:
                run.DATA.SPLIT_RULE, run.DATA.NUM_FOLDS = "folds", self.folds
            if seed is not None:
                words.append(f"seed_{seed}")
                run.RNG_SEED = seed
            name = "_".join(words)
            run.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / name)
            cells.append(Cell(name, run))
        return cells

    def check(self, cfg: CfgNode) -> None:
        """UserError if the configuration cannot be repeated in this way."""
        if self.splits:
            option, used = OPTIONS["DATA.SPLIT"], {cfg.TRAIN.DATASET, cfg.TEST.DATASET}
            if not option.is_read(cfg) or len(used) > 1:
                found = f"found {cfg.TRAIN.DATASET} and {cfg.TEST.DATASET}"
                raise UserError(f"splits need {option.condition()} in TRAIN.DATASET and TEST.DATASET, {found}")
            if cfg.DATA.SPLIT_RULE == "folds":
                raise UserError("splits are official ones: remove DATA.SPLIT_RULE folds, or use --repeats folds=N")
            if not set(self.splits) <= set(option.choices):
                found, choices = (" ".join(map(str, numbers)) for numbers in (self.splits, option.choices))
                raise UserError(f"--splits is {found}, expected one or more of {choices}, each once")
        if not cfg.TEST.ENABLE or cfg.TEST.CHECKPOINT_FILE_PATH:
            raise UserError(
                "--repeats tests the best checkpoint of each run: set TEST.ENABLE, unset TEST.CHECKPOINT_FILE_PATH"
            )


def parse_repeats(words: Sequence[str]) -> Repeats:
    """The meaning of `splits=1,2,3`, `folds=5` and `seeds=3` (seeds 1 to 3) or `seeds=1,4,9`; UserError otherwise."""
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        is_repeated = len(set(value.split(","))) < len(value.split(","))
        if name not in _KEYS or name in found or not re.fullmatch(r"\d+(,\d+)*", value) or is_repeated:
            raise UserError(f"--repeats has {word}, expected {FORM}, each number once")
        found[name] = value
    splits, folds, seeds = ([int(number) for number in found.get(name, "").split(",") if number] for name in _KEYS)
    if "seeds" in found and "," not in found["seeds"]:
        seeds = [*range(1, seeds[0] + 1)]
    if splits and folds:
        raise UserError("--repeats has splits and folds, expected one of them: folds divide the clips of all splits")
    if len(folds) > 1 or (folds and folds[0] < 2) or ("seeds" in found and not seeds):
        raise UserError(f"--repeats has {' '.join(words)}, expected {FORM}")
    return Repeats(tuple(splits), sum(folds), tuple(seeds))
