"""Heads: from the features of a network to logits, and what all networks with such a head share."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.models.blocks import Init, Mlp, check_choice, initialize_linear, joint_forward, make_blocks
from timesformer.models.embeddings import resize_time_embed, time_table

HeadKind = Literal["linear", "attentive", "temporal"]
"""Linear over one vector of a clip; cross-attention over its tokens; or a transformer over its time steps."""


@dataclass(frozen=True)
class HeadOptions:
    """The head of a network, MODEL.HEAD and MODEL.HEAD_*; ValueError if the kind is unknown."""

    kind: HeadKind = "linear"
    grid: int = 1  # patches of a step are averaged to grid x grid tokens; not for "linear"
    width: int = 128  # "temporal": width of the transformer
    depth: int = 1  # "temporal": number of layers

    def __post_init__(self) -> None:
        check_choice("head", self.kind, get_args(HeadKind))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "HeadOptions":
        model = cfg.MODEL
        return cls(model.HEAD, model.HEAD_GRID, model.HEAD_WIDTH, model.HEAD_DEPTH)


LINEAR = HeadOptions()


class TokenHead(nn.Module):
    """A head over tokens in the order of time, [batch, steps, tokens, dim], initialized to train on few clips.

    Its time embeddings, made for `steps` and learned, make the order visible to networks that see single frames. They
    are resized for other clips. The classifier reads `features` numbers, by default `width`.
    """

    def __init__(self, width: int, steps: int, num_classes: int, dropout: float, features: int | None = None) -> None:
        super().__init__()
        self.time_embed = nn.Parameter(torch.zeros(1, steps, width))
        self.output_norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features or width, num_classes)

    @torch.no_grad()
    def initialize(self) -> None:
        """Variance-preserving weights, sinusoidal time embeddings, and logits close to 0."""
        initialize_linear(self, "scratch")
        self.time_embed[0] = time_table(self.time_embed.shape[1], self.time_embed.shape[2])
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings, which an optimizer may exclude from weight decay."""
        return {"time_embed"}

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, steps, tokens, dim] to logits [batch, classes]."""
        return self.classifier(self.dropout(self.pool(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        """[batch, steps, tokens, dim] to what the classifier reads, [batch, features]."""
        raise NotImplementedError


class AttentiveHead(TokenHead):
    """Cross-attention of a learned query over the tokens of all steps, then an MLP; heads have 64 units if possible.

    The attentive probe of V-JEPA (Bardes et al. 2024, https://arxiv.org/abs/2404.08471) with time embeddings, and a
    norm before the classifier.
    """

    def __init__(self, dim: int, steps: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__(dim, steps, num_classes, dropout)
        self.num_heads = math.gcd(dim, max(1, dim // 64))
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        super().initialize()
        nn.init.trunc_normal_(self.query, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {"time_embed", "query"}

    def pool(self, tokens: Tensor) -> Tensor:
        x = self.norm1(tokens) + resize_time_embed(self.time_embed, tokens.shape[1]).unsqueeze(2)
        query = self.query.expand(x.shape[0], -1, -1)
        q, k, v = (
            rearrange(part, "b n (h d) -> b h n d", h=self.num_heads)
            for part in (self.q(query), *self.kv(x.flatten(1, 2)).chunk(2, dim=-1))
        )
        query = query + rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
        return self.output_norm(query + self.mlp(self.norm2(query)))[:, 0]


class TemporalHead(TokenHead):
    """A narrow transformer over the steps, each of which is one token made from all its tokens.

    The classifier reads all steps in order: with few clips, the mean of the steps hardly learns the order. The steps of
    other clips are interpolated to the number of `steps` before.
    """

    def __init__(
        self,
        dim: int,
        tokens: int,
        steps: int,
        num_classes: int,
        width: int = 128,
        depth: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(width, steps, num_classes, dropout, features=steps * width)
        self.input_norm = nn.LayerNorm(tokens * dim, eps=1e-6)
        self.embed = nn.Linear(tokens * dim, width)
        self.layers = make_blocks(
            depth,
            drop_path_rate=0.0,
            dim=width,
            num_heads=math.gcd(width, 4),
            qkv_bias=True,
            attention_type="joint_space_time",
        )
        self.initialize()

    def pool(self, tokens: Tensor) -> Tensor:
        x = self.embed(self.input_norm(tokens.flatten(2)))
        x = x + resize_time_embed(self.time_embed, x.shape[1])
        x = self.output_norm(joint_forward(self.layers, x))
        return resize_time_embed(x, self.time_embed.shape[1]).flatten(1)


class ClipNetwork(nn.Module):
    """A network whose head reads `head_input`: with MODEL.HEAD linear a vector of the clip, else tokens of its steps.

    Subclasses implement `forward_features` and `forward_tokens`, and call `add_head`.
    """

    head: nn.Module
    dropout: nn.Module  # before a linear head
    head_options: HeadOptions

    def add_head(
        self, dim: int, num_classes: int, dropout: float, options: HeadOptions, steps: int, has_cls: bool
    ) -> None:
        """Adds `head` for features and tokens of `dim`; `steps` and `has_cls` describe the result of `forward_tokens`.

        `num_classes` 0 gives no linear head: its logits are its input.
        """
        self.head_options = options
        self.dropout = nn.Dropout(dropout) if options.kind == "linear" else nn.Identity()  # other heads have their own
        if options.kind == "attentive":
            self.head = AttentiveHead(dim, steps, num_classes, dropout)
        elif options.kind == "temporal":
            tokens = int(has_cls) + options.grid**2
            self.head = TemporalHead(dim, tokens, steps, num_classes, options.width, options.depth, dropout)
        else:
            self.head = nn.Linear(dim, num_classes) if num_classes > 0 else nn.Identity()

    def initialize_layers(self, init: Init) -> None:
        """Initializes all linear layers, see `initialize_linear`; a head over tokens always to be trained."""
        initialize_linear(self, init)
        if isinstance(self.head, TokenHead):
            self.head.initialize()

    def forward(self, x: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] (float, normalized) to logits [batch, classes]."""
        return self.forward_head(self.head_input(x))

    def head_input(self, x: Tensor) -> Tensor:
        """Clips to what the head reads: [batch, dim], or for a head over tokens [batch, steps, tokens, dim].

        Its tokens are the class token, if there is one, and the grid of MODEL.HEAD_GRID x MODEL.HEAD_GRID averages of
        patches, row by row.
        """
        if not isinstance(self.head, TokenHead):
            return self.forward_features(x)
        cls, patches = self.forward_tokens(x)
        pooled = pool_patches(patches, self.head_options.grid)
        return pooled if cls is None else torch.cat([cls, pooled], dim=2)

    def forward_head(self, x: Tensor) -> Tensor:
        """The result of `head_input` to logits [batch, classes]."""
        return self.head(self.dropout(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips to one normalized vector each, [batch, dim]."""
        raise NotImplementedError

    def forward_tokens(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Clips to normalized class tokens, [batch, steps, 1, dim], and patches, [batch, steps, rows, columns, dim].

        A class token of the whole clip is repeated for every step; None for a network without class token.
        """
        raise NotImplementedError


def pool_patches(patches: Tensor, grid: int) -> Tensor:
    """Averages [batch, steps, rows, columns, dim] to [batch, steps, grid * grid, dim], as adaptive pooling does."""
    pooled = F.adaptive_avg_pool2d(rearrange(patches, "b t h w d -> (b t) d h w"), grid)
    return rearrange(pooled, "(b t) d h w -> b t (h w) d", t=patches.shape[1])
