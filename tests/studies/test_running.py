"""Running cells: each once, past failures, and resumed after an interruption."""

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from tests.patience import PATIENCE
from tests.studies.conftest import content, finish
from timesformer.studies.cells import Cell
from timesformer.studies.plan import Choices, Plan
from timesformer.studies.running import Local, run_cells
from timesformer.studies.study import Study


class FakeLauncher:
    """Ends each cell as soon as it is started, some of them with an error."""

    capacity = 2

    def __init__(self, *failing: str) -> None:
        self.failing, self.started, self._ended = failing, [], []

    def start(self, cell: Cell, slot: int) -> None:
        self.started.append(cell.name)
        if cell.name in self.failing:
            (cell.folder / "cell.log").write_text("starting\nerror: no space left on device\nexiting\n")
        else:
            finish(cell, 50.0)
        self._ended.append(cell)

    def poll(self) -> list[Cell]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> str:
        return ""


def test_failed_cells_do_not_stop_the_others(study: Study, choices: Choices) -> None:
    cells = Plan(study, choices).cells
    launcher = FakeLauncher("table 1, base, seed 2")
    failed = run_cells(cells, launcher)
    assert len(launcher.started) == 4
    assert list(failed) == [cells[1]]
    assert failed[cells[1]].startswith("error: no space left on device")
    launcher = FakeLauncher()
    assert run_cells(cells, launcher) == {}
    assert launcher.started == ["table 1, base, seed 2"]  # finished cells are not repeated


def test_cells_wait_for_their_parent(study: Study, tmp_path: Path) -> None:
    cells = Plan(study, Choices(tmp_path / "out", tmp_path, True, 1)).cells
    failed = run_cells(cells[::-1], launcher := FakeLauncher("weights K400"))
    assert launcher.started == ["weights K400"]
    assert set(failed) == set(cells)
    assert run_cells(cells, launcher := FakeLauncher()) == {}
    assert launcher.started[0] == "weights K400"


@pytest.mark.parametrize(("gpus", "expected"), [(1, ["0", "0"]), (2, ["0", "1"])])
def test_local_cells_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch, gpus: int, expected: list[str]) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environments = [Local(2, gpus).environment(1, slot) for slot in range(2)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == expected
    cores = len(os.sched_getaffinity(0))
    assert environments[0]["OMP_NUM_THREADS"] == str(max(1, cores // 2))


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch, reproduce_tool: ModuleType) -> Callable[..., int]:
    """reproduce(study, meanwhile): exit code of tools/reproduce.py, while `meanwhile` runs in a thread."""

    def run(path: Path, meanwhile: Callable[[], None]) -> int:
        command = ["reproduce.py", str(path), "--demo", "--data", str(path.parent / "clips"), "--seeds", "1"]
        monkeypatch.setattr("sys.argv", [*command, "--output", str(path.parent / "out"), "--jobs", "2"])
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(meanwhile)
            code = reproduce_tool.main()
            future.result()
        return code

    return run


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_the_same_command_resumes_a_killed_cell(
    write_study: Callable[[dict], Path], reproduce: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    given = content()
    given["weights"] = "none"
    given["tables"][0]["rows"][1]["set"] = {"SOLVER.MAX_EPOCH": 1000}
    path = write_study(given)
    cells = path.parent / "out" / "cells"

    def long_cells() -> list[Path]:
        return [path.parents[1] for path in cells.glob("*/seed_1/checkpoints/checkpoint_epoch_00003.pyth")]

    def kill_the_long_cell() -> None:
        wait_for(long_cells)
        os.kill(int((long_cells()[0] / "run.lock").read_text().split()[1]), signal.SIGKILL)

    assert reproduce(path, kill_the_long_cell) == 1
    printed = capfd.readouterr()
    assert "done: table 1, base, seed 1: top-1" in printed.out
    assert "failed: table 1, slow, seed 1: error: terminated by SIGKILL" in printed.err

    def interrupt_the_resumed_cell() -> None:
        (folder,) = long_cells()
        saved = set(folder.glob("checkpoints/checkpoint_*.pyth"))
        wait_for(lambda: set(folder.glob("checkpoints/checkpoint_*.pyth")) - saved)
        os.kill(os.getpid(), signal.SIGINT)

    assert reproduce(path, interrupt_the_resumed_cell) == 130
    printed = capfd.readouterr()
    assert "interrupted" in printed.err
    assert "base" not in printed.out  # finished before
    assert "| base | 0.01 | - | 93.6 | 99.2 |" in (path.parent / "out/study_demo/tables.md").read_text()
    (results,) = cells.glob("*/seed_1/results.json")
    assert json.loads(results.read_text())["peak_memory_bytes"] > 50 * 2**20
