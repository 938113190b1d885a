"""ViViT: models 2 and 3 compared with the paper's equations; weights/test_formats.py has model 1."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from timesformer.models.blocks import Block
from timesformer.models.embeddings import resize_tubelet_embed
from timesformer.models.patches import TubeletEmbed
from timesformer.models.vivit import VIVIT_MODELS, VideoTransformer

pytestmark = pytest.mark.numerical
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # of float64
each_model = pytest.mark.parametrize("attention_type", VIVIT_MODELS.values())


def small_model(attention_type: str, **changes: object) -> VideoTransformer:
    """A model of 2 steps of 2 x 2 tubelets, with no weight zero or alike, so that a part left out shows."""
    options = {"img_size": 16, "tubelet_size": (2, 8, 8), "num_frames": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    options = {**options, "num_classes": 3, "temporal_depth": 2, "init": "scratch", **changes}
    model = VideoTransformer(attention_type=attention_type, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.double()


def clip_of(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Reference:
    """The paper's equations with the weights of a model; tokens are [batch, step, patch, dim]."""

    def __init__(self, model: VideoTransformer) -> None:
        self.state = model.state_dict()
        self.heads, self.tubelet = model.blocks[0].attn.num_heads, model.patch_embed.tubelet_size

    def linear(self, x: Tensor, name: str) -> Tensor:
        return torch.einsum("...i,oi->...o", x, self.state[f"{name}.weight"]) + self.state[f"{name}.bias"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attention(self, x: Tensor, name: str, axis: str) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)) for part in self.linear(x, f"{name}.qkv").chunk(3, dim=-1)
        )  # [batch, step, place, head, d]
        out = {"space": "btqhd,btkhd->bthqk", "time": "bqnhd,bknhd->bnhqk"}[axis]
        weights = (torch.einsum(out, q, k) / q.shape[-1] ** 0.5).softmax(-1)
        back = {"space": "bthqk,btkhd->btqhd", "time": "bnhqk,bknhd->bqnhd"}[axis]
        return self.linear(torch.einsum(back, weights, v).flatten(-2), f"{name}.proj")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        x = self.linear(x, f"{name}.fc1")
        x = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
        return self.linear(x, f"{name}.fc2")

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
    model = small_model(attention_type, num_frames=6, img_size=(16, 24)).eval()
    clip = clip_of(2, 3, 6, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), getattr(Reference(model), attention_type)(clip), **EXACT)


