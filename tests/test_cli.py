"""The command line, driven as a user drives it."""

import csv
import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fvcore.common.registry import Registry

from tests.patience import PATIENCE
from timesformer.datasets import catalog, clips
from timesformer.datasets.decoding.open import VideoReader, open_video
from timesformer.datasets.records import DatasetSplit
from timesformer.datasets.sources import folder
from timesformer.torchvision_import import import_package

ROOT = Path(__file__).resolve().parents[1]
RunNet = Callable[..., Any]
needs_baselines = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision")),
    reason="timm or torchvision is not installed",
)


def in_a_process(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    tool = os.path.relpath(ROOT / "tools" / "run_net.py", folder)
    return subprocess.run(
        [sys.executable, tool, *arguments],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real process leaves in OUTPUT_DIR after training, validating and testing. Not to be changed."""
    output = tmp_path_factory.mktemp("finished") / "out"
    views = ["TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "3"]
    done = in_a_process([*tiny_command, *views, "OUTPUT_DIR", str(output)], ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"results: {output / 'results.json'}, {output / 'predictions.csv'}" in done.stdout
    return output


# ---------------------------------------------------------------- what a run leaves


def test_names_that_are_no_utf8_come_through_a_whole_run(
    tiny_command: list[str], tiny_data: Path, run_net: RunNet, tmp_path: Path
) -> None:
    root, output = tmp_path / "data", tmp_path / "out"
    for clip in (tiny_data / "train").glob("*/*"):
        shutil.copytree(clip, root / clip.parent.name / f"caf\udce9{clip.name}")
    options = ["TRAIN.DATASET", "folder", "TEST.DATASET", "folder", "DATA.PATH_TO_DATA_DIR", str(root)]
    options += ["TEST.SAVE_RESULTS_PATH", "scores.npz", "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(output)]
    assert run_net(*tiny_command, *options).code == 0
    for clip in root.glob("walk/*"):
        (clip / "1.jpg").write_bytes(b"torn")
    assert run_net(*tiny_command, *options, "TRAIN.ENABLE", "False").code == 0
    rows = (output / "predictions.csv").read_bytes().splitlines()
    assert sum(b"walk/caf\xe9train" in row for row in rows) == 1
    assert b"walk/caf\xe9train" in (output / "unreadable.csv").read_bytes()
    assert "walk/caf\\udce9train" in (output / "run.log").read_text()
    (missing,) = json.loads((output / "results.json").read_text())["unreadable"]
    assert os.fsencode(missing["video"]).startswith(b"walk/caf\xe9train")


def test_results_have_the_documented_schema(finished: Path, tiny_data: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert set(results) == {
        "schema_version",
        "top1",
        "top5",
        "mean_class_top1",
        "num_videos",
        "num_classes",
        "num_views",
        "class_names",
        "per_class",
        "class_counts",
        "unreadable",
        "loss",
        "seconds",
        "train_seconds",
        "total_train_seconds",
        "checkpoint",
        "weights",
        "checkpoint_epochs",
        "total_epochs",
        "val_top1",
        "finished",
        "device",
        "peak_memory_bytes",
        "config",
        "versions",
    }
    assert 0 <= results["top1"] <= 100 == results["top5"]  # three classes are all among the first five
    assert (results["num_videos"], results["num_classes"], results["num_views"]) == (6, 3, 6)
    assert [row["class"] for row in results["per_class"]] == ["catch", "walk", "wave"] == results["class_names"]
    assert sum(row["num_videos"] for row in results["per_class"]) == 6
    assert sum(row["correct"] for row in results["per_class"]) * 100 / 6 == pytest.approx(results["top1"], abs=1e-3)
    assert sum(row["predicted"] for row in results["per_class"]) == 6
    shares = [row["correct"] / row["num_videos"] for row in results["per_class"]]
    assert results["mean_class_top1"] == pytest.approx(100 * sum(shares) / 3, abs=1e-3)
    assert results["unreadable"] == []
    assert results["class_counts"] == {"train": [4, 4, 4], "val": [2, 2, 2], "test": [2, 2, 2]}
    assert results["device"] == "CPU"
    assert 100e6 < results["peak_memory_bytes"] < 10e9  # PyTorch alone takes more than the one
    assert datetime.fromisoformat(results["finished"]).utcoffset() is not None
    assert results["config"]["DATA"]["PATH_TO_DATA_DIR"] == str(tiny_data)
    assert results["versions"]["torch"] == torch.__version__
    assert results["checkpoint"] == str(finished / "checkpoints" / "best.pyth")
    assert min(results["seconds"], results["train_seconds"]) > 0


def test_predictions_list_every_test_video_with_its_classes_by_probability(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "predictions.csv").open()))
    assert [row["video"] for row in rows][:3] == ["catch/test0", "catch/test1", "walk/test0"]
    assert [row["label"] for row in rows] == ["catch", "catch", "walk", "walk", "wave", "wave"]
    probabilities = [float(rows[0][f"probability_{rank}"]) for rank in (1, 2, 3)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    results = json.loads((finished / "results.json").read_text())
    assert 100 * sum(row["class_1"] == row["label"] for row in rows) / 6 == pytest.approx(results["top1"], abs=1e-3)


def test_curves_log_and_configuration_lie_beside_the_results(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for kind in ("train_epoch", "val_epoch"):
        assert [line["epoch"] for line in lines if line["kind"] == kind] == [1, 2]
    assert len([line for line in lines if line["kind"] == "train_step"]) == 12
    assert [path.name[:19] for path in (finished / "runs-hmdb_simp").iterdir()] == ["events.out.tfevents"]
    log = (finished / "run.log").read_text()
    assert "process 0 of 1 sees 12 clips in an epoch, 4 of each class (DATA.BALANCE none)" in log
    assert "epoch 2: validation loss" in log
    assert "MAX_EPOCH: 2" in (finished / "config.yaml").read_text()


def test_checkpoints_have_the_names_and_keys_of_the_original(finished: Path) -> None:
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [
        "best.pyth",
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
    ]
    content = torch.load(finished / "checkpoints" / "checkpoint_epoch_00002.pyth", weights_only=True)
    assert {"epoch", "model_state", "optimizer_state", "cfg"} <= set(content)
    assert content["epoch"] == 1
    assert "model.blocks.0.temporal_attn.qkv.weight" in content["model_state"]


def test_the_same_command_elsewhere_only_tests_and_finds_the_same(
    finished: Path, tiny_command: list[str], tmp_path: Path
) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    views = ["TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "3"]
    again = in_a_process([*tiny_command, *views, "OUTPUT_DIR", "out"], tmp_path)
    assert again.returncode == 0, again.stderr
    assert "nothing left to train" in again.stdout
    assert (output / "predictions.csv").read_text() == (finished / "predictions.csv").read_text()


# ---------------------------------------------------------------- other ways to run


def test_a_checkpoint_is_tested_alone(finished: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path) -> None:
    checkpoint = str(finished / "checkpoints" / "checkpoint_epoch_00001.pyth")
    options = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint, "OUTPUT_DIR", str(tmp_path)]
    assert run_net(*tiny_command, *options, "TEST.SAVE_RESULTS_PATH", "scores.npz").code == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["checkpoint"], results["checkpoint_epochs"]) == (checkpoint, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.csv",
        "results.json",
        "run.lock",
        "run.log",
        "scores.npz",
    ]


def test_a_checkpoint_converted_for_hugging_face_gives_the_same_predictions(
    finished: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    tool, source = ROOT / "tools" / "convert_checkpoint.py", finished / "checkpoints" / "best.pyth"
    convert = [sys.executable, str(tool), str(source), str(tmp_path / "hf"), "--to", "hf"]
    done = subprocess.run(convert, capture_output=True, text=True, check=True)
    assert f"29 tensors of {source} written to {tmp_path / 'hf'}" in done.stderr
    assert json.loads((tmp_path / "hf/config.json").read_text())["id2label"] == {"0": "catch", "1": "walk", "2": "wave"}
    views = ["TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "3"]
    options = [*views, "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "hf")]
    tested = run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path / "out"))
    assert tested.code == 0, tested.err
    assert (tmp_path / "out/predictions.csv").read_text() == (finished / "predictions.csv").read_text()


@pytest.mark.parametrize("folder", ["", "checkpoints"])
def test_the_folder_of_a_run_means_its_best_checkpoint(
    finished: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path, folder: str
) -> None:
    output, run, best = ["OUTPUT_DIR", str(tmp_path)], str(finished / folder), str(finished / "checkpoints/best.pyth")
    tested = run_net(*tiny_command, *output, "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", run)
    assert tested.code == 0, tested.err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["checkpoint"] == best
    tuning = ["SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False", "TRAIN.CHECKPOINT_FILE_PATH", run]
    tuned = run_net(*tiny_command, *output, *tuning, "TRAIN.FINETUNE", "True")
    assert tuned.code == 0, tuned.err
    assert "loaded 29" in {" ".join(line.split()) for line in tuned.out.splitlines()}
    refused = run_net(*tiny_command, "OUTPUT_DIR", str(tmp_path / "on"), *tuning)  # it has no optimizer_state
    assert (refused.code, best in refused.err) == (2, True)


@pytest.mark.parametrize("key", ["TRAIN.CHECKPOINT_FILE_PATH", "TIMESFORMER.PRETRAINED_MODEL"])
def test_training_starts_from_a_folder_of_hugging_face(
    finished: Path, run_net: RunNet, tiny_command: list[str], converter: ModuleType, tmp_path: Path, key: str
) -> None:
    source = finished / "checkpoints" / "best.pyth"
    converter.convert(str(source), tmp_path / "hf", "hf", None, None)
    options = ["SOLVER.MAX_EPOCH", "1", "SOLVER.BASE_LR", "1e-30", key, str(tmp_path / "hf")]
    finetune = ["TRAIN.FINETUNE", "True"] if key.startswith("TRAIN") else []
    outcome = run_net(*tiny_command, *options, *finetune, "OUTPUT_DIR", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    assert "loaded 29" in {" ".join(line.split()) for line in outcome.out.splitlines()}
    assert "DATA.MEAN [0.45, 0.45, 0.45]" in outcome.out
    trained, before = (
        torch.load(path, weights_only=True)["model_state"] for path in (tmp_path / "out/checkpoints/best.pyth", source)
    )
    assert all(torch.allclose(trained[name], before[name], rtol=0, atol=1e-20) for name in before)


@pytest.mark.parametrize(
    ("attention", "precision"), [("divided_space_time", "bf16"), ("joint_space_time", "off"), ("space_only", "off")]
)
def test_every_attention_type_trains_and_tests(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path, attention: str, precision: str
) -> None:
    options = ["TIMESFORMER.ATTENTION_TYPE", attention, "TRAIN.MIXED_PRECISION", precision, "SOLVER.MAX_EPOCH", "1"]
    assert run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path)).code == 0
    assert json.loads((tmp_path / "results.json").read_text())["num_videos"] == 6


@pytest.mark.parametrize(("number", "precision"), [("1", "bf16"), ("2", "off"), ("3", "off")])
def test_every_vivit_trains_tests_and_keeps_to_its_folder(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path, number: str, precision: str
) -> None:
    options = ["MODEL.MODEL_NAME", "ViViT", "TIMESFORMER.PATCH_SIZE", "16", "VIVIT.TUBELET_SIZE", "[2,8,8]"]
    options += ["TRAIN.MIXED_PRECISION", precision, "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path)]
    assert run_net(*tiny_command, *options, "VIVIT.MODEL", number).code == 0
    assert json.loads((tmp_path / "results.json").read_text())["num_videos"] == 6
    other = "1" if number == "3" else "3"
    refused = run_net(*tiny_command, *options, "VIVIT.MODEL", other)
    assert (refused.code, f"VIVIT.MODEL was {number}, is {other}" in refused.err) == (2, True)


def test_fine_tuning_on_other_classes_frames_and_size_says_what_became_of_each_weight(
    finished: Path, run_net: RunNet, tiny_command: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("walk"))
    checkpoint = str(finished / "checkpoints" / "best.pyth")
    options = ["DATA.PATH_TO_DATA_DIR", str(data), "MODEL.NUM_CLASSES", "2", "SOLVER.MAX_EPOCH", "1"]
    options += ["DATA.NUM_FRAMES", "3", "DATA.TRAIN_CROP_SIZE", "24", "DATA.TEST_CROP_SIZE", "24"]
    options += ["DATA.TRAIN_JITTER_SCALES", "[24, 28]", "OUTPUT_DIR", str(tmp_path / "out")]
    tuned = run_net(*tiny_command, *options, "TRAIN.FINETUNE", "True", "TRAIN.CHECKPOINT_FILE_PATH", checkpoint)
    assert tuned.code == 0, tuned.err
    table = tuned.out[tuned.out.index(f"fine-tuning from {checkpoint}") :]
    rows = {" ".join(line.split()) for line in table.splitlines()}
    assert "loaded 25" in rows
    assert "adapted: 2 x 2 to 3 x 3 patches 1 pos_embed" in rows
    assert "adapted: 2 to 3 frames 1 time_embed" in rows
    assert "new (initial values kept) 2 head.weight, head.bias" in rows


@needs_baselines
def test_a_baseline_trains_tests_and_goes_on_through_the_same_command(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    options = ["MODEL.MODEL_NAME", "timm/test_resnet", "OUTPUT_DIR", str(tmp_path), "SOLVER.LAYER_DECAY", "0.5"]
    options += ["DATA.TRAIN_CROP_SIZE", "20", "DATA.TEST_CROP_SIZE", "20", "DATA.TRAIN_JITTER_SCALES", "[20, 24]"]
    first = run_net(*tiny_command, *options)
    assert first.code == 0, first.err
    assert json.loads((tmp_path / "results.json").read_text())["num_videos"] == 6
    weights = torch.load(tmp_path / "checkpoints" / "best.pyth", weights_only=True)["model_state"]
    assert "model.layer1.0.conv1.weight" in weights
    more = run_net(*tiny_command, *options, "SOLVER.MAX_EPOCH", "3")
    assert more.code == 0, more.err
    assert "after epoch 2 of 3" in more.out


@needs_baselines
def test_fine_tuning_a_baseline_s_head_keeps_everything_else(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    timm = import_package("timm", "this test")
    pretrained = timm.create_model("test_resnet", num_classes=10).state_dict()
    torch.save(pretrained, tmp_path / "weights.pth")
    options = ["MODEL.MODEL_NAME", "timm/test_resnet", "MODEL.FREEZE", "backbone", "TRAIN.FINETUNE", "True"]
    options += ["TRAIN.CHECKPOINT_FILE_PATH", str(tmp_path / "weights.pth"), "OUTPUT_DIR", str(tmp_path / "out")]
    done = run_net(*tiny_command, *options)
    assert done.code == 0, done.err
    head = 3 * (pretrained["fc.weight"].shape[1] + 1)
    assert f"MODEL.FREEZE backbone: training {head} of" in done.out
    tuned = torch.load(tmp_path / "out" / "checkpoints" / "best.pyth", weights_only=True)["model_state"]
    changed = [name for name, value in pretrained.items() if not torch.equal(tuned[f"model.{name}"], value)]
    assert changed == ["fc.weight", "fc.bias"]


@needs_baselines
def test_every_augmentation_together_trains_the_same_twice(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    options = "DATA.AUTO_AUGMENT rand-m7-n4-mstd0.5-inc1 DATA.COLOR_JITTER 0.4 DATA.LIGHTING_JITTER 0.1"
    losses = {}
    for name, more in {
        "all": "DATA.RE_PROB 0.25 MIXUP.ENABLED True",
        "again": "DATA.RE_PROB 0.25 MIXUP.ENABLED True",
        "no_erasing": "MIXUP.ENABLED True",
        "no_mixup": "DATA.RE_PROB 0.25",
    }.items():
        given = [*options.split(), *more.split(), "TEST.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / name)]
        done = run_net(*tiny_command, *given)
        assert done.code == 0, done.err
        losses[name] = [line for line in done.out.splitlines() if "training loss" in line][-1].split("loss")[1]
    assert losses.pop("all") == losses["again"]
    assert len(set(losses.values())) == 3


def test_freezing_what_the_checkpoint_has_not_is_warned_of(
    finished: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    content = torch.load(finished / "checkpoints" / "best.pyth", weights_only=True)["model_state"]
    torch.save({name: value for name, value in content.items() if "time_embed" not in name}, tmp_path / "part.pyth")
    options = ["TRAIN.CHECKPOINT_FILE_PATH", str(tmp_path / "part.pyth"), "TRAIN.FINETUNE", "True"]
    done = run_net(*tiny_command, *options, "MODEL.FREEZE", "backbone", "OUTPUT_DIR", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert "MODEL.FREEZE keeps parts that are not in the checkpoint: time_embed" in done.out


# ---------------------------------------------------------------- bad input


@pytest.fixture
def files(tmp_path: Path, tiny_data: Path, finished: Path) -> Path:
    """A copy of the data, of a finished run (as OUTPUT_DIR), and files that are no checkpoints."""
    shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "text.pyth").write_text("hello, this is a text")
    (tmp_path / "page.pyth").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (tmp_path / "code.pyth").write_bytes(pickle.dumps(RunsCode(str(tmp_path / "it_ran")), protocol=2))
    (tmp_path / "zero.pyth").touch()
    (tmp_path / "pointer.pyth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    weights = torch.load(finished / "checkpoints" / "best.pyth", weights_only=True)["model_state"]
    torch.save({"model_state": weights}, tmp_path / "weights.pyth")
    return tmp_path


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (self.path,)


def state_of(folder: Path) -> dict[str, bytes]:
    """Every file but the log and the lock of the run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.log", "run.lock")
    }


def lists(folder: Path, **splits: str) -> None:
    """Puts CSV lists into the data folder."""
    for split in ("train", "val", "test"):
        text = splits.get(split) or f"class,video_name\ncatch,{split}0\nwalk,{split}0\nwave,{split}0\n"
        (folder / "data" / f"{split}.csv").write_text(text)
        for label in ("catch", "walk", "wave"):
            clip = folder / "data" / split / label / f"{split}0"
            shutil.copytree(clip, folder / "data" / label / f"{split}0")


BAD: dict[str, tuple[Callable[[Path], object] | None, str, list[str]]] = {
    # what is done to the files, the options ({0}: the folder of the files), what the message must say
    "no data folder": (None, "DATA.PATH_TO_DATA_DIR {0}/absent", ["DATA.PATH_TO_DATA_DIR is '{0}/absent'", "exists"]),
    "no split": (
        lambda f: [shutil.rmtree(f / "data" / split) for split in ("train", "val", "test")],
        "",
        ["no split found: {0}/data has neither train.csv", "datasets/hmdb_simp/prepare.py {0}/data"],
    ),
    "no test split": (lambda f: shutil.rmtree(f / "data" / "test"), "", ["{0}/data/test not found", "add it"]),
    "empty class": (
        lambda f: [shutil.rmtree(clip) for clip in (f / "data" / "train" / "walk").iterdir()],
        "",
        ["classes without clips", "{0}/data/train/walk", "put clips there"],
    ),
    "bad line": (
        lambda f: lists(f, train="class,video_name\ncatch,train0\nwalk train0\n"),
        "",
        ["{0}/data/train.csv", "line 3: found 'walk train0', expected 'class,video_name'", "mend these lines"],
    ),
    "bad line of a list": (
        lambda f: lists(f, train="catch/train0 0\nwalk/train0 one\n", val="catch/val0 0", test="catch/test0 0"),
        "TRAIN.DATASET kinetics TEST.DATASET kinetics",
        ["{0}/data/train.csv", "line 2: found the label 'one', expected 0 to 2"],
    ),
    "label outside": (
        lambda f: lists(f, train="catch/train0 0\nwalk/train0 3\n", val="catch/val0 0", test="catch/test0 0"),
        "TRAIN.DATASET kinetics TEST.DATASET kinetics",
        ["{0}/data/train.csv", "line 2: found the label '3', expected 0 to 2 (MODEL.NUM_CLASSES)"],
    ),
    "other number of classes": (
        None,
        "MODEL.NUM_CLASSES 5",
        ["{0}/data has 3 classes (catch, walk, wave), but MODEL.NUM_CLASSES is 5: set MODEL.NUM_CLASSES 3"],
    ),
    "text as checkpoint": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/text.pyth",
        [
            "{0}/text.pyth is not a checkpoint (it begins with b'hello, this is a')",
            "expected a file of torch.save or safetensors",
        ],
    ),
    "page as checkpoint": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/page.pyth TRAIN.FINETUNE True",
        ["{0}/page.pyth is a web page, not a checkpoint"],
    ),
    "empty checkpoint": (
        None,
        "TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {0}/zero.pyth",
        ["{0}/zero.pyth is empty (0 bytes)", "copy or download it again"],
    ),
    "checkpoint that runs code": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/code.pyth",
        ["{0}/code.pyth holds more than tensors and plain values", "nothing in it was run"],
    ),
    "checkpoint that runs code, for fine-tuning": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/code.pyth TRAIN.FINETUNE True",
        ["{0}/code.pyth holds more than tensors and plain values", "nothing in it was run"],
    ),
    "checkpoint that runs code, for testing": (
        None,
        "TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {0}/code.pyth",
        ["{0}/code.pyth holds more than tensors and plain values", "nothing in it was run"],
    ),
    "weights alone cannot be continued": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/weights.pyth",
        ["{0}/weights.pyth cannot be continued: it has no optimizer_state, it has no epoch", "set TRAIN.FINETUNE True"],
    ),
    "checkpoint that fits in part, where it must fit wholly": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/weights.pyth TRAIN.FINETUNE True TRAIN.STRICT_LOADING True "
        "TIMESFORMER.ATTENTION_TYPE joint_space_time",
        [
            "{0}/weights.pyth does not fit the model wholly",
            "new would be nothing, unused blocks.*.temporal_norm1.weight",
        ],
    ),
    "checkpoint that is a pointer of Git LFS": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/pointer.pyth TRAIN.FINETUNE True",
        ["{0}/pointer.pyth is a pointer of Git LFS", "`git lfs pull`"],
    ),
    "checkpoint of no known name": (
        None,
        "TIMESFORMER.PRETRAINED_MODEL zoo:TimeSformer_8x32_K400",
        ["TIMESFORMER.PRETRAINED_MODEL is 'zoo:TimeSformer_8x32_K400'", "nearest is TimeSformer_divST_8x32_224_K400"],
    ),
    "checkpoint by an open connection": (
        None,
        "TEST.CHECKPOINT_FILE_PATH http://host.example/model.pyth",
        ["TEST.CHECKPOINT_FILE_PATH is 'http://host.example/model.pyth', expected an https:// URL"],
    ),
    "checkpoint of another optimizer": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/out/checkpoints/checkpoint_epoch_00001.pyth SOLVER.OPTIMIZING_METHOD adamw",
        ["cannot be continued: its optimizer is of another kind than SOLVER.OPTIMIZING_METHOD", "TRAIN.FINETUNE True"],
    ),
    "checkpoint trained to the end": (
        None,
        "TRAIN.CHECKPOINT_FILE_PATH {0}/out/checkpoints/checkpoint_epoch_00002.pyth",
        ["has 2 epochs of training already, and SOLVER.MAX_EPOCH is 2: raise it"],
    ),
    "checkpoint of another attention": (
        None,
        "TRAIN.ENABLE False TIMESFORMER.ATTENTION_TYPE space_only",
        ["{0}/out/checkpoints/best.pyth does not fit: it has, where this model has not, time_embed", "space_only"],
    ),
    "checkpoint of another width": (
        None,
        "TRAIN.ENABLE False TIMESFORMER.EMBED_DIM 32",
        ["{0}/out/checkpoints/best.pyth does not fit the model", "is 1 x 5 x 16, expected 1 x 5 x 32"],
    ),
    "resumed with other layers trained": (
        None,
        "MODEL.FREEZE backbone TRAIN.AUTO_RESUME True TRAIN.CHECKPOINT_FILE_PATH {0}/weights.pyth",
        ["is of another run, with other options: MODEL.FREEZE was none, is backbone"],
    ),
    "more layers to train than there are": (
        None,
        "MODEL.FREEZE all_but_last_9 TRAIN.FINETUNE True TRAIN.CHECKPOINT_FILE_PATH {0}/weights.pyth",
        ["MODEL.FREEZE is all_but_last_9, but the model has 1 blocks"],
    ),
    "no GPU": (None, "NUM_GPUS 1", ["NUM_GPUS is 1, but this machine has no GPU", "give NUM_GPUS 0"]),
    "several GPUs": (None, "NUM_GPUS 4", ["NUM_GPUS is 4, but this machine has no GPU that PyTorch can use"]),
    "machines that do not meet": (None, "NUM_SHARDS 2", ["NUM_SHARDS is 2, but nothing says where the machines meet"]),
    "machine outside": (None, "NUM_SHARDS 2 SHARD_ID 2", ["SHARD_ID is 2, expected 0 to 1, for NUM_SHARDS is 2"]),
    "unknown key": (None, "SOLVER.BASE_RL 0.1", ["SOLVER.BASE_RL is not an option; the nearest is SOLVER.BASE_LR"]),
    "several problems": (
        None,
        "TRAIN.BATCH_SIZE 0 SOLVER.BASE_LR much DATA.SAMPLER unifrom",
        [
            "the configuration has 3 problems:",
            "TRAIN.BATCH_SIZE is 0, expected 1 or more (command line)",
            "SOLVER.BASE_LR is 'much', expected a number (command line)",
            "DATA.SAMPLER is 'unifrom'",
            "the nearest is uniform",
        ],
    ),
    "option without a value": (None, "LOG_PERIOD", ["LOG_PERIOD has no value", "KEY VALUE pairs are expected"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_with_one_message_and_touches_nothing(
    files: Path, run_net: RunNet, tiny_command: list[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spoil, options, expected = BAD[case]
    if spoil:
        spoil(files)
    before = state_of(files)
    fixed = ["DATA.PATH_TO_DATA_DIR", str(files / "data"), "OUTPUT_DIR", str(files / "out")]
    answer = run_net(*tiny_command, *fixed, "TRAIN.AUTO_RESUME", "False", *options.format(files).split())
    assert answer.code == 2
    for part in expected:
        assert part.format(files) in answer.err
    assert "Traceback" not in answer.out + answer.err
    assert answer.err.count("error: ") == 1
    assert "training on" not in answer.out
    assert state_of(files) == before
    assert not (files / "it_ran").exists()


def test_a_missing_configuration_ends_a_real_process_with_exit_code_2(tmp_path: Path) -> None:
    answer = in_a_process(["--cfg", "absent.yaml"], tmp_path)
    assert answer.returncode == 2
    expected = "error: the configuration has a problem:\n  - absent.yaml cannot be read: No such file or directory\n"
    assert (answer.stdout, answer.stderr) == ("", expected)


def test_an_output_folder_that_cannot_be_made_is_an_error(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    answer = run_net(*tiny_command, "OUTPUT_DIR", str(tmp_path / "file"))
    assert answer.code == 2
    assert f"{tmp_path / 'file'} could not be written: File exists" in answer.err
    assert (tmp_path / "file").read_text() == "kept"


# ---------------------------------------------------------------- clips that cannot be read


def test_unreadable_training_clips_are_replaced_and_counted_up_to_a_share(
    files: Path, run_net: RunNet, tiny_command: list[str]
) -> None:
    for frame in (files / "data" / "train" / "walk" / "train1").iterdir():
        frame.write_bytes(frame.read_bytes()[:100])
    command = [*tiny_command, "DATA.PATH_TO_DATA_DIR", str(files / "data"), "SOLVER.MAX_EPOCH", "1"]
    stopped = run_net(*command, "OUTPUT_DIR", str(files / "a"))
    assert stopped.code == 2
    assert "1 of 12 training clips cannot be read" in stopped.err
    assert "DATA.MAX_UNREADABLE_FRACTION 0.01 allows" in stopped.err
    assert str(files / "data" / "train" / "walk" / "train1") in stopped.err

    done = run_net(*command, "DATA.MAX_UNREADABLE_FRACTION", "0.1", "OUTPUT_DIR", str(files / "b"))
    assert done.code == 0
    assert done.out.count("walk/train1 is replaced by another clip of its class") == 1
    (row,) = csv.DictReader((files / "b" / "unreadable.csv").open())
    assert (row["name"], row["split"]) == ("walk/train1", "train")
    lines = [json.loads(line) for line in (files / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [line["unreadable"] for line in lines if line["kind"] == "train_epoch"] == [1]


def test_a_class_without_a_readable_clip_is_an_error_without_the_loading_process_s_traceback(
    files: Path, run_net: RunNet, tiny_command: list[str]
) -> None:
    for frame in (files / "data" / "train" / "walk").rglob("*.jpg"):
        frame.write_bytes(b"")
    options = [
        "DATA.PATH_TO_DATA_DIR",
        str(files / "data"),
        "DATA_LOADER.NUM_WORKERS",
        "1",
        "DATA.MAX_UNREADABLE_FRACTION",
        "1",
    ]
    answer = run_net(*tiny_command, *options, "OUTPUT_DIR", str(files / "a"))
    assert answer.code == 2
    assert answer.err.startswith("error: walk/train")
    assert "cannot be read, and none of its class could be read in its place:\n  " + str(files / "data") in answer.err
    assert "Traceback" not in answer.err


def test_an_unreadable_clip_stops_the_run_if_asked(files: Path, run_net: RunNet, tiny_command: list[str]) -> None:
    for frame in (files / "data" / "val" / "walk" / "val1").iterdir():
        frame.write_bytes(b"")
    options = ["DATA.PATH_TO_DATA_DIR", str(files / "data"), "DATA.ON_UNREADABLE", "error"]
    answer = run_net(*tiny_command, *options, "OUTPUT_DIR", str(files / "a"))
    assert answer.code == 2
    assert f"error: a clip of the val split cannot be read: {files / 'data' / 'val' / 'walk' / 'val1'}" in answer.err


def test_what_is_known_to_be_unreadable_counts_before_training_starts(
    files: Path, run_net: RunNet, tiny_command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry("DATASET")
    monkeypatch.setattr(catalog, "DATASET_REGISTRY", registry)

    @registry.register()
    def hmdb_simp(cfg: Any, split: str) -> DatasetSplit:
        found = folder.hmdb_simp(cfg, split)
        found.records.problems[0] = "its header is torn"
        return found

    answer = run_net(*tiny_command, "OUTPUT_DIR", str(files / "a"))
    assert answer.code == 2
    assert "1 of 12 training clips cannot be read" in answer.err
    assert "its header is torn" in answer.err
    assert "epoch 1" not in answer.out
    answer = run_net(*tiny_command, "DATA.ON_UNREADABLE", "error", "OUTPUT_DIR", str(files / "b"))
    assert "error: 1 of 6 clips of the test split cannot be read" in answer.err  # found before training, too


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_loading_process_that_dies_is_an_error_that_names_the_clip(
    run_net: RunNet,
    tiny_command: list[str],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    split: str,
) -> None:
    deadly = str(tiny_data / split / "walk" / f"{split}1")

    def open_or_die(path: str, **options: Any) -> VideoReader:
        if path == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return open_video(path, **options)

    monkeypatch.setattr(clips, "open_video", open_or_die)
    answer = run_net(*tiny_command, "DATA_LOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(tmp_path))
    assert answer.code == 2, answer.err
    assert f"while it read {deadly}. If it was short of memory" in answer.err
    assert (tmp_path / "checkpoints" / "best.pyth").exists() == (split == "test")


def test_unreadable_test_clips_are_misses_listed_in_the_results(
    files: Path, run_net: RunNet, tiny_command: list[str]
) -> None:
    folder = files / "data" / "test" / "wave"
    shutil.rmtree(folder / "test0")
    (folder / "test0.mp4").touch()
    options = ["DATA.PATH_TO_DATA_DIR", str(files / "data"), "TRAIN.ENABLE", "False"]
    done = run_net(*tiny_command, *options, "OUTPUT_DIR", str(files / "out"))
    assert done.code == 0
    out = files / "out/test_1x1"  # the run's own results, of other videos, stay
    assert "wave/test0.mp4 counts as a miss" in done.out
    results = json.loads((out / "results.json").read_text())
    assert results["num_videos"] == 6
    assert [entry["video"] for entry in results["unreadable"]] == ["wave/test0.mp4"]
    assert "empty (0 bytes)" in results["unreadable"][0]["reason"]
    assert results["per_class"][2]["correct"] <= 1
    assert sum(row["predicted"] for row in results["per_class"]) == 5
    (row,) = csv.DictReader((files / "out/unreadable.csv").open())
    assert (row["name"], row["split"]) == ("wave/test0.mp4", "test")
    (row,) = [row for row in csv.DictReader((out / "predictions.csv").open()) if row["error"]]
    assert (row["video"], row["class_1"]) == ("wave/test0.mp4", "")
