"""Several official splits in one command: each as if run alone, nothing repeated, and the mean of their results."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from timesformer.config import get_cfg
from timesformer.engine import repeats as splits
from timesformer.engine import trainer as train
from timesformer.engine.meters import Pace
from timesformer.engine.repeats import summarize, table

RunNet = Callable[..., Any]
Ranks = Callable[..., list]


@pytest.fixture(scope="module")
def hmdb51(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HMDB51 in small: 2 classes of 9 clips, folders of 2 frames; a split tests 3 of each. Not to be changed."""
    root, random = tmp_path_factory.mktemp("hmdb51"), np.random.default_rng(0)
    (root / "testTrainMulti_7030_splits").mkdir()
    for label in ("catch", "wave"):
        for clip in range(9):
            folder = root / label / f"film{clip}"
            folder.mkdir(parents=True)
            for frame in range(2):
                Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{frame}.jpg")
        for split in (1, 2, 3):
            lines = [f"film{clip}.avi {2 if clip // 3 == split - 1 else 1}\n" for clip in range(9)]
            (root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def command(tiny_command: list[str], hmdb51: Path, tmp_path: Path) -> list[str]:
    """Arguments of run_net.py, but for --splits before and further options after them; results go to `out`."""
    data = ["TRAIN.DATASET", "hmdb51", "TEST.DATASET", "hmdb51", "DATA.PATH_TO_DATA_DIR", str(hmdb51)]
    options = ["MODEL.NUM_CLASSES", "2", "TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "out")]
    return [*tiny_command, *data, *options]


@pytest.fixture(scope="module")
def series() -> dict[str, Path]:
    return {}


@pytest.fixture
def finished(series: dict[str, Path], command: list[str], run_net: RunNet, tmp_path: Path) -> Path:
    """`out` after --splits 1 2 3; run once."""
    out = tmp_path / "out"
    if not series:
        done = run_net("--splits", "1", "2", "3", *command)
        assert done.code == 0, done.err
        series["out"] = shutil.copytree(out, tmp_path.parent / "series")
    else:
        shutil.copytree(series["out"], out)
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "checkpoint_epoch_00002.pyth", weights_only=True)["model_state"]


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_the_mean_over_the_splits_is_written_and_shown(finished: Path) -> None:
    summary = json.loads((finished / "splits.json").read_text())
    runs = [results(finished / f"split_{split}") for split in (1, 2, 3)]
    assert [row["split"] for row in summary["splits"]] == [1, 2, 3]
    assert [row["num_videos"] for row in summary["splits"]] == [6, 6, 6]
    assert [run["config"]["DATA"]["SPLIT"] for run in runs] == [1, 2, 3]
    for figure in ("top1", "top5"):
        column = [run[figure] for run in runs]
        assert [row[figure] for row in summary["splits"]] == column
        assert summary["mean"][figure] == pytest.approx(np.mean(column), abs=1e-3)
        assert summary["std"][figure] == pytest.approx(np.std(column, ddof=1), abs=1e-3)
    log = (finished / "run.log").read_text()
    assert f"mean    {summary['mean']['top1']:8.2f}{summary['mean']['top5']:8.2f}" in log
    assert "epoch 2: training loss" not in log  # each run has a log of its own
    assert (finished / "split_2" / "run.log").read_text().count("epoch 2: training loss") == 1
    tested = {(finished / f"split_{split}" / "predictions.csv").read_text() for split in (1, 2, 3)}
    assert len(tested) == 3


def test_a_split_in_a_series_is_the_same_as_alone(
    finished: Path, command: list[str], run_net: RunNet, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    assert run_net(*command, "DATA.SPLIT", "2", "OUTPUT_DIR", str(alone)).code == 0
    first, second = weights(finished / "split_2"), weights(alone)
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert (finished / "split_2" / "predictions.csv").read_text() == (alone / "predictions.csv").read_text()


def test_finished_splits_are_not_repeated_and_an_unfinished_one_goes_on(
    finished: Path, command: list[str], run_net: RunNet
) -> None:
    before = {path: path.read_bytes() for path in sorted(finished.rglob("*.pyth"))}
    summary = (finished / "splits.json").read_text()
    half = finished / "split_3"
    (half / "checkpoints" / "checkpoint_epoch_00002.pyth").unlink()
    (half / "results.json").unlink()
    (finished / "splits.json").unlink()
    done = run_net("--splits", "1", "2", "3", *command, "LOG_PERIOD", "2")
    assert done.code == 0, done.err
    assert done.out.count("is finished") == 2
    assert done.out.count("training TimeSformer") == 1
    assert "after epoch 1 of 2" in done.out
    again = json.loads((finished / "splits.json").read_text())
    assert again == json.loads(summary)
    assert [path for path, content in before.items() if path.read_bytes() != content and path.parents[1] != half] == []


def test_a_split_that_has_not_begun_needs_the_weights_to_start_from_before_another_resumes(
    finished: Path, command: list[str], run_net: RunNet, tmp_path: Path
) -> None:
    for split in (1, 2):  # as if interrupted after the first epoch
        (finished / f"split_{split}/results.json").unlink()
        (finished / f"split_{split}/checkpoints/checkpoint_epoch_00002.pyth").unlink()
    missing = [*command, "TIMESFORMER.PRETRAINED_MODEL", str(tmp_path / "none.pth")]
    assert run_net("--splits", "1", "2", *missing).code == 0
    (finished / "split_2/checkpoints/checkpoint_epoch_00002.pyth").unlink()
    (finished / "split_2/results.json").unlink()
    shutil.rmtree(finished / "split_3")
    refused = run_net("--splits", "2", "3", *missing)
    assert refused.code == 2
    assert "TIMESFORMER.PRETRAINED_MODEL is" in refused.err
    assert not (finished / "split_2/checkpoints/checkpoint_epoch_00002.pyth").exists()


def test_ctrl_c_in_a_series_saves_the_split_that_trains_and_begins_no_other(
    finished: Path, command: list[str], run_net: RunNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_step, out = train.log_step, tmp_path / "stopped"

    def stop_in_the_second_split(run: train.Run, pace: Pace, rate: float) -> None:
        log_step(run, pace, rate)
        if run.cfg.DATA.SPLIT == 2 and run.progress.epoch == 1:
            signal.raise_signal(signal.SIGINT)

    series = ["--splits", "1", "2", "3", *command, "TRAIN.CHECKPOINT_PERIOD", "100", "OUTPUT_DIR", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(train, "log_step", stop_in_the_second_split)
        assert run_net(*series).code == 130
    assert (out / "split_1" / "results.json").exists()
    assert not (out / "split_3").exists()
    resumed = run_net(*series)
    assert resumed.code == 0, resumed.err
    assert not list(out.glob("*/previous_1"))
    for split in ("split_1", "split_2", "split_3"):
        assert all(torch.equal(weights(finished / split)[name], value) for name, value in weights(out / split).items())


def test_several_processes_run_the_splits_that_the_lead_finds_unfinished(
    ranks: Ranks, command: list[str], run_net: RunNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = ["MODEL.DROPOUT_RATE", "0.0", "TIMESFORMER.DROP_PATH_RATE", "0.0"]
    out, alone = tmp_path / "out", tmp_path / "alone"
    is_finished = splits._is_finished

    def work(rank: int) -> int:
        # A disk may show a machine late what another has written.
        monkeypatch.setattr(splits, "_is_finished", is_finished if rank == 0 else lambda cfg: False)
        return run_net("--splits", "1", "2", *command, *alike, "OUTPUT_DIR", str(out if size == 2 else alone)).code

    size = 1
    assert [ended.code for ended in ranks(size, work)] == [0]
    size = 2
    assert [ended.code for ended in ranks(2, work)] == [0, 0]
    summary = (out / "splits.json").read_text()
    assert json.loads(summary)["mean"] == json.loads((alone / "splits.json").read_text())["mean"]
    for split in ("split_1", "split_2"):
        for name, value in weights(alone / split).items():
            torch.testing.assert_close(weights(out / split)[name], value, rtol=0, atol=1e-5)

    half = out / "split_2"
    (half / "checkpoints" / "checkpoint_epoch_00002.pyth").unlink()
    (half / "results.json").unlink()
    (out / "splits.json").unlink()
    assert [ended.code for ended in ranks(2, work)] == [0, 0]
    assert (out / "splits.json").read_text() == summary
    assert "split 1 is finished" in (out / "run.log").read_text()
    logs = [(out / split / "log" / "rank_1.log").read_text() for split in ("split_1", "split_2")]
    assert [log.count("training TimeSformer") for log in logs] == [1, 2]
    assert "after epoch 1 of 2" in logs[1]


def test_options_of_the_test_test_again_and_others_are_refused(
    finished: Path, command: list[str], run_net: RunNet
) -> None:
    before = (finished / "splits.json").read_text()
    done = run_net("--splits", "1", "2", *command, "TEST.NUM_SPATIAL_CROPS", "3")
    assert (done.code, done.out.count("nothing left to train")) == (0, 2)
    assert results(finished / "split_2")["num_views"] == 3
    assert results(finished / "split_2" / "previous_1")["num_views"] == 1
    assert (finished / "previous_1" / "splits.json").read_text() == before
    assert [row["split"] for row in json.loads((finished / "splits.json").read_text())["splits"]] == [1, 2]
    log = (finished / "split_1" / "run.log").read_bytes()
    refused = run_net("--splits", "1", "2", "3", *command, "SOLVER.BASE_LR", "0.02")
    assert refused.code == 2
    assert "split_1/results.json is of other options: SOLVER.BASE_LR was 0.01, is 0.02" in refused.err
    assert (finished / "split_1" / "run.log").read_bytes() == log


def test_a_test_of_splits_alone_joins_its_own_results_and_keeps_the_earlier(
    finished: Path, command: list[str], run_net: RunNet
) -> None:
    before = results(finished / "split_2")
    done = run_net("--splits", "2", *command, "TRAIN.ENABLE", "False", "TEST.NUM_ENSEMBLE_VIEWS", "3")
    assert done.code == 0, done.err
    assert results(finished / "split_2")["num_views"] == 3
    assert results(finished / "split_2" / "previous_1") == before
    (row,) = json.loads((finished / "splits.json").read_text())["splits"]
    assert row["top1"] == results(finished / "split_2")["top1"]


def test_resuming_a_split_as_another_one_is_refused(finished: Path, command: list[str], run_net: RunNet) -> None:
    refused = run_net(*command, "OUTPUT_DIR", str(finished / "split_1"), "DATA.SPLIT", "2", "SOLVER.MAX_EPOCH", "3")
    assert refused.code == 2
    assert "is of another run, with other options: DATA.SPLIT was 1, is 2" in refused.err


def test_testing_a_checkpoint_of_another_split_is_warned_of(
    finished: Path, command: list[str], run_net: RunNet, tmp_path: Path
) -> None:
    checkpoint = str(finished / "split_1" / "checkpoints" / "best.pyth")
    options = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint, "OUTPUT_DIR", str(tmp_path / "other")]
    tested = run_net(*command, *options, "DATA.SPLIT", "2")
    assert tested.code == 0
    assert "was trained on other clips: DATA.SPLIT was 1, is 2" in tested.out


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ("1 2 3", "TRAIN.DATASET hmdb_simp TEST.DATASET hmdb_simp", "--splits is for DATASET hmdb51 or ucf101"),
        ("1 2 3", "TEST.DATASET ucf101", "they are hmdb51 and ucf101: leave it out, or set both"),
        ("1 2 4", "", "--splits is 1 2 4, expected one or more of 1 2 3, each once"),
        ("1 1", "", "--splits is 1 1, expected"),
        ("1 2 3", "TEST.ENABLE False", "TEST.ENABLE is False: set it True"),
        ("1 2 3", "TEST.CHECKPOINT_FILE_PATH {file}", "it would be tested on clips it was trained on"),
        ("1 2 3", "DATA.SPLITS_DIR {lists}", "lists of DATA.SPLIT 3 that are not there"),
    ],
)
def test_what_cannot_be_averaged_is_refused_before_anything_runs(
    hmdb51: Path, command: list[str], run_net: RunNet, tmp_path: Path, splits: str, options: str, message: str
) -> None:
    lists = shutil.copytree(hmdb51 / "testTrainMulti_7030_splits", tmp_path / "lists")
    (lists / "wave_test_split3.txt").unlink()
    (tmp_path / "file").touch()
    options = options.format(lists=lists, file=tmp_path / "file")
    refused = run_net("--splits", *splits.split(), *command, *options.split())
    assert refused.code == 2
    assert message in refused.err
    assert not list(tmp_path.glob("out/split_*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--splits", "all", "NUM_GPUS", "0"], "'all', expected numbers of splits, such as 1 2 3"),
        (["--splits", "NUM_GPUS", "0"], "'NUM_GPUS', expected numbers of splits"),
        (["--splits", "1", "2", "DATA.SPLIT", "1"], "--splits sets DATA.SPLIT for each run"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_answered_with_its_usage(
    run_net: RunNet, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_net(*arguments)
    assert message in capsys.readouterr().err


def test_mean_and_spread_are_of_the_splits_and_one_alone_has_no_spread() -> None:
    of_split = {"top1": 50.0, "top5": 100.0, "val_top1": None, "num_videos": 6}
    alone = summarize(get_cfg(), {2: of_split})
    assert (alone["mean"], alone["std"]) == ({"top1": 50.0, "top5": 100.0}, {"top1": None, "top5": None})
    several = summarize(get_cfg(), {1: of_split, 3: of_split | {"top1": 54.0, "num_videos": 7}})
    assert (several["mean"]["top1"], several["std"]["top1"]) == (52.0, 2.8284)
    assert table(several).splitlines() == [
        "           top-1   top-5  test videos",
        "split 1    50.00  100.00            6",
        "split 3    54.00  100.00            7",
        "mean       52.00  100.00",
        "std         2.83    0.00",
    ]
    assert table(alone).splitlines()[1:] == ["split 2    50.00  100.00            6"]
