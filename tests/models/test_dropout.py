"""Every model draws a dropout mask for each sample."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config import get_cfg
from timesformer.models import build_model
from timesformer.models.vit import ATTENTION_TYPES

pytestmark = pytest.mark.numerical
CLIPS, FRAMES = 64, 2
MODELS = [
    *(("TimeSformer", "TIMESFORMER.ATTENTION_TYPE", attention_type) for attention_type in ATTENTION_TYPES),
    ("LightTimeSformer", "TIMESFORMER.VARIANT", "tiny"),
    *(("ViViT", "VIVIT.MODEL", number) for number in (1, 2, 3)),
]


def cfg_of(name: str, key: str, value: str | int) -> CfgNode:
    cfg = get_cfg()
    small = {"EMBED_DIM": 16, "DEPTH": 2, "NUM_HEADS": 2, "PATCH_SIZE": 8, "INIT": "scratch", "DROP_RATE": 0.5}
    cfg.merge_from_list([part for option in small.items() for part in (f"TIMESFORMER.{option[0]}", option[1])])
    cfg.merge_from_list(["MODEL.MODEL_NAME", name, "MODEL.NUM_CLASSES", 3, key, value])
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES, cfg.VIVIT.TUBELET_SIZE = 16, FRAMES, [1, 8, 8]
    return cfg


@contextmanager
def dropped_in(model: nn.Module) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Name, input and output of every dropout of a forward pass."""
    seen: list[tuple[str, Tensor, Tensor]] = []

    def record(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((name, inputs[0].detach(), output.detach()))

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: record(name, inputs, output))
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout) and module.p > 0
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("name", "key", "value"), MODELS)
def test_dropout_masks_differ_between_clips(name: str, key: str, value: str | int) -> None:
    torch.manual_seed(0)
    model = build_model(cfg_of(name, key, value)).train()
    clip = torch.randn(1, 3, FRAMES, 16, 16)
    with dropped_in(model) as seen, torch.no_grad():
        model(clip.expand(CLIPS, -1, -1, -1, -1))
    assert any(dropout.endswith("pos_drop") for dropout, _, _ in seen)
    for dropout, values, output in seen:
        assert len(output) % CLIPS == 0, f"{dropout}: {len(output)} rows for {CLIPS} clips"
        kept = (output != 0).flatten(1)[:, (values != 0).flatten(1).all(dim=0)]
        assert len(kept.unique(dim=0)) > CLIPS // 2, dropout
