"""TimeSformer: a vision transformer over the patches of several frames (Bertasius et al. 2021,
https://arxiv.org/abs/2102.05095), with divided, joint or space-only attention.

Read from top to bottom in the order the data flows: patch embedding, blocks, model, named models. Module names are
those of facebookresearch/TimeSformer, so that its checkpoints fit.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.models.attention import Attention, DropPath, Mlp
from timesformer.models.build import MODEL_REGISTRY
from timesformer.models.embeddings import Interpolation, resize_pos_embed, resize_time_embed, sine_cosine_table
from timesformer.models.weights import load_pretrained

logger = logging.getLogger(__name__)

AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]
ATTENTION_TYPES: tuple[str, ...] = ("divided_space_time", "joint_space_time", "space_only")


class PatchEmbed(nn.Module):
    """Cuts each frame into square patches and projects each to a token.

    Args:
        patch_size: side of a patch in pixels.
        in_chans: channels of a frame.
        embed_dim: width of a token.
    """

    def __init__(self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, clip: Tensor) -> Tensor:
        """[batch, channels, frames, height, width] to [batch, frames, rows, columns, dim].

        Raises:
            ValueError: if height or width is smaller than a patch or not a multiple of it.
        """
        height, width = clip.shape[-2:]
        p = self.patch_size
        if height % p or width % p or not height or not width:
            raise ValueError(
                f"a clip of {height}x{width} pixels cannot be cut into patches of {p}x{p}; resize or crop it"
            )
        # A convolution whose stride is its size is one matrix product over the patches' pixels; as such it reads the
        # frames where they lie in [channels, frames] order and is faster than the convolution kernels.
        patches = clip.unflatten(-1, (-1, p)).unflatten(-3, (-1, p))  # [batch, channels, frames, rows, p, columns, p]
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)  # [batch, frames, rows, columns, channels * p * p]
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Block(nn.Module):
    """One transformer block: (temporal attention,) attention, MLP, each normalised before and added after.

    Args:
        dim: width of a token.
        num_heads: attention heads.
        mlp_ratio: hidden units of the MLP per unit of `dim`.
        qkv_bias: whether queries, keys and values have a bias.
        drop: dropout rate after projections.
        attn_drop: dropout rate on attention weights.
        drop_path: probability of dropping a residual branch.
        norm_layer: makes the normalisation of a given width.
        attention_type: "divided_space_time" adds the temporal attention; the others attend once per block.
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
        attention_type: AttentionType = "divided_space_time",
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, attn_drop, drop)
        if attention_type == "divided_space_time":
            self.temporal_norm1 = norm_layer(dim)
            self.temporal_attn = Attention(dim, num_heads, qkv_bias, attn_drop, drop)
            self.temporal_fc = nn.Linear(dim, dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor, num_outputs: int | None = None) -> Tensor:
        """Attention over all tokens together.

        Args:
            x: [batch, tokens, dim].
            num_outputs: compute only the first so many tokens of the result.

        Returns:
            [batch, num_outputs or tokens, dim].
        """
        x = x[:, :num_outputs] + self.drop_path(self.attn(self.norm1(x), num_queries=num_outputs))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def forward_divided(self, cls: Tensor, patches: Tensor, cls_only: bool = False) -> tuple[Tensor, Tensor | None]:
        """Divided attention: each patch first attends to its own place in the other frames, then within its frame.

        The class token takes part in every frame's spatial attention, and its results are averaged over the frames.

        Args:
            cls: [batch, 1, dim], the class token.
            patches: [batch, frames, places, dim].
            cls_only: compute the class token alone (all that the last block is asked for).

        Returns:
            The class token and the patches (None with `cls_only`), shaped as they came.
        """
        batch, frames = patches.shape[:2]
        patches = patches + self._attend_in_time(patches)

        # Every frame's sequence is its patches behind a copy of the class token.
        x = torch.cat([cls.unsqueeze(1).expand(-1, frames, -1, -1), patches], dim=2).flatten(0, 1)
        spatial = self.drop_path(self.attn(self.norm1(x), num_queries=1 if cls_only else None))
        spatial = spatial.unflatten(0, (batch, frames))  # [batch, frames, 1 (+ places), dim]
        cls = cls + spatial[:, :, 0].mean(dim=1, keepdim=True)

        # One draw per sample drops the MLP of the class token and of the patches together.
        kept = self.drop_path.draw((batch, 1, 1), cls)
        mlp = self.mlp(self.norm2(cls))
        cls = cls + (mlp if kept is None else mlp * kept)
        if cls_only:
            return cls, None
        patches = patches + spatial[:, :, 1:]
        mlp = self.mlp(self.norm2(patches))
        return cls, patches + (mlp if kept is None else mlp * kept.unsqueeze(-1))

    def _attend_in_time(self, patches: Tensor) -> Tensor:
        """Residual of the temporal attention: [batch, frames, places, dim], the same shape out."""
        attn, fc = self.temporal_attn, self.temporal_fc
        x = attn.attend_over_frames(self.temporal_norm1(patches))
        tokens, dim = x.shape[:-1].numel(), x.shape[-1]
        if not self.training and not torch.is_grad_enabled() and tokens >= 2 * dim:
            # Two linear maps in a row are one: the product of the matrices costs less than the tokens it saves.
            weight = fc.weight @ attn.proj.weight
            return F.linear(x, weight, F.linear(attn.proj.bias, fc.weight, fc.bias))
        return fc(self.drop_path(attn.project(x), axes=(0, 2)))  # a draw per place, alike in all frames


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
        init: Literal["pretrained", "scratch"] = "pretrained",
    ) -> None:
        super().__init__()
        _check_choice("attention_type", attention_type, ATTENTION_TYPES)
        _check_choice("pos_embed_interpolation", pos_embed_interpolation, ("bicubic", "legacy"))
        _check_choice("init", init, ("pretrained", "scratch"))
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
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                drop_rate,
                attn_drop_rate,
                rate.item(),
                norm_layer,
                attention_type,
            )
            for rate in torch.linspace(0, drop_path_rate, depth, device="cpu")
        )
        self.norm = norm_layer(embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.initialize(init)

    @torch.no_grad()
    def initialize(self, scheme: Literal["pretrained", "scratch"]) -> None:
        """Sets every parameter but the patch projection (which keeps PyTorch's own).

        "pretrained": truncated normal weights of standard deviation 0.02 and no temporal residual (`temporal_fc` is
        zero in every block), so that an image model's weights start as that image model. "scratch": weights that keep
        the variance (1 / sqrt(inputs)), and smooth sine and cosine tables for place and time, with which small models
        learn motion from hundreds of clips.
        """
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 if scheme == "pretrained" else module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if scheme == "pretrained":
            for block in self.blocks:
                if self.attention_type == "divided_space_time":
                    nn.init.zeros_(block.temporal_fc.weight)
            return
        rows, columns = self.grid
        half = self.embed_dim // 2
        by_row = sine_cosine_table(rows, half, std=0.3).unsqueeze(1).expand(-1, columns, -1)
        by_column = sine_cosine_table(columns, self.embed_dim - half, std=0.3).unsqueeze(0).expand(rows, -1, -1)
        self.pos_embed[0, 1:] = torch.cat([by_row, by_column], dim=-1).flatten(0, 1)
        if self.attention_type != "space_only":
            # Direction is a product of place and time. A table of time that is strong and varies slowly lets the first
            # MLP form it at once; with one like that of place, small models take several times as long.
            table = sine_cosine_table(self.time_embed.shape[1], self.embed_dim, std=0.6, cycles=(0.25, 0.5))
            self.time_embed[0] = table

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
            tokens = torch.cat([cls.unsqueeze(1).expand(-1, frames, -1, -1), patches], dim=2)
            tokens = self._together(tokens.flatten(0, 1)).unflatten(0, (batch, frames)).mean(dim=1)
        return self.norm(tokens)[:, 0]

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens with their position and time embeddings, before the first block.

        Returns:
            The class token [batch, 1, dim] and the patches [batch, frames, places, dim].
        """
        patches = self.patch_embed(x)  # [batch, frames, rows, columns, dim]
        grid = (patches.shape[2], patches.shape[3])
        pos_embed = resize_pos_embed(self.pos_embed, self.grid, grid, self.pos_embed_interpolation)
        cls = self.pos_drop(self.cls_token + pos_embed[:, :1]).expand(len(patches), -1, -1)
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
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, num_outputs=1 if index == last and self.last_block_cls_only else None)
        return tokens


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


@MODEL_REGISTRY.register()
class TimeSformer(nn.Module):
    """TimeSformer of ViT-B's width and depth by default (121 million parameters with divided attention).

    The transformer is `.model`, so that names in the state dict begin with `model.`, as in every checkpoint.

    Args:
        img_size: height and width in pixels.
        patch_size: side of a patch in pixels.
        num_classes: outputs of the head.
        num_frames: frames per clip.
        attention_type: "divided_space_time", "joint_space_time" or "space_only".
        pretrained_model: file with weights to start from; "" starts without.
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
        **options: Any,
    ) -> None:
        super().__init__()
        base = {"embed_dim": 768, "depth": 12, "num_heads": 12, "qkv_bias": True}
        self.model = VisionTransformer(
            img_size=img_size,
            patch_size=patch_size,
            num_classes=num_classes,
            num_frames=num_frames,
            attention_type=attention_type,
            **{**base, "norm_layer": partial(nn.LayerNorm, eps=1e-6), **options},
        )
        if pretrained_model:
            report = load_pretrained(self, pretrained_model, self.model.pos_embed_interpolation)
            logger.info("weights from %s\n%s", pretrained_model, report.table())

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TimeSformer":
        """The model that MODEL.*, DATA.* and TIMESFORMER.* describe."""
        return cls(**_options(cfg), **_size(cfg))

    def forward(self, x: Tensor) -> Tensor:
        """Clips [batch, 3, frames, height, width] (float, normalised) to logits [batch, classes]."""
        return self.model(x)


