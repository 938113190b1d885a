"""Running cells: in order, once, past failures, and from where they were interrupted."""

import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.studies.conftest import content, finish
from timesformer.studies.cells import Cell, Choices
from timesformer.studies.reproduction import plan
from timesformer.studies.running import Local, run_cells
from timesformer.studies.study import ROOT, Study


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


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """reproduce(study, meanwhile): exit code of tools/reproduce.py, while `meanwhile` runs in a thread."""
    spec = importlib.util.spec_from_file_location("tools_reproduce", ROOT / "tools" / "reproduce.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(path: Path, meanwhile: Callable[[], None]) -> int:
        command = ["reproduce.py", str(path), "--demo", "--data", str(path.parent / "clips"), "--seeds", "1"]
        monkeypatch.setattr("sys.argv", [*command, "--output", str(path.parent / "out"), "--jobs", "2"])
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(meanwhile)
            code = tool.main()
            future.result()
        return code

    return run


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_killed_cell_fails_alone_and_goes_on_with_the_same_command(
    write_study: Callable[[dict], Path], reproduce: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    given = content()
    given["weights"] = "none"
    given["tables"][0]["rows"][1]["set"] = {"SOLVER.MAX_EPOCH": 1000}
    path = write_study(given)
    cells = path.parent / "out" / "cells"

    def kill_the_long_one() -> None:
        wait_for(lambda: any(cells.glob("*/seed_1/checkpoints/checkpoint_epoch_00003.pyth")))
        os.kill(int(next(long_cells()).joinpath("run.lock").read_text().split()[1]), signal.SIGKILL)

    def long_cells() -> Iterator[Path]:
        return (file.parents[1] for file in cells.glob("*/seed_1/checkpoints/checkpoint_epoch_00003.pyth"))

    assert reproduce(path, kill_the_long_one) == 1
    said = capfd.readouterr()
    assert "done: table 1, base, seed 1: top-1" in said.out
    assert "failed: table 1, slow, seed 1: error: ended by SIGKILL" in said.err
    assert "1 of 2 cells failed" in said.err

    def interrupt_once_it_goes_on() -> None:
        wait_for(lambda: "resuming from" in (next(long_cells()) / "run.log").read_text())
        os.kill(os.getpid(), signal.SIGINT)

    assert reproduce(path, interrupt_once_it_goes_on) == 130
    said = capfd.readouterr()
    assert "cells that were running have saved" in said.err
    assert "base" not in said.out  # finished before
    assert "| base | 0.01 | - | 93.6 | 99.2 |" in (path.parent / "out/study_demo/tables.md").read_text()
    (results,) = cells.glob("*/seed_1/results.json")
    assert json.loads(results.read_text())["peak_memory_bytes"] > 50 * 2**20
