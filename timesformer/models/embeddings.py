"""Embeddings of patches and tubelets, and of positions and times: resizing trained ones, and tables to start from."""

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

Interpolation = Literal["bicubic", "legacy"]
"""How embeddings are resized: "bicubic" (2-D bicubic in space, linear in time) or "legacy" (nearest neighbour)."""
TubeletInit = Literal["central", "inflate"]
"""Tubelet projection made from a patch projection: weights for the central frame only, or equal for all frames."""


class PatchEmbed(nn.Module):
    """Cuts each frame into square patches of `patch_size` pixels and projects each to a token."""

    def __init__(self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, clip: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] to [batch, frames, rows, columns, dim]."""
        return _project(clip, (1, self.patch_size, self.patch_size), self.proj)


class TubeletEmbed(nn.Module):
    """Cuts a clip into tubelets of (frames, height, width) and projects each to a token; `init` is for `inflate`."""

    def __init__(
        self, tubelet_size: tuple[int, int, int], in_chans: int = 3, embed_dim: int = 768, init: TubeletInit = "central"
    ) -> None:
        super().__init__()
        self.tubelet_size = tubelet_size
        self.init = init
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=tubelet_size, stride=tubelet_size)

    def forward(self, clip: Tensor) -> Tensor:
        """Clips [batch, channels, frames, height, width] to [batch, steps, rows, columns, dim]."""
        return _project(clip, self.tubelet_size, self.proj)

    def inflate(self, kernel: Tensor) -> Tensor:
        """Weights [dim, channels, frames, height, width] from an image model's [dim, channels, height, width]."""
        frames = self.tubelet_size[0]
        if self.init == "inflate":
            return repeat(kernel / frames, "d c h w -> d c t h w", t=frames)
        inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
        inflated[:, :, frames // 2] = kernel
        return inflated


def _project(clip: Tensor, size: tuple[int, int, int], proj: nn.Conv2d | nn.Conv3d) -> Tensor:
    if clip.ndim != 5 or clip.shape[1] != proj.in_channels:
        raise ValueError(f"clip is {list(clip.shape)}, expected [batch, {proj.in_channels}, frames, height, width]")
    for axis, total, part in zip(("frames", "height", "width"), clip.shape[2:], size, strict=True):
        if total % part or not total:
            raise ValueError(f"clip is {list(clip.shape)}: its {axis} must be a multiple of {part}")
    # Such a convolution is one matrix product, which is faster and needs no copy of the frames
    t, p, q = size
    pieces = rearrange(clip, "b c (t t1) (h h1) (w w1) -> b t h w (c t1 h1 w1)", t1=t, h1=p, w1=q)
    return F.linear(pieces, proj.weight.flatten(1), proj.bias)


def resize_pos_embed(
    pos_embed: Tensor,
    trained_grid: tuple[int, int],
    grid: tuple[int, int],
    interpolation: Interpolation = "bicubic",
    num_prefix_tokens: int = 1,
) -> Tensor:
    """Resizes position embeddings, [1, prefix + rows * columns, dim], to another grid (rows, columns) of patches.

    "bicubic" is antialiased, as in timm. "legacy" keeps the embeddings of a grid with as many patches, as
    facebookresearch/TimeSformer.
    """
    prefix, table = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    is_legacy = interpolation == "legacy"
    if grid == trained_grid or (is_legacy and math.prod(grid) == table.shape[1]):
        return pos_embed
    table = rearrange(table.float(), "1 (h w) d -> 1 d h w", h=trained_grid[0])
    table = F.interpolate(table, size=grid, mode="nearest" if is_legacy else "bicubic", antialias=not is_legacy)
    return torch.cat([prefix, rearrange(table, "1 d h w -> 1 (h w) d").to(prefix.dtype)], dim=1)


def resize_tubelet_embed(
    pos_embed: Tensor,
    trained_grid: tuple[int, int, int],
    grid: tuple[int, int, int],
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Resizes [1, (1 +) steps * rows * columns, dim] to another grid (steps, rows, columns); one step is repeated."""
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


@lru_cache(maxsize=4)
def sinusoidal_positions(count: int, dim: int) -> Tensor:
    """The fixed positions of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762): [count, dim], float32, on the CPU.

    Even channels are sines, odd ones cosines, of angles in float64. The result is cached: do not change it.
    """
    position = torch.arange(count, dtype=torch.float64, device="cpu").unsqueeze(1)
    even = torch.arange(0, dim, 2, dtype=torch.float64, device="cpu")
    angle = position / 10000 ** (even / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim].float()


def sine_cosine_table(length: int, dim: int, std: float, cycles: tuple[float, float] = (0.25, 2.0)) -> Tensor:
    """A table [length, dim] of sines (first half of `dim`) and cosines; frequencies are `cycles` over the length."""
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
    """Initial time embeddings [length, dim], from which the first MLP can form products with positions (motion)."""
    return sine_cosine_table(length, dim, std=0.6, cycles=(0.25, 0.5))
