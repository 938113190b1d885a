"""Augmentation of training clips after their crop; every random operation is the same for all frames of a clip."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isclass

import numpy as np
import torch
from einops import rearrange
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from numpy.random import RandomState
from PIL import Image
from torch import Tensor

from timesformer.config.load import ConfigError
from timesformer.errors import UserError
from timesformer.torchvision_import import import_package

TRANSFORM_REGISTRY = Registry("TRANSFORM")
"""Transforms that DATA.TRANSFORMS may name: functions `transform(clip, rng)`, or classes whose objects are called so.

`clip` is uint8 [3, frames, height, width], RGB, 0 to 255; so is the result. `rng` (np.random.RandomState) is the only
source of randomness; it is seeded for the clip. A class gets the configuration: `Transform(cfg)`.
"""

LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B in the brightness of a color (ITU-R BT.601)
# Principal components of the colors of ImageNet: variances, and R, G, B in rows (Krizhevsky et al. 2012)
PCA_EIGVAL = (0.2175, 0.0188, 0.0045)
PCA_EIGVEC = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@contextmanager
def seeded_globals(*key: int) -> Iterator[None]:
    """Seed Python's and numpy's global generators, which timm draws from, and restore them afterwards."""
    python, legacy = random.getstate(), np.random.get_state()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


class Augmentation:
    """DATA.AUTO_AUGMENT, COLOR_JITTER, LIGHTING_JITTER, RE_PROB and TRANSFORMS, in this order; by default none.

    Raises ConfigError for an unknown transform, UserError for a policy that timm cannot apply.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._data = data = cfg.DATA
        self._mean = tuple(data.MEAN)
        if data.AUTO_AUGMENT:
            _policy(data.AUTO_AUGMENT, self._mean)
        self._transforms = build_transforms(cfg)

    def __call__(self, clip: Tensor, rng: RandomState) -> Tensor:
        """Augment a clip, uint8 [frames, 3, height, width], RGB; the result may share its memory."""
        data = self._data
        if data.AUTO_AUGMENT:
            clip = augment_frames(clip, _policy(data.AUTO_AUGMENT, self._mean), rng)
        if data.COLOR_JITTER > 0:
            clip = color_jitter(clip, data.COLOR_JITTER, data.COLOR_JITTER, data.COLOR_JITTER, rng)
        if data.LIGHTING_JITTER > 0:
            clip = lighting_jitter(clip, data.LIGHTING_JITTER, rng)
        if data.RE_PROB > 0:
            clip = erase(clip, _eraser(data.RE_PROB), data.MEAN, data.STD, rng)
        for name, transform in self._transforms.items():
            shape, clip = clip.shape, transform(clip.transpose(0, 1), rng).transpose(0, 1)
            if (clip.dtype, clip.shape) != (torch.uint8, shape):
                expected = [shape[1], shape[0], *shape[2:]]
                raise ValueError(f"DATA.TRANSFORMS {name} returned {clip.dtype}, expected torch.uint8 {expected}")
        return clip


def build_transforms(cfg: CfgNode) -> dict[str, Callable[[Tensor, RandomState], Tensor]]:
    """Return the transforms of DATA.TRANSFORMS by name, in their order."""
    transforms = {}
    for name in cfg.DATA.TRANSFORMS:
        if name not in TRANSFORM_REGISTRY:
            names = ", ".join(registered for registered, _ in TRANSFORM_REGISTRY) or "none; import the module"
            raise ConfigError([f"DATA.TRANSFORMS names {name!r}; registered transforms: {names}"])
        transform = TRANSFORM_REGISTRY.get(name)
        transforms[name] = transform(cfg) if isclass(transform) else transform
    return transforms


# Cached in the process instead of kept in the dataset, because policies cannot be pickled for spawned workers.
@functools.cache
def _policy(name: str, mean: tuple[float, ...]) -> Callable[[Image.Image], Image.Image]:
    option = f"DATA.AUTO_AUGMENT {name}"
    timm = import_package("timm.data.auto_augment", option)
    kinds = {"rand": timm.rand_augment_transform, "augmix": timm.augment_and_mix_transform}
    fill = tuple(min(255, max(0, round(255 * value))) for value in mean)
    options = {"img_mean": fill, "interpolation": Image.Resampling.BILINEAR}
    try:
        policy = kinds.get(name.split("-")[0], timm.auto_augment_transform)(name, options)
        with seeded_globals(0):
            policy(Image.new("RGB", (8, 8)))  # a policy with too many operations fails only when it is applied
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"{option} is not a policy that timm can apply ({error}); try rand-m7-n4-mstd0.5-inc1 "
            "(docs/augmentation.md)"
        ) from error
    return policy


