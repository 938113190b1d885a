"""Transformer blocks: attention and MLP behind residuals, in the arrangements of TimeSformer and ViViT.

Module names are those of facebookresearch/TimeSformer, so that its checkpoints fit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timesformer.models.attention import Attention

BlockType = Literal["divided_space_time", "joint_space_time", "space_only", "factorised_self_attention"]
Init = Literal["pretrained", "scratch"]
"""How weights begin: small, as image models do that then load others, or such that a model learns from few clips."""


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, https://arxiv.org/abs/1603.09382): drops a residual branch by sample.

    In training, each sample (entry of the first axis) is zeroed with probability `rate` and the others are scaled by
    1 / (1 - rate); in evaluation nothing happens.

    Args:
        rate: probability of dropping, in [0, 1).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, axes: tuple[int, ...] = (0,)) -> Tensor:
        """Drops entries of `x` that lie along `axes`, each by a draw of its own; the shape stays."""
        factor = self.draw([size if axis in axes else 1 for axis, size in enumerate(x.shape)], x)
        return x if factor is None else x * factor

    def draw(self, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """Factors 0 or 1 / (1 - rate), with dtype and device of `like`; None where nothing is dropped."""
        if not self.training or self.rate == 0.0:
            return None
        keep = 1.0 - self.rate
        return (keep + torch.rand(shape, dtype=like.dtype, device=like.device)).floor_() / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Mlp(nn.Module):
    """The two-layer perceptron of a transformer block: [..., dim] to [..., dim] through `hidden_dim` units."""

    def __init__(
        self, dim: int, hidden_dim: int, drop: float = 0.0, act_layer: Callable[[], nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """One transformer block: attention (and temporal attention), MLP, each normalised before and added after.

    Args:
        dim: width of a token.
        num_heads: attention heads.
        mlp_ratio: hidden units of the MLP per unit of `dim`.
        qkv_bias: whether queries, keys and values have a bias.
        drop: dropout rate after projections.
        attn_drop: dropout rate on attention weights.
        drop_path: probability of dropping a residual branch.
        norm_layer: makes the normalisation of a given width.
        attention_type: "divided_space_time" and "factorised_self_attention" add the temporal attention, before or after
            the spatial one; the others attend once per block.
        act_layer: makes the activation of the MLP.
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
            self._folded: tuple[Tensor, Tensor, Tensor] | None = None
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop, act_layer)

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

    def forward_factorised(self, patches: Tensor) -> Tensor:
        """Factorised self-attention: each patch first attends within its frame, then to its place in the others.

        (ViViT's model 3, Arnab et al. 2021, https://arxiv.org/abs/2103.15691, section 3.3.)

        Args:
            patches: [batch, frames, places, dim].

        Returns:
            The same shape.
        """
        batch, frames = patches.shape[:2]
        spatial = self.attn(self.norm1(patches).flatten(0, 1)).unflatten(0, (batch, frames))
        patches = patches + self.drop_path(spatial)
        temporal = self.temporal_attn.attend_over_frames(self.temporal_norm1(patches))
        patches = patches + self.drop_path(self.temporal_attn.project(temporal))
        return patches + self.drop_path(self.mlp(self.norm2(patches)))

    def _attend_in_time(self, patches: Tensor) -> Tensor:
        """Residual of the temporal attention: [batch, frames, places, dim], the same shape out."""
        attn, fc = self.temporal_attn, self.temporal_fc
        x = attn.attend_over_frames(self.temporal_norm1(patches))
        tokens, dim = x.shape[:-1].numel(), x.shape[-1]
        if not self.training and not torch.is_grad_enabled() and tokens >= 2 * dim:
            return F.linear(x, *self._folded_projection())
        return fc(self.drop_path(attn.project(x), axes=(0, 2)))  # a draw per place, alike in all frames

    def _folded_projection(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the temporal projection and `temporal_fc` in one: two linear maps in a row are one.

        On the CPU the product is kept for the next call, as long as the weights give the same response to a fixed
        probe. (Version counters would not do: they miss what is changed through `.data`.)
        """
        first, second = self.temporal_attn.proj, self.temporal_fc
        with torch.autocast(first.weight.device.type, enabled=False):
            if (
                first.weight.device.type != "cpu" or torch.compiler.is_compiling()
            ):  # looking at values would stall a GPU
                return _product(first, second)
            probe = torch.arange(1, first.in_features + 1, dtype=first.weight.dtype).sin_()  # nowhere zero
            response = torch.stack([first.weight @ probe, first.bias, second.weight @ probe, second.bias])
            if self._folded is None or not _same(response, self._folded[0]):
                self._folded = response, *_product(first, second)
            return self._folded[1:]


def _product(first: nn.Linear, second: nn.Linear) -> tuple[Tensor, Tensor]:
    return second.weight @ first.weight, F.linear(first.bias, second.weight, second.bias)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def make_blocks(depth: int, drop_path_rate: float, **options: Any) -> nn.ModuleList:
    """`depth` blocks of the same `options` (of `Block`), with stochastic depth growing linearly from 0 to its rate."""
    rates = torch.linspace(0, drop_path_rate, depth, device="cpu")
    return nn.ModuleList(Block(**options, drop_path=rate.item()) for rate in rates)


def run_blocks(blocks: nn.ModuleList, tokens: Tensor, num_outputs: int | None = None) -> Tensor:
    """Attention over all tokens together, block after block.

    Args:
        blocks: of type `Block`.
        tokens: [batch, tokens, dim].
        num_outputs: compute only the first so many tokens of the last block; exact, and cheaper.

    Returns:
        [batch, num_outputs or tokens, dim].
    """
    last = len(blocks) - 1
    for index, block in enumerate(blocks):
        tokens = block(tokens, num_outputs=num_outputs if index == last else None)
    return tokens


@torch.no_grad()
def initialize_linear(model: nn.Module, scheme: Init) -> None:
    """Draws the weights of every linear layer from a truncated normal, and sets their biases to zero.

    The standard deviation is 0.02 for "pretrained", and 1 / sqrt(inputs), which keeps the variance, for "scratch".
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02 if scheme == "pretrained" else module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError that names the choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
