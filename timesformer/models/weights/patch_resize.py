"""Patch projections: fitting a trained one to other channels and to patches of another size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_kernel(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Fits a patch kernel to patches of another size, so that it answers a resized picture as the old one the picture.

    Plain interpolation would change the sum over the patch, and with it every token. This is the pseudo-inverse resize
    of FlexiViT (Beyer et al. 2023, https://arxiv.org/abs/2212.08013): with B the matrix that resizes a patch (bicubic),
    the kernel v with the least squared error of <v, B x> against <w, x>. Exact for enlarged patches; for reduced ones
    what reducing loses is lost.

    Args:
        weight: [..., rows, columns].
        size: rows and columns wanted.

    Returns:
        [..., *size], dtype of `weight`.
    """
    rows, columns = weight.shape[-2:]
    if (rows, columns) == tuple(size):
        return weight
    pixels = torch.eye(rows * columns, dtype=torch.float64, device=weight.device).view(-1, 1, rows, columns)
    resized = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).flatten(1)  # B transposed
    kernel = weight.flatten(-2).double() @ torch.linalg.pinv(resized).T
    return kernel.unflatten(-1, size).to(weight.dtype)


def change_channels(weight: Tensor, channels: int) -> Tensor:
    """Fits an RGB kernel to another number of channels, so that grey pictures keep their tokens.

    Args:
        weight: [dim, 3, ...].
        channels: 1 sums R, G and B; others repeat them in turn, scaled by 3 / channels (grey pictures keep their tokens
            exactly for multiples of 3).

    Returns:
        [dim, channels, ...].
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)
