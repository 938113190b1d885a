"""ViViT: a vision transformer over tubelets, patches that reach over several frames (Arnab et al. 2021,
https://arxiv.org/abs/2103.15691), in three of the paper's models.

The blocks are TimeSformer's. Parameter names are TimeSformer's too, where a part has a counterpart there.
"""

from functools import partial
from typing import Any, Literal, get_args

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
    resize_tubelet_embed,
    time_table,
)
from timesformer.models.named import NamedTransformer, shared_options, size_options
from timesformer.models.patches import TubeletEmbed, TubeletInit

AttentionType = Literal["joint", "factorised_encoder", "factorised_self_attention"]
VIVIT_MODELS: dict[int, AttentionType] = {1: "joint", 2: "factorised_encoder", 3: "factorised_self_attention"}
"""The models by their number in the paper, as VIVIT.MODEL gives it."""


class VideoTransformer(nn.Module):
    """A vision transformer for clips cut into tubelets.

    Args:
        img_size: height and width the position embeddings are made for, in pixels (other sizes are interpolated).
        tubelet_size: frames, height and width of a tubelet.
        in_chans: channels of a frame.
        num_classes: outputs of the head; 0 leaves the head out.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden units of the MLP per unit of width.
        drop_rate: dropout after embeddings and projections.
        attn_drop_rate: dropout on attention weights.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first, in each encoder.
        num_frames: frames the position embeddings are made for (other numbers are interpolated).
        attention_type: "joint" (model 1 of the paper: all tubelets attend to all), "factorised_encoder" (model 2: an
            encoder over the tubelets of each time step, then one over the steps' class tokens) or
            "factorised_self_attention" (model 3: each block attends in space, then in time).
        temporal_depth: blocks of the second encoder of "factorised_encoder".
        tubelet_init: how the tubelet projection is made from an image model's, "central" or "inflate".
        dropout: dropout before the head.
        pos_embed_interpolation: how embeddings are fitted to other sizes: "bicubic" (2-D in space, linear in time) or
            "legacy" (nearest neighbour).
        init: "pretrained" (a starting point for loading weights) or "scratch" (one that learns from few clips).

    Attributes:
        last_block_cls_only: compute an encoder's last block for the class token alone. Exact, since nothing else of it
            reaches the logits; False without effect for "factorised_self_attention", which has no class token.

    Raises:
        ValueError: on an unknown attention type, interpolation or initialisation.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        tubelet_size: tuple[int, int, int] = (2, 16, 16),
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_frames: int = 32,
        attention_type: AttentionType = "joint",
        temporal_depth: int = 4,
        tubelet_init: TubeletInit = "central",
        dropout: float = 0.0,
        pos_embed_interpolation: Interpolation = "bicubic",
        init: Init = "pretrained",
    ) -> None:
        super().__init__()
        check_choice("attention_type", attention_type, get_args(AttentionType))
        check_choice("tubelet_init", tubelet_init, get_args(TubeletInit))
        check_choice("pos_embed_interpolation", pos_embed_interpolation, get_args(Interpolation))
        check_choice("init", init, get_args(Init))
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        steps, rows, columns = (
            total // part for total, part in zip((num_frames, height, width), tubelet_size, strict=True)
        )
        self.attention_type = attention_type
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.grid = (steps, rows, columns)
        self.pos_embed_interpolation: Interpolation = pos_embed_interpolation
        self.last_block_cls_only = attention_type != "factorised_self_attention"
        norm_layer = partial(nn.LayerNorm, eps=1e-6)
        options = {
            "drop_path_rate": drop_path_rate,
            "dim": embed_dim,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "qkv_bias": True,
            "drop": drop_rate,
            "attn_drop": attn_drop_rate,
            "norm_layer": norm_layer,
            "act_layer": partial(nn.GELU, approximate="tanh"),
        }

        self.patch_embed = TubeletEmbed(tubelet_size, in_chans, embed_dim, tubelet_init)
        if attention_type == "factorised_self_attention":
            self.pos_embed = nn.Parameter(torch.zeros(1, steps * rows * columns, embed_dim))
            self.blocks = make_blocks(depth, attention_type=attention_type, **options)
        else:
            places = rows * columns * (steps if attention_type == "joint" else 1)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, embed_dim))
            self.blocks = make_blocks(depth, attention_type="joint_space_time", **options)
        self.pos_drop = nn.Dropout(drop_rate)
        self.norm = norm_layer(embed_dim)
        if attention_type == "factorised_encoder":
            self.temporal_cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
            self.temporal_pos_embed = nn.Parameter(torch.zeros(1, 1 + steps, embed_dim))
            self.temporal_blocks = make_blocks(temporal_depth, attention_type="joint_space_time", **options)
            self.temporal_norm = norm_layer(embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.initialize(init)

    @torch.no_grad()
    def initialize(self, scheme: Init) -> None:
        """Sets every parameter but the tubelet projection (which keeps PyTorch's own).

        "pretrained": truncated normal weights of standard deviation 0.02, and no temporal residual in the blocks of
        "factorised_self_attention", so that they start as an image model's (section 3.4 of the paper). "scratch":
        weights that keep the variance, and smooth sine and cosine tables for place and time.
        """
        embeddings = self.no_weight_decay()
        for name, parameter in self.named_parameters():
            if name in embeddings:
                nn.init.trunc_normal_(parameter, std=0.02)
        initialize_linear(self, scheme)
        steps, rows, columns = self.grid
        if scheme == "pretrained":
            if self.attention_type == "factorised_self_attention":
                for block in self.blocks:
                    # Of the paper's zeros, those of the output alone: with all of them no gradient would ever come.
                    nn.init.zeros_(block.temporal_attn.proj.weight)
            return
        table = position_table(rows, columns, self.embed_dim)
        if self.attention_type == "factorised_encoder":
            self.temporal_pos_embed[0, 1:] = time_table(steps, self.embed_dim)
        else:
            table = (time_table(steps, self.embed_dim).unsqueeze(1) + table).flatten(0, 1)
        self.pos_embed[0, -len(table) :] = table

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are embeddings, which an optimizer may leave undecayed."""
        return {"cls_token", "pos_embed", "temporal_cls_token", "temporal_pos_embed"}

    def forward(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] (float, normalised) to logits [batch, classes]."""
        return self.head(self.dropout(self.forward_features(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] to features [batch, dim].

        These are the normalised class token; of "factorised_self_attention" the mean of all normalised tokens.
        """
        tubelets = self.patch_embed(x)  # [batch, steps, rows, columns, dim]
        if self.attention_type == "joint":
            return self._joint(tubelets)
        if self.attention_type == "factorised_encoder":
            return self._factorised_encoder(tubelets)
        return self._factorised_self_attention(tubelets)

    def _joint(self, tubelets: Tensor) -> Tensor:
        tokens = _behind(self.cls_token, tubelets.flatten(1, 3))
        return self._class_token(self.blocks, self.norm, tokens + self._space_time_embed(tubelets))

    def _factorised_encoder(self, tubelets: Tensor) -> Tensor:
        batch, steps, *grid = tubelets.shape[:4]
        pos_embed = resize_pos_embed(self.pos_embed, self.grid[1:], tuple(grid), self.pos_embed_interpolation)
        tokens = _behind(self.cls_token, tubelets.flatten(0, 1).flatten(1, 2))  # [batch * steps, 1 + places, dim]
        x = self._class_token(self.blocks, self.norm, tokens + pos_embed).unflatten(0, (batch, steps))
        cls_entry, table = self.temporal_pos_embed.split((1, self.grid[0]), dim=1)
        table = resize_time_embed(table, steps, self.pos_embed_interpolation)
        tokens = _behind(self.temporal_cls_token, x) + torch.cat([cls_entry, table], dim=1)
        return self._class_token(self.temporal_blocks, self.temporal_norm, tokens)

    def _factorised_self_attention(self, tubelets: Tensor) -> Tensor:
        steps = tubelets.shape[1]
        tokens = tubelets.flatten(2, 3) + self._space_time_embed(tubelets).unflatten(1, (steps, -1))
        tokens = self.pos_drop(tokens)  # [batch, steps, places, dim]
        for block in self.blocks:
            tokens = block.forward_factorised(tokens)
        return self.norm(tokens).mean(dim=(1, 2))

    def _space_time_embed(self, tubelets: Tensor) -> Tensor:
        """Position embeddings for the grid of `tubelets`, [1, (1 +) steps * places, dim]."""
        grid = tuple(tubelets.shape[1:4])
        return resize_tubelet_embed(self.pos_embed, self.grid, grid, self.pos_embed_interpolation)

    def _class_token(self, blocks: nn.ModuleList, norm: nn.Module, tokens: Tensor) -> Tensor:
        """The normalised class token [batch, dim] that an encoder makes of [batch, 1 + tokens, dim]."""
        tokens = run_blocks(blocks, self.pos_drop(tokens), num_outputs=1 if self.last_block_cls_only else None)
        return norm(tokens[:, 0])


def _behind(cls_token: Tensor, tokens: Tensor) -> Tensor:
    """[1, 1, dim] and [batch, tokens, dim] to [batch, 1 + tokens, dim]."""
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


@MODEL_REGISTRY.register()
class ViViT(NamedTransformer):
    """ViViT-B/16x2 by default, as google/vivit-b-16x2-kinetics400: 32 frames, 88.95 million parameters.

    Args:
        img_size: height and width in pixels.
        tubelet_size: frames, height and width of a tubelet.
        num_classes: outputs of the head.
        num_frames: frames per clip.
        attention_type: "joint", "factorised_encoder" or "factorised_self_attention".
        pretrained_model: weights to start from, as `weights.read_checkpoint` takes them; "" starts without.
        strict_loading: refuse weights that leave anything new or unused.
        options: any other argument of `VideoTransformer`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        tubelet_size: tuple[int, int, int] = (2, 16, 16),
        num_classes: int = 400,
        num_frames: int = 32,
        attention_type: AttentionType = "joint",
        pretrained_model: str = "",
        strict_loading: bool = False,
        **options: Any,
    ) -> None:
        model = VideoTransformer(
            img_size=img_size,
            tubelet_size=tubelet_size,
            num_classes=num_classes,
            num_frames=num_frames,
            attention_type=attention_type,
            **options,
        )
        super().__init__(model, pretrained_model, strict_loading)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ViViT":
        """The model that MODEL.*, DATA.*, VIVIT.* and the size, rates and start of TIMESFORMER.* describe."""
        vivit = cfg.VIVIT
        return cls(
            **shared_options(cfg),
            **size_options(cfg),
            tubelet_size=tuple(vivit.TUBELET_SIZE),
            attention_type=VIVIT_MODELS[vivit.MODEL],
            temporal_depth=vivit.TEMPORAL_DEPTH,
            tubelet_init=vivit.TUBELET_INIT,
        )
