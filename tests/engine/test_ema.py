"""The average of the weights: its arithmetic, and what a run makes of it."""

import pytest
import torch
from torch import nn

from timesformer.engine.ema import AveragedWeights
from timesformer.engine.recompute import recompute_blocks
from timesformer.models.vit import VisionTransformer

pytestmark = pytest.mark.numerical


def model_with_statistics() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def train_a_step(model: nn.Module) -> None:
    model.train()
    model(torch.randn(8, 3, dtype=torch.float64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_the_average_is_that_of_a_loop_by_hand() -> None:
    model = model_with_statistics()
    ema = AveragedWeights(model, decay=0.3)
    expected = {}
    for update in range(8):
        train_a_step(model)
        ema.update()
        decay = min(0.3, update / (update + 9))  # 0, 0.1, 0.18, 0.25, 0.3, 0.3, ...
        for name, value in model.state_dict().items():
            before = expected.get(name, torch.zeros_like(value))
            expected[name] = decay * before + (1 - decay) * value if value.is_floating_point() else value.clone()
    averaged = ema.model().state_dict()
    assert averaged.keys() == expected.keys()
    for name, value in averaged.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12, msg=name)
    assert averaged["1.num_batches_tracked"] == 8
    assert not any(parameter.requires_grad for parameter in ema.model().parameters())


def test_before_the_first_update_it_is_the_model_and_then_a_copy() -> None:
    model = model_with_statistics()
    ema = AveragedWeights(model, decay=0.9)
    train_a_step(model)  # as when weights are loaded after the average was made
    assert ema.model() is model
    ema.update()
    assert torch.equal(ema.model()[0].weight, model[0].weight)
    train_a_step(model)
    assert not torch.equal(ema.model()[0].weight, model[0].weight)


def test_it_goes_on_from_its_state_as_if_nothing_had_happened() -> None:
    states = []
    for interrupted in (False, True):
        model = model_with_statistics()
        ema = AveragedWeights(model, decay=0.9)
        for step in range(6):
            torch.manual_seed(step)
            train_a_step(model)
            ema.update()
            if interrupted and step == 2:
                state = ema.state_dict()
                ema = AveragedWeights(model, decay=0.9)
                ema.load_state_dict(state)
        states.append(ema.state_dict())
    assert states[0]["updates"] == states[1]["updates"] == 6
    for name, value in states[0]["weights"].items():
        assert torch.equal(states[1]["weights"][name], value), name


@pytest.mark.parametrize("recomputed", [False, True])
def test_the_copy_computes_with_its_own_weights(recomputed: bool) -> None:
    model = VisionTransformer(16, 8, 3, 3, embed_dim=16, depth=2, num_heads=2, num_frames=2, init="scratch").eval()
    recompute_blocks(model, "blocks" if recomputed else "none")
    clip = torch.randn(2, 3, 2, 16, 16)
    ema = AveragedWeights(model, decay=0.9)
    ema.update()
    with torch.no_grad():
        before = model(clip)
        for parameter in model.blocks.parameters():
            parameter.zero_()
        torch.testing.assert_close(ema.model()(clip), before)
        assert not torch.allclose(model(clip), before)
