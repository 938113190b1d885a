"""Multi-head self-attention: one core on PyTorch's fused kernel, for sequences along any axis of the token grid."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHORT = 512  # tokens


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    The parameters are `qkv` (rows: queries, keys, values; each head by head) and `proj`, as in every ViT checkpoint.

    Args:
        dim: width of a token.
        num_heads: number of heads; must divide `dim`.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout rate on the attention weights, in [0, 1].
        proj_drop: dropout rate on the output, in [0, 1].

    Attributes:
        observer: called with the queries and keys of every use, from which `attention_weights` computes the weights:
            [batch, heads, tokens, d], over frames [batch, places * heads, frames, d]. None costs nothing.

    Raises:
        ValueError: if `num_heads` does not divide `dim`.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = False, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"attention width {dim} is not divisible by {num_heads} heads; choose a divisor of {dim}")
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """Attends among the tokens of each sequence.

        Args:
            x: [batch, tokens, dim], float.
            num_queries: compute the output of the first so many tokens only (every token is still attended to).

        Returns:
            [batch, num_queries or tokens, dim].
        """
        return self.project(self.attend(x, num_queries))

    def attend(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """The heads' outputs side by side, before the output projection; shapes as in `forward`."""
        batch, tokens = x.shape[:2]
        if num_queries is None or num_queries == tokens:
            q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).unbind(2)  # [batch, tokens, heads, d]
        else:
            q, kv = self._split_projection(x[:, :num_queries], x)
            q = q.view(batch, num_queries, self.num_heads, -1)
            k, v = kv.view(batch, tokens, 2, self.num_heads, -1).unbind(2)
        return self._attend(q, k, v).flatten(2)

    def attend_over_frames(self, x: Tensor) -> Tensor:
        """Attends along time, each place of the frame for itself, before the output projection.

        Args:
            x: [batch, frames, places, dim], float.

        Returns:
            [batch, frames, places, dim].
        """
        batch, frames, places, dim = x.shape
        # With queries, keys and values each in a tensor of its own, (places, heads) is one evenly strided axis: the
        # kernel sees places * heads independent heads of `frames` tokens, and nothing has to be moved in memory.
        q, k, v = (
            F.linear(x, weight, bias).view(batch, frames, places * self.num_heads, -1)
            for weight, bias in zip(self.qkv.weight.chunk(3), self._biases(3), strict=True)
        )
        return self._attend(q, k, v).reshape(batch, frames, places, dim)

    def project(self, x: Tensor) -> Tensor:
        """The output projection and its dropout; [..., dim] to [..., dim]."""
        return self.proj_drop(self.proj(x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # [batch, tokens, heads, d] in and out; the kernel wants the heads before the tokens.
        dropout = self.attn_drop if self.training else 0.0
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.observer is not None:
            self.observer(q, k)
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and k.shape[2] <= _SHORT:
            # Where the weights of all pairs are small enough to be kept, PyTorch's fused kernel takes twice the time of
            # plain products, because it computes them again for the gradients.
            return (F.dropout(attention_weights(q, k), dropout) @ v).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2)

    def _split_projection(self, x_q: Tensor, x_kv: Tensor) -> tuple[Tensor, Tensor]:
        dim = self.proj.in_features
        w_q, w_kv = self.qkv.weight.split((dim, 2 * dim))
        b_q, b_kv = (None, None) if self.qkv.bias is None else self.qkv.bias.split((dim, 2 * dim))
        return F.linear(x_q, w_q, b_q), F.linear(x_kv, w_kv, b_kv)

    def _biases(self, parts: int) -> tuple[Tensor | None, ...]:
        return (None,) * parts if self.qkv.bias is None else self.qkv.bias.chunk(parts)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """How much each query attends to each key: softmax over the keys of scaled products.

    Args:
        q: queries [..., queries, d], float.
        k: keys [..., keys, d], of the same dtype.

    Returns:
        [..., queries, keys], from 0 to 1; each row sums to 1.
    """
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
