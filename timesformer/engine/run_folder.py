"""The folder of a run (OUTPUT_DIR): what lies where, and what to do with what an earlier run left there."""

import logging
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.atomic import PARTIAL_SUFFIX
from timesformer.engine.interrupts import uninterrupted

logger = logging.getLogger(__name__)


def checkpoint_folder(cfg: CfgNode) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(cfg.OUTPUT_DIR) / "checkpoints"


def best_path(cfg: CfgNode) -> Path:
    """The checkpoint with the highest validation top-1."""
    return checkpoint_folder(cfg) / "best.pyth"


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


def set_aside(cfg: CfgNode) -> None:
    """Moves what an earlier run left to `previous_1`, `previous_2`, ... in the folder, so that nothing is lost."""
    output = Path(cfg.OUTPUT_DIR)
    results = [output / name for name in ("predictions.csv", cfg.TEST.SAVE_RESULTS_PATH) if name]
    made = (checkpoint_folder(cfg), metrics_path(cfg), tensorboard_folder(cfg), results_path(cfg), *results)
    left = [path for path in made if path.exists()]
    if not left:
        return
    others = (config_path(cfg), unreadable_path(cfg), report_path(cfg), pictures_path(cfg))
    left += [path for path in others if path.exists()]
    number = 1
    while (target := output / f"previous_{number}").exists():
        number += 1
    target.mkdir()
    with uninterrupted():  # or a part of the run would be set aside, and the rest with what comes next
        for path in left:
            path.rename(target / path.name)
    logger.info("what an earlier run left in %s is now in %s", output, target)


def remove_partial_files(cfg: CfgNode) -> None:
    """Deletes what a killed process left half written."""
    for folder in (Path(cfg.OUTPUT_DIR), checkpoint_folder(cfg)):
        for path in folder.glob(f"*{PARTIAL_SUFFIX}"):
            path.unlink(missing_ok=True)
