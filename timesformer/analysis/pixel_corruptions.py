"""Corruptions of pixels: noise, blur, brightness and compression.

Frames are uint8 [frames, height, width, 3], RGB, 0 to 255; results have the same shape and dtype. Lengths are in
pixels of a frame of 224 pixels, and scaled to the height of the frames, so that they cover the same part of a picture.
"""

import io
import math
from fractions import Fraction

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import gaussian_filter

_REFERENCE = 224  # height of the frames that lengths refer to, in pixels
_SUBSAMPLES = 8  # per pixel and axis, of the drawn kernels


def gaussian_noise(frames: np.ndarray, deviation: float, rng: Generator) -> np.ndarray:
    """Add normal noise of this standard deviation (white is 1) to each value."""
    return _to_uint8(frames + 255 * deviation * rng.standard_normal(frames.shape, np.float32))


def shot_noise(frames: np.ndarray, photons: float, rng: Generator) -> np.ndarray:
    """Replace each value by a Poisson count of photons, `photons` for white."""
    return _to_uint8(rng.poisson(frames * (photons / 255)) * (255 / photons))


def gaussian_blur(frames: np.ndarray, deviation: float, rng: Generator) -> np.ndarray:
    """Blur each frame with a Gaussian of this standard deviation in pixels of 224."""
    sigma = deviation * frames.shape[1] / _REFERENCE
    return _to_uint8(gaussian_filter(frames.astype(np.float32), (0, sigma, sigma, 0), mode="nearest"))


def defocus_blur(frames: np.ndarray, radius: float, rng: Generator) -> np.ndarray:
    """Blur each frame with a disk of this radius in pixels of 224."""
    return _convolve(frames, disk(radius * frames.shape[1] / _REFERENCE))


def motion_blur(frames: np.ndarray, length: float, rng: Generator) -> np.ndarray:
    """Blur all frames along a line of this length in pixels of 224, in one random direction."""
    return _convolve(frames, line(length * frames.shape[1] / _REFERENCE, rng.uniform(0, math.pi)))


def gain(frames: np.ndarray, factor: float, rng: Generator) -> np.ndarray:
    """Multiply all values by a factor."""
    return _to_uint8(frames * np.float32(factor))


def contrast(frames: np.ndarray, factor: float, rng: Generator) -> np.ndarray:
    """Multiply the distance of all values to the mean of their channel in the clip by a factor."""
    mean = frames.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    return _to_uint8(mean + np.float32(factor) * (frames - mean))


def jpeg(frames: np.ndarray, quality: float, rng: Generator) -> np.ndarray:
    """Compress each frame as a JPEG file of this quality (1 to 100), with half the resolution of colors (4:2:0)."""
    images = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
        images.append(np.asarray(Image.open(file)))
    return np.stack(images)


def h264(frames: np.ndarray, crf: float, rng: Generator) -> np.ndarray:
    """Compress the clip as H.264 video of 25 frames per second with this constant rate factor (0 to 51)."""
    _, height, width, _ = frames.shape
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # sizes must be even
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *even.shape[1:3], "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = {"crf": f"{crf:g}", "preset": "fast", "threads": "1"}
    decoder, packets, images = av.CodecContext.create("h264", "r"), [], []
    for number, frame in enumerate(even):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p", threads=1)
        picture.pts, picture.time_base = number, encoder.time_base
        packets += encoder.encode(picture)
    for packet in [*packets, *encoder.encode(None), None]:
        for picture in decoder.decode(packet):
            images.append(picture.to_ndarray(format="rgb24", threads=1))
    return np.stack(images)[:, :height, :width]


def disk(radius: float) -> np.ndarray:
    """Return a disk, float64 [size, size], size odd, each pixel by the share of it that is covered; its sum is 1."""
    reach = math.ceil(max(radius - 0.5, 0))
    places = (np.arange((2 * reach + 1) * _SUBSAMPLES) + 0.5) / _SUBSAMPLES - reach - 0.5
    inside = (places[:, None] ** 2 + places**2 <= max(radius, 0.5) ** 2).astype(float)
    return _normalized(inside.reshape(2 * reach + 1, _SUBSAMPLES, -1, _SUBSAMPLES).sum(axis=(1, 3)))


def line(length: float, angle: float) -> np.ndarray:
    """Return a line through the center at an angle in radians, float64 [size, size], size odd; its sum is 1."""
    reach = math.ceil(length / 2)
    points = max(1, math.ceil(length * _SUBSAMPLES))
    along = length * ((np.arange(points) + 0.5) / points - 0.5)
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    y, x = (reach + along * part for part in (math.sin(angle), math.cos(angle)))
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    for down in (0, 1):
        for right in (0, 1):  # each point is shared by the four pixels around it
            weight = np.abs(1 - down - (y - row)) * np.abs(1 - right - (x - column))
            np.add.at(kernel, (row + down, column + right), weight)
    return _normalized(kernel[:-1, :-1])


def _normalized(kernel: np.ndarray) -> np.ndarray:
    return kernel / kernel.sum()


def _convolve(frames: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate each frame with an odd kernel; values at the border repeat."""
    reach = len(kernel) // 2
    channels = torch.from_numpy(frames).permute(0, 3, 1, 2).flatten(0, 1).unsqueeze(1).float()
    padded = F.pad(channels, (reach, reach, reach, reach), mode="replicate")
    blurred = F.conv2d(padded, torch.from_numpy(kernel).float()[None, None])
    return _to_uint8(blurred.squeeze(1).unflatten(0, (-1, 3)).permute(0, 2, 3, 1).numpy())


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
