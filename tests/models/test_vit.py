"""The transformer against numbers computed by the original code on the same weights."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from timesformer.models.attention import Attention
from timesformer.models.embeddings import resize_pos_embed, resize_time_embed
from timesformer.models.vit import ATTENTION_TYPES, LightTimeSformer, TimeSformer, VisionTransformer

pytestmark = pytest.mark.numerical
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # of float64


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    """The original's numbers, with clips in float64: what is compared is then the rounding of the original alone."""
    golden = torch.load(golden_dir / "vit_small_cases.pt", weights_only=True)
    return {**golden, "inputs": {name: clip.double() for name, clip in golden["inputs"].items()}}


def assert_recorded(found: Tensor, recorded: Tensor, name: str = "") -> None:
    """A float64 result is what the original recorded in float32, within the rounding of the original's sums."""
    tolerance = {"rtol": 0.0, "atol": 1e-5 * recorded.abs().max().clamp(min=1.0).item()}
    torch.testing.assert_close(found, recorded.double(), **tolerance, msg=lambda message: f"{name}: {message}")


def build(golden: dict, attention_type: str, **changes: object) -> VisionTransformer:
    config = dict(golden["config"])
    norm_layer = partial(nn.LayerNorm, eps=config.pop("norm_eps"))
    options = {"pos_embed_interpolation": "legacy", "drop_path_rate": 0.0, **changes}
    model = VisionTransformer(**config, norm_layer=norm_layer, attention_type=attention_type, **options)
    model.load_state_dict(golden["cases"][attention_type]["state_dict"])
    return model.double().eval()


def small_model(**changes: object) -> VisionTransformer:
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    torch.manual_seed(0)
    return VisionTransformer(
        **{**options, "num_frames": 4, "drop_path_rate": 0.0, "init": "scratch", **changes}
    ).double()


