"""What a run says: lines on the screen and in `run.log`, figures in `metrics.jsonl` and in TensorBoard's files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import simplejson
from fvcore.common.config import CfgNode
from tqdm import tqdm

from timesformer.atomic import report_write_errors, write_text_atomically
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import metrics_path, tensorboard_folder
from timesformer.runtime.signals import defer_signals, raise_if_interrupted, stoppable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Item = TypeVar("Item")

STEP = logging.DEBUG
"""Level of the lines that come every LOG_PERIOD steps: a terminal has a progress bar instead of them."""


class _ScreenHandler(logging.StreamHandler):
    """Lines on the screen, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        with defer_signals(), tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _Printable(logging.Formatter):
    """Lines that every file and screen takes, also of names of files that are no UTF-8."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode("utf-8", "backslashreplace").decode()


def set_up_logging(output_dir: Path) -> None:
    """Sends the project's log to the screen (errors to stderr) and to `run.log` in the output folder, which is created.

    Of several processes, only the lead's is on the screen; of another one, N, there are only errors, while the rest is
    in `log/rank_N.log`.

    Raises:
        UserError: if the folder cannot be written.
    """
    path, prefix = output_dir / "run.log", ""
    if not is_main_process():
        path, prefix = output_dir / "log" / f"rank_{dist_info().rank}.log", f"[rank {dist_info().rank}] "
    with report_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, encoding="utf-8")
    screen, errors = _ScreenHandler(sys.stdout), _ScreenHandler(sys.stderr)
    screen.setLevel(logging.INFO if sys.stdout.isatty() else STEP)
    screen.addFilter(lambda record: record.levelno < logging.ERROR and is_main_process())
    errors.setLevel(logging.ERROR)
    for handler in (screen, errors):
        handler.setFormatter(_Printable(f"{prefix}%(message)s"))
    file.setLevel(STEP)
    # A full disk stops the run where results would be lost; a line of the log is not worth a traceback each.
    file.handleError = lambda record: None
    file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("timesformer")
    root.setLevel(STEP)
    root.propagate = False
    for handler in root.handlers:
        handler.close()
    root.handlers = [screen, errors, file]


def progress_bar(
    items: Collection[Item], description: str, done: int = 0, may_stop: Callable[[], bool] = lambda: False
) -> Iterator[Item]:
    """Passes the items on under a bar with rate and time to go, if the screen is a terminal.

    Stops, too, at an interruption that got lost in somebody's destructor.

    Args:
        items: what is to be done; its length counts what was done before, too.
        description: what the bar is called.
        done: items done before, which do not come again.
        may_stop: whether a signal may be obeyed while the next item is waited for.
    """
    bar = {"initial": done, "total": len(items), "leave": False, "dynamic_ncols": True, "file": sys.stdout}
    waited = stoppable(items, may_stop)
    for item in tqdm(waited, description, **bar) if sys.stdout.isatty() and is_main_process() else waited:
        raise_if_interrupted()
        yield item


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class MetricsWriter:
    """Figures of a run as lines of JSON in `metrics.jsonl` and, with TENSORBOARD.ENABLE, as TensorBoard scalars.

    Each line has `kind` ("train_step", "train_epoch" or "val_epoch") and `epoch` (finished epochs, fractional within
    one), and the figures. What a continued run writes anew is dropped on opening: lines after `epoch`, and those of
    validations after `validated`. Of several processes, only the lead writes.

    Args:
        cfg: the configuration.
        epoch: finished epochs of the run so far, fractional within one.
        steps_per_epoch: iterations of an epoch, the unit of TensorBoard's axis.
        validated: finished epochs at the last validation.
    """

    def __init__(self, cfg: CfgNode, epoch: float, steps_per_epoch: int, validated: int) -> None:
        self._path = metrics_path(cfg)
        self._folder = tensorboard_folder(cfg)
        self._steps_per_epoch = steps_per_epoch
        self._board: SummaryWriter | None = None
        if not is_main_process():
            return
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _is_done(line, _rounded(epoch), validated)]
        write_text_atomically(self._path, "".join(f"{line}\n" for line in kept))
        if cfg.TENSORBOARD.ENABLE:
            from torch.utils.tensorboard import SummaryWriter

            with defer_signals(), report_write_errors(self._folder):
                self._board = SummaryWriter(str(self._folder), purge_step=round(epoch * steps_per_epoch) + 1)

    def write(self, kind: str, epoch: float, figures: dict[str, Any]) -> None:
        """Appends one line and its scalars; UserError if the disk does not take them."""
        if not is_main_process():
            return
        line = simplejson.dumps({"kind": kind, "epoch": _rounded(epoch), **figures}, ignore_nan=True)
        with defer_signals(), report_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._board is not None:
            with defer_signals(), report_write_errors(self._folder):
                for name, value in figures.items():
                    self._board.add_scalar(f"{kind}/{name}", value, round(epoch * self._steps_per_epoch))

    def close(self) -> None:
        """Flushes what is still in memory."""
        if self._board is not None:
            with defer_signals(), report_write_errors(self._folder):
                self._board.close()


def _rounded(epoch: float) -> float:
    return round(epoch, 6)


def _is_done(line: str, epoch: float, validated: int) -> bool:
    try:
        figures = simplejson.loads(line)
        return figures["epoch"] <= (min(epoch, validated) if figures["kind"] == "val_epoch" else epoch)
    except (ValueError, KeyError, TypeError):  # the torn last line of a killed process
        return False
