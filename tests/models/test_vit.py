"""TimeSformer compared with numbers that the original code computed with the same weights."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tests.models.small import small_clip, small_timesformer
from timesformer.models.embeddings import resize_pos_embed
from timesformer.models.vit import ATTENTION_TYPES, LightTimeSformer, TimeSformer, VisionTransformer

pytestmark = pytest.mark.numerical
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # float64


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    """The original's numbers; clips are float64, so that the difference is the rounding of the original."""
    golden = torch.load(golden_dir / "vit_small_cases.pt", weights_only=True)
    return {**golden, "inputs": {name: clip.double() for name, clip in golden["inputs"].items()}}


def assert_recorded(found: Tensor, recorded: Tensor, name: str = "") -> None:
    """A float64 result agrees with one recorded in float32."""
    tolerance = {"rtol": 0.0, "atol": 1e-5 * recorded.abs().max().clamp(min=1.0).item()}
    torch.testing.assert_close(found, recorded.double(), **tolerance, msg=lambda message: f"{name}: {message}")


def build(golden: dict, attention_type: str, is_trained: bool = True, drop_path_rate: float = 0.0) -> VisionTransformer:
    options = golden["config"] | {"attention_type": attention_type, "drop_path_rate": drop_path_rate}
    options["norm_layer"] = partial(nn.LayerNorm, eps=options.pop("norm_eps"))
    model = VisionTransformer(**options, pos_embed_interpolation="legacy")
    if not is_trained:
        return model
    model.load_state_dict(golden["cases"][attention_type]["state_dict"])
    return model.double().eval()


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
class TestOriginal:
    def test_logits_and_features(self, golden: dict, attention_type: str) -> None:
        model, case = build(golden, attention_type), golden["cases"][attention_type]
        for name, expected in case["outputs"].items():  # clips of 11 sizes and numbers of frames
            with torch.no_grad():
                logits, features = model(golden["inputs"][name]), model.forward_features(golden["inputs"][name])
            assert_recorded(logits, expected["logits"], name)
            assert_recorded(features, expected["features"], name)
        exact = case["base_logits_float64"]
        torch.testing.assert_close(model(golden["inputs"]["base"]), exact, rtol=0, atol=1e-10)
        with torch.no_grad():
            logits = model.float()(golden["inputs"]["base"].float())
        # The longest sums are of the 4 x 48 hidden numbers of an MLP, and the input of each is rounded as well.
        rounding = 4 * 48 * torch.finfo(torch.float32).eps
        torch.testing.assert_close(logits.double(), exact, rtol=0, atol=rounding * exact.abs().max().item())

    def test_gradients(self, golden: dict, attention_type: str) -> None:
        model, case = build(golden, attention_type), golden["cases"][attention_type]
        loss = model(golden["inputs"]["base"]).square().mean()
        loss.backward()
        torch.testing.assert_close(loss, case["base_loss"].double(), rtol=1e-5, atol=0)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        for name, expected in case["base_grads"].items():
            torch.testing.assert_close(
                gradients[name], expected.double(), rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )

    def test_three_sgd_steps(self, golden: dict, attention_type: str) -> None:
        model, case = build(golden, attention_type).train(), golden["cases"][attention_type]["sgd3"]
        options = {name: case[name] for name in ("lr", "momentum", "weight_decay")}
        optimizer, losses = torch.optim.SGD(model.parameters(), **options), []
        for _ in range(3):
            loss = nn.functional.cross_entropy(model(golden["inputs"]["base"]), case["labels"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert_recorded(torch.tensor(losses, dtype=torch.float64), case["losses"])
        assert_recorded(model.head.weight.data, case["head_weight_after"])
        assert_recorded(model.blocks[0].attn.qkv.weight.data, case["block0_qkv_after"])
        embedding = model.pos_embed if attention_type == "space_only" else model.time_embed
        assert_recorded(embedding.data, case["time_or_pos_after"])

    def test_drop_path(self, golden: dict, attention_type: str) -> None:
        case = golden["cases"][attention_type]["train_mode_drop_path_0p3_seeded"]
        model = build(golden, attention_type, drop_path_rate=0.3).float().train()  # float64 draws other numbers
        torch.manual_seed(case["torch_seed"])
        assert_recorded(model(golden["inputs"]["base"].float()).double(), case["logits"])

    def test_initialization(self, golden_dir: Path, golden: dict, attention_type: str) -> None:
        reference = json.loads((golden_dir / "init_stats.json").read_text())["params"][attention_type]
        state = build(golden, attention_type, is_trained=False).state_dict()
        assert list(state) == list(reference)
        for name, stats in reference.items():
            mean, std = state[name].mean().item(), state[name].std().item()
            if stats["std"] == 0.0:
                assert (mean, std) == (stats["mean"], 0.0), name
            else:  # other draws of the same distribution: the spread within the sampling error of small tensors
                assert std == pytest.approx(stats["std"], rel=0.35 if state[name].numel() < 100 else 0.12), name
                assert abs(mean) < 6 * std / state[name].numel() ** 0.5, name

    @pytest.mark.parametrize(("frames", "crop"), [(8, 224), (16, 448), (96, 224)])
    def test_state_dict(self, golden_dir: Path, attention_type: str, frames: int, crop: int) -> None:
        reference = json.loads((golden_dir / "full_size_keys.json").read_text())[f"{attention_type}_{frames}x{crop}"]
        with torch.device("meta"):
            model = TimeSformer(img_size=crop, num_frames=frames, num_classes=400, attention_type=attention_type)
        assert {k: list(v.shape) for k, v in model.state_dict().items()} == reference["state_dict"]
        assert sum(p.numel() for p in model.parameters()) == reference["parameters"]


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_last_block_cls_only_is_exact(attention_type: str) -> None:
    clip, results = small_clip().double(), []
    for cls_only in (True, False):
        model = small_timesformer(attention_type, drop_path_rate=0.5).double().train()
        model.last_block_cls_only = cls_only
        torch.manual_seed(1)
        logits = model(clip)
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    for short, full in zip(*results, strict=True):
        torch.testing.assert_close(short, full, **EXACT)


def test_merged_projection_is_exact() -> None:
    model, clip = small_timesformer().double(), small_clip().double()  # 64 tokens are more than 2 x 24
    with torch.no_grad():
        merged = model(clip)
    torch.testing.assert_close(merged, model(clip).detach(), **EXACT)


def test_bicubic_position_embeddings_keep_a_linear_ramp() -> None:
    rows = torch.arange(8.0).view(8, 1).expand(8, 6)
    table = torch.cat([torch.full((1, 1, 1), 9.0), rows.reshape(1, 48, 1)], dim=1)
    resized = resize_pos_embed(table, (8, 6), (16, 6))[0, :, 0]
    assert resized[0] == 9.0, "the class token is not resized"
    grid = resized[1:].view(16, 6)
    torch.testing.assert_close(grid, grid[:, :1].expand(-1, 6), msg="columns must not mix")
    torch.testing.assert_close(grid[4:12, 0], torch.arange(8) / 2 + 1.75, rtol=0, atol=1e-5)


def test_bicubic_position_embeddings_equal_those_of_timm() -> None:
    table = torch.randn(1, 1 + 8 * 6, 4)
    for grid in ((16, 6), (5, 7), (8, 6)):
        expected = resample_abs_pos_embed(table, list(grid), [8, 6], num_prefix_tokens=1)
        torch.testing.assert_close(resize_pos_embed(table, (8, 6), grid), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("variant", "millions"), [("gesture", 121.3), ("small", 23.0), ("tiny", 5.87)])
def test_light_variants_have_the_documented_sizes(variant: str, millions: float) -> None:
    with torch.device("meta"):
        model = LightTimeSformer(variant, num_classes=51)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
