"""One configuration over several official splits of its dataset, and the mean of their results.

Each split is a run of its own in OUTPUT_DIR/split_<N>, the same as one with DATA.SPLIT <N>.
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
from timesformer.datasets.catalog import Splits
from timesformer.errors import UserError
from timesformer.preparation.download import download_if_asked
from timesformer.runtime.distributed import from_main_process
from timesformer.runtime.logging import set_up_logging
from timesformer.runtime.ranks import is_main_process
from timesformer.runtime.run_folder import move_aside, report_path, result_files, results_path, with_output_dir

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_METRICS = ("top1", "top5")
_NEEDS_TEST_ONLY = {"evaluation", "inputs", "rounding", "runtime"}


def run_splits(cfg: CfgNode, splits: Sequence[int], run: Callable[[CfgNode, Splits], object]) -> Path:
    """Runs the splits one after the other, and writes OUTPUT_DIR/splits.json (docs/results.md).

    Finished splits are not repeated (unless TRAIN.AUTO_RESUME is False), and interrupted ones resume. `run` trains and
    tests a configuration, and leaves `results.json` in its OUTPUT_DIR. All processes must call this together.
    """
    _check_splits(cfg, splits)
    output = Path(cfg.OUTPUT_DIR)
    set_up_logging(output)
    download_if_asked(cfg)
    runs = {split: with_output_dir(cfg, output / f"split_{split}") for split in splits}
    for split, run_cfg in runs.items():
        run_cfg.DATA.SPLIT = split
    data = {split: Splits(run_cfg) for split, run_cfg in runs.items()}
    for split, run_cfg in runs.items():  # all, before the first begins
        if problems := check(run_cfg, gpus=False):
            raise ConfigError(problems)
        for name in ("train", "val", "test") if cfg.TRAIN.ENABLE else ("test",):
            data[split][name]
    finished = from_main_process(
        lambda: [split for split, run_cfg in runs.items() if cfg.TRAIN.AUTO_RESUME and _is_finished(run_cfg)]
    )
    for split, run_cfg in runs.items():
        if split in finished:
            logger.info("split %d is finished: %s", split, results_path(run_cfg))
            continue
        logger.info("split %d runs in %s", split, run_cfg.OUTPUT_DIR)
        if is_main_process() and results_path(run_cfg).exists() and not cfg.TRAIN.ENABLE:
            # A test alone would write to another folder, but the mean is over the latest results.
            target = move_aside(Path(run_cfg.OUTPUT_DIR), result_files(run_cfg))
            logger.info("the results of another test were moved to %s", target)
        run(run_cfg, data[split])
        set_up_logging(output)
    path = output / "splits.json"
    results = from_main_process(
        lambda: {split: simplejson.loads(results_path(run_cfg).read_text()) for split, run_cfg in runs.items()}
    )
    summary = summarize(cfg, results)
    if is_main_process():
        text = simplejson.dumps(summary, indent=2, ignore_nan=True) + "\n"
        if path.exists() and path.read_text() != text:
            logger.info("other results in %s were moved to %s", path, move_aside(output, [path, report_path(cfg)]))
        write_text_atomically(path, text)
    rows = [f"split {row['split']} {row['top1']:.2f} %" for row in summary["splits"]]
    rows += [f"{name} {summary[name]['top1']:.2f}" for name in ("mean", "std") if len(splits) > 1]
    logger.info("top-1: %s\nresults: %s", ", ".join(rows), path)
    return path


def summarize(cfg: CfgNode, results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The content of splits.json, from those of results.json of the splits; `std` is that of a sample (n - 1)."""
    columns = {name: [result[name] for result in results.values()] for name in _METRICS}
    keys, several = (*_METRICS, "val_top1", "num_videos"), len(results) > 1
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": cfg.TEST.DATASET,
        "splits": [{"split": split, **{key: result[key] for key in keys}} for split, result in results.items()],
        "mean": {name: round(statistics.mean(column), 4) for name, column in columns.items()},
        "std": {name: round(statistics.stdev(column), 4) if several else None for name, column in columns.items()},
    }


def _check_splits(cfg: CfgNode, splits: Sequence[int]) -> None:
    option = OPTIONS["DATA.SPLIT"]
    if not option.is_read(cfg) or cfg.TRAIN.DATASET != cfg.TEST.DATASET:
        found = f"found {cfg.TRAIN.DATASET} and {cfg.TEST.DATASET}"
        raise UserError(f"--splits needs {option.condition()} in TRAIN.DATASET and TEST.DATASET, {found}")
    if not splits or len(set(splits)) < len(splits) or not set(splits) <= set(option.choices):
        found, choices = (" ".join(map(str, numbers)) for numbers in (splits, option.choices))
        raise UserError(f"--splits is {found}, expected one or more of {choices}, each once")
    if not cfg.TEST.ENABLE or cfg.TEST.CHECKPOINT_FILE_PATH:
        raise UserError("--splits tests the best checkpoint of each: set TEST.ENABLE, unset TEST.CHECKPOINT_FILE_PATH")


def _is_finished(cfg: CfgNode) -> bool:
    """Whether there are results with these options; UserError for other options that need training again."""
    path = results_path(cfg)
    if not path.is_file():
        return False
    try:
        saved = simplejson.loads(path.read_text())["config"]
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged, and is written again", path)
        return False
    changed = [change for change in differences(saved, cfg) if change.effects != {"runtime"}]
    if different := [str(c) for c in changed if not c.effects or c.effects - _NEEDS_TEST_ONLY]:
        raise UserError(
            f"{path} has results of other options: {'; '.join(different)}. Set another OUTPUT_DIR, or "
            "TRAIN.AUTO_RESUME False to run all splits again (existing files are moved aside)"
        )
    return not changed
