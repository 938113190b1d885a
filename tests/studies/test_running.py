"""Running cells: in order, once, past failures, and from where they were interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.studies.conftest import content, finish
from timesformer.studies.cells import Cell, Choices
from timesformer.studies.reproduction import plan
from timesformer.studies.running import Local, run_cells
from timesformer.studies.study import ROOT, Study

PATIENCE = 120.0


class Pretended:
    """Ends each cell as soon as it is started; those named fail."""

    capacity = 2

    def __init__(self, *failing: str) -> None:
        self.failing, self.started, self._over = failing, [], []

    def start(self, cell: Cell, slot: int) -> None:
        self.started.append(cell.name)
        if cell.name in self.failing:
            (cell.folder / "cell.log").write_text("starting\nerror: no room on the disk\nbye\n")
        else:
            finish(cell, 50.0)
        self._over.append(cell)

    def ended(self) -> list[Cell]:
        over, self._over = self._over, []
        return over

    def stop(self) -> str:
        return ""


def test_a_cell_that_fails_stops_neither_the_others_nor_is_it_forgotten(study: Study, choices: Choices) -> None:
    cells = plan(study, choices).cells
    launcher = Pretended("table 1, base, seed 2")
    failed = run_cells(cells, launcher)
    assert len(launcher.started) == 4
    assert [cell.name for cell in failed] == ["table 1, base, seed 2"]
    assert failed[cells[1]].startswith("error: no room on the disk (")
    again = Pretended()
    assert run_cells(cells, again) == {}
    assert again.started == ["table 1, base, seed 2"]  # the finished ones are not repeated


def test_what_starts_from_a_cell_waits_for_it_and_is_left_out_when_it_fails(study: Study, tmp_path: Path) -> None:
    cells = plan(study, Choices(tmp_path / "out", tmp_path, True, 1)).cells
    failed = run_cells(cells[::-1], launcher := Pretended("weights K400"))
    assert launcher.started == ["weights K400"]
    assert len(failed) == 3
    assert failed[cells[1]] == "it starts from weights K400, which failed"
    assert run_cells(cells, launcher := Pretended()) == {}
    assert launcher.started[0] == "weights K400"


@pytest.mark.parametrize(("gpus", "expected"), [(1, ["0", "0"]), (2, ["0", "1"])])
def test_cells_at_the_same_time_share_cores_and_gpus(
    study: Study, choices: Choices, monkeypatch: pytest.MonkeyPatch, gpus: int, expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cell = plan(study, choices).cells[0]
    cell.cfg.NUM_GPUS = 1
    environments = [Local(2, gpus)._environment(cell, slot) for slot in range(2)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == expected
    cores = len(os.sched_getaffinity(0))
    assert environments[0]["OMP_NUM_THREADS"] == str(max(1, cores // 2))


def reproduce(path: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "tools/reproduce.py", str(path), "--demo", "--data", str(path.parent / "clips")]
    command += ["--output", str(path.parent / "out"), "--jobs", "2", "--seeds", "1", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_killed_cell_fails_alone_and_goes_on_with_the_same_command(write_study: Callable[[dict], Path]) -> None:
    given = content()
    given["weights"] = "none"
    given["tables"][0]["rows"][1]["set"] = {"SOLVER.MAX_EPOCH": 1000}
    path = write_study(given)
    running = reproduce(path)
    deadline = time.monotonic() + PATIENCE
    lock = None
    while lock is None:  # until the long cell has an epoch behind it
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()
        found = list(path.parent.glob("out/cells/*/seed_1/checkpoints/checkpoint_epoch_00003.pyth"))
        lock = found[0].parent.parent / "run.lock" if found else None
        time.sleep(0.05)
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1
    assert "done: table 1, base, seed 1: top-1" in out
    assert "failed: table 1, slow, seed 1" in err
    assert "1 of 2 cells failed" in err

    interrupted = reproduce(path)
    while "going on from" not in (lock.parent / "run.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    interrupted.send_signal(signal.SIGINT)
    out, err = interrupted.communicate(timeout=PATIENCE)
    assert interrupted.returncode == 130
    assert "cells that were running have saved" in err
    assert "base" not in out  # finished before
    tables = (path.parent / "out/study_demo/tables.md").read_text()
    assert "| base | 0.01 | - | 93.6 | 99.2 |" in tables
    cells = [json.loads(file.read_text()) for file in path.parent.glob("out/cells/*/seed_1/results.json")]
    assert len(cells) == 1
    assert cells[0]["peak_memory_bytes"] > 50 * 2**20
