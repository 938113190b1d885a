"""Patch kernels of other sizes and channels: they answer as the kernel they are made from."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from timesformer.models.weights.patch_resize import change_channels, resize_kernel

pytestmark = pytest.mark.numerical


def smooth_picture(side: int, seed: int = 0) -> Tensor:
    """[1, 3, side, side] of slow waves, as if one scene were filmed at any resolution."""
    random = torch.Generator().manual_seed(seed)
    place = (torch.arange(side) + 0.5) / side
    picture = torch.zeros(3, side, side)
    for _ in range(6):
        fx, fy, phase = torch.rand(3, generator=random) * torch.tensor([8.0, 8.0, 6.3])
        picture += torch.rand(3, 1, 1, generator=random) * torch.sin(
            6.28 * (fx * place[None, :, None] + fy * place[None, None, :]) + phase
        )
    return picture.unsqueeze(0)


def smooth_kernel(side: int) -> Tensor:
    """[8, 3, side, side] without detail that a picture of half the size could not show."""
    random = torch.Generator().manual_seed(1)
    coarse = torch.randn(8, 3, 4, 4, generator=random) / side
    return F.interpolate(coarse, size=(side, side), mode="bicubic")


class TestResizing:
    @pytest.mark.parametrize("size", [(32, 32), (24, 32), (17, 16)])
    def test_enlarged_patches_get_the_same_answer(self, size: tuple[int, int]) -> None:
        patches = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        kernel = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        bigger = F.interpolate(patches, size=size, mode="bicubic", antialias=True)
        answer, expected = F.conv2d(bigger, resize_kernel(kernel, size)), F.conv2d(patches, kernel)
        torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("side", [8, 32])
    def test_a_resized_picture_gets_about_the_same_tokens(self, side: int) -> None:
        kernel = smooth_kernel(16)
        expected = F.conv2d(smooth_picture(112), kernel, stride=16)
        answer = F.conv2d(smooth_picture(7 * side), resize_kernel(kernel, (side, side)), stride=side)
        assert answer.shape == expected.shape
        assert (answer - expected).norm() < 0.05 * expected.norm()

    def test_the_same_size_keeps_the_kernel(self) -> None:
        kernel = smooth_kernel(8)
        assert resize_kernel(kernel, (8, 8)) is kernel

    def test_a_tubelet_is_resized_frame_by_frame_in_its_own_dtype(self) -> None:
        kernel = smooth_kernel(8)
        resized = resize_kernel(torch.stack([kernel, 2 * kernel], dim=2).half(), (4, 4))
        assert resized.shape == (8, 3, 2, 4, 4)
        assert resized.dtype == torch.float16
        torch.testing.assert_close(resized[:, :, 1], 2 * resized[:, :, 0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_other_channels_answer_grey_pictures_alike(channels: int) -> None:
    kernel, grey = smooth_kernel(8), smooth_picture(8).mean(1, keepdim=True)
    answer = F.conv2d(grey.expand(-1, channels, -1, -1), change_channels(kernel, channels))
    torch.testing.assert_close(answer, F.conv2d(grey.expand(-1, 3, -1, -1), kernel))
