"""Repeats of a configuration in one command: each like a run of its own, none repeated, and their statistics."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.dummy import DummyClassifier

from tests.conftest import TINY_CONFIG, Outcome, load_command
from tests.patience import wait_until
from timesformer.commands import prepare
from timesformer.config import get_cfg, load_config
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.studies.repeats import parse_repeats
from timesformer.visualization.sections.repeats import summarize

RunNet = Callable[..., Outcome]
LAST = "checkpoints/checkpoint_epoch_00002.pyth"


@pytest.fixture(scope="module")
def hmdb51(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small HMDB51: 2 classes of 9 clips of 2 frames, 3 of each class in a test split. Not to be changed."""
    root, random = tmp_path_factory.mktemp("hmdb51"), np.random.default_rng(0)
    (root / "testTrainMulti_7030_splits").mkdir()
    for label in ("catch", "wave"):
        for clip, frame in np.ndindex(9, 2):
            image = root / label / f"film{clip}" / f"{frame}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(image)
        for split in (1, 2, 3):
            lines = [f"film{clip}.avi {2 if clip // 3 == split - 1 else 1}\n" for clip in range(9)]
            (root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def command(tiny_command: list[str], hmdb51: Path, tmp_path: Path) -> list[str]:
    """Arguments of run_net.py without --splits; OUTPUT_DIR is `out`."""
    data = ["TRAIN.DATASET", "hmdb51", "TEST.DATASET", "hmdb51", "DATA.PATH_TO_DATA_DIR", str(hmdb51)]
    options = ["MODEL.NUM_CLASSES", "2", "TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "out")]
    return [*tiny_command, *data, *options]


@pytest.fixture
def finished(command: list[str], run_net: RunNet, run_once: Callable[..., Path]) -> Path:
    """A copy of OUTPUT_DIR after --splits 1 2 3."""
    return run_once("splits", lambda output: run_net("--splits", *"123", *command, "OUTPUT_DIR", str(output)))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_splits_are_like_runs_of_their_own(finished: Path, command: list[str], run_net: RunNet, tmp_path: Path) -> None:
    summary, runs = read(finished / "splits.json"), [read(finished / f"split_{n}" / "results.json") for n in (1, 2, 3)]
    assert [(row["split"], row["num_videos"]) for row in summary["splits"]] == [(1, 6), (2, 6), (3, 6)]
    assert [run["config"]["DATA"]["SPLIT"] for run in runs] == [1, 2, 3]
    column = [run["top1"] for run in runs]
    assert [row["top1"] for row in summary["splits"]] == column
    assert summary["mean"] == {"top1": pytest.approx(np.mean(column), abs=1e-3)}
    assert summary["std"] == {"top1": pytest.approx(np.std(column, ddof=1), abs=1e-3)}
    summary = (finished / "repeats.json").read_text() + (finished / "splits.json").read_text()
    assert "top5" not in summary + (finished / "split_1/metrics.jsonl").read_text()  # of two classes
    assert not any("top5" in run for run in runs)
    alone, predictions = tmp_path / "alone", [(finished / f"split_{n}" / "predictions.csv").read_text() for n in (1, 2)]
    assert run_net(*command, "DATA.SPLIT", "2", "OUTPUT_DIR", str(alone)).code == 0
    weights = [dict(torch.load(run / LAST)["model_state"]) for run in (finished / "split_2", alone)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert predictions[0] != predictions[1] == (alone / "predictions.csv").read_text()


@pytest.mark.slow
def test_splits_share_cached_features(command: list[str], run_net: RunNet, hmdb51: Path, tmp_path: Path) -> None:
    torch.save(build_model(load_config(command[1], command[2:])).state_dict(), tmp_path / "weights.pyth")
    options = "MODEL.FREEZE backbone FEATURES.ENABLED True FEATURES.NUM_VIEWS 1 SOLVER.OPTIMIZING_METHOD adamw"
    weights = f"TRAIN.FINETUNE True TRAIN.CHECKPOINT_FILE_PATH {tmp_path}/weights.pyth"
    given = f"{options} {weights} FEATURES.CACHE_DIR {tmp_path}/cache".split()
    assert run_net("--splits", "1", "2", "3", *command, *given).code == 0
    files = [(path.parent, path.read_text().splitlines()[1:]) for path in tmp_path.glob("cache/*/*.jsonl")]
    rows = [(folder, json.loads(line)["key"]) for folder, lines in files for line in lines]
    assert len(set(rows)) == len(rows) <= 2 * len([*hmdb51.glob("*/film*")])  # augmented, and for evaluation
    runs = [read(tmp_path / "out" / f"split_{n}" / "results.json") for n in (1, 2, 3)]
    assert all(run["grid"] for run in runs)


@pytest.mark.slow
def test_finished_splits_are_not_repeated(finished: Path, command: list[str], run_net: RunNet) -> None:
    before = {path: path.read_bytes() for path in sorted(finished.rglob("*.pyth"))}
    summary = read(finished / "splits.json")
    for name in ("results.json", LAST):  # as after one epoch
        (finished / "split_3" / name).unlink()
    done = run_net("--splits", "2", "3", *command)
    assert done.code == 0, done.err
    assert done.out.count("training TimeSformer") == 1
    assert read(finished / "splits.json")["splits"] == summary["splits"][1:]
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert {path.parents[1].name for path in changed} <= {"split_3"}


@pytest.mark.slow
def test_test_options_test_again_and_others_are_refused(finished: Path, command: list[str], run_net: RunNet) -> None:
    before, tested = read(finished / "splits.json"), read(finished / "split_2" / "results.json")
    done = run_net("--splits", "1", "2", *command, "TEST.NUM_SPATIAL_CROPS", "3")
    assert (done.code, done.out.count("nothing left to train")) == (0, 2)
    assert read(finished / "split_2" / "results.json")["num_views"] == 3
    assert read(finished / "split_2" / "previous_1" / "results.json") == tested
    assert read(finished / "previous_1" / "splits.json") == before
    test_only = ["TRAIN.ENABLE", "False", "TEST.NUM_ENSEMBLE_VIEWS", "5"]
    assert run_net("--splits", "2", *command, *test_only).code == 0
    assert read(finished / "split_2" / "results.json")["num_views"] == 5
    summary = read(finished / "splits.json")
    assert [row["split"] for row in summary["splits"]] == [2]
    assert summary["std"] == {"top1": None}
    refused = run_net("--splits", "1", "2", "3", *command, "SOLVER.BASE_LR", "0.02")
    assert refused.code == 2
    assert "SOLVER.BASE_LR" in refused.err
    refused = run_net(*command, "OUTPUT_DIR", str(finished / "split_1"), "DATA.SPLIT", "2", "SOLVER.MAX_EPOCH", "3")
    assert refused.code == 2
    assert "DATA.SPLIT" in refused.err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("splits=3,1", ["split_3", "split_1"]),
        ("seeds=0,7", ["seed_0", "seed_7"]),
        ("folds=2 seeds=2", ["fold_1_seed_1", "fold_1_seed_2", "fold_2_seed_1", "fold_2_seed_2"]),
        ("splits=2 seeds=1", ["split_2_seed_1"]),
    ],
)
def test_repeats_are_combinations(words: str, names: list[str]) -> None:
    cells = parse_repeats(words.split()).cells(get_cfg())
    assert [cell.name for cell in cells] == [cell.folder.name for cell in cells] == names
    for cell in cells:
        numbers = dict(zip(cell.name.split("_")[::2], map(int, cell.name.split("_")[1::2]), strict=True))
        found = {"split": cell.cfg.DATA.SPLIT, "fold": cell.cfg.DATA.FOLD, "seed": cell.cfg.RNG_SEED}
        assert found == {"split": 1, "fold": 1, "seed": 1, **numbers}
        expected = ("folds", 2) if "fold" in numbers else ("auto", 5)
        assert expected == (cell.cfg.DATA.SPLIT_RULE, cell.cfg.DATA.NUM_FOLDS)


@pytest.mark.parametrize("words", ["folds=1", "folds=2,3", "fold=3", "seeds=0", "seeds=2,2", "splits=1 folds=2"])
def test_invalid_repeats_are_refused(words: str) -> None:
    with pytest.raises(UserError):
        parse_repeats(words.split())


@pytest.mark.numerical
def test_statistics_are_those_of_scipy() -> None:
    values = [71.2, 64.9, 80.1, 69.5, 77.7, 70.3]
    for parts in ([1, 2, 3, 4, 5, 6], [None] * 6):  # six folds, or six seeds
        found = summarize(values, parts)
        assert (found.mean, found.std) == pytest.approx((np.mean(values), stats.tstd(values)), rel=1e-12)
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high, found.count) == pytest.approx((*expected, 6), rel=1e-12)
    found = summarize(values, [1, 1, 2, 2, 3, 3])  # two seeds of each of three folds
    expected = stats.ttest_1samp(np.reshape(values, (3, 2)).mean(axis=1), 0).confidence_interval(0.95)
    assert (found.low, found.high, found.count) == pytest.approx((*expected, 3), rel=1e-12)
    assert found.std == pytest.approx(stats.tstd(values), rel=1e-12)
    assert (summarize([50.0], [1]).std, summarize([50.0], [1]).low) == (None, None)
    assert (summarize([60.0, 100.0], [1, 2]).low, summarize([60.0, 100.0], [1, 2]).high) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("splits", "options", "named"),
    [
        ("1 2 3", "TEST.DATASET ucf101", "TEST.DATASET"),
        ("1 2 4", "", "--splits"),
        ("1 2 3", "TEST.ENABLE False", "TEST.ENABLE"),
        ("1 2 3", "DATA.SPLITS_DIR {lists}", "DATA.SPLIT 3"),
    ],
)
def test_invalid_splits_are_refused_before_anything_runs(
    hmdb51: Path, command: list[str], run_net: RunNet, tmp_path: Path, splits: str, options: str, named: str
) -> None:
    lists = shutil.copytree(hmdb51 / "testTrainMulti_7030_splits", tmp_path / "lists")
    (lists / "wave_test_split3.txt").unlink()
    refused = run_net("--splits", *splits.split(), *command, *options.format(lists=lists).split())
    assert refused.code == 2
    assert named in refused.err
    assert not list(tmp_path.glob("out/split_*"))


