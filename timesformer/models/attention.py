"""Multi-head self-attention over a sequence of tokens, or over the frames of each patch."""

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762), with timm's argument names.

    `observer` is called with the queries and keys of every forward pass, [batch, heads, tokens, d] both, or for
    attention over frames [batch, patches * heads, frames, d]. Raises ValueError if `num_heads` does not divide `dim`.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = False, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """[batch, tokens, dim] to [batch, num_queries or tokens, dim]: the first tokens attend to all."""
        return self.project(self.attend(x, num_queries))

    def attend(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """`forward` without the output projection."""
        if num_queries is None or num_queries == x.shape[1]:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            dim = x.shape[-1]
            weights = self.qkv.weight.split((dim, 2 * dim))
            biases = (None, None) if self.qkv.bias is None else self.qkv.bias.split((dim, 2 * dim))
            q = F.linear(x[:, :num_queries], weights[0], biases[0])
            k, v = F.linear(x, weights[1], biases[1]).chunk(2, dim=-1)
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.num_heads) for part in (q, k, v))
        return rearrange(self._attend(q, k, v), "b h n d -> b n (h d)")

    def attend_over_frames(self, x: Tensor) -> Tensor:
        """Attention over the frames of each patch, in [batch, frames, patches, dim], without the output projection."""
        # Queries, keys and values come from three products: only then are patches and heads one evenly strided axis,
        # which makes (patches * heads) attention heads without a copy.
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        q, k, v = (
            rearrange(F.linear(x, weight, bias), "b t n (h d) -> b (n h) t d", h=self.num_heads)
            for weight, bias in zip(self.qkv.weight.chunk(3), biases, strict=True)
        )
        return rearrange(self._attend(q, k, v), "b (n h) t d -> b t n (h d)", h=self.num_heads)

    def project(self, x: Tensor) -> Tensor:
        """The output projection and its dropout: [..., dim] to [..., dim]."""
        return self.proj_drop(self.proj(x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer(q, k)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scaled dot products: [..., queries, d] and [..., keys, d] to [..., queries, keys]."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
