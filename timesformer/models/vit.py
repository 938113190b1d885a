"""TimeSformer: a vision transformer over the patches of several frames (Bertasius et al. 2021,
https://arxiv.org/abs/2102.05095), with divided, joint or space-only attention.

The transformer first, then the models by name. Module names are those of facebookresearch/TimeSformer, so that its
checkpoints fit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.models.blocks import Init, check_choice, initialize_linear, make_blocks, run_blocks
from timesformer.models.build import MODEL_REGISTRY
from timesformer.models.embeddings import (
    Interpolation,
    position_table,
    resize_pos_embed,
    resize_time_embed,
    time_table,
)
from timesformer.models.named import NamedTransformer, shared_options, size_options
from timesformer.models.patches import PatchEmbed
from timesformer.models.variants import LIGHT_VARIANTS

AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]
ATTENTION_TYPES: tuple[str, ...] = ("divided_space_time", "joint_space_time", "space_only")


class VisionTransformer(nn.Module):
    """A vision transformer for clips.

    Args:
        img_size: height and width the position embeddings are made for, in pixels (other sizes are interpolated).
        patch_size: side of a patch in pixels.
        in_chans: channels of a frame.
        num_classes: outputs of the head; 0 leaves the head out.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden units of the MLP per unit of width.
        qkv_bias: whether queries, keys and values have a bias.
        drop_rate: dropout after embeddings and projections.
        attn_drop_rate: dropout on attention weights.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
        norm_layer: makes the normalisation of a given width.
        num_frames: frames the time embeddings are made for (other numbers are interpolated).
        attention_type: "divided_space_time", "joint_space_time" or "space_only".
        dropout: dropout before the head.
        pos_embed_interpolation: how embeddings are fitted to other sizes: "bicubic" (2-D in space, linear in time) or
            "legacy" (nearest neighbour, as the original).
        init: "pretrained" (the original's initialisation, a starting point for loading weights) or "scratch" (one that
            learns from few clips).

    Attributes:
        last_block_cls_only: compute the last block for the class token alone. Exact, since nothing else of it reaches
            the logits; switch it off to count operations as papers do, or to look at the last block's patches.

    Raises:
        ValueError: on an unknown attention type, interpolation or initialisation.
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
    ) -> None:
        super().__init__()
        check_choice("attention_type", attention_type, ATTENTION_TYPES)
        check_choice("pos_embed_interpolation", pos_embed_interpolation, ("bicubic", "legacy"))
        check_choice("init", init, ("pretrained", "scratch"))
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
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.initialize(init)

    @torch.no_grad()
    def initialize(self, scheme: Init) -> None:
        """Sets every parameter but the patch projection (which keeps PyTorch's own).

        "pretrained": truncated normal weights of standard deviation 0.02 and no temporal residual (`temporal_fc` is
        zero in every block), so that an image model's weights start as that image model. "scratch": weights that keep
        the variance (1 / sqrt(inputs)), and smooth sine and cosine tables for place and time, with which small models
        learn motion from hundreds of clips.
        """
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        initialize_linear(self, scheme)
        if scheme == "pretrained":
            for block in self.blocks:
                if self.attention_type == "divided_space_time":
                    nn.init.zeros_(block.temporal_fc.weight)
            return
        self.pos_embed[0, 1:] = position_table(*self.grid, self.embed_dim)
        if self.attention_type != "space_only":
            self.time_embed[0] = time_table(self.time_embed.shape[1], self.embed_dim)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are embeddings, which an optimizer may leave undecayed."""
        return {"cls_token", "pos_embed", "time_embed"}

    def forward(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] (float, normalised) to logits [batch, classes]."""
        return self.head(self.dropout(self.forward_features(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] to the normalised class token [batch, dim]."""
        cls, patches = self.embed(x)
        if self.attention_type == "divided_space_time":
            tokens = self._divided(cls, patches)
        elif self.attention_type == "joint_space_time":
            tokens = self._together(torch.cat([cls, patches.flatten(1, 2)], dim=1))
        else:
            batch, frames = patches.shape[:2]
            tokens = torch.cat([cls, patches], dim=2)
            tokens = self._together(tokens.flatten(0, 1)).unflatten(0, (batch, frames)).mean(dim=1)
        return self.norm(tokens)[:, 0]

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens with their position and time embeddings, before the first block.

        Returns:
            The class token of each sequence that attends within itself, [batch, 1, dim], or for "space_only"
            [batch, frames, 1, dim]; and the patches [batch, frames, places, dim].
        """
        patches = self.patch_embed(x)  # [batch, frames, rows, columns, dim]
        grid = (patches.shape[2], patches.shape[3])
        pos_embed = resize_pos_embed(self.pos_embed, self.grid, grid, self.pos_embed_interpolation)
        # Dropout comes after the copies are made, so that each sequence gets a mask of its own.
        sequences = patches.shape[: 2 if self.attention_type == "space_only" else 1]
        cls = self.pos_drop((self.cls_token + pos_embed[:, :1]).expand(*sequences, 1, -1))
        patches = self.pos_drop(patches.flatten(2, 3) + pos_embed[:, 1:].unsqueeze(1))
        if self.attention_type != "space_only":
            time_embed = resize_time_embed(self.time_embed, patches.shape[1], self.pos_embed_interpolation)
            patches = self.time_drop(patches + time_embed.unsqueeze(2))
        return cls, patches

    def _divided(self, cls: Tensor, patches: Tensor) -> Tensor:
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            cls, patches = block.forward_divided(cls, patches, cls_only=index == last and self.last_block_cls_only)
        return cls if patches is None else torch.cat([cls, patches.flatten(1, 2)], dim=1)

    def _together(self, tokens: Tensor) -> Tensor:
        return run_blocks(self.blocks, tokens, num_outputs=1 if self.last_block_cls_only else None)


@MODEL_REGISTRY.register()
class TimeSformer(NamedTransformer):
    """TimeSformer of ViT-B's width and depth by default (121 million parameters with divided attention).

    Args:
        img_size: height and width in pixels.
        patch_size: side of a patch in pixels.
        num_classes: outputs of the head.
        num_frames: frames per clip.
        attention_type: "divided_space_time", "joint_space_time" or "space_only".
        pretrained_model: weights to start from, as `weights.read_checkpoint` takes them; "" starts without.
        strict_loading: refuse weights that leave anything new or unused.
        options: any other argument of `VisionTransformer`.
    """

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
        base = {"embed_dim": 768, "depth": 12, "num_heads": 12, "qkv_bias": True}
        model = VisionTransformer(
            img_size=img_size,
            patch_size=patch_size,
            num_classes=num_classes,
            num_frames=num_frames,
            attention_type=attention_type,
            **{**base, "norm_layer": partial(nn.LayerNorm, eps=1e-6), **options},
        )
        super().__init__(model, pretrained_model, strict_loading)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TimeSformer":
        """The model that MODEL.*, DATA.* and TIMESFORMER.* describe."""
        return cls(**_options(cfg), **size_options(cfg))


@MODEL_REGISTRY.register()
class vit_base_patch16_224(TimeSformer):
    """TimeSformer by the name and the constructor it has in the original: from a configuration."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(**_options(cfg), **size_options(cfg))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "vit_base_patch16_224":
        """The same as the constructor."""
        return cls(cfg)


@MODEL_REGISTRY.register()
class LightTimeSformer(TimeSformer):
    """TimeSformer for short clips and small datasets.

    The gesture study (github.com/nguyenthienhy/TimeSformer) keeps ViT-B and shortens the clip: fewer frames, a smaller
    sampling rate, frames drawn at random in training and uniformly in testing. The smaller variants have about 23 and
    6 million parameters.

    Args:
        variant: a name in `LIGHT_VARIANTS`.
        options: any argument of `TimeSformer`.

    Raises:
        ValueError: on an unknown variant.
    """

    def __init__(self, variant: str = "gesture", **options: Any) -> None:
        check_choice("variant", variant, tuple(LIGHT_VARIANTS))
        super().__init__(**{**LIGHT_VARIANTS[variant], **options})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LightTimeSformer":
        """The variant that TIMESFORMER.VARIANT names ("gesture" if none), everything else as configured."""
        return cls(cfg.TIMESFORMER.VARIANT or "gesture", **_options(cfg))


def _options(cfg: CfgNode) -> dict[str, Any]:
    options = cfg.TIMESFORMER
    return {**shared_options(cfg), "patch_size": options.PATCH_SIZE, "attention_type": options.ATTENTION_TYPE}