@pytest.fixture(params=["folder", "demo"])
def clips(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Arguments of run_net.py for a dataset of two classes of 6 clips: a folder of classes, or generated clips."""
    root, made = tmp_path / "clips", str(tmp_path / "clips")
    if request.param == "demo":
        assert prepare.main(["demo", made, "--clips-per-class", "3", "1", "2", "--classes", "left", "right"]) == 0
        data = ["--cfg", "configs/Demo/TimeSformer_divST_8x2_48.yaml", "DATA.TRAIN_CROP_SIZE", "16"]
        data += ["DATA.TEST_CROP_SIZE", "16", "DATA.TRAIN_JITTER_SCALES", "[16,16]", "DATA_LOADER.NUM_WORKERS", "0"]
        data += [
            "TIMESFORMER.EMBED_DIM",
            "24",
            "TIMESFORMER.DEPTH",
            "1",
            "SOLVER.WARMUP_EPOCHS",
            "0",
            "TEST.REPORT",
            "False",
        ]
        return [*data, "SOLVER.MAX_EPOCH", "1", "MODEL.NUM_CLASSES", "2", "DATA.PATH_TO_DATA_DIR", made]
    random = np.random.default_rng(0)
    for label, clip, frame in np.ndindex(2, 6, 2):
        image = root / ("catch", "wave")[label] / f"r{clip // 2}_{clip}" / f"{frame}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(image)
    (tmp_path / "tiny.yaml").write_text(
        TINY_CONFIG.replace("hmdb_simp", "folder").replace("REPORT: False", "REPORT: True")
    )
    data = ["--cfg", str(tmp_path / "tiny.yaml"), "DATA.PATH_TO_DATA_DIR", made, "DATA.SPLIT_GROUPS", r"\w+/r\d"]
    return [*data, "MODEL.NUM_CLASSES", "2", "SOLVER.MAX_EPOCH", "1", "TENSORBOARD.ENABLE", "False"]


@pytest.mark.slow
def test_folds_and_seeds_of_a_dataset(clips: list[str], run_net: RunNet, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ["--repeats", "folds=3", "seeds=2", *clips, "OUTPUT_DIR", str(output)]
    done = run_net(*command)
    assert done.code == 0, done.err
    summary = read(output / "repeats.json")
    assert [(run["fold"], run["seed"]) for run in summary["runs"]] == [(f, s) for f in (1, 2, 3) for s in (1, 2)]
    results = [read(output / run["folder"] / "results.json") for run in summary["runs"]]
    assert [run["top1"] for run in summary["runs"]] == [result["top1"] for result in results]
    by_fold = np.reshape([result["top1"] for result in results], (3, 2)).mean(axis=1)
    low, high = stats.t.interval(0.95, 2, by_fold.mean(), max(stats.sem(by_fold), 1e-12))
    assert summary["mean"]["top1"] == pytest.approx(by_fold.mean(), abs=1e-3)
    assert summary["interval"]["low"]["top1"] == pytest.approx(max(0, low), abs=1e-3)
    assert summary["interval"]["high"]["top1"] == pytest.approx(min(100, high), abs=1e-3)
    for seed in (1, 2):  # each clip is tested once
        lines = [
            (output / f"fold_{fold}_seed_{seed}/predictions.csv").read_text().splitlines()[1:] for fold in (1, 2, 3)
        ]
        assert len({line.split(",")[0] for of_fold in lines for line in of_fold}) == 12
    done = run_net(*command, "TEST.REPORT", "True")
    assert done.out.count("training TimeSformer") == 0
    page = (output / "report.html").read_text()
    assert f"{summary['mean']['top1']:.2f} ± {summary['std']['top1']:.2f}" in page
    trivial = DummyClassifier(strategy="most_frequent")
    labels = [np.repeat(["catch", "wave"], [row["num_videos"] for row in result["per_class"]]) for result in results]
    majority = 100 * np.mean([trivial.fit(of_run, of_run).score(of_run, of_run) for of_run in labels])
    assert f"chance 50.0, most frequent class {majority:.1f}." in page


@pytest.mark.slow
@pytest.mark.parametrize("clips", ["folder"], indirect=True)
def test_the_model_of_a_fold_is_selected_without_its_test_clips(
    clips: list[str], run_net: RunNet, tmp_path: Path
) -> None:
    command, outputs = ["--repeats", "folds=3", *clips, "SOLVER.MAX_EPOCH", "4"], [tmp_path / "a", tmp_path / "b"]
    assert run_net(*command, "OUTPUT_DIR", str(outputs[0])).code == 0
    lines = (outputs[0] / "fold_1/predictions.csv").read_text().splitlines()[1:]
    for name in (line.split(",")[0] for line in lines):
        for image in (tmp_path / "clips" / name).iterdir():
            Image.new("RGB", (24, 20), "white").save(image)
    assert run_net(*command, "OUTPUT_DIR", str(outputs[1])).code == 0
    weights = [dict(torch.load(output / "fold_1/checkpoints/best.pyth")["model_state"]) for output in outputs]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    scores = [[line.split(",")[3] for line in (o / "fold_1/predictions.csv").read_text().splitlines()] for o in outputs]
    assert scores[0] != scores[1]
    for fold in ("fold_1", "fold_2", "fold_3"):
        metrics = map(json.loads, (outputs[0] / fold / "metrics.jsonl").read_text().splitlines())
        validated = {line["epoch"]: line["top1"] for line in metrics if line["kind"] == "val_epoch"}
        assert len(validated) == 4
        results = read(outputs[0] / fold / "results.json")
        assert results["val_top1"] == validated[results["checkpoint_epochs"]] == max(validated.values())


@pytest.mark.slow
@pytest.mark.parametrize("clips", ["folder"], indirect=True)
def test_parallel_repeats_resume_after_one_was_killed(
    clips: list[str], run_net: RunNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "out"
    command = ["--repeats", "seeds=2", "--jobs", "2", *clips, "DATA.SPLIT_RULE", "folds", "DATA.NUM_FOLDS", "3"]
    command += ["SOLVER.MAX_EPOCH", "20", "TRAIN.KEEP_CHECKPOINTS", "1", "OUTPUT_DIR", str(output)]

    def kill_the_first() -> None:
        wait_until(lambda: any((output / "seed_1/checkpoints").glob("checkpoint_epoch_*.pyth")))
        os.kill(int((output / "seed_1/run.lock").read_text().split()[1]), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_the_first)
        failed = run_net(*command)
        killing.result()
    assert failed.code == 1
    assert "seed_1" in failed.err
    assert not (output / "repeats.json").exists()
    finished = (output / "seed_2/results.json").read_bytes()
    assert run_net(*command).code == 0
    assert (output / "seed_2/results.json").read_bytes() == finished
    metrics = map(json.loads, (output / "seed_1/metrics.jsonl").read_text().splitlines())
    assert [line["epoch"] for line in metrics if line["kind"] == "val_epoch"] == [*range(1, 21)]
    assert [run["seed"] for run in read(output / "repeats.json")["runs"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--repeats seeds=2 RNG_SEED 3", "RNG_SEED"),
        ("--repeats folds=2 DATA.FOLD 1", "DATA.FOLD"),
        ("--repeats seed=2", "seed=2"),
        ("--splits 1 2 --repeats seeds=2", "--splits"),
        ("--jobs 2 NUM_GPUS 0", "--repeats"),
        ("--repeats seeds=2 --jobs 0", "--jobs"),
    ],
)
def test_invalid_command_lines_are_refused(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, named: str
) -> None:
    monkeypatch.setattr("sys.argv", ["run_net.py", *command[:2], *arguments.split(), *command[2:]])
    with pytest.raises(SystemExit) as exited:
        load_command("train").main()
    assert exited.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