@MODEL_REGISTRY.register()
class vit_base_patch16_224(TimeSformer):
    """TimeSformer by the name and the constructor it has in the original: from a configuration."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(**_options(cfg), **_size(cfg))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "vit_base_patch16_224":
        """The same as the constructor."""
        return cls(cfg)


LIGHT_VARIANTS: dict[str, dict[str, int]] = {
    "gesture": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "small": {"embed_dim": 384, "depth": 9, "num_heads": 6},
    "tiny": {"embed_dim": 192, "depth": 9, "num_heads": 3},
}
"""Width, depth and heads of LightTimeSformer: ViT-B as in the gesture study, and ViT-S and ViT-Ti with fewer blocks."""


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
        _check_choice("variant", variant, tuple(LIGHT_VARIANTS))
        super().__init__(**{**LIGHT_VARIANTS[variant], **options})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LightTimeSformer":
        """The variant that TIMESFORMER.VARIANT names ("gesture" if none), everything else as configured."""
        return cls(cfg.TIMESFORMER.VARIANT or "gesture", **_options(cfg))


def _options(cfg: CfgNode) -> dict[str, Any]:
    options = cfg.TIMESFORMER
    return {
        "img_size": cfg.DATA.TRAIN_CROP_SIZE,
        "patch_size": options.PATCH_SIZE,
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "num_frames": cfg.DATA.NUM_FRAMES,
        "attention_type": options.ATTENTION_TYPE,
        "pretrained_model": options.PRETRAINED_MODEL,
        "mlp_ratio": options.MLP_RATIO,
        "drop_rate": options.DROP_RATE,
        "attn_drop_rate": options.ATTN_DROP_RATE,
        "drop_path_rate": options.DROP_PATH_RATE,
        "dropout": cfg.MODEL.DROPOUT_RATE,
        "pos_embed_interpolation": options.POS_EMBED_INTERPOLATION,
        "init": options.INIT,
    }


def _size(cfg: CfgNode) -> dict[str, int]:
    options = cfg.TIMESFORMER
    return {"embed_dim": options.EMBED_DIM, "depth": options.DEPTH, "num_heads": options.NUM_HEADS}
