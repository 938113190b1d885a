"""ViViT, a vision transformer over tubelets: patches that span frames (https://arxiv.org/abs/2103.15691)."""

from functools import partial
from typing import Any, Literal, get_args

import torch
from einops import rearrange, repeat
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.models.blocks import Init, check_choice, joint_forward, make_blocks, prepend_cls
from timesformer.models.build import MODEL_REGISTRY, RegisteredTransformer, transformer_options
from timesformer.models.embeddings import (
    Interpolation,
    TubeletEmbed,
    TubeletInit,
    position_table,
    resize_pos_embed,
    resize_time_embed,
    resize_tubelet_embed,
    time_table,
)
from timesformer.models.heads import LINEAR, ClipNetwork, HeadOptions

AttentionType = Literal["joint", "factorised_encoder", "factorised_self_attention"]
VIVIT_MODELS: dict[int, AttentionType] = {1: "joint", 2: "factorised_encoder", 3: "factorised_self_attention"}
"""Attention types by their number in the paper, which is VIVIT.MODEL."""


class VideoTransformer(ClipNetwork):
    """A vision transformer for clips cut into tubelets of (frames, height, width); see also `VisionTransformer`.

    Args:
        attention_type: "joint" (model 1 of the paper: all tubelets attend to all), "factorised_encoder" (model 2: an
            encoder over the tubelets of a step, then `temporal_depth` blocks over the class tokens of the steps) or
            "factorised_self_attention" (model 3: each block attends in space, then in time; no class token). A head
            over tokens replaces the temporal encoder of model 2.
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
        head: HeadOptions = LINEAR,
    ) -> None:
        super().__init__()
        check_choice("attention_type", attention_type, get_args(AttentionType))
        check_choice("tubelet_init", tubelet_init, get_args(TubeletInit))
        check_choice("pos_embed_interpolation", pos_embed_interpolation, get_args(Interpolation))
        check_choice("init", init, get_args(Init))
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.attention_type = attention_type
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.grid = (num_frames // tubelet_size[0], height // tubelet_size[1], width // tubelet_size[2])
        self.pos_embed_interpolation: Interpolation = pos_embed_interpolation
        has_cls_token = attention_type != "factorised_self_attention"
        self.last_block_cls_only = has_cls_token
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
            "attention_type": "joint_space_time" if has_cls_token else attention_type,
        }

        self.patch_embed = TubeletEmbed(tubelet_size, in_chans, embed_dim, tubelet_init)
        steps, rows, columns = self.grid
        positions = rows * columns * (1 if attention_type == "factorised_encoder" else steps)
        if has_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
            positions += 1
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, embed_dim))
        self.blocks = make_blocks(depth, **options)
        self.pos_drop = nn.Dropout(drop_rate)
        self.norm = norm_layer(embed_dim)
        if attention_type == "factorised_encoder" and head.kind == "linear":
            self.temporal_cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
            self.temporal_pos_embed = nn.Parameter(torch.zeros(1, 1 + steps, embed_dim))
            self.temporal_blocks = make_blocks(temporal_depth, **options)
            self.temporal_norm = norm_layer(embed_dim)
        self.add_head(embed_dim, num_classes, dropout, head, steps, has_cls_token)
        self.initialize(init)

    @torch.no_grad()
    def initialize(self, init: Init) -> None:
        """Initializes all but the tubelet projection, see `VisionTransformer.initialize`."""
        embeddings = self.no_weight_decay()
        for name, parameter in self.named_parameters():
            if name in embeddings:
                nn.init.trunc_normal_(parameter, std=0.02)
        self.initialize_layers(init)
        if init == "pretrained":
            if self.attention_type == "factorised_self_attention":
                for block in self.blocks:
                    # The paper sets the whole attention to zero; then no gradient would ever reach it.
                    nn.init.zeros_(block.temporal_attn.proj.weight)
            return
        steps, rows, columns = self.grid
        table = position_table(rows, columns, self.embed_dim)
        if self.attention_type == "factorised_encoder":
            if hasattr(self, "temporal_pos_embed"):
                self.temporal_pos_embed[0, 1:] = time_table(steps, self.embed_dim)
        else:
            table = (time_table(steps, self.embed_dim).unsqueeze(1) + table).flatten(0, 1)
        self.pos_embed[0, -len(table) :] = table

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings, which an optimizer may exclude from weight decay."""
        return {"cls_token", "pos_embed", "temporal_cls_token", "temporal_pos_embed"}

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] to the normalized class or mean token [batch, dim]."""
        tubelets = self.patch_embed(x)
        tokens = self._encode(tubelets, self.last_block_cls_only)
        if self.attention_type == "factorised_self_attention":
            return self.norm(tokens).mean(dim=(1, 2))
        cls = self.norm(tokens[:, 0])
        return cls if self.attention_type == "joint" else self._encode_steps(cls.unflatten(0, (-1, tubelets.shape[1])))

    def forward_tokens(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Normalized class tokens and patches of the (spatial) encoder, see `ClipNetwork`."""
        tubelets = self.patch_embed(x)  # [batch, steps, rows, columns, dim]
        steps, rows = tubelets.shape[1:3]
        tokens = self.norm(self._encode(tubelets))
        if self.attention_type == "factorised_self_attention":
            return None, rearrange(tokens, "b t (h w) d -> b t h w d", h=rows)
        if self.attention_type == "joint":
            cls = repeat(tokens[:, :1], "b 1 d -> b t 1 d", t=steps)
            return cls, rearrange(tokens[:, 1:], "b (t h w) d -> b t h w d", t=steps, h=rows)
        tokens = tokens.unflatten(0, (-1, steps))
        return tokens[:, :, :1], rearrange(tokens[:, :, 1:], "b t (h w) d -> b t h w d", h=rows)

    def _encode(self, tubelets: Tensor, cls_only: bool = False) -> Tensor:
        """[batch, tokens, dim]; factorised encoder [batch * steps, ...]; model 3 [batch, steps, patches, dim]."""
        grid, how = tuple(tubelets.shape[1:4]), self.pos_embed_interpolation
        if self.attention_type == "factorised_encoder":
            pos_embed = resize_pos_embed(self.pos_embed, self.grid[1:], grid[1:], how)
            tokens = rearrange(tubelets, "b t h w d -> (b t) (h w) d")
        else:
            pos_embed = resize_tubelet_embed(self.pos_embed, self.grid, grid, how)
            tokens = rearrange(tubelets, "b t h w d -> b (t h w) d")
        if self.attention_type != "factorised_self_attention":
            tokens = self.pos_drop(prepend_cls(self.cls_token, tokens) + pos_embed)
            return joint_forward(self.blocks, tokens, num_outputs=1 if cls_only else None)
        tokens = self.pos_drop(tokens + pos_embed).unflatten(1, (grid[0], -1))
        for block in self.blocks:
            tokens = block.forward_factorised(tokens)
        return tokens

    def _encode_steps(self, cls: Tensor) -> Tensor:
        """The temporal encoder over the class tokens of the steps: [batch, steps, dim] to [batch, dim]."""
        cls_embed, time_embed = self.temporal_pos_embed.split((1, self.grid[0]), dim=1)
        time_embed = resize_time_embed(time_embed, cls.shape[1], self.pos_embed_interpolation)
        tokens = prepend_cls(self.temporal_cls_token, cls) + torch.cat([cls_embed, time_embed], dim=1)
        num_outputs = 1 if self.last_block_cls_only else None
        return self.temporal_norm(joint_forward(self.temporal_blocks, self.pos_drop(tokens), num_outputs)[:, 0])


@MODEL_REGISTRY.register()
class ViViT(RegisteredTransformer):
    """ViViT-B/16x2 by default, as google/vivit-b-16x2-kinetics400; `options` are those of `VideoTransformer`."""

    def __init__(
        self, num_classes: int = 400, pretrained_model: str = "", strict_loading: bool = False, **options: Any
    ) -> None:
        super().__init__(VideoTransformer(num_classes=num_classes, **options), pretrained_model, strict_loading)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ViViT":
        """The model that MODEL.*, DATA.*, VIVIT.* and the sizes and rates of TIMESFORMER.* describe."""
        vivit = cfg.VIVIT
        return cls(
            **transformer_options(cfg),
            tubelet_size=tuple(vivit.TUBELET_SIZE),
            attention_type=VIVIT_MODELS[vivit.MODEL],
            temporal_depth=vivit.TEMPORAL_DEPTH,
            tubelet_init=vivit.TUBELET_INIT,
        )
