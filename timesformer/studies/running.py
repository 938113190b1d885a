"""Runs the cells of a study, several at a time, as local processes or as jobs of Slurm."""

import ctypes
import getpass
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Protocol

from timesformer.errors import UserError, counted
from timesformer.progress import Progress, tqdm
from timesformer.runtime.resource_limits import available_cores
from timesformer.runtime.subcommands import command_environment, command_line
from timesformer.studies.cells import Cell

LOG = "cell.log"
_GRACE = 60.0  # seconds to save a checkpoint when the study is interrupted


class Local:
    """Runs up to `jobs` cells at a time as processes, which share the cores and GPUs of this machine."""

    def __init__(self, jobs: int, num_gpus: int = 0) -> None:
        self.capacity, self._num_gpus = jobs, num_gpus
        self._running: dict[Cell, subprocess.Popen] = {}

    def start(self, cell: Cell, slot: int) -> None:
        """Starts a cell in a free slot, 0 to `capacity` - 1."""
        with (cell.folder / LOG).open("wb") as log:  # the run appends to its own log
            self._running[cell] = subprocess.Popen(
                command_line("train", "--cfg", str(cell.config_path)),
                stdout=log,
                stderr=log,
                env=self.environment(cell.cfg.NUM_GPUS, slot),
                start_new_session=True,  # Ctrl-C reaches it through `stop`
                preexec_fn=_terminate_with_parent if sys.platform == "linux" else None,
            )

    def environment(self, num_gpus: int, slot: int) -> dict[str, str]:
        """Environment variables of a cell: its share of the cores, and its GPUs."""
        environment = {"OMP_NUM_THREADS": str(max(1, available_cores() // self.capacity)), **command_environment()}
        if num_gpus and "CUDA_VISIBLE_DEVICES" not in os.environ:
            first = slot * num_gpus % max(1, self._num_gpus - num_gpus + 1)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + num_gpus)))
        return environment

    def poll(self) -> list[Cell]:
        """The cells that have ended since the last call."""
        ended = [cell for cell, process in self._running.items() if process.poll() is not None]
        for cell in ended:
            if (code := self._running.pop(cell).returncode) < 0:
                with (cell.folder / LOG).open("a") as log:
                    log.write(f"error: terminated by {signal.Signals(-code).name}\n")
        return ended

    def cancel(self, cell: Cell) -> None:
        """Asks a running cell to save and stop."""
        self._running[cell].send_signal(signal.SIGTERM)

    def stop(self) -> str:
        """Handles an interruption of the study; returns what happens to the running cells."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        for process in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return "running cells have saved; the same command resumes them"


def _terminate_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Slurm:
    """Runs up to `jobs` cells at a time as jobs of Slurm, or waits for the jobs of an earlier call."""

    PERIOD = 2.0  # seconds between two calls of squeue

    def __init__(self, jobs: int, options: str = "") -> None:
        self.capacity, self._options = jobs, shlex.split(options)
        self._running: dict[Cell, str] = {}
        self._to_cancel: set[Cell] = set()
        self._last_poll = 0.0

    def start(self, cell: Cell, slot: int) -> None:
        name = f"cell-{cell.key}-{sha256(str(cell.folder.resolve()).encode()).hexdigest()[:8]}"
        if name not in self._queued() and not cell.results():  # its job may have just ended
            command = command_line("submit", "--cfg", str(cell.config_path))
            command += ["--job_dir", str(cell.folder), "--name", name, "--num_shards", str(cell.cfg.NUM_SHARDS)]
            command += self._options
            with (cell.folder / LOG).open("ab") as log:
                submitted = subprocess.run(command, stdout=log, stderr=log, env=command_environment(), check=False)
            if submitted.returncode:
                raise UserError(f"{cell.name} could not be submitted: {last_error(cell)}")
        self._running[cell] = name

    def poll(self) -> list[Cell]:
        if time.monotonic() < self._last_poll + self.PERIOD:
            return []
        queued = self._queued()
        failed, self._to_cancel = self._to_cancel & self._running.keys(), set()
        for cell in failed:
            self.cancel(cell)
        ended = [cell for cell, name in self._running.items() if name not in queued]
        for cell in ended:
            del self._running[cell]
        return ended

    def _queued(self) -> set[str]:
        """Names of this user's jobs in the queue; those of the running cells if the controller does not answer."""
        command = ["squeue", "--me", "--noheader", "--format=%j"]
        try:
            queue = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise UserError("squeue not found: --launcher slurm needs Slurm; use --launcher local") from error
        self._last_poll = time.monotonic()
        return set(queue.stdout.split()) if queue.returncode == 0 else set(self._running.values())

    def cancel(self, cell: Cell) -> None:
        """Cancels the job of a running cell, now or as soon as the controller answers."""
        command = ["scancel", f"--user={getpass.getuser()}", f"--name={self._running[cell]}"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            self._to_cancel.add(cell)

    def stop(self) -> str:
        count = len(self._running)
        return f"{counted(count, 'job')} {'stays' if count == 1 else 'stay'} in the queue; the same command waits"


Launcher = Local | Slurm


class Supply(Protocol):
    """Chooses cells while others run: `total` in all, of which `done` were finished before."""

    total: int
    done: int

    def take(self, count: int) -> list[Cell]:
        """More cells to start now; there may be none yet."""

    def watch(self, running: Collection[Cell]) -> list[Cell]:
        """Running cells to cancel."""

    def ended(self, cell: Cell) -> str | None:
        """Called when a cell has ended; why it was cancelled, if it was."""


def run_cells(cells: Sequence[Cell], launcher: Launcher, supply: Supply | None = None) -> dict[Cell, str]:
    """Runs the cells that are not finished, each after its parent, unless that failed; returns the errors by cell.

    Those of `supply` follow when they have all begun; their parents must be finished.
    """
    waiting = [cell for cell in cells if not cell.results()]
    running: dict[Cell, int] = {}
    failed: dict[Cell, str] = {}
    total, done = (supply.total, supply.done) if supply else (0, 0)
    with Progress("cells", len(cells) + total, "cell", len(cells) - len(waiting) + done) as progress:
        try:
            while True:
                for cell in [cell for cell in waiting if cell.parent in failed]:
                    waiting.remove(cell)
                    failed[cell] = f"it starts from {cell.parent.name}, which failed"
                    _report(f"skipped: {cell.name}: {failed[cell]}", progress)
                ready = [cell for cell in waiting if cell.parent is None or cell.parent.results()]
                free = [slot for slot in range(launcher.capacity) if slot not in running.values()]
                if supply and len(ready) < len(free):
                    more = supply.take(len(free) - len(ready))
                    waiting, ready = waiting + more, ready + more
                if not (waiting or running):
                    break
                for cell, slot in zip(ready, free, strict=False):
                    waiting.remove(cell)
                    cell.write_config()
                    launcher.start(cell, slot)
                    running[cell] = slot
                for cell in supply.watch(running) if supply else ():
                    launcher.cancel(cell)
                for cell in launcher.poll():
                    del running[cell]
                    reason = supply.ended(cell) if supply else None
                    if results := cell.results():
                        seconds = results["seconds"] + (results.get("total_train_seconds") or 0.0)
                        _report(f"done: {cell.name}: top-1 {results['top1']:.2f} %, {seconds:.0f} s", progress)
                    elif reason:
                        _report(f"{reason}: {cell.name}", progress)
                    else:
                        failed[cell] = f"{last_error(cell)} ({cell.folder / LOG})"
                        _report(f"failed: {cell.name}: {failed[cell]}", progress)
                time.sleep(0.1)
        except KeyboardInterrupt:
            tqdm.write(f"interrupted; {launcher.stop()}", file=sys.stderr)
            raise
    return failed


def _report(line: str, progress: Progress) -> None:
    tqdm.write(line)
    sys.stdout.flush()
    progress.advance()


def last_error(cell: Cell) -> str:
    """The last error in the logs of a cell that failed, or else the last line."""
    logs = [cell.folder / LOG, *sorted(cell.folder.glob("*/*_0_log.err")), *sorted(cell.folder.glob("*/*_0_log.out"))]
    lines = [line for log in logs if log.is_file() for line in log.read_text(errors="replace").splitlines()]
    lines = [line.strip() for line in lines if line.strip()]
    return ([line for line in lines if line.startswith("error:")] or lines or ["its log is empty"])[-1]
