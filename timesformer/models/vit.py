"""TimeSformer, with the module names of facebookresearch/TimeSformer (https://arxiv.org/abs/2102.05095)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from einops import rearrange, reduce, repeat
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.models.blocks import LIGHT_VARIANTS, Init, check_choice, joint_forward, make_blocks
from timesformer.models.build import MODEL_REGISTRY, RegisteredTransformer, transformer_options
from timesformer.models.embeddings import (
    Interpolation,
    PatchEmbed,
    position_table,
    resize_pos_embed,
    resize_time_embed,
    time_table,
)
from timesformer.models.heads import LINEAR, ClipNetwork, HeadOptions

AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]
ATTENTION_TYPES: tuple[str, ...] = get_args(AttentionType)


class VisionTransformer(ClipNetwork):
    """A vision transformer for clips, with the argument names of timm's.

    Embeddings made for `img_size` and `num_frames` are resized for other clips. `drop_path_rate` is the stochastic
    depth of the last block; `dropout` acts before the head. Raises ValueError on an unknown choice. The last block
    computes the class token only, all that a linear head sees, unless the attribute `last_block_cls_only` is False.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        num_frames: int = 8,
        attention_type: AttentionType = "divided_space_time",
        dropout: float = 0.0,
        pos_embed_interpolation: Interpolation = "bicubic",
        init: Init = "pretrained",
        head: HeadOptions = LINEAR,
    ) -> None:
        super().__init__()
        check_choice("attention_type", attention_type, ATTENTION_TYPES)
        check_choice("pos_embed_interpolation", pos_embed_interpolation, get_args(Interpolation))
        check_choice("init", init, get_args(Init))
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.attention_type = attention_type
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.grid = (height // patch_size, width // patch_size)
        self.pos_embed_interpolation: Interpolation = pos_embed_interpolation
        self.last_block_cls_only = True

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        if attention_type != "space_only":
            self.time_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
            self.time_drop = nn.Dropout(drop_rate)
        self.blocks = make_blocks(
            depth,
            drop_path_rate,
            dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop=drop_rate,
            attn_drop=attn_drop_rate,
            norm_layer=norm_layer,
            attention_type=attention_type,
        )
        self.norm = norm_layer(embed_dim)
        self.add_head(embed_dim, num_classes, dropout, head, steps=num_frames, has_cls=True)
        self.initialize(init)

    @torch.no_grad()
    def initialize(self, init: Init) -> None:
        """Initializes all but the patch projection; "pretrained" gives an image model's output with its weights."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.initialize_layers(init)
        if init == "scratch":
            self.pos_embed[0, 1:] = position_table(*self.grid, self.embed_dim)
            if self.attention_type != "space_only":
                self.time_embed[0] = time_table(self.time_embed.shape[1], self.embed_dim)
        elif self.attention_type == "divided_space_time":
            for block in self.blocks:
                nn.init.zeros_(block.temporal_fc.weight)

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings, which an optimizer may exclude from weight decay."""
        return {"cls_token", "pos_embed", "time_embed"}

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] to the normalized class token [batch, dim]."""
        tokens = self._encode(x, self.last_block_cls_only)
        if self.attention_type == "space_only":
            tokens = reduce(tokens, "b t n d -> b n d", "mean")
        return self.norm(tokens)[:, 0]

    def forward_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized class tokens and patches, see `ClipNetwork`; the class token is that of the clip or the frame."""
        tokens = self.norm(self._encode(x))
        rows, columns = (side // self.patch_embed.patch_size for side in x.shape[-2:])
        if self.attention_type == "space_only":
            cls, patches = tokens[:, :, :1], tokens[:, :, 1:]
        else:
            patches = rearrange(tokens[:, 1:], "b (t n) d -> b t n d", n=rows * columns)
            cls = repeat(tokens[:, :1], "b 1 d -> b t 1 d", t=patches.shape[1])
        return cls, rearrange(patches, "b t (h w) d -> b t h w d", h=rows)

    def _encode(self, x: Tensor, cls_only: bool = False) -> Tensor:
        """[batch, 1 + patches of all frames, dim], space-only [batch, frames, 1 + patches, dim]; or class tokens."""
        cls, patches = self.embed(x)
        num_outputs = 1 if cls_only else None
        if self.attention_type == "divided_space_time":
            for block in self.blocks[:-1]:
                cls, patches = block.forward_divided(cls, patches)
            cls, patches = self.blocks[-1].forward_divided(cls, patches, cls_only=cls_only)
            return cls if patches is None else torch.cat([cls, rearrange(patches, "b t n d -> b (t n) d")], dim=1)
        if self.attention_type == "joint_space_time":
            tokens = torch.cat([cls, rearrange(patches, "b t n d -> b (t n) d")], dim=1)
            return joint_forward(self.blocks, tokens, num_outputs)
        tokens = rearrange(torch.cat([cls, patches], dim=2), "b t n d -> (b t) n d")
        tokens = joint_forward(self.blocks, tokens, num_outputs)
        return rearrange(tokens, "(b t) n d -> b t n d", t=patches.shape[1])

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class token [batch, 1, dim] (space-only: [batch, frames, 1, dim]), patches [batch, frames, patches, dim]."""
        patches = self.patch_embed(x)  # [batch, frames, rows, columns, dim]
        batch, frames, *grid, _ = patches.shape
        pos_embed = resize_pos_embed(self.pos_embed, self.grid, tuple(grid), self.pos_embed_interpolation)
        sequences = (batch, frames) if self.attention_type == "space_only" else (batch,)
        cls = (self.cls_token + pos_embed[:, :1]).expand(*sequences, 1, -1)
        cls = self.pos_drop(cls)  # after `expand`: each sequence has its own dropout mask
        patches = self.pos_drop(rearrange(patches, "b t h w d -> b t (h w) d") + pos_embed[:, 1:].unsqueeze(1))
        if self.attention_type != "space_only":
            time_embed = resize_time_embed(self.time_embed, frames, self.pos_embed_interpolation)
            patches = self.time_drop(patches + time_embed.unsqueeze(2))
        return cls, patches


@MODEL_REGISTRY.register()
class TimeSformer(RegisteredTransformer):
    """TimeSformer, ViT-B by default; arguments of `RegisteredTransformer` and `VisionTransformer`."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        num_classes: int = 400,
        num_frames: int = 8,
        attention_type: AttentionType = "divided_space_time",
        pretrained_model: str = "",
        strict_loading: bool = False,
        **options: Any,
    ) -> None:
        options = {"qkv_bias": True, "norm_layer": partial(nn.LayerNorm, eps=1e-6), **options}
        options |= {"num_classes": num_classes, "num_frames": num_frames, "attention_type": attention_type}
        super().__init__(VisionTransformer(img_size, patch_size, **options), pretrained_model, strict_loading)

    @classmethod
    def from_config(cls, cfg: CfgNode, **options: Any) -> "TimeSformer":
        """The model that MODEL.*, DATA.* and TIMESFORMER.* describe."""
        options |= {"patch_size": cfg.TIMESFORMER.PATCH_SIZE, "attention_type": cfg.TIMESFORMER.ATTENTION_TYPE}
        return cls(**{**transformer_options(cfg), **options})


@MODEL_REGISTRY.register()
def vit_base_patch16_224(cfg: CfgNode) -> TimeSformer:
    """TimeSformer under the name that the original's configurations give."""
    return TimeSformer.from_config(cfg)


@MODEL_REGISTRY.register()
class LightTimeSformer(TimeSformer):
    """TimeSformer in a size of `LIGHT_VARIANTS` (gesture study, github.com/nguyenthienhy/TimeSformer)."""

    def __init__(self, variant: str = "gesture", **options: Any) -> None:
        check_choice("variant", variant, tuple(LIGHT_VARIANTS))
        super().__init__(**{**LIGHT_VARIANTS[variant], **options})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LightTimeSformer":
        """The variant TIMESFORMER.VARIANT ("gesture" by default)."""
        variant = cfg.TIMESFORMER.VARIANT or "gesture"
        return super().from_config(cfg, variant=variant, **LIGHT_VARIANTS.get(variant, {}))
