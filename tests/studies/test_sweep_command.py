"""A sweep of a user's configuration, by tools/reproduce.py."""

from pathlib import Path
from types import ModuleType

import pytest

from tests.studies.almost_finished import SWEEP, almost_finished_sweep
from tests.studies.conftest import CONFIG


@pytest.mark.slow
def test_a_bad_training_is_stopped_saved_and_not_resumed(
    tmp_path: Path,
    reproduce_tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command, best, bad = almost_finished_sweep(tmp_path)
    monkeypatch.setattr("sys.argv", ["reproduce.py", *command])
    assert reproduce_tool.main() == 0
    printed = capfd.readouterr().out
    assert "pruned after epoch 1: sweep, BASE_LR 0.6, seed 1\n" in printed
    assert str(best.folder / "checkpoints/best.pyth") in printed  # the best
    assert not bad.results()
    assert "stopped by SIGTERM" in (bad.folder / "cell.log").read_text()
    saved = set(bad.folder.glob("checkpoints/checkpoint_epoch_*.pyth"))
    assert len(saved) >= 1
    assert "| 6 | 0.6 | " in (tmp_path / "out/mine/sweep/tables.md").read_text()

    assert reproduce_tool.main() == 0
    assert "pruned after" not in capfd.readouterr().out
    assert set(bad.folder.glob("checkpoints/checkpoint_epoch_*.pyth")) == saved

    monkeypatch.setattr("sys.argv", ["reproduce.py", *command, "--dry-run"])
    assert reproduce_tool.main() == 0
    states = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert states == [*["finished"] * 5, "pruned", "6"]


@pytest.mark.parametrize("sampler", [[], ["--sweep-trials", "3"]])
def test_nothing_is_written_if_the_options_are_refused(
    tmp_path: Path,
    reproduce_tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sampler: list[str],
) -> None:
    (tmp_path / "mine.yaml").write_text(CONFIG)
    (tmp_path / "data").mkdir()
    command = [str(tmp_path / "mine.yaml"), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["reproduce.py", *command, "--sweep", SWEEP, *sampler, "DATA.NUM_FRAMES", "0"])
    assert reproduce_tool.main() == 2
    assert "DATA.NUM_FRAMES" in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*")} == {"mine.yaml", "data"}


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
