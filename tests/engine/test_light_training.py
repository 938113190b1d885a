"""Low-rank updates and later unfreezing, from the command to the checkpoint that is tested."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.conftest import Outcome
from tests.engine.training import assert_same_checkpoint
from timesformer.inference.classifier import load_model

pytestmark = pytest.mark.slow
Run = Callable[..., Outcome]
COMMON = """
    SOLVER.OPTIMIZING_METHOD adamw SOLVER.BASE_LR 0.01 SOLVER.MAX_EPOCH 4 GLOBAL_BATCH_SIZE 4 EMA.ENABLED True
    EMA.DECAY 0.5 TENSORBOARD.ENABLE False TIMESFORMER.DEPTH 2 TIMESFORMER.DROP_PATH_RATE 0.5 SOLVER.LAYER_DECAY 0.8
    SOLVER.HEAD_LR_SCALE 2
"""
LORA = "MODEL.LORA_RANK 2 MODEL.UNFROZEN ['time_embed']"
UNFREEZE = "MODEL.FREEZE all_but_last_1 MODEL.UNFREEZE_EPOCH 2"


@pytest.fixture
def run(run_net: Callable[..., Outcome], tiny_command: list[str], tmp_path: Path) -> Run:
    """run(output, options): `tiny_command` that fine-tunes random weights of two blocks."""
    torch.set_num_threads(1)  # so that sums are rounded in the same way in every run

    def start(output: Path, options: str) -> Outcome:
        from timesformer.config import load_config
        from timesformer.models import build_model

        weights = tmp_path / "start.pyth"
        if not weights.exists():
            torch.manual_seed(1)
            torch.save(
                {
                    "model_state": build_model(
                        load_config(tiny_command[1], [*tiny_command[2:], *COMMON.split()])
                    ).state_dict()
                },
                weights,
            )
        given = f"{COMMON} TRAIN.FINETUNE True TRAIN.CHECKPOINT_FILE_PATH {weights} {options} OUTPUT_DIR {output}"
        done = run_net(*tiny_command, *given.split())
        assert done.code == 0, done.err
        return done

    return start


def content(output: Path, name: str) -> dict:
    return torch.load(output / "checkpoints" / f"{name}.pyth", weights_only=True)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert list(before) == list(after)
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("options", [LORA, UNFREEZE, f"{UNFREEZE} SOLVER.OPTIMIZING_METHOD sgd"])
def test_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(run: Run, tmp_path: Path, options: str) -> None:
    whole = tmp_path / "whole"
    run(whole, options)
    for epochs in (1, 2, 3):  # before, at and after MODEL.UNFREEZE_EPOCH
        resumed = Path(shutil.copytree(whole, tmp_path / f"resumed{epochs}"))
        for path in (resumed / "checkpoints").glob("checkpoint_*.pyth"):
            if int(path.stem[-5:]) > epochs:
                path.unlink()
        run(resumed, options)
        for name in ("checkpoint_epoch_00004.pyth", "best.pyth"):
            assert_same_checkpoint(resumed / "checkpoints" / name, whole / "checkpoints" / name)


def test_low_rank_updates_are_merged_in_checkpoints(run: Run, converter: ModuleType, tmp_path: Path) -> None:
    run(tmp_path / "out", LORA)
    before = torch.load(tmp_path / "start.pyth", weights_only=True)["model_state"]
    last, best = content(tmp_path / "out", "checkpoint_epoch_00004"), content(tmp_path / "out", "best")
    wanted = {f"model.blocks.{n}.{kind}.qkv.weight" for n in (0, 1) for kind in ("attn", "temporal_attn")}
    wanted |= {"model.head.weight", "model.head.bias", "model.time_embed"}
    for state in (last["model_state"], last["ema_state"]["weights"], best["model_state"]):
        assert changed(before, state) == wanted
        for name in wanted:
            if "qkv" in name:
                keys = [tensors[name].chunk(3)[1] for tensors in (before, state)]
                assert torch.equal(*keys)
    assert set(best) - {"calibration"} == {"epoch", "model_state", "cfg", "progress"}

    # The checkpoint alone is tested and predicts like in the run.
    folder = tmp_path / "test"
    run(folder, f"TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {tmp_path / 'out/checkpoints/best.pyth'}")
    assert (folder / "predictions.csv").read_text() == (tmp_path / "out/predictions.csv").read_text()
    classifier = load_model(tmp_path / "out", "cpu")
    assert changed(best["model_state"], classifier.model.state_dict()) == set()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    converter.convert(str(tmp_path / "out"), tmp_path / "hf", "hf")
    theirs = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    data = classifier.cfg.DATA
    clip = torch.randn(2, 3, data.NUM_FRAMES, data.TEST_CROP_SIZE, data.TEST_CROP_SIZE)
    with torch.no_grad():
        assert torch.allclose(theirs(clip.transpose(1, 2)).logits, classifier.model(clip), atol=1e-5)

    # Another run continues from the last one, with its updates.
    options = f"{LORA} TRAIN.FINETUNE False TRAIN.CHECKPOINT_FILE_PATH {tmp_path / 'out/checkpoints'}"
    run(tmp_path / "more", f"{options}/checkpoint_epoch_00004.pyth SOLVER.MAX_EPOCH 5 SOLVER.BASE_LR 1e-30")
    more = content(tmp_path / "more", "checkpoint_epoch_00005")
    assert set(more["lora_state"]) == set(last["lora_state"])
    for name, value in more["lora_state"].items():
        assert torch.allclose(value, last["lora_state"][name], rtol=0, atol=1e-20)


@pytest.mark.parametrize("key", ["TRAIN.CHECKPOINT_FILE_PATH", "TIMESFORMER.PRETRAINED_MODEL"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("MODEL.LORA_RANK 2", {"time_embed", "temporal_fc"}),
        ("MODEL.FREEZE backbone MODEL.UNFROZEN ['temporal_fc']", {"time_embed"}),
        (UNFREEZE, set()),
    ],
)
def test_frozen_parameters_without_weights_are_named(
    run: Run, tmp_path: Path, key: str, options: str, named: set[str]
) -> None:
    run(tmp_path / "start", "SOLVER.MAX_EPOCH 1")
    path = tmp_path / "start.pyth"
    state = torch.load(path, weights_only=True)["model_state"]
    image_model = {name: value for name, value in state.items() if "temporal" not in name and "time" not in name}
    torch.save({"model_state": image_model}, path)
    start = "TRAIN.FINETUNE False TRAIN.CHECKPOINT_FILE_PATH '' " * key.startswith("TIMESFORMER")
    run(tmp_path / "out", f"{start} {key} {path} {options} TEST.ENABLE False")
    lines = [line for line in (tmp_path / "out/run.log").read_text().splitlines() if "MODEL.UNFROZEN)" in line]
    assert {word for line in lines for word in ("time_embed", "temporal_fc") if word in line} == named


def test_everything_trains_after_the_epoch_of_unfreezing(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out", UNFREEZE)
    run(tmp_path / "frozen", UNFREEZE.replace("UNFREEZE_EPOCH 2", "UNFREEZE_EPOCH 0"))
    before = torch.load(tmp_path / "start.pyth", weights_only=True)["model_state"]
    first = ("model.blocks.0.", "model.pos_embed", "model.time_embed", "model.cls_token", "model.patch_embed.")
    later = {name for name in before if name.startswith(first)}
    for epoch in (1, 2):
        now, then = (content(tmp_path / folder, f"checkpoint_epoch_0000{epoch}") for folder in ("out", "frozen"))
        assert changed(before, now["model_state"]) == set(before) - later
        assert changed(then["model_state"], now["model_state"]) == set()
        assert len(now["optimizer_state"]["state"]) == len(before) - len(later)
    last = content(tmp_path / "out", "checkpoint_epoch_00004")
    assert changed(before, last["model_state"]) == set(before)
    steps = {int(state["step"]) for state in last["optimizer_state"]["state"].values()}
    assert steps == {6, 12}  # of 3 in each epoch
