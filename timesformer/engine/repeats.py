"""One configuration over several official splits of its dataset, and the mean of their results.

Each split is a run of its own in OUTPUT_DIR/split_<N>, the same as one started alone with DATA.SPLIT <N>.
"""

import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import simplejson
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.config import ConfigError, check
from timesformer.config.differences import differences
from timesformer.config.options import OPTIONS
from timesformer.datasets.catalog import load_split
from timesformer.errors import UserError
from timesformer.runtime.distributed import from_main_process
from timesformer.runtime.logging import set_up_logging
from timesformer.runtime.ranks import is_main_process
from timesformer.runtime.run_folder import move_aside, report_path, result_files, results_path

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FIGURES = ("top1", "top5")
_TESTED_AGAIN = {"evaluation", "inputs", "rounding", "runtime"}


def run_splits(cfg: CfgNode, splits: Sequence[int], run: Callable[[CfgNode], object]) -> Path:
    """Runs the splits one after the other, and writes OUTPUT_DIR/splits.json (docs/results.md).

    A split that is finished is not run again, unless TRAIN.AUTO_RESUME is off; one that was interrupted goes on. The
    data of all splits are looked for before the first begins. Of several processes, each of which must call this, the
    lead says what is finished, and writes.

    Args:
        cfg: the configuration; its DATA.SPLIT and OUTPUT_DIR are replaced for each split.
        splits: numbers of the splits, each once.
        run: trains and tests one configuration, leaving `results.json` in its OUTPUT_DIR.

    Raises:
        UserError: if the dataset has no such splits, their results could not be compared, or some are there of other
            options; and what the runs raise.
    """
    _refuse(cfg, splits)
    output = Path(cfg.OUTPUT_DIR)
    set_up_logging(output)
    runs = {split: _of_split(cfg, split) for split in splits}
    for of_split in runs.values():
        if problems := check(of_split, gpus=False):  # one of them may begin while another resumes
            raise ConfigError(problems)
        for part in ("train", "val", "test") if cfg.TRAIN.ENABLE else ("test",):
            load_split(of_split, part)
    finished = from_main_process(lambda: _finished(runs) if cfg.TRAIN.AUTO_RESUME else [])
    for split, of_split in runs.items():
        if split in finished:
            logger.info("split %d is finished: %s", split, results_path(of_split))
        else:
            logger.info("split %d runs in %s", split, of_split.OUTPUT_DIR)
            if is_main_process() and results_path(of_split).exists() and not cfg.TRAIN.ENABLE:
                # Of the splits' results, the latest are joined; a test by itself would leave those that are there.
                target = move_aside(Path(of_split.OUTPUT_DIR), result_files(of_split))
                logger.info("the results of another test are now in %s", target)
            run(of_split)
            set_up_logging(output)
    path = output / "splits.json"
    summary = from_main_process(lambda: summarize(cfg, _results(runs)))
    if is_main_process():
        text = simplejson.dumps(summary, indent=2, ignore_nan=True) + "\n"
        if path.exists() and path.read_text() != text:
            target = move_aside(output, [path, report_path(cfg)])
            logger.info("%s was of other results; it is now in %s", path, target)
        write_text_atomically(path, text)
    logger.info("%s\nresults: %s", table(summary), path)
    return path


def summarize(cfg: CfgNode, results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The content of splits.json from that of the results.json of each split.

    `std` is the standard deviation between the splits, with n - 1 in its denominator; None for a single split.
    """
    columns = {name: [result[name] for result in results.values()] for name in FIGURES}
    keys = (*FIGURES, "val_top1", "num_videos")
    several = len(results) > 1
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": cfg.TEST.DATASET,
        "splits": [{"split": split, **{key: result[key] for key in keys}} for split, result in results.items()],
        "mean": {name: round(statistics.mean(column), 4) for name, column in columns.items()},
        "std": {name: round(statistics.stdev(column), 4) if several else None for name, column in columns.items()},
    }


def table(summary: dict[str, Any]) -> str:
    """The figures of splits.json in lines, in percent."""
    rows = [(f"split {row['split']}", row) for row in summary["splits"]]
    rows += [(name, summary[name]) for name in ("mean", "std") if len(summary["splits"]) > 1]
    lines = [f"{name:8}{row['top1']:8.2f}{row['top5']:8.2f}{row.get('num_videos', ''):>13}" for name, row in rows]
    return "\n".join([f"{'':8}{'top-1':>8}{'top-5':>8}{'test videos':>13}", *map(str.rstrip, lines)])


def _refuse(cfg: CfgNode, splits: Sequence[int]) -> None:
    option = OPTIONS["DATA.SPLIT"]
    if not option.is_read(cfg) or cfg.TRAIN.DATASET != cfg.TEST.DATASET:
        raise UserError(
            f"--splits is for {option.condition()} in training and test, "
            f"and they are {cfg.TRAIN.DATASET} and {cfg.TEST.DATASET}: leave it out, or set both"
        )
    known = option.choices
    if not splits or len(set(splits)) < len(splits) or not set(splits) <= set(known):
        raise UserError(
            f"--splits is {' '.join(map(str, splits))}, expected one or more of {' '.join(map(str, known))}, each once"
        )
    if not cfg.TEST.ENABLE:
        raise UserError("--splits takes the mean of test results, and TEST.ENABLE is False: set it True")
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        raise UserError(
            "--splits tests the best checkpoint of each split, and TEST.CHECKPOINT_FILE_PATH gives one for all: it "
            "would be tested on clips it was trained on. Remove it, or test one split without --splits"
        )


def _of_split(cfg: CfgNode, split: int) -> CfgNode:
    of_split = cfg.clone()
    of_split.DATA.SPLIT = split
    of_split.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / f"split_{split}")
    return of_split


def _finished(runs: dict[int, CfgNode]) -> list[int]:
    return [split for split, of_split in runs.items() if _is_finished(of_split)]


def _results(runs: dict[int, CfgNode]) -> dict[int, dict[str, Any]]:
    return {split: simplejson.loads(results_path(of_split).read_text()) for split, of_split in runs.items()}


def _is_finished(cfg: CfgNode) -> bool:
    """Whether there are results of these options; UserError where they are of others, which a mean cannot join."""
    path = results_path(cfg)
    if not path.is_file():
        return False
    try:
        then = simplejson.loads(path.read_text())["config"]
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged; it is written anew", path)
        return False
    changed = [change for change in differences(then, cfg) if change.effects != {"runtime"}]
    if different := [str(c) for c in changed if not c.effects or c.effects - _TESTED_AGAIN]:
        raise UserError(
            f"{path} is of other options: {'; '.join(different)}. Choose another OUTPUT_DIR, or set TRAIN.AUTO_RESUME "
            "False to begin all splits anew (what is there is kept aside)"
        )
    return not changed
