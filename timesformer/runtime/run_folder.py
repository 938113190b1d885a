"""The folder of a run (OUTPUT_DIR): what lies where, and what to do with what an earlier run left there."""

import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.atomic import PARTIAL_SUFFIX
from timesformer.runtime.signals import defer_signals

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in the folder of a run."""
BEST = "best.pyth"
"""The checkpoint with the highest validation top-1."""
TEST_FOLDER = "test_"
"""Beginning of the names of folders with the results of further tests."""

_EPOCH = re.compile(r"checkpoint_epoch_(\d{5,})(?:_iteration_(\d{8,}))?\.pyth")


def checkpoint_folder(cfg: CfgNode) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(cfg.OUTPUT_DIR) / CHECKPOINTS


def best_path(cfg: CfgNode) -> Path:
    """The checkpoint with the highest validation top-1."""
    return checkpoint_folder(cfg) / BEST


def metrics_path(cfg: CfgNode) -> Path:
    """The figures of training and validation, a line of JSON each."""
    return Path(cfg.OUTPUT_DIR) / "metrics.jsonl"


def unreadable_path(cfg: CfgNode) -> Path:
    """The clips that the run could not read."""
    return Path(cfg.OUTPUT_DIR) / "unreadable.csv"


def config_path(cfg: CfgNode) -> Path:
    """The whole configuration that training ran with."""
    return Path(cfg.OUTPUT_DIR) / "config.yaml"


def results_path(cfg: CfgNode) -> Path:
    """The result of the test."""
    return Path(cfg.OUTPUT_DIR) / "results.json"


def report_path(cfg: CfgNode) -> Path:
    """The page about the run."""
    return Path(cfg.OUTPUT_DIR) / "report.html"


def pictures_path(cfg: CfgNode) -> Path:
    """The frames that the report shows."""
    return Path(cfg.OUTPUT_DIR) / "report_frames.zip"


def tensorboard_folder(cfg: CfgNode) -> Path:
    """Where TensorBoard's files of a run lie."""
    return Path(cfg.OUTPUT_DIR) / (cfg.TENSORBOARD.LOG_DIR or f"runs-{cfg.TRAIN.DATASET}")


def result_files(cfg: CfgNode) -> list[Path]:
    """What a test and its report leave in OUTPUT_DIR, but for TensorBoard's files; `results.json` comes first."""
    output = Path(cfg.OUTPUT_DIR)
    scores = [output / cfg.TEST.SAVE_RESULTS_PATH] if cfg.TEST.SAVE_RESULTS_PATH else []
    return [results_path(cfg), output / "predictions.csv", *scores, report_path(cfg), pictures_path(cfg)]


def in_folder(cfg: CfgNode, folder: Path) -> CfgNode:
    """The configuration with another OUTPUT_DIR."""
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def set_aside(cfg: CfgNode) -> None:
    """Moves what an earlier run left to `previous_1`, `previous_2`, ... in the folder, so that nothing is lost."""
    output = Path(cfg.OUTPUT_DIR)
    tests = [path.parent for path in output.glob(f"{TEST_FOLDER}*/results.json")]
    made = [checkpoint_folder(cfg), metrics_path(cfg), tensorboard_folder(cfg), *tests, *result_files(cfg)]
    if any(path.exists() for path in made if path not in (report_path(cfg), pictures_path(cfg))):
        target = move_aside(output, [*made, config_path(cfg), unreadable_path(cfg)])
        logger.info("what an earlier run left in %s is now in %s", output, target)


def move_aside(folder: Path, paths: Iterable[Path]) -> Path:
    """Moves those of the paths that exist to the first of `previous_1`, `previous_2`, ... of a folder that is free.

    Returns:
        Where they are now.
    """
    number = 1
    while (target := folder / f"previous_{number}").exists():
        number += 1
    target.mkdir()
    with defer_signals():  # or a part of the run would be set aside, and the rest with what comes next
        for path in paths:
            if path.exists():
                shutil.move(path, target / path.name)
    return target


def remove_partial_files(cfg: CfgNode) -> None:
    """Deletes what a killed process left half written."""
    for folder in (Path(cfg.OUTPUT_DIR), checkpoint_folder(cfg)):
        for path in folder.glob(f"*{PARTIAL_SUFFIX}"):
            path.unlink(missing_ok=True)


def epoch_checkpoints(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """The checkpoints in a folder, each with its number of finished epochs and of iterations of the next; unordered."""
    names = ((path, _EPOCH.fullmatch(path.name)) for path in folder.glob("*.pyth"))
    return [((int(match[1]), int(match[2] or 0)), path) for path, match in names if match]


def checkpoint_of_run(folder: Path) -> Path | None:
    """The checkpoint that the folder of a run, or its folder of checkpoints, means: the best, else the newest.

    A warning names the newest where there is no best. None where the folder holds neither.
    """
    inner = folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder
    if (inner / BEST).is_file():
        return inner / BEST
    saved = epoch_checkpoints(inner)
    if not saved:
        return None
    newest = max(saved)[1]
    logger.warning("%s has no %s; its newest checkpoint is used: %s", inner, BEST, newest.name)
    return newest
