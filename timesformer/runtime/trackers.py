"""Experiment trackers, through their own libraries: Weights & Biases (WANDB.ENABLED) and MLflow (MLFLOW.ENABLED)."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import simplejson
import yaml
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.config.options import flatten
from timesformer.runtime.ranks import is_main_process
from timesformer.runtime.run_folder import (
    config_path,
    metrics_path,
    report_path,
    results_path,
    trackers_path,
    with_output_dir,
)

logger = logging.getLogger(__name__)

PROJECT = "timesformer"
"""Project (Weights & Biases) and experiment (MLflow), unless an environment variable of the library sets another."""

Line = dict[str, Any]  # of metrics.jsonl


class Tracker(Protocol):
    """A tracked run of a library. The constructor starts a run, or continues that with an id.

    Attributes:
        run_id: for a later process to continue the tracked run.
        is_continued: whether the tracked run has the metrics of earlier processes.
    """

    title: str
    run_id: str
    is_continued: bool

    def __init__(self, cfg: CfgNode, run_id: str | None) -> None: ...

    def log(self, metrics: dict[str, float], epoch: float, step: int) -> None:
        """Adds metrics at finished epochs and iterations."""

    def log_results(self, metrics: dict[str, float]) -> None:
        """Adds metrics of the whole run."""

    def save(self, path: Path) -> None:
        """Adds a file."""

    def finish(self, error: BaseException | None) -> None:
        """Ends the run, which failed with `error` if there is one."""


class WandbTracker:
    """A run of Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_DIR and its other environment variables apply."""

    title = "Weights & Biases"

    def __init__(self, cfg: CfgNode, run_id: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            resume="allow",
            name=os.environ.get("WANDB_NAME", _name(cfg)),
            dir=os.environ.get("WANDB_DIR", cfg.OUTPUT_DIR),
            config=yaml.safe_load(cfg.dump()),
            allow_val_change=True,
            settings=wandb.Settings(console="off"),  # run.log has the output, without progress bars
        )
        self.run_id = self._run.id
        self.is_continued = self._run.resumed  # never offline, where each process writes a folder of its own
        self._run.define_metric("*", step_metric="epoch")

    def log(self, metrics: dict[str, float], epoch: float, step: int) -> None:
        # Not with `step`: after an interruption, a row of the last step would be ignored.
        self._run.log({**metrics, "epoch": epoch, "iteration": step})

    def log_results(self, metrics: dict[str, float]) -> None:
        self._run.summary.update(metrics)

    def save(self, path: Path) -> None:
        self._run.save(path.resolve(), base_path=path.resolve().parent, policy="now")

    def finish(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


class MlflowTracker:
    """A run of MLflow. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its other environment variables apply."""

    title = "MLflow"

    def __init__(self, cfg: CfgNode, run_id: str | None) -> None:
        import mlflow

        self._mlflow = mlflow
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            mlflow.set_experiment(PROJECT)
        nested = mlflow.active_run() is not None
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else _name(cfg), nested=nested)
        self.run_id, self.is_continued = run.info.run_id, run_id is not None
        # A parameter cannot change; config.yaml is among the files of the run.
        options = flatten(yaml.safe_load(cfg.dump()))
        mlflow.log_params({key: str(value) for key, value in options.items() if key not in run.data.params})

    def log(self, metrics: dict[str, float], epoch: float, step: int) -> None:
        self._mlflow.log_metrics({**metrics, "epoch": epoch}, step=step, run_id=self.run_id)

    def log_results(self, metrics: dict[str, float]) -> None:
        self._mlflow.log_metrics(metrics, run_id=self.run_id)

    def save(self, path: Path) -> None:
        self._mlflow.log_artifact(str(path), run_id=self.run_id)

    def finish(self, error: BaseException | None) -> None:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        self._mlflow.end_run("FINISHED" if error is None else status)


class Trackers(AbstractContextManager):
    """The trackers that a configuration enables, of the main process; their runs end with the block.

    A tracker starts when there is something to track, and then continues the run that OUTPUT_DIR/trackers.json names. A
    new tracked run gets the metrics that metrics.jsonl has already. If a tracker fails, the run logs a warning and
    continues without it.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._enabled: dict[str, type[Tracker]] = {}
        if is_main_process() and cfg.WANDB.ENABLED:
            self._enabled["wandb"] = WandbTracker
        if is_main_process() and cfg.MLFLOW.ENABLED:
            self._enabled["mlflow"] = MlflowTracker
        self._trackers: dict[str, Tracker] = {}
        self._steps_per_epoch = 1
        self._repeated: set[tuple[str, float]] = set()

    def start(self, lines: Iterable[Line], repeated: Iterable[Line] = (), steps_per_epoch: int = 1) -> None:
        """Starts the trackers.

        Args:
            lines: the content of metrics.jsonl.
            repeated: lines removed from it, because a run that resumes writes them again.
            steps_per_epoch: iterations of an epoch.
        """
        self._steps_per_epoch = steps_per_epoch
        self._repeated = {(line["kind"], line["epoch"]) for line in repeated}
        lines, enabled, self._enabled = list(lines), self._enabled, {}
        for key, kind in enabled.items():
            self._attempt(key, kind.title, lambda key=key, kind=kind: self._start(key, kind, lines))

    def _start(self, key: str, kind: type[Tracker], lines: Sequence[Line]) -> None:
        path = trackers_path(self._cfg)
        ids = simplejson.loads(path.read_text()) if path.exists() else {}
        tracker = self._trackers[key] = kind(self._cfg, ids.get(key))
        write_text_atomically(path, simplejson.dumps({**ids, key: tracker.run_id}) + "\n")
        if config_path(self._cfg).exists():
            tracker.save(config_path(self._cfg))
        for line in () if tracker.is_continued else lines:
            self._log(tracker, line)

    def write(self, kind: str, epoch: float, metrics: dict[str, Any]) -> None:
        """Tracks what is written to metrics.jsonl."""
        line = {"kind": kind, "epoch": round(epoch, 6), **metrics}
        for key, tracker in list(self._trackers.items()):
            if not (tracker.is_continued and (kind, line["epoch"]) in self._repeated):
                self._attempt(key, tracker.title, lambda tracker=tracker: self._log(tracker, line))

    def _log(self, tracker: Tracker, line: Line) -> None:
        kind, epoch = line["kind"], line["epoch"]
        metrics = _numbers({name: value for name, value in line.items() if name not in ("kind", "epoch")}, kind)
        tracker.log(metrics, epoch, round(epoch * self._steps_per_epoch))

    def log_test(self, folder: Path) -> None:
        """Tracks the results and files of the test in a folder: OUTPUT_DIR, or that of another test in it."""
        if self._enabled:
            path = metrics_path(self._cfg)
            self.start(map(simplejson.loads, path.read_text().splitlines() if path.exists() else ()))
        if not self._trackers:
            return
        cfg = with_output_dir(self._cfg, folder)
        results = {k: v for k, v in simplejson.loads(results_path(cfg).read_text()).items() if k != "schema_version"}
        results = flatten({key: value for key, value in results.items() if key not in ("config", "versions")})
        prefix = "test" if folder.resolve() == Path(self._cfg.OUTPUT_DIR).resolve() else folder.name
        files = [results_path(cfg), folder / "predictions.csv", report_path(cfg)]

        def track(tracker: Tracker) -> None:
            tracker.log_results(_numbers(results, prefix))
            for file in filter(Path.exists, files):
                tracker.save(file)

        for key, tracker in list(self._trackers.items()):
            self._attempt(key, tracker.title, lambda tracker=tracker: track(tracker))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key, tracker in list(self._trackers.items()):
            self._attempt(key, tracker.title, lambda tracker=tracker: tracker.finish(error))

    def _attempt(self, key: str, title: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._trackers.pop(key, None)
            logger.warning(
                "%s failed and stops tracking this run; the files of the run are complete. To start another tracked "
                "run, delete %s. %s: %s",
                title,
                trackers_path(self._cfg),
                type(error).__name__,
                error,
            )


def _numbers(values: dict[str, Any], prefix: str) -> dict[str, float]:
    """The values that are numbers, with names `prefix/name`."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {f"{prefix}/{name}": float(v) for name, v in numbers.items() if not isinstance(v, bool)}


def _name(cfg: CfgNode) -> str:
    """The name of a tracked run: the last two parts of OUTPUT_DIR."""
    return "/".join(Path(cfg.OUTPUT_DIR).resolve().parts[-2:])