@functools.cache
def _eraser(probability: float) -> Callable[[Tensor], Tensor]:
    timm = import_package("timm.data.random_erasing", f"DATA.RE_PROB {probability}")
    return timm.RandomErasing(probability, mode="const", device="cpu")


def augment_frames(clip: Tensor, policy: Callable[[Image.Image], Image.Image], rng: RandomState) -> Tensor:
    """Apply `policy`, with the same random numbers, to every frame of a uint8 clip [frames, 3, height, width]."""
    seed, frames = rng.randint(2**31), []
    for frame in rearrange(clip, "t c h w -> t h w c").contiguous().numpy():
        with seeded_globals(seed):
            frames.append(np.asarray(policy(Image.fromarray(frame))))
    return rearrange(torch.from_numpy(np.stack(frames)), "t h w c -> t c h w")


def color_jitter(clip: Tensor, brightness: float, contrast: float, saturation: float, rng: RandomState) -> Tensor:
    """Blend each frame with black, with its mean brightness and with its own gray, in random order.

    The weight of the frame in a blend is drawn from 1 - strength to 1 + strength, as in facebookresearch/TimeSformer.
    All blends are linear in the color of a pixel, so one matrix applies them. `clip` is [frames, 3, height, width],
    uint8 (0 to 255) or float (0 to 1).
    """
    luma = torch.tensor(LUMA)
    means = torch.stack([frame.float().mean((1, 2)) for frame in clip])  # T, 3
    matrix, offset = torch.eye(3), torch.zeros_like(means)
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    kinds = [kind for kind, strength in strengths.items() if strength > 0]
    for kind in rng.permutation(kinds) if kinds else ():
        weight = 1.0 + rng.uniform(-strengths[kind], strengths[kind])
        if kind == "saturation":
            blend = weight * torch.eye(3) + (1 - weight) * luma.expand(3, 3)
            matrix, offset = blend @ matrix, offset @ blend.T
        else:
            gray = (means @ matrix.T + offset) @ luma if kind == "contrast" else torch.zeros(len(clip))
            matrix, offset = weight * matrix, weight * offset + (1 - weight) * gray[:, None]
    # Frame by frame: float buffers of whole clips take longer to allocate than to compute.
    frames = (torch.addmm(o[:, None], matrix, frame.flatten(1).float()) for frame, o in zip(clip, offset, strict=True))
    return torch.stack([_as_dtype_of(clip, frame).view(clip.shape[1:]) for frame in frames])


def lighting_jitter(
    clip: Tensor,
    std: float,
    rng: RandomState,
    eigval: Sequence[float] = PCA_EIGVAL,
    eigvec: Sequence[Sequence[float]] = PCA_EIGVEC,
) -> Tensor:
    """Shift all colors along their principal components by N(0, std) variances each (AlexNet); clip as above."""
    shift = torch.tensor(np.asarray(eigvec) @ (rng.normal(0, std, 3) * eigval), dtype=torch.float32)
    if clip.dtype == torch.uint8:
        shift *= 255
    return torch.stack([_as_dtype_of(clip, frame + shift.view(3, 1, 1)) for frame in clip])


def _as_dtype_of(clip: Tensor, values: Tensor) -> Tensor:
    return values if clip.is_floating_point() else values.round_().clamp_(0, 255).to(torch.uint8)


def erase(
    clip: Tensor, eraser: Callable[[Tensor], Tensor], mean: Sequence[float], std: Sequence[float], rng: RandomState
) -> Tensor:
    """Fill the rectangle that `eraser` (timm's RandomErasing) draws with noise, the same in all frames.

    The noise is normal with `mean` and `std` (in values 0 to 1) for each pixel and channel (Zhong et al. 2017,
    https://arxiv.org/abs/1708.04896). Noise that changes between frames would be the strongest motion of the clip.
    """
    with seeded_globals(rng.randint(2**31)):
        erased = eraser(torch.ones(1, *clip.shape[2:], dtype=torch.uint8))[0] == 0
    noise = rng.normal(mean, std, (int(erased.sum()), 3)) * 255
    clip = clip.clone()
    clip[..., erased] = torch.from_numpy(noise.round().clip(0, 255).astype(np.uint8).T)
    return clip