def clip_of(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
class TestAgainstTheOriginal:
    def test_logits_and_features_match_for_every_clip_shape(self, golden: dict, attention_type: str) -> None:
        model = build(golden, attention_type)
        for name, expected in golden["cases"][attention_type]["outputs"].items():
            with torch.no_grad():
                logits, features = model(golden["inputs"][name]), model.forward_features(golden["inputs"][name])
            assert_recorded(logits, expected["logits"], name)
            assert_recorded(features, expected["features"], name)

    def test_float64_logits_match(self, golden: dict, attention_type: str) -> None:
        logits = build(golden, attention_type)(golden["inputs"]["base"])
        torch.testing.assert_close(logits, golden["cases"][attention_type]["base_logits_float64"], rtol=0, atol=1e-10)

    def test_float32_adds_the_rounding_of_its_sums_alone(self, golden: dict, attention_type: str) -> None:
        exact = golden["cases"][attention_type]["base_logits_float64"]
        with torch.no_grad():
            logits = build(golden, attention_type).float()(golden["inputs"]["base"].float())
        # The longest sums are of the 4 x 48 hidden numbers of an MLP, and the input of each is rounded as well.
        rounding = 4 * 48 * torch.finfo(torch.float32).eps
        torch.testing.assert_close(logits.double(), exact, rtol=0, atol=rounding * exact.abs().max().item())

    def test_gradients_match(self, golden: dict, attention_type: str) -> None:
        model, case = build(golden, attention_type), golden["cases"][attention_type]
        loss = model(golden["inputs"]["base"]).square().mean()
        loss.backward()
        torch.testing.assert_close(loss, case["base_loss"].double(), rtol=1e-5, atol=0)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        for name, expected in case["base_grads"].items():
            torch.testing.assert_close(
                gradients[name], expected.double(), rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )

    def test_every_block_output_matches(self, golden: dict, attention_type: str) -> None:
        model = build(golden, attention_type)
        expected = golden["cases"][attention_type]["base_block_outputs"]
        for ours, theirs in zip(block_outputs(model, golden["inputs"]["base"]), expected, strict=True):
            assert_recorded(ours, theirs)

    def test_three_sgd_steps_match(self, golden: dict, attention_type: str) -> None:
        model, case = build(golden, attention_type).train(), golden["cases"][attention_type]["sgd3"]
        optimizer = torch.optim.SGD(
            model.parameters(), lr=case["lr"], momentum=case["momentum"], weight_decay=case["weight_decay"]
        )
        losses = []
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

    def test_drop_path_draws_as_the_original(self, golden: dict, attention_type: str) -> None:
        case = golden["cases"][attention_type]["train_mode_drop_path_0p3_seeded"]
        model = build(golden, attention_type, drop_path_rate=0.3).float().train()  # other numbers are drawn in float64
        torch.manual_seed(case["torch_seed"])
        assert_recorded(model(golden["inputs"]["base"].float()).double(), case["logits"])

    def test_initialisation_has_the_originals_distribution(
        self, golden_dir: Path, golden: dict, attention_type: str
    ) -> None:
        # Where PyTorch still draws truncated normals as it did then (2.5), the values are the original's to the bit.
        reference = json.loads((golden_dir / "init_stats.json").read_text())
        config = dict(golden["config"])
        norm_layer = partial(nn.LayerNorm, eps=config.pop("norm_eps"))
        torch.manual_seed(reference["torch_seed"])
        model = VisionTransformer(**config, norm_layer=norm_layer, attention_type=attention_type)
        state = model.state_dict()
        assert list(state) == list(reference["params"][attention_type])
        for name, stats in reference["params"][attention_type].items():
            mean, std = state[name].mean().item(), state[name].std().item()
            if stats["std"] == 0.0:
                assert (mean, std) == (stats["mean"], 0.0), name
            else:  # other draws of the same distribution: the spread within the sampling error of small tensors
                assert std == pytest.approx(stats["std"], rel=0.35 if state[name].numel() < 100 else 0.12), name
                assert abs(mean) < 6 * std / state[name].numel() ** 0.5, name

    @pytest.mark.parametrize(("frames", "crop"), [(8, 224), (16, 448), (96, 224)])
    def test_full_size_keys_shapes_and_count_match(
        self, golden_dir: Path, attention_type: str, frames: int, crop: int
    ) -> None:
        reference = json.loads((golden_dir / "full_size_keys.json").read_text())
        reference = reference[f"{attention_type}_{frames}x{crop}"]
        with torch.device("meta"):
            model = TimeSformer(img_size=crop, num_frames=frames, num_classes=400, attention_type=attention_type)
        assert {k: list(v.shape) for k, v in model.state_dict().items()} == reference["state_dict"]
        assert sum(p.numel() for p in model.parameters()) == reference["parameters"]


def block_outputs(model: VisionTransformer, clip: Tensor) -> list[Tensor]:
    """Each block's tokens in the original's order: class token, then places, each with all its frames."""
    cls, patches = model.embed(clip)
    outputs = []
    if model.attention_type == "divided_space_time":
        for block in model.blocks:
            cls, patches = block.forward_divided(cls, patches)
            outputs.append(torch.cat([cls, patches.transpose(1, 2).flatten(1, 2)], dim=1))
        return outputs
    if model.attention_type == "joint_space_time":
        tokens = torch.cat([cls, patches.transpose(1, 2).flatten(1, 2)], dim=1)
    else:
        tokens = torch.cat([cls, patches], dim=2).flatten(0, 1)
    for block in model.blocks:
        tokens = block(tokens)
        outputs.append(tokens)
    return outputs


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
class TestExactShortcuts:
    def test_last_block_for_the_class_token_alone_changes_neither_logits_nor_gradients(
        self, attention_type: str
    ) -> None:
        clip = clip_of(2, 3, 4, 16, 16)
        results = []
        for cls_only in (True, False):
            model = small_model(attention_type=attention_type, drop_path_rate=0.5).train()
            model.last_block_cls_only = cls_only
            torch.manual_seed(1)
            logits = model(clip)
            logits.square().sum().backward()
            results.append([logits, *(p.grad for p in model.parameters())])
        for short, full in zip(*results, strict=True):
            torch.testing.assert_close(short, full, **EXACT)

    def test_folded_projection_in_evaluation_matches_the_unfolded(self, attention_type: str) -> None:
        model = small_model(attention_type=attention_type, img_size=32).eval()  # 64 tokens are more than 2 x 16
        clip = clip_of(1, 3, 4, 32, 32)
        with torch.no_grad():
            folded = model(clip)
        torch.testing.assert_close(folded, model(clip).detach(), **EXACT)

    def test_weights_changed_in_place_take_effect_in_evaluation(self, attention_type: str) -> None:
        model = small_model(attention_type=attention_type, img_size=32).eval()
        clip = clip_of(1, 3, 4, 32, 32)
        with torch.no_grad():
            before = model(clip)
            for parameter in model.blocks[0].parameters():
                parameter.data.mul_(2)
            after = model(clip)
        torch.testing.assert_close(after, model(clip).detach(), **EXACT)
        assert not torch.allclose(before, after)


def test_the_folded_projection_is_kept_until_the_weights_change() -> None:
    model = small_model(img_size=32).eval()
    clip, block = clip_of(1, 3, 4, 32, 32), model.blocks[0]
    with torch.no_grad():
        model(clip)
        kept = block._folded[1]
        model(clip)
        assert block._folded[1] is kept
        block.temporal_fc.weight.data[0, 0] += 0.1
        model(clip)
        assert block._folded[1] is not kept
    assert set(model.state_dict()) == set(small_model(img_size=32).state_dict())


@pytest.mark.parametrize("over_frames", [False, True])
def test_attention_in_bfloat16_for_training_on_the_cpu_is_that_of_float32_within_rounding(over_frames: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(32, num_heads=2, qkv_bias=True)
    x = torch.randn(2, 4, 5, 32) if over_frames else torch.randn(2, 9, 32)
    outcomes = []
    for mixed in (False, True):
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            y = attention.attend_over_frames(x) if over_frames else attention(x)
        y.float().square().sum().backward()
        outcomes.append((y.float(), x.grad))
    (exact, exact_gradient), (rounded, rounded_gradient) = outcomes
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.01)
    torch.testing.assert_close(rounded_gradient, exact_gradient, rtol=0.02, atol=0.03 * exact_gradient.abs().max())


def test_attention_dropout_acts_in_training_only() -> None:
    model, clip = small_model(attn_drop_rate=0.5), clip_of(1, 3, 4, 16, 16)
    assert not torch.equal(model.train()(clip), model(clip))
    assert torch.equal(model.eval()(clip), model(clip))


def test_dropout_before_the_head_acts_in_training_only() -> None:
    model, clip = small_model(dropout=0.5), clip_of(1, 3, 4, 16, 16)
    assert not torch.equal(model.train()(clip), model(clip))
    assert torch.equal(model.eval()(clip), model(clip))


def test_bicubic_position_embeddings_keep_a_linear_ramp_in_two_dimensions() -> None:
    rows = torch.arange(8.0).view(8, 1).expand(8, 6)
    table = torch.cat([torch.full((1, 1, 1), 9.0), rows.reshape(1, 48, 1)], dim=1)
    resized = resize_pos_embed(table, (8, 6), (16, 6))[0, :, 0]
    assert resized[0] == 9.0, "the class token has no place and is not interpolated"
    grid = resized[1:].view(16, 6)
    torch.testing.assert_close(grid, grid[:, :1].expand(-1, 6), msg="columns must not mix")
    torch.testing.assert_close(grid[4:12, 0], torch.arange(8) / 2 + 1.75, rtol=0, atol=1e-5)


def test_grid_of_another_shape_but_equal_count_is_interpolated_unless_legacy() -> None:
    table = torch.randn(1, 17, 8)
    assert torch.equal(resize_pos_embed(table, (4, 4), (2, 8), "legacy"), table)
    assert not torch.equal(resize_pos_embed(table, (4, 4), (2, 8)), table)


def test_time_embeddings_are_interpolated_linearly() -> None:
    resized = resize_time_embed(torch.arange(4.0).view(1, 4, 1), 8)
    torch.testing.assert_close(resized[0, 1:7, 0], torch.tensor([0.25, 0.75, 1.25, 1.75, 2.25, 2.75]))


def test_clip_that_patches_do_not_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="20x16 pixels"):
        small_model()(clip_of(1, 3, 4, 20, 16))


def test_unknown_attention_type_names_the_choices() -> None:
    with pytest.raises(ValueError, match="divided_space_time, joint_space_time, space_only"):
        small_model(attention_type="divided")


@pytest.mark.parametrize(("variant", "millions"), [("gesture", 121.3), ("small", 23.0), ("tiny", 5.87)])
def test_light_variants_have_the_documented_sizes(variant: str, millions: float) -> None:
    with torch.device("meta"):
        model = LightTimeSformer(variant, num_classes=51)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_initialisation_for_training_from_scratch_starts_with_order_and_a_temporal_path() -> None:
    model = VisionTransformer(
        img_size=64, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_frames=8, init="scratch"
    )
    near, far = ((model.time_embed[0, 0] - model.time_embed[0, frame]).norm() for frame in (1, 7))
    assert far > 3 * near, "the table of time must tell near frames from far ones"
    assert model.time_embed.std().item() == pytest.approx(0.6, rel=0.05)
    assert model.blocks[0].temporal_fc.weight.std().item() == pytest.approx(64**-0.5, rel=0.2)
