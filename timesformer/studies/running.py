"""Running the cells of a study: those that are missing, several at a time, on this machine or in Slurm's queue."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from tqdm import tqdm

from timesformer.errors import UserError
from timesformer.progress import Progress
from timesformer.studies.cells import Cell, write_config
from timesformer.studies.study import ROOT

LOG = "cell.log"
_PATIENCE = 60.0  # seconds that cells have to save when the study is interrupted


class Launcher(Protocol):
    """Starts cells and says when they have ended."""

    capacity: int

    def start(self, cell: Cell, slot: int) -> None:
        """Starts a cell; no other one that runs has that slot, which is less than `capacity`."""

    def ended(self) -> list[Cell]:
        """Cells that have ended since it was asked last."""

    def stop(self) -> str:
        """Leaves those that run when the study is interrupted, and says what becomes of them."""


class Local:
    """Cells as processes of this machine, each with its share of the cores and of the GPUs.

    Args:
        jobs: how many at a time.
        num_gpus: GPUs of this machine.
    """

    def __init__(self, jobs: int, num_gpus: int = 0) -> None:
        self.capacity, self._num_gpus = jobs, num_gpus
        self._running: dict[Cell, subprocess.Popen] = {}

    def start(self, cell: Cell, slot: int) -> None:
        with (cell.folder / LOG).open("wb") as log:  # the run's own log goes on
            self._running[cell] = subprocess.Popen(
                [sys.executable, str(ROOT / "tools/run_net.py"), "--cfg", str(cell.config_path)],
                stdout=log,
                stderr=log,
                env=self._environment(cell, slot),
                start_new_session=True,  # Ctrl-C comes through `stop`
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def _environment(self, cell: Cell, slot: int) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment = {"OMP_NUM_THREADS": str(max(1, cores // self.capacity)), **os.environ}
        wanted = cell.cfg.NUM_GPUS
        if wanted and "CUDA_VISIBLE_DEVICES" not in os.environ:
            first = slot * wanted % max(1, self._num_gpus - wanted + 1)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + wanted)))
        return environment

    def ended(self) -> list[Cell]:
        over = [cell for cell, process in self._running.items() if process.poll() is not None]
        for cell in over:
            if (code := self._running.pop(cell).returncode) < 0:
                with (cell.folder / LOG).open("a") as log:
                    log.write(f"error: ended by {signal.Signals(-code).name}\n")
        return over

    def stop(self) -> str:
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        for process in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return "cells that were running have saved; the same command goes on"


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a study that is killed leaves no cell behind


class Slurm:
    """Cells as jobs of Slurm, put into the queue by tools/submit.py; known there by their names.

    A job that is there from an earlier start of the study is waited for, and not submitted again.

    Args:
        jobs: how many may be in the queue at a time.
        options: for tools/submit.py, such as "--partition gpu --timeout 600".
    """

    EVERY = 2.0  # seconds between two looks at the queue

    def __init__(self, jobs: int, options: str = "") -> None:
        self.capacity, self._options = jobs, shlex.split(options)
        self._running: dict[Cell, str] = {}
        self._looked = 0.0

    def start(self, cell: Cell, slot: int) -> None:
        name = f"cell-{cell.key}"
        if name not in self._in_queue():
            command = [sys.executable, str(ROOT / "tools/submit.py"), "--cfg", str(cell.config_path)]
            command += ["--job_dir", str(cell.folder), "--name", name, *self._options]
            with (cell.folder / LOG).open("ab") as log:
                submitted = subprocess.run(command, stdout=log, stderr=log, check=False)
            if submitted.returncode:
                raise UserError(f"{cell.name} could not be put into the queue: {last_words(cell)}")
        self._running[cell] = name

    def ended(self) -> list[Cell]:
        if time.monotonic() < self._looked + self.EVERY:
            return []
        names = self._in_queue()
        over = [cell for cell, name in self._running.items() if name not in names]
        for cell in over:
            del self._running[cell]
        return over

    def _in_queue(self) -> set[str]:
        """Names of this user's jobs in the queue; of all that are waited for, if the controller does not answer."""
        command = ["squeue", "--me", "--noheader", "--format=%j"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise UserError("there is no Slurm here (squeue not found): give --launcher local") from error
        self._looked = time.monotonic()
        return set(asked.stdout.split()) if asked.returncode == 0 else set(self._running.values())

    def stop(self) -> str:
        return (
            f"{len(self._running)} job(s) stay in the queue; the same command waits for them, and `scancel --name "
            "NAME` ends one"
        )


def run_cells(cells: Sequence[Cell], launcher: Launcher) -> dict[Cell, str]:
    """Runs cells that are not finished, those first that others start from, and shows how far they have come.

    One that fails does not stop the others, but those that start from it.

    Returns:
        What went wrong, by cell.

    Raises:
        KeyboardInterrupt: when stopped, after the cells that run were told to save.
    """
    waiting = _in_order(cells)
    done = [cell for cell in waiting if cell.results()]
    waiting = [cell for cell in waiting if cell not in done]
    running: dict[Cell, int] = {}
    failed: dict[Cell, str] = {}
    total = len(done) + len(waiting)
    with Progress("cells", total, "cell", len(done)) as progress:
        try:
            while waiting or running:
                for cell in [cell for cell in waiting if cell.parent in failed]:
                    waiting.remove(cell)
                    failed[cell] = f"it starts from {cell.parent.name}, which failed"
                    _say(f"left out: {cell.name}: {failed[cell]}", progress)
                _start_some(waiting, running, launcher)
                for cell in launcher.ended():
                    del running[cell]
                    _say(_outcome(cell, failed), progress)
                time.sleep(0.1)
        except KeyboardInterrupt:
            tqdm.write(f"interrupted; {launcher.stop()}", file=sys.stderr)
            raise
    return failed


def _start_some(waiting: list[Cell], running: dict[Cell, int], launcher: Launcher) -> None:
    ready = [cell for cell in waiting if cell.parent is None or cell.parent.results()]
    free = [slot for slot in range(launcher.capacity) if slot not in running.values()]
    for cell, slot in zip(ready, free, strict=False):
        waiting.remove(cell)
        write_config(cell)
        launcher.start(cell, slot)
        running[cell] = slot


def _outcome(cell: Cell, failed: dict[Cell, str]) -> str:
    if results := cell.results():
        seconds = results["seconds"] + (results.get("total_train_seconds") or 0.0)
        return f"done: {cell.name}: top-1 {results['top1']:.2f} %, {seconds:.0f} s"
    failed[cell] = f"{last_words(cell)} ({cell.folder / LOG})"
    return f"failed: {cell.name}: {failed[cell]}"


def _say(line: str, progress: Progress) -> None:
    tqdm.write(line)
    sys.stdout.flush()
    progress.advance()


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with those they start from, each once, and these first."""
    ordered: dict[Cell, None] = {}

    def add(cell: Cell) -> None:
        if cell.parent is not None:
            add(cell.parent)
        ordered.setdefault(cell)

    for cell in cells:
        add(cell)
    return sorted(ordered, key=lambda cell: _depth(cell))


def _depth(cell: Cell) -> int:
    return 0 if cell.parent is None else 1 + _depth(cell.parent)


def last_words(cell: Cell) -> str:
    """What a cell that failed said at the end: its last error, else the last line of its log."""
    logs = [cell.folder / LOG, *sorted(cell.folder.glob("*/*_0_log.err")), *sorted(cell.folder.glob("*/*_0_log.out"))]
    lines = [
        line for log in logs if log.is_file() for line in log.read_text(errors="replace").splitlines() if line.strip()
    ]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1].strip()
