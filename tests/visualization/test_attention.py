"""Recorded attention and maps of it, compared with the models' outputs and dense matrices of all tokens."""

import pytest
import torch
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.models.attention import Attention
from timesformer.models.baselines import TorchvisionModel
from timesformer.models.blocks import Block
from timesformer.models.vit import LightTimeSformer, VisionTransformer
from timesformer.models.vivit import VideoTransformer
from timesformer.visualization.attention import (
    AttentionRecord,
    cls_to_patches,
    record_attention,
    rollout,
    time_curves,
)

pytestmark = pytest.mark.numerical
DIM = 24
SIZE = {"img_size": (16, 24), "num_frames": 4, "embed_dim": DIM, "depth": 3, "num_heads": 3, "num_classes": 5}


def assert_equal_sums(found: Tensor, expected: Tensor, terms: int) -> None:
    """Checks equality up to the rounding of float32 sums of so many terms."""
    largest = max(expected.abs().max().item(), 1.0)
    tolerance = terms * torch.finfo(torch.float32).eps * largest
    torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance)


def make_model(name: str) -> nn.Module:
    """A small model of 4 frames (or steps) of 2 x 3 patches, with no weight zero or alike."""
    torch.manual_seed(0)
    if name.startswith("vivit"):
        kind = {"1": "joint", "2": "factorised_encoder", "3": "factorised_self_attention"}[name[-1]]
        options = {**SIZE, "num_frames": 8}
        model = VideoTransformer(tubelet_size=(2, 8, 8), attention_type=kind, temporal_depth=2, **options)
    elif name == "light":
        model = LightTimeSformer("tiny", patch_size=8, **SIZE)
    else:
        model = VisionTransformer(patch_size=8, qkv_bias=True, attention_type=name, **SIZE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def make_clip(model: nn.Module, seed: int = 0) -> Tensor:
    frames = 8 if isinstance(model, VideoTransformer) else 4
    return torch.randn(2, 3, frames, 16, 24, generator=torch.Generator().manual_seed(seed))


def record(model: nn.Module) -> AttentionRecord:
    with record_attention(model) as recorded, torch.no_grad():
        model(make_clip(model))
    return recorded


each_model = pytest.mark.parametrize(
    "name", ["divided_space_time", "joint_space_time", "space_only", "light", "vivit1", "vivit2", "vivit3"]
)


def record_block_calls(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Calls of all blocks from now on: (name of the block, method, arguments, result)."""
    calls: list[tuple] = []

    def spy(name: str, block: Block, method: str) -> None:
        original = getattr(block, method)

        def call(*arguments: object, **options: object) -> object:
            calls.append((name, method, arguments, original(*arguments, **options)))
            return calls[-1][-1]

        monkeypatch.setattr(block, method, call)

    for name, block in model.named_modules():
        for method in ("forward", "forward_divided", "forward_factorised") if isinstance(block, Block) else ():
            spy(name, block, method)
    return calls


def attended(module: Attention, weights: Tensor, x: Tensor) -> Tensor:
    """Weights [..., heads, queries, keys] times the values of x [..., keys, dim], head beside head."""
    dim = x.shape[-1]
    v = x @ module.qkv.weight[2 * dim :].T + module.qkv.bias[2 * dim :]
    v = v.unflatten(-1, (module.num_heads, -1)).transpose(-2, -3)
    return (weights @ v).transpose(-2, -3).flatten(-2)


def output(block: Block, weights: dict[str, Tensor], method: str, arguments: tuple) -> tuple[Tensor, ...]:
    """The output of a block for given attention weights, in plain sums."""

    def branch(module: Attention, which: str, x: Tensor) -> Tensor:
        return module.proj(attended(module, weights[which], x))

    def through_mlp(x: Tensor) -> Tensor:
        return x + block.mlp(block.norm2(x))

    x = arguments[0]
    if method == "forward":
        # the weights are [clips, frames or 1, ...]; the block sees both in one axis
        weights["attn"] = weights["attn"].flatten(0, 1)
        return (through_mlp(x + branch(block.attn, "attn", block.norm1(x))),)
    if method == "forward_factorised":
        x = x + branch(block.attn, "attn", block.norm1(x))
        moved = block.temporal_norm1(x).transpose(1, 2)
        return (through_mlp(x + branch(block.temporal_attn, "temporal_attn", moved).transpose(1, 2)),)
    cls, patches = arguments[:2]
    moved = block.temporal_norm1(patches).transpose(1, 2)
    patches = patches + block.temporal_fc(branch(block.temporal_attn, "temporal_attn", moved).transpose(1, 2))
    frames = torch.stack([torch.cat([cls, patches[:, t]], dim=1) for t in range(patches.shape[1])], dim=1)
    change = branch(block.attn, "attn", block.norm1(frames))
    return through_mlp(cls + change[:, :, 0].mean(1, keepdim=True)), through_mlp(patches + change[:, :, 1:])


@each_model
class TestWeights:
    def test_rows_sum_to_one(self, name: str) -> None:
        recorded = record(make_model(name))
        depth = {"divided_space_time": 6, "light": 6, "vivit2": 5, "vivit3": 6}.get(name, 3)
        assert len(recorded.steps) == depth
        for step in recorded.steps:
            weights = step.weights()
            assert weights.min() >= 0
            sums = weights.sum(-1)
            assert_equal_sums(sums, torch.ones_like(sums), terms=weights.shape[-1])

    def test_weights_reproduce_block_outputs(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make_model(name)
        recorded = {step.name: step.weights() for step in record(model).steps}
        network = getattr(model, "model", model)
        network.last_block_cls_only = False
        calls = record_block_calls(network, monkeypatch)
        with torch.no_grad():
            model(make_clip(model))
            assert len(calls) == (5 if name == "vivit2" else 3)
            for block, method, arguments, result in calls:
                weights = {which: recorded.get(f"{block}.{which}") for which in ("attn", "temporal_attn")}
                expected = output(network.get_submodule(block), weights, method, arguments)
                results = result if isinstance(result, tuple) else (result,)
                for one, other in zip(expected, results, strict=True):
                    assert_equal_sums(other, one, terms=4 * DIM)  # the hidden layer of the MLP

    def test_recording_leaves_model_unchanged(self, name: str) -> None:
        model = make_model(name)
        clip, network = make_clip(model), getattr(model, "model", model)
        with torch.no_grad():
            before, shortcut = model(clip), network.last_block_cls_only
            with record_attention(model) as recorded:
                assert_equal_sums(model(clip), before, terms=4 * DIM)
            steps = list(recorded.steps)
            assert torch.equal(model(clip), before)
        assert recorded.steps == steps
        assert network.last_block_cls_only == shortcut
        assert not network.patch_embed._forward_hooks
        assert all(module.observer is None for module in model.modules() if isinstance(module, Attention))


def dense_rollout(recorded: AttentionRecord) -> Tensor:
    """Rollout by the product of whole matrices over all tokens: class tokens of the frames first, then patches."""
    clips, frames, rows, columns = recorded.grid
    positions = rows * columns
    own_cls = recorded.attention_type in ("space_only", "factorised_encoder")
    num_cls = frames if own_cls else int(recorded.has_cls)
    results = []
    for clip in range(clips):
        product = torch.eye(num_cls + frames * positions, dtype=torch.float64)
        encoder = torch.eye(1 + frames, dtype=torch.float64)
        for step in recorded.steps:
            weights = step.weights()[clip].double().mean(1)  # [groups, queries, keys]
            if step.kind == "steps":
                encoder = (torch.eye(1 + frames) + weights[0]) / 2 @ encoder
                continue
            mixing = torch.eye(len(product), dtype=torch.float64)
            if step.kind == "space_time":
                mixing = weights[0]
            elif step.kind == "time":
                for position in range(positions):
                    at = [num_cls + frame * positions + position for frame in range(frames)]
                    mixing[torch.tensor(at)[:, None], torch.tensor(at)] = weights[position]
            else:
                mixing[:num_cls, :num_cls] = 0
                for frame in range(frames):
                    cls = [frame if own_cls else 0] if num_cls else []
                    at = cls + [num_cls + frame * positions + position for position in range(positions)]
                    for query, row in zip(at, weights[frame], strict=True):
                        share = 1 / frames if cls and query == 0 and not own_cls else 1
                        if query >= num_cls:
                            mixing[query] = 0
                        mixing[query, at] += share * row
            product = (torch.eye(len(product)) + mixing) / 2 @ product
        if recorded.attention_type == "factorised_encoder":
            seen = encoder[0, 1:] @ product[:frames]
        else:
            seen = product[: num_cls or None].mean(0)
        results.append(seen[num_cls:].view(frames, rows, columns))
    return torch.stack(results).float()


class TestMaps:
    @each_model
    def test_rollout_equals_product_of_dense_matrices(self, name: str) -> None:
        recorded = record(make_model(name))
        maps = rollout(recorded)
        assert maps.shape == (2, 4, 2, 3)
        assert_equal_sums(maps, dense_rollout(recorded), terms=24)  # patches of a clip
        assert 0.2 < maps[0].sum() <= 1 + 1e-5

    @each_model
    def test_cls_to_patches(self, name: str) -> None:
        recorded = record(make_model(name))
        step = [s for s in recorded.steps if s.kind.startswith("space")][1]
        weights = step.weights()[1, :, 2]  # of the second clip and the third head
        maps = cls_to_patches(recorded, block=1, head=2)[1]
        for frame in range(4):
            for row in range(2):
                for column in range(3):
                    position = row * 3 + column
                    if name == "vivit3":
                        expected = weights[frame, :, position].mean()
                    elif step.kind == "space_time":
                        expected = weights[0, 0, 1 + frame * 6 + position]
                    else:
                        expected = weights[frame, 0, 1 + position]
                    torch.testing.assert_close(maps[frame, row, column], expected)
        heads = torch.stack([cls_to_patches(recorded, 1, head) for head in range(3)])
        torch.testing.assert_close(cls_to_patches(recorded, 1), heads.mean(0))

    @pytest.mark.parametrize("name", ["divided_space_time", "joint_space_time", "vivit1", "vivit2", "vivit3"])
    def test_time_curves(self, name: str) -> None:
        recorded = record(make_model(name))
        step = [s for s in recorded.steps if s.kind in ("time", "space_time", "steps")][1]
        curves = time_curves(recorded, 1, 2, block=1, head=0)
        assert curves.shape == (2, 4, 4)
        for frame in range(4):
            for other in range(4):
                if step.kind == "time":
                    expected = step.weights()[0, 5, 0, frame, other]
                elif step.kind == "steps":
                    expected = step.weights()[0, 0, 0, 1 + frame, 1 + other]
                else:
                    expected = step.weights()[0, 0, 0, 1 + frame * 6 + 5, 1 + other * 6 : 7 + other * 6].sum()
                torch.testing.assert_close(curves[0, frame, other], expected)

    def test_missing_block_head_patch_and_attention(self) -> None:
        recorded = record(make_model("divided_space_time"))
        with pytest.raises(UserError, match="block 3"):
            cls_to_patches(recorded, block=3)
        with pytest.raises(UserError, match="head -1"):
            cls_to_patches(recorded, head=-1)
        with pytest.raises(UserError, match="patch 2 0"):
            time_curves(recorded, 2, 0)
        with pytest.raises(UserError, match="space_only"):
            time_curves(record(make_model("space_only")), 0, 0)
        with pytest.raises(UserError, match="torchvision/r3d_18"), record_attention(TorchvisionModel("r3d_18", 3)):
            pass


def test_bfloat16_attention() -> None:
    model = make_model("divided_space_time")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), record_attention(model) as recorded:
        model(make_clip(model))
    assert recorded.steps[0].queries.dtype == torch.bfloat16
    exact = rollout(record(model))
    torch.testing.assert_close(rollout(recorded), exact, rtol=0.0, atol=0.1 * exact.max().item())


def test_each_forward_pass_overwrites_the_record() -> None:
    model = make_model("divided_space_time")
    with torch.no_grad(), record_attention(model) as recorded:
        model(make_clip(model))
        first = recorded.steps[0].queries
        model(make_clip(model, seed=1)[:1, :, :2])
    assert recorded.grid == (1, 2, 2, 3)
    assert len(recorded.steps) == 6
    assert not torch.equal(first[:1, :, :, :2], recorded.steps[0].queries)
