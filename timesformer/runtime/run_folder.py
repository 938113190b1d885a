"""The folder of a run (OUTPUT_DIR): its files, its lock, and what happens to the files of an earlier run."""

import fcntl
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.atomic import PARTIAL_SUFFIX, report_write_errors
from timesformer.errors import UserError
from timesformer.runtime.signals import defer_signals

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
BEST = "best.pyth"  # the checkpoint with the highest validation top-1
ANALYSIS = "analysis"  # folder of what is computed later about the results of a test
TEST_FOLDER = "test_"  # prefix of the folders of additional tests
_EPOCH = re.compile(r"checkpoint_epoch_(\d{5,})(?:_iteration_(\d{8,}))?\.pyth")


def _path(name: str) -> Callable[[CfgNode], Path]:
    return lambda cfg: Path(cfg.OUTPUT_DIR) / name


checkpoint_folder = _path(CHECKPOINTS)
best_path = _path(f"{CHECKPOINTS}/{BEST}")
config_path = _path("config.yaml")  # the whole configuration of the training
metrics_path = _path("metrics.jsonl")  # metrics of training and validation, one JSON object per line
results_path = _path("results.json")
unreadable_path = _path("unreadable.csv")  # clips that could not be read
report_path = _path("report.html")
report_frames_path = _path("report_frames.zip")  # frames shown in the report
trackers_path = _path("trackers.json")  # ids of the tracked runs (trackers.py)


def tensorboard_folder(cfg: CfgNode) -> Path:
    return Path(cfg.OUTPUT_DIR) / (cfg.TENSORBOARD.LOG_DIR or f"runs-{cfg.TRAIN.DATASET}")


def result_files(cfg: CfgNode) -> list[Path]:
    """Returns the files of a test and its report; `results.json` comes first, the report's two last."""
    output = Path(cfg.OUTPUT_DIR)
    scores = [output / cfg.TEST.SAVE_RESULTS_PATH] if cfg.TEST.SAVE_RESULTS_PATH else []
    results = [results_path(cfg), output / "predictions.csv", *scores, output / ANALYSIS]
    return [*results, report_path(cfg), report_frames_path(cfg)]


def with_output_dir(cfg: CfgNode, folder: Path) -> CfgNode:
    """Returns a copy of the configuration with another OUTPUT_DIR."""
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    return cfg


@contextmanager
def lock_output_dir(output: Path) -> Iterator[None]:
    """Creates an output folder and locks it for a block; UserError if another run has locked it.

    The lock (POSIX) ends with the process, works on network disks, and is not inherited by DataLoader workers. Deletes
    the incomplete files of a killed process, and at the end the file of the lock.
    """
    path = output / "run.lock"
    with report_write_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise _in_use(output, file.read().strip()) from error
        except OSError as error:
            logger.warning("%s does not support locks (%s): do not start two runs there", output, error)
        else:
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:  # just removed by another run
                raise _in_use(output, "ending now")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        for partial in [*output.glob(f"*{PARTIAL_SUFFIX}"), *output.glob(f"{CHECKPOINTS}/*{PARTIAL_SUFFIX}")]:
            partial.unlink(missing_ok=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # before the lock is released


def _in_use(output: Path, by: str) -> UserError:
    return UserError(f"another run ({by}) is writing to OUTPUT_DIR {output}: choose another one")


def move_previous_run(cfg: CfgNode) -> None:
    """Moves the files of an earlier run to `previous_1`, `previous_2`, ... in the same folder."""
    output = Path(cfg.OUTPUT_DIR)
    tests = [path.parent for path in output.glob(f"{TEST_FOLDER}*/results.json")]
    *results, report, frames = result_files(cfg)
    files = [checkpoint_folder(cfg), metrics_path(cfg), tensorboard_folder(cfg), trackers_path(cfg), *tests, *results]
    if any(path.exists() for path in files):
        target = move_aside(output, [*files, report, frames, config_path(cfg), unreadable_path(cfg)])
        logger.info("the earlier run in %s was moved to %s", output, target)


def move_aside(folder: Path, paths: Iterable[Path]) -> Path:
    """Moves the existing paths to the first unused `previous_N` of a folder; returns that folder."""
    number = 1
    while (target := folder / f"previous_{number}").exists():
        number += 1
    target.mkdir()
    with defer_signals():  # all of it, or none
        for path in paths:
            if path.exists():
                shutil.move(path, target / path.name)
    return target


def epoch_checkpoints(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """Returns ((finished epochs, iterations of the next epoch), path) of the checkpoints in a folder; unordered."""
    names = ((path, _EPOCH.fullmatch(path.name)) for path in folder.glob("*.pyth"))
    return [((int(match[1]), int(match[2] or 0)), path) for path, match in names if match]


def checkpoint_of_run(folder: Path) -> Path | None:
    """Returns the best checkpoint of a run's folder or folder of checkpoints, else the newest; None without any."""
    inner = folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder
    if (inner / BEST).is_file():
        return inner / BEST
    newest = max(epoch_checkpoints(inner), default=(None, None))[1]
    if newest:
        logger.warning("%s has no %s; its newest checkpoint is used: %s", inner, BEST, newest.name)
    return newest
