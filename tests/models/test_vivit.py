"""ViViT: models 2 and 3 compared with the paper's equations; weights/test_formats.py has model 1."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.small import small_clip, small_timesformer, small_vivit
from timesformer.models.blocks import Block
from timesformer.models.embeddings import resize_tubelet_embed
from timesformer.models.vivit import VIVIT_MODELS, VideoTransformer

pytestmark = pytest.mark.numerical
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # of float64


class Reference:
    """The paper's equations with the weights of a model; tokens are [batch, step, patch, dim]."""

    def __init__(self, model: VideoTransformer) -> None:
        self.state = model.state_dict()
        self.heads, self.tubelet = model.blocks[0].attn.num_heads, model.patch_embed.tubelet_size

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def attention(self, x: Tensor, name: str, axis: str) -> Tensor:
        if axis == "time":
            return self.attention(x.transpose(1, 2), name, "space").transpose(1, 2)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in self.linear(x, f"{name}.qkv").chunk(3, -1)
        )
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.linear((weights @ v).transpose(2, 3).flatten(-2), f"{name}.proj")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        return self.linear(F.gelu(self.linear(x, f"{name}.fc1"), approximate="tanh"), f"{name}.fc2")

    def block(self, x: Tensor, name: str, axis: str = "space") -> Tensor:
        x = x + self.attention(self.norm(x, f"{name}.norm1"), f"{name}.attn", axis)
        if f"{name}.temporal_attn.qkv.weight" in self.state:
            x = x + self.attention(self.norm(x, f"{name}.temporal_norm1"), f"{name}.temporal_attn", "time")
        return x + self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp")

    def tubelets(self, clip: Tensor) -> Tensor:
        weight, bias = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"]
        return F.conv3d(clip, weight, bias, stride=self.tubelet).flatten(3).permute(0, 2, 3, 1)

    def encoder(self, x: Tensor, prefix: str, axis: str) -> Tensor:
        """The class tokens that come out, [batch, step, dim] (space) or [batch, place, dim] (time)."""
        which = 2 if axis == "space" else 1
        shape = list(x.shape)
        shape[which] = 1
        x = torch.cat([self.state[f"{prefix}cls_token"].expand(shape), x], dim=which)
        table = self.state[f"{prefix}pos_embed"]
        x = x + (table.unsqueeze(1) if axis == "space" else table.unsqueeze(2))
        for index in range(2):
            x = self.block(x, f"{prefix}blocks.{index}", axis)
        return self.norm(x.select(which, 0), f"{prefix}norm")

    def factorised_encoder(self, clip: Tensor) -> Tensor:
        steps = self.encoder(self.tubelets(clip), "", "space")
        return self.linear(self.encoder(steps.unsqueeze(2), "temporal_", "time")[:, 0], "head")

    def factorised_self_attention(self, clip: Tensor) -> Tensor:
        x = self.tubelets(clip)
        x = x + self.state["pos_embed"].view(1, *x.shape[1:])
        for index in range(2):
            x = self.block(x, f"blocks.{index}")
        return self.linear(self.norm(x, "norm").flatten(1, 2).mean(1), "head")


@pytest.mark.parametrize("attention_type", ["factorised_encoder", "factorised_self_attention"])
def test_factorised_models_follow_the_equations(attention_type: str) -> None:
    model = small_vivit(attention_type, temporal_depth=2, num_frames=6, img_size=(16, 24)).double()
    clip = small_clip(frames=6).double()[..., :16, :24]
    with torch.no_grad():
        torch.testing.assert_close(model(clip), getattr(Reference(model), attention_type)(clip), **EXACT)


@pytest.mark.parametrize("attention_type", VIVIT_MODELS.values())
@pytest.mark.parametrize("init", ["pretrained", "scratch"])
def test_gradients_reach_every_parameter(attention_type: str, init: str) -> None:
    model = VideoTransformer(16, (2, 8, 8), 3, 3, 16, 2, 2, num_frames=4, attention_type=attention_type, init=init)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the second step reaches what starts at zero
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(4, 3, 4, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    embeddings = {name for name, p in model.named_parameters() if "." not in name}
    assert embeddings == model.no_weight_decay() & set(model.state_dict())


def test_factorised_self_attention_starts_as_the_image_model() -> None:
    model = VideoTransformer(16, (2, 8, 8), 3, 3, 16, 1, 2, num_frames=4, attention_type="factorised_self_attention")
    block = model.double().blocks[0]
    image_block = Block(16, 2, qkv_bias=True, attention_type="space_only", act_layer=lambda: block.mlp.act).double()
    image_block.load_state_dict({name: v for name, v in block.state_dict().items() if "temporal" not in name})
    image_block.norm1.eps = image_block.norm2.eps = 1e-6
    tokens = torch.randn(2, 3, 4, 16, dtype=torch.float64)
    expected = image_block(tokens.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(block.forward_factorised(tokens), expected, **EXACT)


def test_tubelet_embeddings_are_interpolated_in_space_and_time() -> None:
    step, row = (axis.expand(4, 8, 6) for axis in (torch.arange(4.0).view(4, 1, 1), torch.arange(8.0).view(1, 8, 1)))
    table = torch.stack([step, row], dim=-1).reshape(1, -1, 2)
    resized = resize_tubelet_embed(table, (4, 8, 6), (8, 16, 3)).view(8, 16, 3, 2)
    torch.testing.assert_close(resized[1:7, 5, 1, 0], torch.arange(6) * 0.5 + 0.25)
    torch.testing.assert_close(resized[3, 4:12, 1, 1], torch.arange(8) / 2 + 1.75, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("small", "frames", "size", "axis"),
    [(small_vivit, 3, 32, "frames"), (small_vivit, 4, 20, "height"), (small_timesformer, 4, 20, "height")],
)
def test_clip_must_be_a_multiple_of_the_patch_size(small: Callable, frames: int, size: int, axis: str) -> None:
    with pytest.raises(ValueError, match=axis):
        small()(small_clip(frames, size))
