"""Layers, what is frozen, and which modes a partly frozen model is trained in."""

import importlib.util

import pytest
import torch
from torch import nn

from timesformer.errors import UserError
from timesformer.models.parts import freeze, head_names, layer_numbers, train_mode
from timesformer.models.vit import TimeSformer

needs_libraries = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None or importlib.util.find_spec("torchvision") is None,
    reason="timm or torchvision is not installed",
)


def small_model(**options: object) -> TimeSformer:
    return TimeSformer(img_size=16, patch_size=8, embed_dim=8, depth=3, num_heads=2, num_classes=3, **options)


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_layers_go_from_the_embeddings_over_the_blocks_to_the_head() -> None:
    numbers = layer_numbers(small_model())
    for name in ("cls_token", "pos_embed", "time_embed", "patch_embed.proj.weight"):
        assert numbers[f"model.{name}"] == 0
    for name, number in numbers.items():
        if ".blocks." in name:
            assert number == int(name.split(".")[2]) + 1
    assert numbers["model.blocks.1.temporal_attn.qkv.weight"] == 2
    assert numbers["model.norm.weight"] == 3
    assert numbers["model.head.weight"] == numbers["model.head.bias"] == 4


@needs_libraries
@pytest.mark.parametrize(
    ("name", "blocks"),
    [("torchvision/r3d_18", 8), ("torchvision/swin3d_t", 7), ("torchvision/mvit_v2_s", 16), ("timm/resnet18", 8)],
)
def test_layers_of_other_libraries_models_are_their_blocks(name: str, blocks: int) -> None:
    from timesformer.models.baselines import BASELINES

    library, _, model_name = name.partition("/")
    with torch.device("meta"):
        model = BASELINES[library](model_name, 3)
    numbers = layer_numbers(model)
    assert set(numbers) == {n for n, _ in model.named_parameters()}
    assert set(numbers.values()) == set(range(blocks + 2))
    heads = tuple(f"model.{head}." for head in head_names(model))
    assert {n for n, number in numbers.items() if number == blocks + 1} == {n for n in numbers if n.startswith(heads)}


def test_nothing_is_frozen_by_default() -> None:
    model = small_model()
    freeze(model, "none")
    assert len(trained_names(model)) == len(list(model.parameters()))


def test_a_frozen_backbone_leaves_the_head() -> None:
    model = small_model()
    freeze(model, "backbone")
    assert trained_names(model) == {"model.head.weight", "model.head.bias"}


def test_all_but_the_last_blocks_leaves_these_the_norm_and_the_head() -> None:
    model = small_model()
    freeze(model, "all_but_last_2")
    assert {".".join(name.split(".")[1:-1]).split(".norm")[0].split(".attn")[0] for name in trained_names(model)} >= {
        "blocks.1",
        "blocks.2",
        "norm",
        "head",
    }
    assert not any(name.startswith(("model.blocks.0.", "model.pos_embed")) for name in trained_names(model))


def test_more_blocks_than_there_are_is_an_error() -> None:
    with pytest.raises(UserError, match=r"has 3 blocks .* all_but_last_3 at most"):
        freeze(small_model(), "all_but_last_4")


def test_dropout_acts_only_before_what_is_trained() -> None:
    model = small_model(drop_rate=0.1, dropout=0.2)
    network = model.model
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


def test_training_mode_without_freezing_is_that_of_every_module() -> None:
    model = small_model().eval()
    train_mode(model)
    assert all(module.training for module in model.modules())


@needs_libraries
def test_frozen_norms_keep_their_statistics() -> None:
    from timesformer.models.baselines import TimmModel

    model = TimmModel("test_resnet", 3)
    freeze(model, "backbone")
    train_mode(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(2, 3, 2, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.model.fc.weight.grad is not None
    assert model.model.layer1[0].conv1.weight.grad is None
