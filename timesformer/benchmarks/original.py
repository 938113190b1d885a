"""TimeSformer as facebookresearch/TimeSformer computes it, written from its behaviour, as a baseline for speed.

Tokens form one sequence, patch by patch and frame by frame within a patch, and are rearranged before and after each
attention. Attention is a product, a softmax and a product. The last block computes every token. `load_original` imports
the original's own code instead, from a folder that has it.
"""

import collections.abc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.models.attention import Attention
from timesformer.models.blocks import Block
from timesformer.models.vit import VisionTransformer

_PACKAGE = __name__.partition(".")[0]  # the original's package has the same name


class OriginalTimeSformer(nn.Module):
    """Computes a model of this project (divided attention, no dropout) in the original's way, with its weights."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] (float) to logits [batch, classes]."""
        model, (batch, _, frames, _, _) = self.model, clip.shape
        x = model.patch_embed.proj(rearrange(clip, "b c t h w -> (b t) c h w"))
        x = rearrange(x, "bt c h w -> bt (h w) c")
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1) + model.pos_embed
        cls, x = x[:batch, :1], rearrange(x[:, 1:], "(b t) p c -> (b p) t c", t=frames) + model.time_embed
        x = torch.cat([cls, rearrange(x, "(b p) t c -> b (p t) c", b=batch)], dim=1)
        for block in model.blocks:
            x = run_block(block, x, frames)
        return model.head(model.norm(x)[:, 0])


def run_block(block: Block, x: Tensor, frames: int) -> Tensor:
    """Runs a block on tokens [batch, 1 + patches * frames, dim]."""
    cls, patches = x[:, :1], x[:, 1:]
    temporal = rearrange(patches, "b (p t) c -> (b p) t c", t=frames)
    temporal = attend(block.temporal_attn, block.temporal_norm1(temporal))
    patches = patches + block.temporal_fc(rearrange(temporal, "(b p) t c -> b (p t) c", b=len(x)))

    spatial = rearrange(patches, "b (p t) c -> (b t) p c", t=frames)
    spatial = torch.cat([repeat(cls, "b 1 c -> (b t) 1 c", t=frames), spatial], dim=1)
    spatial = attend(block.attn, block.norm1(spatial))
    spatial_cls = reduce(spatial[:, :1], "(b t) 1 c -> b 1 c", "mean", t=frames)
    spatial = rearrange(spatial[:, 1:], "(b t) p c -> b (p t) c", t=frames)

    x = torch.cat([cls, patches], dim=1) + torch.cat([spatial_cls, spatial], dim=1)
    return x + block.mlp(block.norm2(x))


def attend(attention: Attention, x: Tensor) -> Tensor:
    """Attention among the tokens of [sequences, tokens, dim]."""
    q, k, v = rearrange(attention.qkv(x), "n s (three h d) -> three n h s d", three=3, h=attention.num_heads)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return attention.proj(rearrange(weights @ v, "n h s d -> n s (h d)"))


def check_original(folder: Path) -> None:
    """Raises UserError if `folder` does not have the source code of the original."""
    if not (folder / _PACKAGE / "models/vit.py").is_file():
        raise UserError(f"{folder} has no {_PACKAGE}/models/vit.py: expected a clone of facebookresearch/TimeSformer")


def load_original(folder: Path, model: VisionTransformer, img_size: int, num_frames: int) -> nn.Module:
    """The original's model for clips of this size, from its source code in `folder`, with the weights of ours.

    Raises UserError if that code does not work with this PyTorch.
    """
    try:
        with _packages_of(folder):
            vit = importlib.import_module(f"{_PACKAGE}.models.vit")
        theirs = vit.VisionTransformer(
            img_size=img_size,
            num_classes=model.num_classes,
            embed_dim=model.embed_dim,
            depth=len(model.blocks),
            num_heads=model.blocks[0].attn.num_heads,
            qkv_bias=True,
            drop_path_rate=0.0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_frames=num_frames,
            attention_type=model.attention_type,
        )
        theirs.load_state_dict(model.state_dict())
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: this code cannot be used with torch {torch.__version__}: {error}") from error
    return theirs


@contextmanager
def _packages_of(folder: Path) -> Iterator[None]:
    """Imports find the modules in `folder` under the name of this package, without running its `__init__` files.

    These import all of the original's models, and its requirements.
    """

    def is_ours(name: str) -> bool:
        return name.partition(".")[0] == _PACKAGE

    ours = {name: sys.modules.pop(name) for name in list(filter(is_ours, sys.modules))}
    for name in (_PACKAGE, f"{_PACKAGE}.models"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder / name.replace(".", "/"))]
    removed = ModuleType("torch._six")  # PyTorch had it until 1.13
    removed.container_abcs, removed.string_classes, removed.int_classes, removed.inf = (
        collections.abc,
        str,
        int,
        torch.inf,
    )
    sys.modules.setdefault("torch._six", removed)
    try:
        yield
    finally:
        for name in list(filter(is_ours, sys.modules)):
            del sys.modules[name]
        sys.modules.update(ours)
