"""Recorded attention and maps of it, compared with the models' outputs and dense matrices of all tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.small import small_clip, small_timesformer, small_videomae, small_vivit
from timesformer.errors import UserError
from timesformer.models.baselines import TorchvisionModel
from timesformer.models.vit import VisionTransformer
from timesformer.models.vivit import VIVIT_MODELS
from timesformer.visualization.attention import (
    AttentionRecord,
    cls_to_patches,
    record_attention,
    rollout,
    time_curves,
)

pytestmark = pytest.mark.numerical
VIDEOMAE = ["videomae", "videomae without mean pooling"]
MODELS = ["divided_space_time", "joint_space_time", "space_only", *VIVIT_MODELS.values(), *VIDEOMAE]
each_model = pytest.mark.parametrize("name", MODELS)


def assert_equal_sums(found: Tensor, expected: Tensor, terms: int) -> None:
    """Checks equality up to the rounding of float32 sums of so many terms."""
    largest = max(expected.abs().max().item(), 1.0)
    tolerance = terms * torch.finfo(torch.float32).eps * largest
    torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance)


def make_model(name: str) -> nn.Module:
    """A small model of 4 frames (or steps) of 2 x 3 patches."""
    size = {"img_size": (16, 24), "depth": 3, "num_heads": 3}
    if name in VIVIT_MODELS.values():
        return small_vivit(name, **size, num_frames=8, temporal_depth=2)
    if name.startswith("videomae"):
        return small_videomae(**size, num_frames=8, mean_pooling=name == "videomae")
    return small_timesformer(name, **size)


def make_clip(model: nn.Module) -> Tensor:
    return small_clip(4 if isinstance(model, VisionTransformer) else 8)[..., :16, :24]


def record(model: nn.Module) -> AttentionRecord:
    with record_attention(model) as recorded, torch.no_grad():
        model(make_clip(model))
    return recorded


@each_model
class TestWeights:
    def test_weights_reproduce_attention(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        attend, calls = F.scaled_dot_product_attention, []

        def spy(q: Tensor, k: Tensor, v: Tensor, **options: float) -> Tensor:
            calls.append((v, attend(q, k, v, **options)))
            return calls[-1][1]

        monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
        recorded = record(make_model(name))
        assert len(recorded.steps) == {MODELS[0]: 6, "factorised_encoder": 5, "factorised_self_attention": 6}.get(
            name, 3
        )
        for step, (values, expected) in zip(recorded.steps, calls, strict=True):
            weights = step.weights().reshape(*values.shape[:2], -1, values.shape[2])
            assert_equal_sums(weights @ values, expected, terms=values.shape[2])

    def test_recording_leaves_model_unchanged(self, name: str) -> None:
        model = make_model(name)
        with torch.no_grad():
            before = model(make_clip(model))
            with record_attention(model) as recorded:
                assert_equal_sums(model(make_clip(model)), before, terms=4 * 24)  # the hidden layer of the MLP
            steps = list(recorded.steps)
            assert torch.equal(model(make_clip(model)), before)
        assert recorded.steps == steps


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
            mixing = torch.zeros_like(product)
            patches = torch.arange(num_cls, len(product)).view(frames, positions)
            if step.kind == "space_time":
                mixing = weights[0]
            elif step.kind == "time":
                mixing[:num_cls, :num_cls] = torch.eye(num_cls)
                for at, share in zip(patches.T, weights, strict=True):
                    mixing[at[:, None], at] = share
            else:
                for frame in range(frames):
                    cls = [frame if own_cls else 0] if num_cls else []
                    at = torch.cat([torch.tensor(cls, dtype=torch.long), patches[frame]])
                    mixing[at[:, None], at] += weights[frame]
                if num_cls == 1:
                    mixing[0] /= frames
            product = (torch.eye(len(product)) + mixing) / 2 @ product
        if recorded.attention_type == "factorised_encoder":
            seen = encoder[0, 1:] @ product[:frames]
        else:
            seen = product[: num_cls or (None if recorded.mean_pooling else 1)].mean(0)
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
        if name in ("factorised_self_attention", "videomae"):
            expected = weights.mean(-2)
        elif name in VIDEOMAE:
            expected = weights[0, 0]
        else:
            expected = weights[0, 0, 1:] if step.kind == "space_time" else weights[:, 0, 1:]
        torch.testing.assert_close(maps, expected.reshape(4, 2, 3))
        heads = torch.stack([cls_to_patches(recorded, 1, head) for head in range(3)])
        torch.testing.assert_close(cls_to_patches(recorded, 1), heads.mean(0))

    @pytest.mark.parametrize("name", [name for name in MODELS if name != "space_only"])
    def test_time_curves(self, name: str) -> None:
        recorded = record(make_model(name))
        step = [s for s in recorded.steps if s.kind in ("time", "space_time", "steps")][1]
        curves = time_curves(recorded, 1, 2, block=1, head=0)
        assert curves.shape == (2, 4, 4)
        weights = step.weights()[0, :, 0]  # of the first clip and head
        if step.kind == "time":
            expected = weights[5]
        elif step.kind == "steps":
            expected = weights[0, 1:, 1:]
        else:
            weights = weights[0, int(recorded.has_cls) :, int(recorded.has_cls) :]
            expected = weights.unflatten(0, (4, 6))[:, 5].unflatten(1, (4, 6)).sum(-1)
        torch.testing.assert_close(curves[0], expected)

    def test_missing_block_and_unsupported_model(self) -> None:
        with pytest.raises(UserError, match="block 3"):
            cls_to_patches(record(make_model("divided_space_time")), block=3)
        with pytest.raises(UserError, match="space_only"):
            time_curves(record(make_model("space_only")), 0, 0)
        with pytest.raises(UserError, match="torchvision/r3d_18"), record_attention(TorchvisionModel("r3d_18", 3)):
            pass
