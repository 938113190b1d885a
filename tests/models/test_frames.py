"""Heads over tokens on timm's image models, applied to every frame."""

from pathlib import Path

import pytest
import timm
import torch
from einops import rearrange
from fvcore.common.config import CfgNode
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from tests.models.small import save
from timesformer.config import get_cfg
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds
from timesformer.models.parts import freeze, layer_numbers
from timesformer.models.weights.loading import load_pretrained

pytestmark = pytest.mark.numerical


def config(name: str, crop: int = 64, head: str = "temporal", grid: int = 1) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES = f"timm/{name}", 5
    cfg.MODEL.HEAD, cfg.MODEL.HEAD_GRID = head, grid
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = 3, crop, crop
    return cfg


def clip(size: int = 64, frames: int = 3) -> Tensor:
    return torch.randn(2, 3, frames, size, size)


@pytest.mark.parametrize(
    ("name", "size", "pattern"),
    [
        ("test_vit", 32, "n (h w) d -> n h w d"),
        ("vit_wee_patch16_reg1_gap_256", 32, "n (h w) d -> n h w d"),  # a register token, and average pooling
        ("test_resnet", 64, "n d h w -> n h w d"),
        ("test_convnext", 64, "n d h w -> n h w d"),
        pytest.param("swin_tiny_patch4_window7_224", 64, "n h w d -> n h w d", marks=pytest.mark.slow),
        ("mobilenetv3_small_050", 64, "n d h w -> n h w d"),  # its pooled output is wider
    ],
)
def test_tokens_are_those_of_timm(name: str, size: int, pattern: str) -> None:
    model = build_model(config(name, size)).eval()
    backbone, x = model.model.backbone, clip(size)
    with torch.no_grad():
        cls, patches = model.model.forward_tokens(x)
        tokens = model.head_input(x)
        assert torch.equal(model(x), model.forward_head(tokens))
        for frame in range(3):
            features = backbone.forward_features(x[:, :, frame])
            pooled = backbone.forward_head(features, pre_logits=True)
            features = features[:, getattr(backbone, "num_prefix_tokens", 0) :] if features.ndim == 3 else features
            expected = rearrange(features, pattern, h=round(patches.shape[2]))
            torch.testing.assert_close(patches[:, frame], expected, rtol=0, atol=1e-4)
            if cls is not None:
                torch.testing.assert_close(cls[:, frame, 0], pooled, rtol=0, atol=1e-4)
    assert (cls is None) == (name == "mobilenetv3_small_050")
    mean = patches.mean(dim=(2, 3))
    torch.testing.assert_close(tokens[:, :, -1], mean, rtol=0, atol=1e-5)


def test_features_without_a_grid_are_refused() -> None:
    with torch.device("meta"), pytest.raises(UserError, match=r"MODEL\.HEAD"):
        build_model(config("crossvit_tiny_240", 240))


def test_torchvision_has_a_linear_head_only() -> None:
    cfg = config("")
    cfg.MODEL.MODEL_NAME = "torchvision/r3d_18"
    with torch.device("meta"), pytest.raises(UserError, match=r"MODEL\.HEAD"):
        build_model(cfg)


@pytest.mark.parametrize("name", ["torchvision/r3d_18", "torchvision/swin3d_t", "timm/test_vit", "timm/test_convnext"])
def test_linear_head_of_the_averaged_input(name: str) -> None:
    cfg = config("test_vit", 32, "linear")
    cfg.MODEL.MODEL_NAME = name
    model, x = build_model(cfg).eval(), clip(32)
    with torch.no_grad():
        features = model.head_input(x)
        assert features.ndim == 2
        torch.testing.assert_close(model.forward_head(features), model(x), rtol=0, atol=1e-5)


def test_layers_and_freezing() -> None:
    for name in ("test_vit", "test_resnet"):
        with torch.device("meta"):
            model, linear = (build_model(config(name, 224, head)) for head in ("temporal", "linear"))
        numbers = layer_numbers(model)
        for parameter, number in layer_numbers(linear).items():
            if not parameter.startswith(tuple(f"model.{head}." for head in linear.head_names)):
                assert numbers[parameter.replace("model.", "model.backbone.", 1)] == number
        head = {number for parameter, number in numbers.items() if parameter.startswith("model.head.")}
        assert head == {max(numbers.values())} == {max(layer_numbers(linear).values())}
        freeze(model, "backbone")
        assert all(p.requires_grad == n.startswith("model.head.") for n, p in model.named_parameters())
        freeze(model, "all_but_last_1")
        trained = {n for n, p in model.named_parameters() if p.requires_grad and ".backbone." in n}
        assert trained == {n for n, number in numbers.items() if number == max(numbers.values()) - 1}


