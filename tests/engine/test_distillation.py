"""Knowledge distillation, from the command to the loss in metrics.jsonl and the checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import nn

from tests.conftest import Outcome
from tests.engine.training import assert_same_checkpoint
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.engine import distillation
from timesformer.inference.classifier import load_model

pytestmark = pytest.mark.slow
Run = Callable[..., Path]

# Teacher and student differ in architecture, size, frames, normalization and order of the channels.
TEACHER = """
    MODEL.MODEL_NAME ViViT TIMESFORMER.PATCH_SIZE 16
    VIVIT.TUBELET_SIZE [2,8,8] DATA.NUM_FRAMES 4 DATA.TRAIN_CROP_SIZE 24 DATA.TEST_CROP_SIZE 24
    DATA.TRAIN_JITTER_SCALES [24,28] DATA.MEAN [0.5,0.4,0.3] DATA.STD [0.2,0.25,0.3] DATA.REVERSE_INPUT_CHANNEL True
    TIMESFORMER.DEPTH 3 TIMESFORMER.EMBED_DIM 32
"""
STUDENT = "TIMESFORMER.DEPTH 2 TIMESFORMER.DROP_PATH_RATE 0 MODEL.DROPOUT_RATE 0 TENSORBOARD.ENABLE False"


@pytest.fixture
def run(run_net: Callable[..., Outcome], tiny_command: list[str], tmp_path: Path) -> Run:
    """run(name, options): trains with `tiny_command` and returns the folder of the run."""
    torch.set_num_threads(1)  # so that sums are rounded in the same way in every run

    def start(name: str, options: str, code: int = 0) -> Path:
        folder = tmp_path / name
        done = run_net(*tiny_command, *options.split(), "OUTPUT_DIR", str(folder))
        assert done.code == code, done.err
        return folder

    return start


@pytest.fixture
def teacher(run: Run) -> Path:
    return run("teacher", TEACHER) / "checkpoints/best.pyth"


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train_step"]


def test_first_loss_is_that_of_scipy(run: Run, teacher: Path) -> None:
    options = f"{STUDENT} DISTILL.TEACHER {teacher} DISTILL.WEIGHT 0.7 DISTILL.TEMPERATURE 3 TEST.ENABLE False"
    found = losses(run("student", f"{options} SOLVER.MAX_EPOCH 1"))[0]

    # The same batch for the student as initialized, and for the teacher in its own format.
    student = load_model(run("start", f"{STUDENT} SOLVER.MAX_EPOCH 1 SOLVER.BASE_LR 1e-30 TEST.ENABLE False"))
    loader = construct_loader(student.cfg, "train")
    set_epoch(loader, 0)
    batch = next(iter(loader))
    old = load_model(teacher)
    with torch.no_grad():
        logits = student.model(normalize_clips(batch["clip"], student.cfg, torch.device("cpu"))).double().numpy()
        clips = batch["clip"].float()[:, [2, 1, 0]][:, :, [0, 0, 1, 1]]
        clips = nn.functional.interpolate(clips.flatten(0, 1), (24, 24), mode="bilinear").unflatten(0, (2, 3))
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (old.cfg.DATA.MEAN, old.cfg.DATA.STD))
        target = old.model((clips / 255 - mean) / std).double().numpy()
    hard = -log_softmax(logits, axis=1)[np.arange(2), batch["label"]]
    soft = entropy(softmax(target / 3, axis=1), softmax(logits / 3, axis=1), axis=1)
    assert found == pytest.approx(np.mean(0.3 * hard + 0.7 * 9 * soft), rel=1e-4)


def test_a_student_learns_the_outputs_of_its_teacher(run: Run, teacher: Path) -> None:
    """With the teacher's outputs alone, its own architecture and the same clips each time, the loss goes to zero."""
    same = f"{TEACHER} {STUDENT} DISTILL.TEACHER {teacher} DISTILL.WEIGHT 1 DATA.DRAW_ONCE True SOLVER.MAX_EPOCH 30"
    found = losses(run("student", f"{same} TIMESFORMER.DEPTH 3 SOLVER.OPTIMIZING_METHOD adamw TEST.ENABLE False"))
    assert np.mean(found[-3:]) < 0.1 * np.mean(found[:3])


