"""TimeSformer as facebookresearch/TimeSformer computes it, written anew from what it does, to be measured against.

Tokens are one sequence, place after place and frame after frame within a place; they are rearranged before and after
every attention; attention is a product, a softmax and a product; and the last block computes every token.
"""

import torch
from torch import Tensor, nn

from timesformer.models.attention import Attention
from timesformer.models.blocks import Block
from timesformer.models.vit import VisionTransformer


class OriginalWay(nn.Module):
    """Computes a model of this project, with divided attention and without dropout, in the original's way.

    Args:
        model: whose weights are used, not copied; for clips of the size that it was made for.
    """

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] (float) to logits [batch, classes]."""
        model, batch, frames = self.model, len(clip), clip.shape[2]
        x = model.patch_embed.proj(clip.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1) + model.pos_embed
        cls, x = x[:batch, :1], x[:, 1:].unflatten(0, (batch, frames)).transpose(1, 2)  # [batch, places, frames, dim]
        x = x.flatten(0, 1) + model.time_embed
        x = torch.cat([cls, x.reshape(batch, -1, x.shape[-1])], dim=1)
        for block in model.blocks:
            x = _block(block, x, frames)
        return model.head(model.norm(x)[:, 0])


def _block(block: Block, x: Tensor, frames: int) -> Tensor:
    """[batch, 1 + places * frames, dim], the same shape out."""
    batch, _, dim = x.shape
    cls, patches = x[:, :1], x[:, 1:]
    temporal = _attention(block.temporal_attn, block.temporal_norm1(patches.reshape(-1, frames, dim)))
    patches = patches + block.temporal_fc(temporal.reshape(batch, -1, dim))

    of_frames = patches.unflatten(1, (-1, frames)).transpose(1, 2).flatten(0, 1)  # [batch * frames, places, dim]
    of_frames = torch.cat([cls.repeat(1, frames, 1).reshape(-1, 1, dim), of_frames], dim=1)
    spatial = _attention(block.attn, block.norm1(of_frames))
    spatial_cls = spatial[:, 0].unflatten(0, (batch, frames)).mean(dim=1, keepdim=True)
    spatial = spatial[:, 1:].unflatten(0, (batch, frames)).transpose(1, 2).reshape(batch, -1, dim)

    x = torch.cat([cls, patches], dim=1) + torch.cat([spatial_cls, spatial], dim=1)
    return x + block.mlp(block.norm2(x))


def _attention(attention: Attention, x: Tensor) -> Tensor:
    """Attends among the tokens of [sequences, tokens, dim]."""
    sequences, tokens, dim = x.shape
    qkv = attention.qkv(x).reshape(sequences, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    weights = (q @ k.transpose(-2, -1) * (dim // attention.num_heads) ** -0.5).softmax(dim=-1)
    return attention.proj((weights @ v).transpose(1, 2).reshape(sequences, tokens, dim))
