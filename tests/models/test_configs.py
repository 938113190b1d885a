"""The models of the shipped configurations, and the counts that docs/models.md prints."""

from pathlib import Path

import pytest
import torch

from timesformer.config import load_config
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.vit import TimeSformer
from timesformer.models.vivit import ViViT

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("**/*.yaml") if path.parent.name != "studies")


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_configuration(path: Path) -> None:
    cfg = load_config(path, ["TIMESFORMER.PRETRAINED_MODEL", ""], check_values=False)
    with torch.device("meta"):
        model = build_model(cfg).eval()
        clip = torch.empty(2, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
    assert model(clip).shape == (2, cfg.MODEL.NUM_CLASSES)


@pytest.mark.slow
def test_published_size_and_cost() -> None:
    """121.3M parameters and 196 GFLOPs at 51 classes (TimeSformer paper, and the gesture study's table)."""
    with torch.device("meta"):
        model = TimeSformer(num_classes=51)
    assert count_parameters(model) / 1e6 == pytest.approx(121.3, abs=0.05)
    assert count_multiply_adds(model, (1, 3, 8, 224, 224)) / 1e9 == pytest.approx(196.05, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention_type", "parameters", "documented"),
    [
        ("joint", 88_954_000, 451.81),
        ("factorised_encoder", 115_062_928, 283.63),
        ("factorised_self_attention", 117_319_312, 371.54),
    ],
)
def test_size_and_cost_of_vivit(attention_type: str, parameters: int, documented: float) -> None:
    """88.9, 115.1 and 117.3 million (ViViT paper, section 4.2)."""
    with torch.device("meta"):
        model = ViViT(attention_type=attention_type)
    assert count_parameters(model) == parameters
    shortcut = model.model.last_block_cls_only
    assert count_multiply_adds(model, (1, 3, 32, 224, 224)) / 1e9 == pytest.approx(documented, abs=0.005)
    assert model.training
    assert model.model.last_block_cls_only is shortcut
