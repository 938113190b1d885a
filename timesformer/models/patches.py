"""Patch and tubelet embeddings: cutting a clip into pieces and projecting each to a token."""

from typing import Literal

import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

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
        """Weights [dim, channels, frames, height, width] from an image model's [dim, channels, height, width].

        A token is then that of the central frame, floor(frames / 2), or with "inflate" that of the mean frame (section
        3.4 of the paper).
        """
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
    # A convolution whose stride is its kernel size is one matrix product, which is faster and needs no copy of frames.
    t, p, q = size
    pieces = rearrange(clip, "b c (t t1) (h h1) (w w1) -> b t h w (c t1 h1 w1)", t1=t, h1=p, w1=q)
    return F.linear(pieces, proj.weight.flatten(1), proj.bias)