@each_model
class TestEachModel:
    @pytest.mark.parametrize("init", ["pretrained", "scratch"])
    def test_gradients_reach_every_parameter(self, attention_type: str, init: str) -> None:
        torch.manual_seed(0)
        model = VideoTransformer(
            16, (2, 8, 8), 3, 3, 16, 2, 2, num_frames=4, attention_type=attention_type, init=init
        ).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):  # the second step reaches what starts at zero
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(4, 3, 4, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
            optimizer.step()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []

    @pytest.mark.parametrize("shape", [(4, 16, 16), (2, 16, 16), (8, 16, 24), (6, 32, 8)])
    @pytest.mark.parametrize("interpolation", ["bicubic", "legacy"])
    def test_clips_of_other_sizes(self, attention_type: str, shape: tuple[int, int, int], interpolation: str) -> None:
        model = small_model(attention_type, pos_embed_interpolation=interpolation).eval()
        logits = model(clip_of(2, 3, *shape))
        assert logits.shape == (2, 3)
        assert logits.isfinite().all()

    @pytest.mark.parametrize("change", [{"dropout": 0.5}, {"drop_rate": 0.5}, {"drop_path_rate": 0.9}])
    def test_dropout_acts_in_training_only(self, attention_type: str, change: dict) -> None:
        model, clip = small_model(attention_type, **change), clip_of(4, 3, 4, 16, 16)
        assert not torch.equal(model.train()(clip), model(clip))
        assert torch.equal(model.eval()(clip), model(clip))

    def test_order_of_frames_matters(self, attention_type: str) -> None:
        model, clip = small_model(attention_type).eval(), clip_of(2, 3, 4, 16, 16)
        assert not torch.allclose(model(clip), model(clip.flip(2)), atol=1e-3)

    def test_no_weight_decay_names_the_embeddings(self, attention_type: str) -> None:
        model = small_model(attention_type)
        embeddings = {name for name, p in model.named_parameters() if "." not in name}
        assert embeddings == model.no_weight_decay() & set(model.state_dict())


def test_state_dict() -> None:
    inner = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    common = ["patch_embed.proj", *(f"blocks.0.{name}" for name in inner), "norm", "head"]
    expected = {
        "joint": ({"cls_token": (1, 1, 16), "pos_embed": (1, 9, 16)}, common),
        "factorised_encoder": (
            {"cls_token": (1, 1, 16), "pos_embed": (1, 5, 16)}
            | {"temporal_cls_token": (1, 1, 16), "temporal_pos_embed": (1, 3, 16)},
            [*common, *(f"temporal_blocks.0.{name}" for name in inner), "temporal_norm"],
        ),
        "factorised_self_attention": (
            {"pos_embed": (1, 8, 16)},
            [*common, *(f"blocks.0.temporal_{name}" for name in inner[:3])],
        ),
    }
    for attention_type, (embeddings, modules) in expected.items():
        state = small_model(attention_type, depth=1, temporal_depth=1).state_dict()
        assert {name: tuple(value.shape) for name, value in state.items() if "." not in name} == embeddings
        assert {name for name in state if "." in name} == {
            f"{m}.{kind}" for m in modules for kind in ("weight", "bias")
        }


class TestImageWeights:
    def test_inflated_and_central_tubelets(self) -> None:
        kernel, clip = clip_of(6, 3, 8, 8), clip_of(2, 3, 3, 16, 16)
        seen = {"central": clip[:, :, 1], "inflate": clip.mean(2)}
        for init, picture in seen.items():
            embed = TubeletEmbed((3, 8, 8), embed_dim=6, init=init).double()
            embed.proj.weight.data = embed.inflate(kernel)
            expected = F.conv2d(picture, kernel, embed.proj.bias, stride=8).permute(0, 2, 3, 1)
            torch.testing.assert_close(embed(clip)[:, 0], expected, **EXACT)

    def test_factorised_self_attention_starts_as_the_image_model(self) -> None:
        torch.manual_seed(0)
        block = (
            VideoTransformer(16, (2, 8, 8), 3, 3, 16, 1, 2, num_frames=4, attention_type="factorised_self_attention")
            .double()
            .blocks[0]
        )
        image_block = Block(16, 2, qkv_bias=True, attention_type="space_only", act_layer=lambda: block.mlp.act).double()
        image_block.load_state_dict({name: v for name, v in block.state_dict().items() if "temporal" not in name})
        image_block.norm1.eps = image_block.norm2.eps = 1e-6
        tokens = clip_of(2, 3, 4, 16)
        expected = image_block(tokens.flatten(0, 1)).unflatten(0, (2, 3))
        torch.testing.assert_close(block.forward_factorised(tokens), expected, **EXACT)


def test_tubelet_embeddings_are_interpolated_in_space_and_time() -> None:
    step, row = (axis.expand(4, 8, 6) for axis in (torch.arange(4.0).view(4, 1, 1), torch.arange(8.0).view(1, 8, 1)))
    table = torch.stack([step, row], dim=-1).reshape(1, -1, 2)
    resized = resize_tubelet_embed(table, (4, 8, 6), (8, 16, 3)).view(8, 16, 3, 2)
    torch.testing.assert_close(resized[1:7, 5, 1, 0], torch.arange(6) * 0.5 + 0.25)
    torch.testing.assert_close(resized[3, 4:12, 1, 1], torch.arange(8) / 2 + 1.75, rtol=0, atol=1e-5)
    with_class = torch.cat([torch.full((1, 1, 2), 9.0), table], dim=1)
    again = resize_tubelet_embed(with_class, (4, 8, 6), (8, 16, 3))
    assert again[0, 0].eq(9.0).all(), "the class token is not resized"
    torch.testing.assert_close(again[:, 1:], resized.view(1, -1, 2))


@pytest.mark.parametrize(("shape", "axis"), [((3, 16, 16), "frames"), ((0, 16, 16), "frames"), ((4, 20, 16), "height")])
def test_clip_must_be_a_multiple_of_the_tubelet_size(shape: tuple[int, int, int], axis: str) -> None:
    with pytest.raises(ValueError, match=axis):
        small_model("joint")(clip_of(1, 3, *shape))
