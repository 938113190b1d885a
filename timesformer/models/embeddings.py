"""Position and time embeddings: fitting trained tables to another input size, and fixed ones to start from."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bicubic", "legacy"]
"""How trained tables are fitted: "bicubic" (2-D bicubic in space, linear in time) or "legacy" (nearest neighbour)."""


def resize_pos_embed(
    pos_embed: Tensor, trained_grid: tuple[int, int], grid: tuple[int, int], interpolation: Interpolation = "bicubic"
) -> Tensor:
    """Fits position embeddings to another patch grid; the class token's entry is kept as it is.

    Args:
        pos_embed: [1, 1 + rows * columns, dim] on the trained grid.
        trained_grid: rows and columns the table was trained on.
        grid: rows and columns wanted.
        interpolation: "bicubic", or "legacy" for the nearest neighbour as facebookresearch/TimeSformer takes it at
            run time (where a grid of another shape but with as many patches uses the table unchanged).

    Returns:
        [1, 1 + grid rows * columns, dim], dtype of `pos_embed`.
    """
    rows, columns = grid
    unchanged = rows * columns == pos_embed.shape[1] - 1 if interpolation == "legacy" else grid == trained_grid
    if unchanged:
        return pos_embed
    cls_entry, table = pos_embed[:, :1], pos_embed[:, 1:]
    table = table.unflatten(1, trained_grid).permute(0, 3, 1, 2)  # [1, dim, rows, columns]
    if interpolation == "legacy":
        table = F.interpolate(table, size=grid, mode="nearest")
    else:
        # Anti-aliasing acts on reduction only, where plain bicubic would skip entries of the table.
        table = F.interpolate(table.float(), size=grid, mode="bicubic", antialias=True).to(pos_embed.dtype)
    return torch.cat([cls_entry, table.flatten(2).transpose(1, 2)], dim=1)


def resize_time_embed(time_embed: Tensor, num_frames: int, interpolation: Interpolation = "bicubic") -> Tensor:
    """Fits time embeddings [1, frames, dim] to `num_frames` frames: linear, or nearest neighbour for "legacy"."""
    if time_embed.shape[1] == num_frames:
        return time_embed
    table = time_embed.transpose(1, 2)
    if interpolation == "legacy":
        table = F.interpolate(table, size=num_frames, mode="nearest")
    else:
        table = F.interpolate(table.float(), size=num_frames, mode="linear").to(time_embed.dtype)
    return table.transpose(1, 2)


def sine_cosine_table(length: int, dim: int, std: float, cycles: tuple[float, float] = (0.25, 2.0)) -> Tensor:
    """A smooth table [length, dim] of standard deviation `std`: sines and cosines of few cycles over the length.

    Neighbouring positions get similar rows and distant ones different rows, so a model trained from scratch on little
    data can read order off the table from the first step. The frequencies are much lower than in Vaswani et al. 2017,
    whose table is made for sequences of thousands of tokens; here there are 4 to 100.

    Args:
        length: number of positions.
        dim: width; the first half are sines, the second half cosines.
        std: standard deviation of the values, over the whole table.
        cycles: the lowest and the highest number of cycles over the length; the others lie evenly between.
    """
    position = torch.linspace(-0.5, 0.5, length).unsqueeze(1) if length > 1 else torch.zeros(1, 1)
    angle = 2 * torch.pi * position * torch.linspace(*cycles, (dim + 1) // 2)
    table = torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]
    table = table - table.mean(dim=0)
    return table * (std / table.std().clamp_min(1e-6)) if length > 1 else table
