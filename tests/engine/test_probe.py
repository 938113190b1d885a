"""Heads trained on cached features equal heads trained on clips; selection, resuming, references and prediction."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.processes import Outcome
from timesformer.config import load_config
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.engine.evaluate import build_from_checkpoint
from timesformer.inference.classifier import load_model
from timesformer.models import build_model
from timesformer.models.weights.loading import read_checkpoint

ROUNDING = 2**-11  # of float16, relative to values around 1
OPTIONS = {
    # Without randomness, so that the views of all epochs are the same.
    "DATA.SPATIAL_MODE": "resize",
    "DATA.RANDOM_FLIP": False,
    "DATA.SAMPLER": "equidistant",
    "MODEL.DROPOUT_RATE": 0.0,
    "MODEL.FREEZE": "backbone",
    "SOLVER.MAX_EPOCH": 3,
    "SOLVER.LABEL_SMOOTHING": 0.1,
    "GLOBAL_BATCH_SIZE": 4,
    "TENSORBOARD.ENABLE": False,
}
CACHED = {"FEATURES.ENABLED": True, "FEATURES.NUM_VIEWS": 1}
ALONE = {"FEATURES.LEARNING_RATES": [], "FEATURES.WEIGHT_DECAYS": []}
Run = Callable[..., Path]


@pytest.fixture
def run(run_net: Callable[..., Outcome], tiny_command: list[str], tiny_checkpoint: Path, tmp_path: Path) -> Run:
    """run(name, options): trains and tests in the folder `name`, and returns it."""

    def start(name: str, options: dict[str, object], code: int = 0) -> Path:
        weights = {"TRAIN.CHECKPOINT_FILE_PATH": tiny_checkpoint, "TRAIN.FINETUNE": True}
        output = {"OUTPUT_DIR": tmp_path / name}
        if options.get("FEATURES.ENABLED"):
            output["FEATURES.CACHE_DIR"] = tmp_path / "cache"
        pairs = {**OPTIONS, **weights, **output, **options}
        outcome = run_net(*tiny_command, *(str(part) for pair in pairs.items() for part in pair))
        assert outcome.code == code, outcome
        return tmp_path / name

    return start


def results(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def best(output: Path) -> dict:
    return torch.load(output / "checkpoints/best.pyth", weights_only=True)


@pytest.mark.parametrize("head", ["linear", "attentive", "temporal"])
def test_a_head_is_trained_as_on_clips(run: Run, head: str) -> None:
    options = {"MODEL.HEAD": head, "TRAIN.BATCH_SIZE": 4}
    direct, cached = run("clips", options), run("features", {**options, **CACHED, **ALONE})
    expected = torch.load(direct / "checkpoints/checkpoint_epoch_00003.pyth", weights_only=True)
    found = best(cached)
    assert found["progress"]["best_epoch"] == 3
    for name, value in expected["model_state"].items():
        torch.testing.assert_close(found["model_state"][name], value, rtol=0, atol=4 * ROUNDING)
    kinds = ("train_epoch", "val_epoch")
    lines = [
        [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if line["kind"] in kinds]
        for run in (direct, cached)
    ]
    pairs = [zip(*(sorted(x, key=lambda line: (line["epoch"], line["kind"])) for x in lines), strict=True)][0]
    for line, other in pairs:
        assert other == pytest.approx(line, abs=4 * ROUNDING)


def test_a_pair_does_not_depend_on_the_others_and_the_best_is_saved(run: Run) -> None:
    shared = {**CACHED, "MODEL.DROPOUT_RATE": 0.5, "MODEL.HEAD": "temporal"}
    grid = run("grid", {**shared, "FEATURES.LEARNING_RATES": [0.001, 0.01, 0.1], "FEATURES.WEIGHT_DECAYS": [0.0, 0.5]})
    rows = results(grid)["grid"]
    assert [(row["lr"], row["weight_decay"]) for row in rows] == [
        (rate, decay) for rate in (0.001, 0.01, 0.1) for decay in (0.0, 0.5)
    ]
    solver = yaml.safe_load(best(grid)["cfg"])["SOLVER"]
    (chosen,) = (row for row in rows if (row["lr"], row["weight_decay"]) == (solver["BASE_LR"], solver["WEIGHT_DECAY"]))
    assert chosen["val_top1"] == max(row["val_top1"] for row in rows)
    assert results(grid)["val_top1"] == chosen["val_top1"]

    pair = {"SOLVER.BASE_LR": chosen["lr"], "SOLVER.WEIGHT_DECAY": chosen["weight_decay"]}
    alone = run("alone", {**shared, **ALONE, **pair})
    assert results(alone)["grid"] == [pytest.approx(chosen, abs=1e-4)]
    for name, value in best(grid)["model_state"].items():
        torch.testing.assert_close(best(alone)["model_state"][name], value, rtol=0, atol=1e-4)


def test_a_finished_run_is_not_repeated(run: Run) -> None:
    options = {**CACHED, "FEATURES.LEARNING_RATES": [0.1, 0.01]}
    output = run("out", options)
    path = output / "checkpoints/best.pyth"
    weights, written = results(output)["weights"], path.stat().st_mtime_ns
    run("out", options)
    assert path.stat().st_mtime_ns == written
    run("out", {**options, "DATA.VAL_FRACTION": 0.1, "MODEL.HEAD": "temporal"}, code=2)
    run("out", {**options, "TRAIN.AUTO_RESUME": False})
    assert path.stat().st_mtime_ns > written
    assert results(output)["weights"] == weights  # the same seed
    run("out", {**options, "FEATURES.WEIGHT_DECAYS": [0.1]})  # other options of training
    assert len(results(output)["grid"]) == 2


def test_the_checkpoint_predicts_and_is_tested_without_features(run: Run, tiny_data: Path) -> None:
    options = {"MODEL.HEAD": "attentive", "TEST.MEASURE_ORDER": True}
    output = run("out", {**CACHED, **options, "FEATURES.LEARNING_RATES": [0.1]})
    shuffled = results(output)["shuffled"]
    run("out", {"TRAIN.ENABLE": False, **options})
    assert results(output)["shuffled"] == shuffled
    assert (output / "test_1x1").exists() is False  # the same test
    with (output / "predictions.csv").open() as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    prediction = load_model(output, "cpu", ["TEST.CALIBRATE", "False"]).predict(tiny_data / "test/walk/test0")
    found = dict(prediction.top)
    row = rows["walk/test0"]
    for rank in (1, 2, 3):
        assert found[row[f"class_{rank}"]] == pytest.approx(float(row[f"probability_{rank}"]), abs=4 * ROUNDING)


def test_reference_equals_scikit_learn(run: Run, tiny_command: list[str]) -> None:
    options = {"MODEL.HEAD": "temporal", "MODEL.HEAD_GRID": 2, "FEATURES.LEARNING_RATES": [0.1], "TEST.REPORT": True}
    output = run("out", {**CACHED, **options})
    cfg = load_config(output / "config.yaml", [])
    model, _ = build_from_checkpoint(cfg, read_checkpoint(output))
    model.eval()
    data = {}
    for split in ("train", "val", "test"):
        dataset = construct_loader(cfg, split).dataset
        clips = torch.stack([dataset[index]["clip"] for index in range(len(dataset))])
        with torch.no_grad():
            tokens = model.head_input(normalize_clips(clips, cfg, torch.device("cpu")))
        tokens = torch.cat([tokens[:, :, :1], tokens[:, :, 1:].mean(dim=2, keepdim=True)], dim=2)
        data[split] = tokens.flatten(1).numpy(), dataset.records.labels
    row = next(row for row in results(output)["reference"] if row["method"] == "logistic regression")
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=row["value"], max_iter=1000)).fit(*data["train"])
    for key, split in (("val_top1", "val"), ("top1", "test")):
        assert row[key] == pytest.approx(100 * expected.score(*data[split]), abs=1e-3)
    report = (output / "report.html").read_text()
    assert f"logistic regression (C {row['value']:g})" in report
    assert {row["method"] for row in results(output)["reference"]} == {"k-NN", "logistic regression"}
    assert np.isfinite([row["top1"] for row in results(output)["reference"]]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"), [("timm/resnet18", "temporal"), ("VideoMAE", "attentive"), ("ViViT", "linear")]
)
def test_cached_features_of_other_networks(
    run: Run, tiny_command: list[str], tmp_path: Path, name: str, head: str
) -> None:
    weights = tmp_path / "weights.pyth"
    options = {"MODEL.MODEL_NAME": name, "MODEL.HEAD": head, "DATA.TRAIN_JITTER_SCALES": [32, 32]}
    options |= {"DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32, "TIMESFORMER.PATCH_SIZE": 16}
    pairs = [str(part) for pair in options.items() for part in pair]
    torch.save(build_model(load_config(tiny_command[1], pairs, check_values=False)).state_dict(), weights)
    options |= {"TRAIN.CHECKPOINT_FILE_PATH": weights}
    cached = run("features", {**options, **CACHED, "FEATURES.LEARNING_RATES": [0.01]})
    tested = {"TRAIN.ENABLE": False, "TEST.CHECKPOINT_FILE_PATH": cached / "checkpoints/best.pyth"}
    direct = results(run("clips", {**options, **tested}))
    assert direct["weights"] == results(cached)["weights"]
    assert direct["loss"] == pytest.approx(results(cached)["loss"], abs=4 * ROUNDING)
