"""Corruptions of pixels, compared with other implementations and with their arithmetic."""

import numpy as np
import pytest
from scipy.fft import dctn
from scipy.ndimage import correlate, gaussian_filter

from timesformer.analysis import pixel_corruptions as pixels
from timesformer.analysis.corruptions import CORRUPTIONS, Corruption


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def frames(rng: np.random.Generator) -> np.ndarray:
    """Smooth random frames of an odd size, uint8 (3, 45, 61, 3), from 0 to 255."""
    smooth = gaussian_filter(rng.random((3, 45, 61, 3)), (1, 4, 4, 0))
    return np.round(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def test_noise_has_the_given_deviation(rng: np.random.Generator) -> None:
    gray = np.full((4, 100, 100, 3), 128, np.uint8)
    noise = pixels.gaussian_noise(gray, 0.08, rng) - 128.0
    error = 0.08 * 255 / np.sqrt(2 * noise.size)  # of a standard deviation, one sigma
    assert noise.std() == pytest.approx(np.hypot(0.08 * 255, 12**-0.5), abs=5 * error)  # rounding adds 1/12
    shot = pixels.shot_noise(gray, 60, rng) - 128.0
    assert shot.std() == pytest.approx(np.sqrt(60 * 128 / 255) * 255 / 60, rel=0.03)
    assert abs(shot.mean()) < 5 * shot.std() / np.sqrt(shot.size)


def test_blur_kernels_are_convolved_as_scipy_does(frames: np.ndarray) -> None:
    for kernel in (pixels.disk(2.6), pixels.line(9.3, 0.7)):
        assert kernel.sum() == pytest.approx(1)
        assert kernel == pytest.approx(kernel[::-1, ::-1], abs=1e-12)  # nothing is shifted
        expected = correlate(frames.astype(float), kernel[None, :, :, None], mode="nearest")
        # float32 sums may round a half to the other integer
        assert np.abs(pixels._convolve(frames, kernel) - np.rint(expected)).max() <= 1


def test_blur_covers_the_same_part_of_frames_of_any_size() -> None:
    spreads = []
    for size in (112, 224):
        bar = np.zeros((1, size, size, 3), np.uint8)
        part = size // 28
        middle = slice(size // 2 - part // 2, size // 2 + part // 2)
        bar[:, :, middle] = 255
        shares = pixels.gaussian_blur(bar, 7, None)[0, :, :, 0].sum(axis=0) / 255
        places = (np.arange(size) + 0.5) / size - 0.5
        spreads.append((shares * places**2).sum() / shares.sum())
    assert spreads[0] == pytest.approx(spreads[1], rel=0.02)
    assert spreads[1] == pytest.approx(
        (7 / 224) ** 2 + (8 / 224) ** 2 / 12, rel=0.03
    )  # variances add up; tails are rounded to 0


def test_line_and_disk_have_the_given_extent() -> None:
    size = 2 * 6 + 1
    row, column = np.mgrid[:size, :size] - 6
    line = pixels.line(12, np.pi / 6)
    along = column * np.cos(np.pi / 6) + row * np.sin(np.pi / 6)
    across = row * np.cos(np.pi / 6) - column * np.sin(np.pi / 6)
    assert (line * along**2).sum() == pytest.approx(12**2 / 12, rel=0.04)  # bilinear drawing adds less than 1/3
    assert (line * across**2).sum() < 1 / 3
    disk = pixels.disk(5)
    row = np.arange(len(disk)) - len(disk) // 2
    assert (disk.sum(axis=0) * row**2).sum() == pytest.approx(5**2 / 4, rel=0.02)


def test_brightness_and_contrast(frames: np.ndarray) -> None:
    assert np.array_equal(pixels.gain(frames, 2, None), np.minimum(2 * frames.astype(int), 255))
    low = pixels.contrast(frames, 0.25, None)
    assert low.std(axis=(0, 1, 2)) == pytest.approx(0.25 * frames.std(axis=(0, 1, 2)), rel=0.02)
    assert low.mean(axis=(0, 1, 2)) == pytest.approx(frames.mean(axis=(0, 1, 2)), abs=0.5)


def test_jpeg_has_the_coefficients_of_its_quality(rng: np.random.Generator) -> None:
    smooth = gaussian_filter(rng.normal(size=(2, 32, 40)), (0, 3, 3))
    gray = np.rint(128 + 60 * smooth / np.abs(smooth).max()).astype(np.uint8)  # nothing is cut at 0 or 255
    for quality in (5, 10, 18):
        luma = pixels.jpeg(np.repeat(gray[..., None], 3, axis=3), quality, rng)[..., 0]
        blocks = luma.reshape(2, 4, 8, 5, 8).transpose(0, 1, 3, 2, 4) - 128.0
        coefficients = dctn(blocks, axes=(3, 4), norm="ortho")
        for (row, column), standard in {(0, 0): 16, (0, 1): 11, (1, 0): 12}.items():  # ITU-T T.81, table K.1
            step = (50 + standard * (5000 // quality)) // 100
            steps = coefficients[..., row, column] / step
            assert np.abs(steps - steps.round()).max() * step < 2  # pixels are rounded
            assert np.abs(steps).max() > 0.9


@pytest.mark.parametrize("corruption", [c for c in CORRUPTIONS.values() if c.pixels], ids=lambda c: c.name)
def test_errors_rise_with_severity(corruption: Corruption, frames: np.ndarray) -> None:
    errors = []
    for value in corruption.values:
        changed = corruption.pixels(frames, value, np.random.default_rng(1))
        assert (changed.dtype, changed.shape) == (np.uint8, frames.shape)
        errors.append(np.square(changed - frames.astype(float)).mean())
        again = corruption.pixels(frames, value, np.random.default_rng(1))
        assert np.array_equal(changed, again)
    assert errors == sorted(errors)
    assert errors[1] > 0  # the least blur of so few pixels is less than half a level
