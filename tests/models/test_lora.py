"""Low-rank updates: their arithmetic (in NumPy), the names of tensors, and which parameters are trained."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.small import small_clip, small_timesformer, small_videomae, small_vivit
from timesformer.errors import UserError
from timesformer.models.baselines import TimmModel, TorchvisionModel
from timesformer.models.build import RegisteredTransformer
from timesformer.models.complexity import count_trained
from timesformer.models.lora import LowRankState, add_low_rank_updates, merged_copy
from timesformer.models.parts import train_mode

RANK, ALPHA = 3, 8.0
TIMM = "timm/test_vit"


def new_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, rest = name.partition("/")
    builds: dict[str, Callable[..., nn.Module]] = {
        "TimeSformer": small_timesformer,
        "ViViT": small_vivit,
        "VideoMAE": small_videomae,
    }
    kind = [rest] if rest else []
    model = TimmModel(rest, 5) if library == "timm" else RegisteredTransformer(builds[library](*kind))
    return model.double().eval()


def new_clip(name: str) -> torch.Tensor:
    return small_clip(size=160 if name == TIMM else 32).double()


def train_a_little(model: nn.Module, clip: torch.Tensor, steps: int = 2) -> None:
    """Some steps of Adam in training mode, which moves every trained weight."""
    torch.manual_seed(0)
    train_mode(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        model(clip).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


NATIVE = [f"TimeSformer/{kind}" for kind in ("divided_space_time", "joint_space_time", "space_only")]
NATIVE += [f"ViViT/{kind}" for kind in ("joint", "factorised_encoder", "factorised_self_attention")]
NATIVE += ["VideoMAE"]


@pytest.mark.parametrize("layers", ["query_value", "all"])
@pytest.mark.parametrize("name", [*NATIVE, TIMM])
def test_trained_model_is_the_original_with_updated_weights(name: str, layers: str) -> None:
    model, clip = new_model(name), new_clip(name)
    before = copy.deepcopy(model.state_dict())
    original = model(clip)
    add_low_rank_updates(model, RANK, ALPHA, layers)
    assert torch.equal(model(clip), original)
    train_a_little(model, clip)

    expected = {key: value.numpy() for key, value in before.items()}
    tensors = {key: value.numpy() for key, value in LowRankState(model).state_dict().items()}
    updated = {key.rpartition(".")[0] for key in tensors}
    for layer in updated:
        weight, down, up = (tensors[f"{layer}.{part}"] for part in ("original", "down", "up"))
        assert np.array_equal(weight, expected[f"{layer}.weight"])  # frozen
        assert np.abs(up).min(axis=(1, 2)).all()
        dim, merged = len(weight) // (3 if layer.endswith("qkv") else 1), weight.copy()
        parts = [0, 2] if layers == "query_value" else range(len(weight) // dim)  # queries, keys, values
        for part, a, b in zip(parts, down, up, strict=True):
            merged[part * dim : (part + 1) * dim] += ALPHA / RANK * b @ a
        expected[f"{layer}.weight"] = merged
    linear = {key for key, module in new_model(name).named_modules() if isinstance(module, nn.Linear)}
    assert updated == {key for key in linear - {"model.head"} if layers == "all" or key.endswith("qkv")}
    found = model.state_dict()
    assert list(found) == list(before)
    for key, value in found.items():
        if not key.startswith("model.head."):
            np.testing.assert_allclose(value.numpy(), expected[key], rtol=0, atol=1e-14)

    plain = new_model(name)
    plain.load_state_dict(found)
    assert (plain(clip) - original).abs().max() > 1e-3
    torch.testing.assert_close(model(clip), plain(clip), rtol=1e-12, atol=1e-12)


def test_copies_and_loaded_states() -> None:
    model, clip = new_model("TimeSformer/divided_space_time").float(), small_clip()
    names = list(model.state_dict())
    add_low_rank_updates(model, RANK, ALPHA, "query_value")
    train_a_little(model, clip)
    merged, other = merged_copy(model), new_model("TimeSformer/divided_space_time").float()
    assert list(merged.state_dict()) == names
    assert torch.equal(merged(clip), model(clip))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(merged(clip), model(clip))
    add_low_rank_updates(other, RANK, ALPHA, "query_value")
    train_a_little(other, clip, steps=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(clip), model(clip))
    assert not any(value.any() for name, value in LowRankState(other).state_dict().items() if name.endswith(".up"))
    LowRankState(other).load_state_dict(LowRankState(model).state_dict())
    train_a_little(other, clip)
    train_a_little(model, clip)
    assert torch.equal(other(clip), model(clip))


def test_number_of_trained_parameters() -> None:
    dim, depth, classes, hidden = 24, 2, 5, 96
    head = dim * classes + classes
    model = new_model("TimeSformer/divided_space_time")
    add_low_rank_updates(model, RANK, ALPHA, "query_value")
    attentions = 2 * depth
    assert count_trained(model) == head + attentions * 2 * (2 * RANK * dim)
    model = new_model("TimeSformer/divided_space_time")
    add_low_rank_updates(model, RANK, ALPHA, "all", ["temporal_fc", "time_embed"])
    per_attention, mlp = 4 * (2 * RANK * dim), 2 * RANK * (dim + hidden)
    fully = depth * (dim * dim + dim) + 4 * dim  # without an update
    assert count_trained(model) == head + attentions * per_attention + depth * mlp + fully


@pytest.mark.parametrize(
    ("rank", "layers", "unfrozen", "key"),
    [(25, "query_value", [], "MODEL.LORA_RANK"), (2, "query_value", ["time"], "MODEL.UNFROZEN")],
)
def test_options_that_do_not_fit_the_model(rank: int, layers: str, unfrozen: list[str], key: str) -> None:
    with pytest.raises(UserError, match=key):
        add_low_rank_updates(new_model("TimeSformer/divided_space_time"), rank, ALPHA, layers, unfrozen)
    with torch.device("meta"), pytest.raises(UserError, match=r"MODEL\.LORA_RANK"):
        add_low_rank_updates(TorchvisionModel("r3d_18", 5), 2, ALPHA, layers)


def test_dropout_acts_and_frozen_norms_keep_their_statistics() -> None:
    model = RegisteredTransformer(small_timesformer(drop_rate=0.1, drop_path_rate=0.1))
    add_low_rank_updates(model, RANK, ALPHA, "query_value")
    train_mode(model)
    blocks = model.model.blocks
    assert blocks[0].mlp.drop1.training
    assert blocks[0].attn.training
    assert blocks[1].drop_path.training
    assert model.model.dropout.training
    layers, head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Dropout(), nn.Linear(4, 2))
    model = nn.ModuleDict({"model": nn.ModuleDict({"layers": layers, "head": head})})
    add_low_rank_updates(model, 2, ALPHA, "all")
    train_mode(model)
    assert not layers[1].training
    assert head[0].training
