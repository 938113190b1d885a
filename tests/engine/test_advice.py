"""Warnings that a few clips are about to train many parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.conftest import Outcome
from timesformer.config import get_cfg
from timesformer.engine.advice import few_clips_advice


def advice(clips: int, width: int = 4500, frozen: bool = False, **weights: Any) -> str:
    """About a model of 2 layers with width x width weights each, 40 million by default."""
    model = nn.Sequential(*(nn.Linear(width, width, device="meta") for _ in range(2)))
    model[0].requires_grad_(not frozen)
    cfg = get_cfg()
    for section, (key, value) in weights.items():
        cfg[section][key] = value
    return few_clips_advice(cfg, model, clips)


def test_from_random_weights() -> None:
    assert "docs/small_data.md" in advice(1999)
    assert advice(2000) == ""
    assert advice(10, width=1000) == ""


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("TRAIN", "CHECKPOINT_FILE_PATH", "a.pyth"),
        ("TIMESFORMER", "PRETRAINED_MODEL", "a.pyth"),
        ("MODEL", "PRETRAINED", True),
    ],
)
def test_from_pretrained_weights(section: str, key: str, value: object) -> None:
    weights = {section: (key, value)}
    assert "MODEL.FREEZE" in advice(499, **weights)
    assert advice(500, **weights) == ""
    assert advice(10, frozen=True, **weights) == ""
    assert advice(10, width=1000, **weights) == ""


@pytest.mark.slow
def test_training_warns_once(run_net: Callable[..., Outcome], tiny_command: list[str], tmp_path: Path) -> None:
    large = ["TIMESFORMER.EMBED_DIM", "768", "TIMESFORMER.DEPTH", "3", "SOLVER.BASE_LR", "1e-5"]
    options = [*large, "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False", "OUTPUT_DIR"]
    assert run_net(*tiny_command, *options, str(tmp_path / "scratch")).code == 0
    assert (tmp_path / "scratch" / "run.log").read_text().count("docs/small_data.md") == 1
    trained = str(tmp_path / "scratch" / "checkpoints" / "best.pyth")
    tuning = ["TRAIN.CHECKPOINT_FILE_PATH", trained, "TRAIN.FINETUNE", "True"]
    for freeze, warnings in (("none", 1), ("backbone", 0)):
        output = tmp_path / freeze
        assert run_net(*tiny_command, *options, str(output), *tuning, "MODEL.FREEZE", freeze).code == 0
        assert (output / "run.log").read_text().count("docs/small_data.md") == warnings
