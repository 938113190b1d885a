"""Position and time embeddings: fitting trained tables to another input size, and fixed ones to start from."""

import math
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
    table = pos_embed[:, 1:]
    resized = _resize_grid(table, trained_grid, grid, interpolation)
    return pos_embed if resized is table else torch.cat([pos_embed[:, :1], resized], dim=1)


def resize_tubelet_embed(
    pos_embed: Tensor,
    trained_grid: tuple[int, int, int],
    grid: tuple[int, int, int],
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Fits position embeddings of tubelets to another grid; the class token's entry, if any, is kept as it is.

    A table of one step, such as an image model's, is repeated over the steps.

    Args:
        pos_embed: [1, steps * rows * columns, dim] on the trained grid, steps outermost; or one entry more in front.
        trained_grid: steps, rows and columns the table was trained on.
        grid: steps, rows and columns wanted.
        interpolation: as for `resize_pos_embed` and `resize_time_embed`, which act one after the other.

    Returns:
        [1, (1 +) steps * rows * columns, dim] on the grid, dtype of `pos_embed`.
    """
    if grid == trained_grid:
        return pos_embed
    extra = pos_embed.shape[1] - math.prod(trained_grid)
    table = pos_embed[0, extra:].unflatten(0, (trained_grid[0], -1))  # [steps, places, dim]
    table = _resize_grid(table, trained_grid[1:], grid[1:], interpolation)
    table = resize_time_embed(table.transpose(0, 1), grid[0], interpolation).transpose(0, 1)
    return torch.cat([pos_embed[:, :extra], table.flatten(0, 1).unsqueeze(0)], dim=1)


def _resize_grid(
    table: Tensor, trained_grid: tuple[int, int], grid: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """[count, rows * columns, dim] on the trained grid to the wanted one."""
    unchanged = math.prod(grid) == table.shape[1] if interpolation == "legacy" else grid == trained_grid
    if unchanged:
        return table
    table, dtype = table.unflatten(1, trained_grid).permute(0, 3, 1, 2), table.dtype  # [count, dim, rows, columns]
    if interpolation == "legacy":
        table = F.interpolate(table, size=grid, mode="nearest")
    else:
        # Anti-aliasing acts on reduction only, where plain bicubic would skip entries of the table.
        table = F.interpolate(table.float(), size=grid, mode="bicubic", antialias=True).to(dtype)
    return table.flatten(2).transpose(1, 2)


def resize_time_embed(time_embed: Tensor, num_frames: int, interpolation: Interpolation = "bicubic") -> Tensor:
    """Fits time embeddings [count, frames, dim] to `num_frames` frames: linear, or nearest neighbour for "legacy"."""
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


def position_table(rows: int, columns: int, dim: int) -> Tensor:
    """Position embeddings [rows * columns, dim] to train from scratch with: rows in one half, columns in the other."""
    half = dim // 2
    by_row = sine_cosine_table(rows, half, std=0.3).unsqueeze(1).expand(-1, columns, -1)
    by_column = sine_cosine_table(columns, dim - half, std=0.3).unsqueeze(0).expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)


def time_table(length: int, dim: int) -> Tensor:
    """Time embeddings [length, dim] to train from scratch with, strong and slowly varying.

    Direction is a product of place and time, and such a table lets the first MLP form it at once; with one like that
    of place, small models take several times as long.
    """
    return sine_cosine_table(length, dim, std=0.6, cycles=(0.25, 0.5))
