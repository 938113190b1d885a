"""A sweep of a user's configuration, by tools/reproduce.py."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.studies.conftest import CONFIG, finish
from timesformer.runtime.run_folder import metrics_path
from timesformer.studies import demo_data
from timesformer.studies.plan import Choices
from timesformer.studies.study import DemoData, read_study
from timesformer.studies.sweep_run import SweepRun
from timesformer.studies.sweeps import make_sweep

SWEEP = "SOLVER.BASE_LR=0.1,0.2,0.3,0.4,0.5,0.6"


@pytest.mark.slow
def test_a_bad_training_is_stopped_saved_and_not_resumed(
    tmp_path: Path,
    reproduce_tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = DemoData(seed=3, clips=(2, 1, 1), classes=("left", "right"))
    options = ("SOLVER.MAX_EPOCH", "1000", "DATA.PATH_TO_DATA_DIR", str(demo_data.make(data, tmp_path / "clips", 1)))
    path, output = tmp_path / "mine.yaml", tmp_path / "out"
    path.write_text(CONFIG)
    sweep = make_sweep([SWEEP], pruner="median")
    *good, bad = SweepRun(read_study(path), Choices(output, None, False, options=options), sweep, True).plan.cells
    for number, cell in enumerate(good):  # finished before, with an accuracy that no training reaches
        finish(cell, 50.0, val_top1=101.0 + number)
        curve = [{"kind": "val_epoch", "epoch": epoch, "top1": 101.0} for epoch in range(1, 1001)]
        metrics_path(cell.cfg).write_text("".join(f"{json.dumps(line)}\n" for line in curve))
    command = ["reproduce.py", str(path), "--sweep", SWEEP, "--sweep-pruner", "median", "--output", str(output)]

    monkeypatch.setattr("sys.argv", [*command, *options])
    assert reproduce_tool.main() == 0
    printed = capfd.readouterr().out
    assert "pruned after epoch 1: sweep, BASE_LR 0.6, seed 1\n" in printed
    assert str(good[-1].folder / "checkpoints/best.pyth") in printed  # the best
    assert not bad.results()
    assert "stopped by SIGTERM" in (bad.folder / "cell.log").read_text()
    saved = set(bad.folder.glob("checkpoints/checkpoint_epoch_*.pyth"))
    assert len(saved) >= 1
    assert "| 6 | 0.6 | " in (output / "mine/sweep/tables.md").read_text()

    assert reproduce_tool.main() == 0
    assert "pruned after" not in capfd.readouterr().out
    assert set(bad.folder.glob("checkpoints/checkpoint_epoch_*.pyth")) == saved

    monkeypatch.setattr("sys.argv", [*command, *options, "--dry-run"])
    assert reproduce_tool.main() == 0
    states = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert states == [*["finished"] * 5, "pruned", "6"]


@pytest.mark.parametrize(
    "options",
    [
        ["--sweep-trials", "3"],
        ["--sweep", SWEEP, "--sweep-sampler", "grid", "--sweep-trials", "3"],
        ["--sweep", SWEEP, "--sweep-sampler", "tpe"],
        ["--sweep", SWEEP, "--sweep-random", "3", "--sweep-sampler", "tpe"],
        ["--sweep", SWEEP, "--sweep-random", "0"],
        ["--sweep", SWEEP, "--table", "1"],
    ],
)
def test_options_that_contradict_each_other_are_refused(
    reproduce_tool: ModuleType, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "hmdb_simp", "--demo", *options])
    with pytest.raises(SystemExit) as error:
        reproduce_tool.main()
    assert error.value.code == 2
