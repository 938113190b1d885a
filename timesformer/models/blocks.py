"""Transformer blocks of TimeSformer and ViViT. Module names are those of facebookresearch/TimeSformer."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from timesformer.models.attention import Attention

BlockType = Literal["divided_space_time", "joint_space_time", "space_only", "factorised_self_attention"]
Init = Literal["pretrained", "scratch"]
"""Initial weights: the original's small ones, for loading others; or ones that learn from few clips."""
LIGHT_VARIANTS: dict[str, dict[str, int]] = {
    "gesture": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "small": {"embed_dim": 384, "depth": 9, "num_heads": 6},
    "tiny": {"embed_dim": 192, "depth": 9, "num_heads": 3},
}
"""Sizes of LightTimeSformer: ViT-B as in the gesture study, and ViT-S and ViT-Ti with fewer blocks."""


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, https://arxiv.org/abs/1603.09382) with the random draws of the original."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, axes: tuple[int, ...] = (0,)) -> Tensor:
        """Drops entries of `x` independently along `axes`."""
        mask = self.mask([size if axis in axes else 1 for axis, size in enumerate(x.shape)], x)
        return x if mask is None else x * mask

    def mask(self, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """Factors 0 or 1 / (1 - rate), with dtype and device of `like`; None if nothing is dropped."""
        if not self.training or self.rate == 0.0:
            return None
        keep = 1.0 - self.rate
        return (keep + torch.rand(shape, dtype=like.dtype, device=like.device)).floor_() / keep


class Mlp(nn.Module):
    """Two linear layers on the last axis, with the names of timm's class, whose import takes seconds."""

    def __init__(
        self, dim: int, hidden_dim: int, act_layer: Callable[[], nn.Module] = nn.GELU, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class Block(nn.Module):
    """A pre-norm transformer block with the arguments of timm's: attention, then the MLP.

    "divided_space_time" has temporal attention before the spatial one, "factorised_self_attention" after it.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        attention_type: BlockType = "divided_space_time",
        act_layer: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, attn_drop, drop)
        if attention_type in ("divided_space_time", "factorised_self_attention"):
            self.temporal_norm1 = norm_layer(dim)
            self.temporal_attn = Attention(dim, num_heads, qkv_bias, attn_drop, drop)
        if attention_type == "divided_space_time":
            self.temporal_fc = nn.Linear(dim, dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=drop)

    def forward(self, x: Tensor, num_outputs: int | None = None) -> Tensor:
        """Joint attention: [batch, tokens, dim] to [batch, num_outputs or tokens, dim], the first tokens only."""
        x = x[:, :num_outputs] + self.drop_path(self.attn(self.norm1(x), num_queries=num_outputs))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def forward_divided(self, cls: Tensor, patches: Tensor, cls_only: bool = False) -> tuple[Tensor, Tensor | None]:
        """Divided attention: over the frames of each patch, then over the patches of each frame.

        The class token, [batch, 1, dim], is the mean of its results in the spatial attention of every frame. Returns
        it and the patches, [batch, frames, patches, dim]; `cls_only`, for the last block, gives None for the patches.
        """
        batch, frames = patches.shape[:2]
        patches = patches + self._temporal_residual(patches)

        x = torch.cat([repeat(cls, "b 1 d -> b t 1 d", t=frames), patches], dim=2)
        x = self.norm1(rearrange(x, "b t n d -> (b t) n d"))
        spatial = self.drop_path(self.attn(x, num_queries=1 if cls_only else None))
        spatial = rearrange(spatial, "(b t) n d -> b t n d", t=frames)
        cls = cls + spatial[:, :, 0].mean(dim=1, keepdim=True)

        # The MLP of a sample's class token and patches is dropped by one draw.
        mask = self.drop_path.mask((batch, 1, 1), cls)
        mlp = self.mlp(self.norm2(cls))
        cls = cls + (mlp if mask is None else mlp * mask)
        if cls_only:
            return cls, None
        patches = patches + spatial[:, :, 1:]
        mlp = self.mlp(self.norm2(patches))
        return cls, patches + (mlp if mask is None else mlp * mask.unsqueeze(-1))

    def forward_factorised(self, patches: Tensor) -> Tensor:
        """ViViT's factorised self-attention: spatial, then temporal, of [batch, frames, patches, dim]."""
        spatial = self.attn(self.norm1(rearrange(patches, "b t n d -> (b t) n d")))
        patches = patches + self.drop_path(rearrange(spatial, "(b t) n d -> b t n d", t=patches.shape[1]))
        temporal = self.temporal_attn.project(self.temporal_attn.attend_over_frames(self.temporal_norm1(patches)))
        patches = patches + self.drop_path(temporal)
        return patches + self.drop_path(self.mlp(self.norm2(patches)))

    def _temporal_residual(self, patches: Tensor) -> Tensor:
        attn, fc = self.temporal_attn, self.temporal_fc
        x = attn.attend_over_frames(self.temporal_norm1(patches))
        if not self.training and not torch.is_grad_enabled() and x.shape[:-1].numel() >= 2 * x.shape[-1]:
            # Two linear layers in a row are one; for this many tokens, multiplying their weights is less work
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = fc.weight @ attn.proj.weight, F.linear(attn.proj.bias, fc.weight, fc.bias)
            return F.linear(x, weight, bias)
        return fc(self.drop_path(attn.project(x), axes=(0, 2)))  # drops all frames of a patch or none


def make_blocks(depth: int, drop_path_rate: float, **options: Any) -> nn.ModuleList:
    """`depth` blocks with the same `options` of `Block`; stochastic depth grows linearly from 0 to its rate."""
    rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
    return nn.ModuleList(Block(**options, drop_path=rate) for rate in rates)


def joint_forward(blocks: nn.ModuleList, tokens: Tensor, num_outputs: int | None = None) -> Tensor:
    """Joint attention, block after block; the last one computes the first `num_outputs` tokens only."""
    for block in blocks[:-1]:
        tokens = block(tokens)
    return blocks[-1](tokens, num_outputs)


def prepend_cls(cls_token: Tensor, tokens: Tensor) -> Tensor:
    """[1 or batch, 1, dim] and [batch, tokens, dim] to [batch, 1 + tokens, dim]."""
    return torch.cat([cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


@torch.no_grad()
def initialize_linear(model: nn.Module, init: Init) -> None:
    """Truncated normal weights, with std 0.02 or, for "scratch", 1 / sqrt(inputs) to keep the variance; zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02 if init == "pretrained" else module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ValueError if `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
