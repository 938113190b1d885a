"""Cutting clips into patches or tubelets, and projecting each to a token."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

TubeletInit = Literal["central", "inflate"]
"""How a tubelet projection is made from one of patches: its central frame alone sees the picture, or all alike."""


class PatchEmbed(nn.Module):
    """Cuts each frame into square patches and projects each to a token.

    Args:
        patch_size: side of a patch in pixels.
        in_chans: channels of a frame.
        embed_dim: width of a token.
    """

    def __init__(self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, clip: Tensor) -> Tensor:
        """[batch, channels, frames, height, width] to [batch, frames, rows, columns, dim].

        Raises:
            ValueError: if the clip has other axes, or height or width is smaller than a patch or not a multiple of it.
        """
        _check_axes(clip, self.proj.in_channels)
        tubelets = _cut(clip, (1, self.patch_size, self.patch_size))
        return F.linear(tubelets, self.proj.weight.flatten(1), self.proj.bias)


class TubeletEmbed(nn.Module):
    """Cuts a clip into tubelets, patches that reach over several frames, and projects each to a token.

    (ViViT, Arnab et al. 2021, https://arxiv.org/abs/2103.15691, section 3.2.)

    Args:
        tubelet_size: frames, height and width of a tubelet.
        in_chans: channels of a frame.
        embed_dim: width of a token.
        init: how `inflate` makes the projection from an image model's, "central" or "inflate".
    """

    def __init__(
        self,
        tubelet_size: tuple[int, int, int] = (2, 16, 16),
        in_chans: int = 3,
        embed_dim: int = 768,
        init: TubeletInit = "central",
    ) -> None:
        super().__init__()
        self.tubelet_size = tubelet_size
        self.init = init
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=tubelet_size, stride=tubelet_size)

    def forward(self, clip: Tensor) -> Tensor:
        """[batch, channels, frames, height, width] to [batch, steps, rows, columns, dim].

        Raises:
            ValueError: if the clip has other axes, or its sizes are less than a tubelet's or not a multiple of them.
        """
        _check_axes(clip, self.proj.in_channels)
        return F.linear(_cut(clip, self.tubelet_size), self.proj.weight.flatten(1), self.proj.bias)

    def inflate(self, kernel: Tensor) -> Tensor:
        """The projection of tubelets that begins as an image model's.

        With "central" a token is that of its central frame, floor(frames / 2); with "inflate" that of the mean frame
        (section 3.4 of the paper).

        Args:
            kernel: [dim, channels, height, width], of an image model.

        Returns:
            [dim, channels, frames, height, width], dtype of `kernel`.
        """
        frames = self.tubelet_size[0]
        if self.init == "inflate":
            return (kernel / frames).unsqueeze(2).repeat(1, 1, frames, 1, 1)
        inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
        inflated[:, :, frames // 2] = kernel
        return inflated


def _check_axes(clip: Tensor, channels: int) -> None:
    if clip.ndim != 5 or clip.shape[1] != channels:
        raise ValueError(
            f"the clip is {list(clip.shape)}, expected [batch, {channels}, frames, height, width]; transpose it if its "
            "frames come before its channels"
        )


def _cut(clip: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[batch, channels, frames, height, width] to [batch, steps, rows, columns, channels * pixels of a tubelet]."""
    frames, height, width = clip.shape[-3:]
    t, p, q = size
    if height % p or width % q or not height or not width:
        raise ValueError(f"a clip of {height}x{width} pixels cannot be cut into patches of {p}x{q}; resize or crop it")
    if frames % t or not frames:
        raise ValueError(f"a clip of {frames} frames cannot be cut into tubelets of {t}; give it a multiple of {t}")
    # A convolution whose stride is its size is one matrix product over the tubelets' pixels; as such it reads the
    # frames where they lie in [channels, frames] order and is faster than the convolution kernels.
    tubelets = clip.unflatten(-1, (-1, q)).unflatten(-3, (-1, p)).unflatten(-5, (-1, t))
    # [batch, channels, steps, t, rows, p, columns, q]
    return tubelets.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
