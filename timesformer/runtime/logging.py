"""Output of a run: log lines on the screen and in `run.log`, metrics in `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import simplejson
from fvcore.common.config import CfgNode

from timesformer.atomic import report_write_errors, write_text_atomically
from timesformer.progress import tqdm
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import metrics_path, tensorboard_folder
from timesformer.runtime.signals import defer_signals, raise_if_interrupted, stoppable
from timesformer.runtime.trackers import Trackers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Item = TypeVar("Item")

STEP = logging.DEBUG  # level of the lines of steps; a terminal shows a progress bar instead


class _ScreenHandler(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with defer_signals(), tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def set_up_logging(output_dir: Path) -> None:
    """Logs to the screen and to `run.log` in the output folder; ranks N > 0: to `log/rank_N.log`, errors to both."""
    path, prefix = output_dir / "run.log", ""
    if not is_main_process():
        path, prefix = output_dir / "log" / f"rank_{dist_info().rank}.log", f"[rank {dist_info().rank}] "
    with report_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be invalid UTF-8
    screen, errors = _ScreenHandler(sys.stdout), _ScreenHandler(sys.stderr)
    screen.setLevel(logging.INFO if sys.stdout.isatty() else STEP)
    screen.addFilter(lambda record: record.levelno < logging.ERROR and is_main_process())
    errors.setLevel(logging.ERROR)
    for handler in (screen, errors):
        handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    file.handleError = lambda record: None  # a full disk stops the run elsewhere, where results would be lost
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("timesformer")
    root.setLevel(STEP)
    root.propagate = False
    for handler in root.handlers:
        handler.close()
    root.handlers = [screen, errors, file]


def progress_bar(
    items: Collection[Item], description: str, done: int = 0, may_stop: Callable[[], bool] = lambda: False
) -> Iterator[Item]:
    """Yields the items, with a progress bar on a terminal; raises interruptions that a destructor swallowed.

    `done` items were done before: `len(items)` includes them. `may_stop()` is as in `stoppable`.
    """
    bar = {"initial": done, "total": len(items), "leave": False, "dynamic_ncols": True, "file": sys.stdout}
    stream = stoppable(items, may_stop)
    for item in tqdm(stream, description, **bar) if sys.stdout.isatty() and is_main_process() else stream:
        raise_if_interrupted()
        yield item


def duration(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class MetricsWriter:
    """Writes metrics to `metrics.jsonl`, trackers, and with TENSORBOARD.ENABLE as TensorBoard scalars; on rank 0 only.

    Args:
        cfg: the configuration.
        epoch: finished epochs, fractional within an epoch; a resumed run drops later lines, which it writes again.
        steps_per_epoch: iterations of an epoch, the unit of TensorBoard's axis.
        validated: finished epochs at the last validation; lines of later validations are dropped.
        trackers: the trackers of the run, if it has some.
    """

    def __init__(
        self, cfg: CfgNode, epoch: float, steps_per_epoch: int, validated: int, trackers: Trackers | None = None
    ) -> None:
        self._path = metrics_path(cfg)
        self._folder = tensorboard_folder(cfg)
        self._steps_per_epoch, self._trackers = steps_per_epoch, trackers
        self._board: SummaryWriter | None = None
        if not is_main_process():
            return
        text = self._path.read_text() if self._path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # without the incomplete last line of a killed process
        limit = round(epoch, 6)
        limits = {"val_epoch": min(limit, validated)}
        metrics = list(zip(lines, map(simplejson.loads, lines), strict=True))
        is_done = [found["epoch"] <= limits.get(found["kind"], limit) for _, found in metrics]
        text = "".join(f"{line}\n" for (line, _), done in zip(metrics, is_done, strict=True) if done)
        write_text_atomically(self._path, text)
        if trackers:
            done, repeated = ([m for (_, m), d in zip(metrics, is_done, strict=True) if d == e] for e in (True, False))
            trackers.start(done, repeated, steps_per_epoch)
        if cfg.TENSORBOARD.ENABLE:
            from torch.utils.tensorboard import SummaryWriter

            with defer_signals(), report_write_errors(self._folder):
                self._board = SummaryWriter(str(self._folder), purge_step=round(epoch * steps_per_epoch) + 1)

    def write(self, kind: str, epoch: float, metrics: dict[str, Any]) -> None:
        """Appends a line; `kind` is train_step, train_epoch or val_epoch."""
        if not is_main_process():
            return
        if self._trackers:
            self._trackers.write(kind, epoch, metrics)
        line = simplejson.dumps({"kind": kind, "epoch": round(epoch, 6), **metrics}, ignore_nan=True)
        with defer_signals(), report_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            for name, value in metrics.items() if self._board else ():
                self._board.add_scalar(f"{kind}/{name}", value, round(epoch * self._steps_per_epoch))

    def close(self) -> None:
        if self._board is not None:
            with defer_signals(), report_write_errors(self._folder):
                self._board.close()
