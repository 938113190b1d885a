"""Position and time embeddings: resizing trained ones, and fixed ones to start from."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import resample_abs_pos_embed
from torch import Tensor

Interpolation = Literal["bicubic", "legacy"]
"""How embeddings are resized: "bicubic" (2-D bicubic in space, linear in time) or "legacy" (nearest neighbour)."""


def resize_pos_embed(
    pos_embed: Tensor,
    trained_grid: tuple[int, int],
    grid: tuple[int, int],
    interpolation: Interpolation = "bicubic",
    num_prefix_tokens: int = 1,
) -> Tensor:
    """Resizes position embeddings to another grid of patches; those of the prefix tokens are kept.

    pos_embed is [1, prefix + rows * columns, dim], a grid its rows and columns. "legacy" keeps the embeddings of a grid
    with as many patches, as facebookresearch/TimeSformer does in the forward pass.
    """
    if interpolation == "bicubic":
        return resample_abs_pos_embed(pos_embed, grid, trained_grid, num_prefix_tokens)
    prefix, table = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    if math.prod(grid) == table.shape[1]:
        return pos_embed
    table = F.interpolate(rearrange(table, "1 (h w) d -> 1 d h w", h=trained_grid[0]), size=grid, mode="nearest")
    return torch.cat([prefix, rearrange(table, "1 d h w -> 1 (h w) d")], dim=1)


def resize_tubelet_embed(
    pos_embed: Tensor,
    trained_grid: tuple[int, int, int],
    grid: tuple[int, int, int],
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Resizes position embeddings of tubelets, in space and then in time; that of a class token is kept.

    pos_embed is [1, (1 +) steps * rows * columns, dim], a grid its steps, rows and columns. Embeddings of one step,
    such as an image model's, are repeated.
    """
    if grid == trained_grid:
        return pos_embed
    steps, dim = trained_grid[0], pos_embed.shape[-1]
    extra = pos_embed.shape[1] - math.prod(trained_grid)
    table = rearrange(pos_embed[:, extra:], "1 (t n) d -> 1 n (t d)", t=steps)  # each step has channels of its own
    table = resize_pos_embed(table, trained_grid[1:], grid[1:], interpolation, num_prefix_tokens=0)
    table = resize_time_embed(rearrange(table, "1 n (t d) -> n t d", d=dim), grid[0], interpolation)
    return torch.cat([pos_embed[:, :extra], rearrange(table, "n t d -> 1 (t n) d")], dim=1)


def resize_time_embed(time_embed: Tensor, num_frames: int, interpolation: Interpolation = "bicubic") -> Tensor:
    """Resizes [count, frames, dim] to `num_frames` frames: linearly, or to the nearest neighbour for "legacy"."""
    if time_embed.shape[1] == num_frames:
        return time_embed
    mode = "nearest" if interpolation == "legacy" else "linear"
    table = F.interpolate(time_embed.float().transpose(1, 2), size=num_frames, mode=mode)
    return table.transpose(1, 2).to(time_embed.dtype)


def sine_cosine_table(length: int, dim: int, std: float, cycles: tuple[float, float] = (0.25, 2.0)) -> Tensor:
    """A table [length, dim] of sines (first half of `dim`) and cosines with standard deviation `std`.

    Neighbours have similar rows and distant positions different ones, so that a model trained from scratch knows the
    order from the first step. The frequencies, `cycles` over the length, are much lower than those of Vaswani et al.
    2017, whose table is made for thousands of tokens; here there are 4 to 100.
    """
    position = torch.linspace(-0.5, 0.5, length).unsqueeze(1) if length > 1 else torch.zeros(1, 1)
    angle = 2 * torch.pi * position * torch.linspace(*cycles, (dim + 1) // 2)
    table = torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]
    table = table - table.mean(dim=0)
    return table * (std / table.std().clamp_min(1e-6)) if length > 1 else table


def position_table(rows: int, columns: int, dim: int) -> Tensor:
    """Initial position embeddings [rows * columns, dim]: the first half of `dim` for rows, the second for columns."""
    half = dim // 2
    by_row = sine_cosine_table(rows, half, std=0.3).unsqueeze(1).expand(-1, columns, -1)
    by_column = sine_cosine_table(columns, dim - half, std=0.3).unsqueeze(0).expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)


def time_table(length: int, dim: int) -> Tensor:
    """Initial time embeddings [length, dim], with a larger `std` and lower frequencies than position embeddings.

    Direction of motion is a product of position and time. With such a table the first MLP can form it; with a table
    like that of positions, small models take several times as long to learn it.
    """
    return sine_cosine_table(length, dim, std=0.6, cycles=(0.25, 0.5))
