"""Every model draws a dropout mask for each clip."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.models.small import small_timesformer, small_videomae, small_vivit
from timesformer.models.vit import ATTENTION_TYPES
from timesformer.models.vivit import VIVIT_MODELS

pytestmark = pytest.mark.numerical
CLIPS = 64
MODELS = [partial(small_timesformer, name) for name in ATTENTION_TYPES]
MODELS += [*(partial(small_vivit, name) for name in VIVIT_MODELS.values()), small_videomae]


@pytest.mark.parametrize("small", MODELS)
def test_dropout_masks_differ_between_clips(small: Callable[..., nn.Module]) -> None:
    model = small(img_size=16, drop_rate=0.5).train()
    seen: list[tuple[str, Tensor, Tensor]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.register_forward_hook(lambda _, inputs, out, name=name: seen.append((name, inputs[0], out)))
    with torch.no_grad():
        model(torch.randn(1, 3, 4, 16, 16).expand(CLIPS, -1, -1, -1, -1))
    assert any(name.endswith("pos_drop") for name, _, _ in seen)
    for name, values, output in seen:
        assert len(output) % CLIPS == 0, f"{name}: {len(output)} rows for {CLIPS} clips"
        kept = (output != 0).flatten(1)[:, (values != 0).flatten(1).all(dim=0)]
        assert len(kept.unique(dim=0)) > CLIPS // 2, name
