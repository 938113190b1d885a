"""tools/run_net.py as users run it: its output files, models, checkpoints, and answers to errors."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, Outcome
from tests.patience import PATIENCE

VIEWS = ["TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "3"]
Run = Callable[..., Outcome]
pytestmark = pytest.mark.slow


def run_process(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, os.path.relpath(ROOT / "tools" / "run_net.py", folder), *arguments]
    options = {"cwd": folder, "env": {**environment, "OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}
    return subprocess.run(command, timeout=PATIENCE, check=False, **options)


@pytest.fixture(scope="module")
def finished(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR of a process that trained and tested. Not to be changed."""
    output = tmp_path_factory.mktemp("finished") / "out"
    done = run_process([*tiny_command, *VIEWS, "OUTPUT_DIR", str(output)], ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return output


@pytest.fixture
def run(run_net: Run, tiny_command: list[str], tmp_path: Path) -> Run:
    """run(options, ...): trains and tests with options, "KEY VALUE ...", in OUTPUT_DIR tmp_path/out."""

    def run(*options: str) -> Outcome:
        return run_net(*tiny_command, "OUTPUT_DIR", str(tmp_path / "out"), *" ".join(options).split())

    return run


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model_state"]


def test_results_and_predictions(finished: Path) -> None:
    found, rows = results(finished), list(csv.DictReader((finished / "predictions.csv").open()))
    assert (found["num_videos"], found["num_classes"], found["num_views"]) == (6, 3, 6)
    assert [row["class"] for row in found["per_class"]] == ["catch", "walk", "wave"] == found["class_names"]
    assert [sum(row[key] for row in found["per_class"]) for key in ("num_videos", "predicted")] == [6, 6]
    correct = sum(row["correct"] for row in found["per_class"])
    assert found["class_counts"] == {"train": [4, 4, 4], "val": [2, 2, 2], "test": [2, 2, 2]}
    assert 100e6 < found["peak_memory_bytes"] < 10e9
    assert found["checkpoint"] == str(finished / "checkpoints" / "best.pyth")
    assert [row["video"] for row in rows][:3] == ["catch/test0", "catch/test1", "walk/test0"]
    assert [row["label"] for row in rows] == ["catch", "catch", "walk", "walk", "wave", "wave"]
    assert sum(row["class_1"] == row["label"] for row in rows) == correct
    assert found["top1"] == found["mean_class_top1"] == pytest.approx(100 * correct / 6, abs=1e-3)


def test_metrics_config_and_checkpoints(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for kind in ("train_epoch", "val_epoch"):
        assert [line["epoch"] for line in lines if line["kind"] == kind] == [1, 2]
    assert len([line for line in lines if line["kind"] == "train_step"]) == 12
    assert any((finished / "runs-hmdb_simp").glob("events.out.tfevents*"))
    assert "MAX_EPOCH: 2" in (finished / "config.yaml").read_text()
    names = ["best.pyth", "checkpoint_epoch_00001.pyth", "checkpoint_epoch_00002.pyth"]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == names
    content = torch.load(finished / "checkpoints" / names[2], weights_only=True)
    assert {"epoch", "model_state", "optimizer_state", "cfg"} <= set(content)
    assert content["epoch"] == 1  # counted from 0, as in the original
    assert "model.blocks.0.temporal_attn.qkv.weight" in content["model_state"]


def test_a_moved_run_has_the_same_result(finished: Path, tiny_command: list[str], tmp_path: Path) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    (output / "predictions.csv").unlink()
    again = run_process([*tiny_command, *VIEWS, "OUTPUT_DIR", "out"], tmp_path)
    assert again.returncode == 0, again.stderr
    assert (output / "predictions.csv").read_text() == (finished / "predictions.csv").read_text()


VIVIT = "MODEL.MODEL_NAME ViViT TIMESFORMER.PATCH_SIZE 16 VIVIT.TUBELET_SIZE [2,8,8]"
AUGMENTED = """DATA.AUTO_AUGMENT rand-m7-n4-mstd0.5-inc1 DATA.COLOR_JITTER 0.4 DATA.LIGHTING_JITTER 0.1
DATA.RE_PROB 0.25 MIXUP.ENABLED True"""


@pytest.mark.parametrize(
    "options",
    [
        AUGMENTED,
        "TIMESFORMER.ATTENTION_TYPE joint_space_time",
        "TIMESFORMER.ATTENTION_TYPE space_only",
        f"{VIVIT} TRAIN.MIXED_PRECISION bf16",
        f"{VIVIT} VIVIT.MODEL 2",
        f"{VIVIT} VIVIT.MODEL 3",
        "MODEL.MODEL_NAME timm/test_resnet SOLVER.LAYER_DECAY 0.5",
    ],
)
def test_every_model_trains_and_tests(run: Run, tmp_path: Path, options: str) -> None:
    done = run(options, "SOLVER.MAX_EPOCH 1")
    assert done.code == 0, done.err
    assert results(tmp_path / "out")["num_videos"] == 6


@pytest.mark.parametrize(("source", "used"), [("", "best"), ("checkpoints", "best"), ("checkpoints/{0}.pyth", "{0}")])
def test_a_checkpoint_is_tested_alone(finished: Path, run: Run, tmp_path: Path, source: str, used: str) -> None:
    source, used = (text.format("checkpoint_epoch_00001") for text in (source, used))
    test = f"TRAIN.ENABLE False TEST.SAVE_RESULTS_PATH scores.npz TEST.CHECKPOINT_FILE_PATH {finished / source}"
    assert run(test).code == 0
    assert results(tmp_path / "out")["checkpoint"] == str(finished / f"checkpoints/{used}.pyth")
    names = {"predictions.csv", "results.json", "run.log", "scores.npz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize("key", ["TRAIN.CHECKPOINT_FILE_PATH", "TIMESFORMER.PRETRAINED_MODEL"])
def test_a_hugging_face_folder_is_tested_and_trained(
    finished: Path, run: Run, converter: ModuleType, tmp_path: Path, key: str
) -> None:
    source, folder = finished / "checkpoints" / "best.pyth", tmp_path / "hf"
    converter.convert(str(source), folder, "hf", None, None)
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "catch", "1": "walk", "2": "wave"}
    assert run(*VIEWS, f"TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {folder}").code == 0
    assert (tmp_path / "out/predictions.csv").read_text() == (finished / "predictions.csv").read_text()
    finetune = f"TRAIN.FINETUNE {key.startswith('TRAIN')} SOLVER.MAX_EPOCH 1 SOLVER.BASE_LR 1e-30"
    assert run(finetune, f"{key} {folder} OUTPUT_DIR {tmp_path / 'tuned'}").code == 0
    before, after = weights(source), weights(tmp_path / "tuned/checkpoints/best.pyth")
    assert all(torch.allclose(after[name], before[name], rtol=0, atol=1e-20) for name in before)


def test_fine_tuning_adapts_to_other_classes_frames_and_sizes(
    finished: Path, run: Run, tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("walk"))
    options = f"DATA.PATH_TO_DATA_DIR {data} MODEL.NUM_CLASSES 2 DATA.NUM_FRAMES 3 DATA.TRAIN_CROP_SIZE 24 "
    options += "DATA.TEST_CROP_SIZE 24 DATA.TRAIN_JITTER_SCALES [24,28] TRAIN.FINETUNE True SOLVER.BASE_LR 1e-30"
    assert run(options, f"TRAIN.CHECKPOINT_FILE_PATH {finished / 'checkpoints' / 'best.pyth'}").code == 0
    before, after = (weights(folder / "checkpoints/best.pyth") for folder in (finished, tmp_path / "out"))
    changed = {name.removeprefix("model.") for name in before if before[name].shape != after[name].shape}
    assert changed == {"pos_embed", "time_embed", "head.weight", "head.bias"}


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[Path]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def files(tmp_path: Path, tiny_data: Path, finished: Path) -> Path:
    """A copy of the data, of a finished run (as OUTPUT_DIR), and files that are no checkpoints."""
    shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "text.pyth").write_text("hello, this is a text")
    (tmp_path / "code.pyth").write_bytes(pickle.dumps(RunsCode(tmp_path / "it_ran"), protocol=2))
    torch.save({"model_state": weights(finished / "checkpoints" / "best.pyth")}, tmp_path / "weights.pyth")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log and the lock of the run."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.log", "run.lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


TRAIN_PATH, FINETUNE = "TRAIN.CHECKPOINT_FILE_PATH {0}/", "TRAIN.FINETUNE True TRAIN.CHECKPOINT_FILE_PATH {0}/"
TEST_PATH = "TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {0}/"

ERRORS = {
    # options, where {0} is the folder of files, and what the message must name
    "DATA.PATH_TO_DATA_DIR {0}/absent": ["DATA.PATH_TO_DATA_DIR", "{0}/absent"],
    "MODEL.NUM_CLASSES 5": ["{0}/data", "MODEL.NUM_CLASSES 3"],
    f"{TRAIN_PATH}text.pyth": ["{0}/text.pyth"],
    f"{TEST_PATH}code.pyth": ["{0}/code.pyth"],
    f"{TRAIN_PATH}weights.pyth": ["{0}/weights.pyth", "optimizer_state", "TRAIN.FINETUNE"],
    f"{FINETUNE}weights.pyth TRAIN.STRICT_LOADING True TIMESFORMER.ATTENTION_TYPE space_only": ["temporal_norm1"],
    f"{TRAIN_PATH}out/checkpoints/checkpoint_epoch_00001.pyth SOLVER.OPTIMIZING_METHOD adamw": [
        "SOLVER.OPTIMIZING_METHOD"
    ],
    f"{TRAIN_PATH}out/checkpoints/checkpoint_epoch_00002.pyth": ["SOLVER.MAX_EPOCH"],
    "TRAIN.ENABLE False TIMESFORMER.EMBED_DIM 32": ["best.pyth", "1 x 5 x 16", "1 x 5 x 32"],
    "TRAIN.AUTO_RESUME True MODEL.FREEZE backbone": ["MODEL.FREEZE"],
    "NUM_GPUS 1": ["NUM_GPUS"],
    "NUM_SHARDS 2": ["NUM_SHARDS", "--init_method"],
    "TRAIN.BATCH_SIZE 0 SOLVER.BASE_LR much SOLVER.BASE_RL 1": ["TRAIN.BATCH_SIZE", "SOLVER.BASE_LR", "SOLVER.BASE_RL"],
}


@pytest.mark.parametrize("options", ERRORS)
def test_errors_name_their_cause_and_change_nothing(
    files: Path, run: Run, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = contents(files)
    answer = run(f"DATA.PATH_TO_DATA_DIR {files / 'data'} TRAIN.AUTO_RESUME False", options.format(files))
    assert answer.code == 2
    assert answer.err.count("error: ") == 1
    assert all(name.format(files) in answer.err for name in ERRORS[options]), answer.err
    assert "Traceback" not in answer.out + answer.err
    assert contents(files) == before
    assert not (files / "it_ran").exists()


def test_a_process_without_configuration_exits_with_2(tmp_path: Path) -> None:
    answer = run_process(["--cfg", "absent.yaml"], tmp_path)
    assert (answer.returncode, answer.stdout, "absent.yaml" in answer.stderr) == (2, "", True)


def test_unreadable_test_clips_count_as_incorrect(run: Run, tiny_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.rmtree(data / "test/wave/test0")
    (data / "test/wave/test0.mp4").touch()
    assert run(f"DATA.PATH_TO_DATA_DIR {data} SOLVER.MAX_EPOCH 1").code == 0
    found = results(tmp_path / "out")
    assert found["num_videos"] == 6
    assert [entry["video"] for entry in found["unreadable"]] == ["wave/test0.mp4"]
    assert found["per_class"][2]["correct"] <= 1
    assert sum(row["predicted"] for row in found["per_class"]) == 5
    (row,) = [row for row in csv.DictReader((tmp_path / "out/predictions.csv").open()) if row["error"]]
    assert (row["video"], row["class_1"]) == ("wave/test0.mp4", "")
