"""The counts that docs/models.md prints."""

import pytest
import torch

from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.vit import TimeSformer


def test_base_model_has_the_published_size_and_cost() -> None:
    """121.3M parameters and 196 GFLOPs at 51 classes (TimeSformer paper, and the gesture study's table)."""
    with torch.device("meta"):
        model = TimeSformer(num_classes=51)
    assert count_parameters(model) / 1e6 == pytest.approx(121.3, abs=0.05)
    assert count_multiply_adds(model, (1, 3, 8, 224, 224)) / 1e9 == pytest.approx(196.05, abs=0.05)


def test_counting_leaves_mode_and_shortcut_as_they_were() -> None:
    model = TimeSformer(img_size=32, num_classes=3, embed_dim=24, depth=1, num_heads=2)
    count_multiply_adds(model, (1, 3, 8, 32, 32))
    assert model.training
    assert model.model.last_block_cls_only