def test_clips_that_do_not_change_are_computed_once(run: Run, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = distillation.Teacher.logits

    def count(self: distillation.Teacher, clips: torch.Tensor) -> torch.Tensor:
        seen.append(len(clips))
        return original(self, clips)

    monkeypatch.setattr(distillation.Teacher, "logits", count)
    options = f"{STUDENT} DISTILL.TEACHER {teacher} DATA.DRAW_ONCE True SOLVER.MAX_EPOCH 3 TEST.ENABLE False"
    cached = losses(run("cached", options))
    assert sum(seen) * 3 == len(cached) * 2
    monkeypatch.setattr(distillation.Distillation, "_teacher_logits", lambda self, clips, _: self.teacher.logits(clips))
    assert losses(run("uncached", options)) == pytest.approx(cached, rel=1e-5)


def test_features_of_blocks_are_compared_and_resume(run: Run, teacher: Path) -> None:
    features = "DISTILL.FEATURES ['1:2','1:1'] SOLVER.OPTIMIZING_METHOD adamw EMA.ENABLED True MODEL.ACT_CHECKPOINT"
    options = f"{STUDENT} DISTILL.TEACHER {teacher} {features} blocks TEST.ENABLE False"
    whole = run("whole", f"{options} SOLVER.MAX_EPOCH 2")
    parts = run("parts", f"{options} SOLVER.MAX_EPOCH 2 TRAIN.CHECKPOINT_PERIOD 1")
    for path in (parts / "checkpoints").glob("*_00002.pyth"):
        path.unlink()
    assert run("parts", f"{options} SOLVER.MAX_EPOCH 2 TRAIN.CHECKPOINT_PERIOD 1") == parts
    last = "checkpoints/checkpoint_epoch_00002.pyth"
    assert_same_checkpoint(whole / last, parts / last)
    content = torch.load(whole / last, weights_only=True)
    assert content["distillation_state"]["projections"]["0.weight"].shape == (32, 16)
    best = torch.load(whole / "checkpoints/best.pyth", weights_only=True)
    assert not any("projections" in name for name in best["model_state"])  # an ordinary checkpoint
    without = losses(run("without", f"{options} DISTILL.FEATURE_WEIGHT 1e-9 SOLVER.MAX_EPOCH 1"))
    assert losses(whole)[0] > without[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("DISTILL.TEACHER missing.pyth", "DISTILL.TEACHER"),
        ("DISTILL.TEACHER TEACHER DISTILL.FEATURES ['3:1']", "DISTILL.FEATURES"),
        ("DISTILL.TEACHER TEACHER DISTILL.FEATURES ['first']", "DISTILL.FEATURES"),
        ("DISTILL.TEACHER TEACHER MODEL.NUM_CLASSES 4", "MODEL.NUM_CLASSES"),
    ],
)
def test_errors_name_the_option(
    run_net: Callable[..., Outcome], tiny_command: list[str], teacher: Path, options: str, named: str, tmp_path: Path
) -> None:
    given = options.replace("TEACHER TEACHER", f"TEACHER {teacher}").split()
    done = run_net(*tiny_command, *STUDENT.split(), *given, "OUTPUT_DIR", str(tmp_path / "student"))
    assert (done.code, named in done.err) == (2, True), done.err
    assert not (tmp_path / "student/checkpoints").exists()


def test_a_teacher_of_other_classes_is_an_error(
    run_net: Callable[..., Outcome], tiny_command: list[str], teacher: Path, tmp_path: Path
) -> None:
    content: dict[str, Any] = torch.load(teacher, weights_only=True)
    content["progress"]["class_names"] = ["jump", "run", "walk"]
    torch.save(content, tmp_path / "other.pyth")
    given = ("DISTILL.TEACHER", str(tmp_path / "other.pyth"), "OUTPUT_DIR", str(tmp_path / "student"))
    done = run_net(*tiny_command, *given)
    assert (done.code, "jump" in done.err) == (2, True), done.err