def test_multiply_adds_are_of_the_backbone_and_the_head() -> None:
    with torch.device("meta"):
        model, linear = (build_model(config("test_vit", 32, head)) for head in ("temporal", "linear"))
    shape, width, dim = (1, 3, 3, 32, 32), 128, 64
    head = 3 * (2 * dim * width + 12 * width**2) + 2 * 3 * 3 * width + 5 * 3 * width
    backbone = count_multiply_adds(linear, shape) - 3 * 5 * dim
    assert count_multiply_adds(model, shape) == backbone + head


class TestWeights:
    @pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
    def test_plain_file_and_checkpoint(self, name: str, tmp_path: Path) -> None:
        plain = timm.create_model(name, num_classes=1000, **({"img_size": 32} if name == "test_vit" else {}))
        for parameter in plain.parameters():
            nn.init.normal_(parameter, std=0.1)
        model = build_model(config(name, 32))
        report = load_pretrained(model, save(plain.state_dict(), tmp_path))
        assert all(tensor.startswith("head.") for tensor in report.new)
        head = timm.get_pretrained_cfg(name).classifier
        assert sorted(report.unused) == [f"{head}.bias", f"{head}.weight"]
        x = clip(32)
        with torch.no_grad():
            features, found = plain.eval().forward_features(x[:, :, 1]), model.eval().model.forward_tokens(x)[0][:, 1]
            torch.testing.assert_close(found[:, 0], plain.forward_head(features, pre_logits=True), rtol=0, atol=1e-4)
        path = save({"model_state": model.state_dict()}, tmp_path)
        same = build_model(config(name, 32)).eval()
        report = load_pretrained(same, path)
        assert (report.new, report.unused, report.adapted) == ([], [], [])
        with torch.no_grad():
            assert torch.equal(same(x), model(x))
        linear = build_model(config(name, 32, "linear"))
        report = load_pretrained(linear, path)
        assert {n.rpartition(".")[0] for n in report.new} == set(linear.head_names)
        assert all(tensor.startswith("head.") for tensor in report.unused)

    @pytest.mark.parametrize("head", ["linear", "temporal"])
    def test_positions_are_resized_as_in_timm(self, head: str, tmp_path: Path) -> None:
        trained = timm.create_model("test_vit", num_classes=5)  # for 160 pixels
        nn.init.normal_(trained.pos_embed)
        model = build_model(config("test_vit", 96, head)).eval()
        report = load_pretrained(model, save(trained.state_dict(), tmp_path))
        assert [name.removeprefix("backbone.") for name, _ in report.adapted] == ["pos_embed"]
        theirs = timm.create_model("test_vit", num_classes=5, img_size=96).eval()
        theirs.load_state_dict(checkpoint_filter_fn(trained.state_dict(), theirs))
        backbone, x = getattr(model.model, "backbone", model.model), clip(96, 1)[:, :, 0]
        with torch.no_grad():
            torch.testing.assert_close(backbone.forward_features(x), theirs.forward_features(x), rtol=0, atol=1e-5)

    @pytest.mark.slow
    def test_real_weights(self, shared: Path) -> None:
        path = shared / "weights/dinov2_vits16.pth"
        if not path.is_file():
            pytest.skip(f"no reference weights at {path}")
        model = build_model(config("vit_small_patch16_224", 224)).eval()
        report = load_pretrained(model, path)
        assert report.unused == []
        assert all(tensor.startswith("head.") for tensor in report.new)
        plain = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
        plain.load_state_dict(torch.load(path, weights_only=True))
        x = clip(224, frames=1)
        with torch.no_grad():
            expected = plain.forward_features(x[:, :, 0])
            tokens = model.head_input(x)[:, 0]
        torch.testing.assert_close(tokens[:, 0], expected[:, 0], rtol=0, atol=1e-4)
        torch.testing.assert_close(tokens[:, 1], expected[:, 1:].mean(dim=1), rtol=0, atol=1e-4)
