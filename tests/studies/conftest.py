"""A small study, and the results that its runs would leave."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.conftest import load_command
from timesformer.studies.cells import Cell
from timesformer.studies.plan import Choices
from timesformer.studies.study import Study, read_study

CONFIG = """# tiny
TRAIN: {DATASET: hmdb_simp, BATCH_SIZE: 2, EVAL_PERIOD: 1, CHECKPOINT_PERIOD: 1}
TEST: {DATASET: hmdb_simp, BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1, REPORT: False}
DATA: {NUM_FRAMES: 2, SAMPLING_RATE: 1, TRAIN_CROP_SIZE: 16, TEST_CROP_SIZE: 16, TRAIN_JITTER_SCALES: [16, 20]}
DATA_LOADER: {NUM_WORKERS: 0}
MODEL: {MODEL_NAME: TimeSformer, NUM_CLASSES: 2}
TIMESFORMER: {EMBED_DIM: 16, DEPTH: 1, NUM_HEADS: 2, PATCH_SIZE: 8, INIT: scratch}
SOLVER: {BASE_LR: 0.01, MAX_EPOCH: 2}
TENSORBOARD: {ENABLE: False}
NUM_GPUS: 0
GLOBAL_BATCH_SIZE: 2
OUTPUT_DIR: output/tiny
"""
STUDY = """
title: Tiny
source: a paper
config: tiny.yaml
prepare: python datasets/hmdb_simp/prepare.py FOLDER
weights: K400
pretrained: {K400: "zoo:TimeSformer_divST_8x32_224_K400"}
tables:
  - title: rates
    columns: {rate: SOLVER.BASE_LR}
    rows:
      - {name: base, published: [93.6, 99.2]}
      - {name: slow, published: [80, null], set: {SOLVER.BASE_LR: 0.001}}
      - {name: theirs, run: false, published: [50.96, 86.51], facts: {GFLOPs: 4.9}}
    findings: [{row: base, beats: slow}]
  - {title: weights, rows: [{name: K400}]}
demo:
  data: {seed: 3, clips: [2, 1, 1], classes: [left, right]}
  pretrained: {K400: {data: {seed: 4, clips: [2, 1, 1], classes: [grow, shrink]}}}
"""


def content() -> dict:
    """The content of the study's file: two tables that share a row."""
    return yaml.safe_load(STUDY)


@pytest.fixture
def reproduce_tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/reproduce.py; its runs use one core."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return load_command("reproduce")


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[[dict], Path]:
    """write_study(content): its file, next to its configuration."""

    def write(given: dict) -> Path:
        (tmp_path / "tiny.yaml").write_text(CONFIG)
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        return path

    return write


@pytest.fixture
def study(write_study: Callable[[dict], Path]) -> Study:
    return read_study(write_study(content()))


@pytest.fixture
def choices(tmp_path: Path) -> Choices:
    """Choices of a user who has data and weights."""
    (tmp_path / "data").mkdir()
    (tmp_path / "k400.pyth").touch()
    return Choices(tmp_path / "out", tmp_path / "data", False, 2, (), {"K400": str(tmp_path / "k400.pyth")})


def finish(cell: Cell, top1: float, correct: Sequence[bool] | None = None, **more: object) -> None:
    """Writes the results of a cell with this accuracy; with `correct`, also its predictions."""
    cell.write_config()
    results = {"top1": top1, "top5": 100.0, "val_top1": top1 - 1, "seconds": 1.0, "train_seconds": 40.0}
    results |= {"total_train_seconds": 60.0}
    results |= {"peak_memory_bytes": 300 * 2**20, "num_videos": 100, "num_classes": 2}
    results |= {"versions": {"timesformer": "1", "torch": "2"}, "class_names": ["left", "right"], **more}
    if correct is not None:
        results |= {"top1": 100 * sum(correct) / len(correct), "num_videos": len(correct)}
        predicted = ["left" if is_correct else "right" for is_correct in correct]
        rows = [f"fold{cell.cfg.DATA.FOLD}_{video},left,{name},0.9," for video, name in enumerate(predicted)]
        text = "\n".join(["video,label,class_1,probability_1,error", *rows])
        (cell.folder / "predictions.csv").write_text(text)
    (cell.folder / "results.json").write_text(json.dumps(results))
