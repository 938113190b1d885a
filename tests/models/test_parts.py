"""Layer numbers, freezing, and the modes of a partly frozen model in training."""

import pytest
import torch
from torch import nn

from timesformer.errors import UserError
from timesformer.models.baselines import BASELINES, TimmModel
from timesformer.models.parts import freeze, head_names, layer_numbers, train_mode
from timesformer.models.vit import TimeSformer


def small_model(**options: object) -> TimeSformer:
    return TimeSformer(img_size=16, patch_size=8, embed_dim=8, depth=3, num_heads=2, num_classes=3, **options)


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_layer_numbers() -> None:
    numbers = layer_numbers(small_model())
    for name in ("cls_token", "pos_embed", "time_embed", "patch_embed.proj.weight"):
        assert numbers[f"model.{name}"] == 0
    for name, number in numbers.items():
        if ".blocks." in name:
            assert number == int(name.split(".")[2]) + 1
    assert numbers["model.blocks.1.temporal_attn.qkv.weight"] == 2
    assert numbers["model.norm.weight"] == 3
    assert numbers["model.head.weight"] == numbers["model.head.bias"] == 4


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("torchvision/r3d_18", 8), ("torchvision/swin3d_t", 7), ("torchvision/mvit_v2_s", 16), ("timm/resnet18", 8)],
)
def test_layer_numbers_of_baselines(name: str, blocks: int) -> None:
    library, _, model_name = name.partition("/")
    with torch.device("meta"):
        model = BASELINES[library](model_name, 3)
    numbers = layer_numbers(model)
    assert set(numbers) == {n for n, _ in model.named_parameters()}
    assert set(numbers.values()) == set(range(blocks + 2))
    heads = tuple(f"model.{head}." for head in head_names(model))
    assert {n for n, number in numbers.items() if number == blocks + 1} == {n for n in numbers if n.startswith(heads)}


def test_freeze() -> None:
    model = small_model()
    everything = trained_names(model)
    freeze(model, "none")
    assert trained_names(model) == everything
    freeze(model, "all_but_last_2")
    first = ("model.blocks.0.", "model.pos_embed", "model.time_embed", "model.cls_token", "model.patch_embed.")
    assert trained_names(model) == {name for name in everything if not name.startswith(first)}
    freeze(model, "backbone")
    assert trained_names(model) == {"model.head.weight", "model.head.bias"}
    with pytest.raises(UserError, match=r"MODEL\.FREEZE"):
        freeze(model, "all_but_last_4")


def test_dropout_of_frozen_layers_is_off() -> None:
    model = small_model(drop_rate=0.1, dropout=0.2)
    network = model.eval().model
    train_mode(model)
    assert all(module.training for module in model.modules())

    freeze(model, "backbone")
    train_mode(model)
    assert network.dropout.training
    assert network.head.training
    assert not any(m.training for m in (network.pos_drop, network.time_drop, *network.blocks.modules(), network.norm))

    freeze(model, "all_but_last_1")
    train_mode(model)
    assert not any(module.training for module in network.blocks[1].modules())  # its last dropout, too
    assert all(module.training for module in network.blocks[2].modules())
    assert not network.pos_drop.training

    freeze(model, "all_but_last_3")
    train_mode(model)
    assert network.pos_drop.training  # the first block is trained, and comes after it
    assert all(module.training for module in network.blocks.modules())


def test_frozen_norms_keep_their_statistics() -> None:
    model = TimmModel("test_resnet", 3)
    freeze(model, "backbone")
    train_mode(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(2, 3, 2, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.model.fc.weight.grad is not None
    assert model.model.layer1[0].conv1.weight.grad is None
