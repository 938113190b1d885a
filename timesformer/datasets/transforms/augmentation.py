"""Augmentation of training clips after their crop, alike in all frames: RandAugment, colours, an erased rectangle.

Clips are (T, 3, H, W) RGB; uint8 (0..255) stays uint8, the colour functions also take float (0..1). The operations on
single pictures are timm's, which draws from Python's and numpy's global generators: these are seeded for the call from
the clip's own generator, and put back.
"""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor

from timesformer.errors import UserError
from timesformer.torchvision_import import import_package

LUMA = (0.299, 0.587, 0.114)  # share of R, G and B in the brightness of a colour (ITU-R BT.601)
# Principal components of the colours of ImageNet: variances, and R, G, B in rows (Krizhevsky et al. 2012)
PCA_EIGVAL = (0.2175, 0.0188, 0.0045)
PCA_EIGVEC = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@contextmanager
def seeded_globals(*key: int) -> Iterator[None]:
    """Within it, Python's `random` and numpy's global generator begin at a state that `key` decides."""
    python, legacy = random.getstate(), np.random.get_state()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@dataclass(frozen=True)
class Augmentation:
    """What training clips go through after their crop, in this order; a call takes the clip and its generator.

    Args:
        auto_augment: policy of timm for pictures, such as "rand-m7-n4-mstd0.5-inc1"; empty: none.
        color_jitter: largest change of brightness, contrast and saturation, 0 to 1.
        lighting_jitter: standard deviation of the shift along the principal components of colours, 0 or more.
        erase_probability: of a rectangle of noise, 0 to 1.
        mean, std: of a channel, in values 0 to 1: what moves in from outside is of the mean colour, and noise is
            distributed by both.

    Raises:
        UserError: if timm is needed and cannot be imported, or does not know the policy.
    """

    auto_augment: str
    color_jitter: float
    lighting_jitter: float
    erase_probability: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "Augmentation":
        """As DATA says: AUTO_AUGMENT, COLOR_JITTER, LIGHTING_JITTER and RE_PROB; nothing by default."""
        data = cfg.DATA
        strengths = (data.COLOR_JITTER, data.LIGHTING_JITTER, data.RE_PROB)
        return cls(data.AUTO_AUGMENT, *strengths, tuple(data.MEAN), tuple(data.STD))

    def __post_init__(self) -> None:
        if self.auto_augment:
            _policy(self.auto_augment, self.mean)
        if self.erase_probability > 0:
            _eraser(self.erase_probability)

    def __call__(self, clip: Tensor, rng: np.random.RandomState) -> Tensor:
        """The clip augmented, uint8 (T, 3, H, W) as it came; its memory may be that of the clip given."""
        if self.auto_augment:
            clip = augment_pictures(clip, _policy(self.auto_augment, self.mean), rng)
        if self.color_jitter > 0:
            clip = color_jitter(clip, self.color_jitter, self.color_jitter, self.color_jitter, rng)
        if self.lighting_jitter > 0:
            clip = lighting_jitter(clip, self.lighting_jitter, rng)
        if self.erase_probability > 0:
            clip = erase(clip, _eraser(self.erase_probability), self.mean, self.std, rng)
        return clip


# Both are made once in a process, and not kept in the dataset: they would have to be sent to spawned workers.
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
            policy(Image.new("RGB", (8, 8)))  # more operations than a policy has to choose from show only here
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"{option} is not a policy that timm can apply ({error}); see docs/augmentation.md, or give "
            "rand-m7-n4-mstd0.5-inc1"
        ) from error
    return policy


@functools.cache
def _eraser(probability: float) -> Callable[[Tensor], Tensor]:
    timm = import_package("timm.data.random_erasing", f"DATA.RE_PROB {probability}")
    return timm.RandomErasing(probability, mode="const", device="cpu")


def augment_pictures(clip: Tensor, policy: Callable[[Image.Image], Image.Image], rng: np.random.RandomState) -> Tensor:
    """Every frame of a uint8 clip through `policy`, which draws the same numbers for each of them."""
    seed, frames = rng.randint(2**31), []
    for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
        with seeded_globals(seed):
            frames.append(np.asarray(policy(Image.fromarray(frame))))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def color_jitter(
    clip: Tensor, brightness: float, contrast: float, saturation: float, rng: np.random.RandomState
) -> Tensor:
    """Blend each frame with black, with its mean brightness and with its own grey, in an order drawn for the clip.

    The share of the frame in a blend is drawn from 1 - strength to 1 + strength. Strengths and draws are those of
    facebookresearch/TimeSformer. All blends are linear in the colour of a pixel, so they are joined to one.
    """
    luma = torch.tensor(LUMA)
    means = torch.stack([frame.float().mean((1, 2)) for frame in clip])  # T, 3
    matrix, offset = torch.eye(3), torch.zeros_like(means)
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    kinds = [kind for kind, strength in strengths.items() if strength > 0]
    for kind in rng.permutation(kinds) if kinds else ():
        share = 1.0 + rng.uniform(-strengths[kind], strengths[kind])
        if kind == "saturation":
            blend = share * torch.eye(3) + (1 - share) * luma.expand(3, 3)
            matrix, offset = blend @ matrix, offset @ blend.T
        else:
            grey = (means @ matrix.T + offset) @ luma if kind == "contrast" else torch.zeros(len(clip))
            matrix, offset = share * matrix, share * offset + (1 - share) * grey[:, None]
    # By frame: float buffers of whole clips come from the system each time, which takes longer than the sums.
    frames = (torch.addmm(o[:, None], matrix, frame.flatten(1).float()) for frame, o in zip(clip, offset, strict=True))
    return torch.stack([_like(clip, frame).view(clip.shape[1:]) for frame in frames])


def lighting_jitter(
    clip: Tensor,
    std: float,
    rng: np.random.RandomState,
    eigval: Sequence[float] = PCA_EIGVAL,
    eigvec: Sequence[Sequence[float]] = PCA_EIGVEC,
) -> Tensor:
    """Shift the colours of all pixels along their principal components, by N(0, std) variances each (AlexNet)."""
    shift = torch.tensor(np.asarray(eigvec) @ (rng.normal(0, std, 3) * eigval), dtype=torch.float32)
    if clip.dtype == torch.uint8:
        shift *= 255
    return torch.stack([_like(clip, frame + shift.view(3, 1, 1)) for frame in clip])


def _like(clip: Tensor, values: Tensor) -> Tensor:
    return values if clip.is_floating_point() else values.round_().clamp_(0, 255).to(torch.uint8)


def erase(
    clip: Tensor,
    eraser: Callable[[Tensor], Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    rng: np.random.RandomState,
) -> Tensor:
    """Fill what `eraser` (timm's RandomErasing) cuts out of a picture with noise, the same in all frames.

    The noise is normal by pixel and channel, of `mean` and `std` in values 0 to 1 (Zhong et al. 2017,
    https://arxiv.org/abs/1708.04896; rectangles of 2 to 33 % of the picture). Noise that changed from frame to frame
    would be the strongest motion of the clip.
    """
    with seeded_globals(rng.randint(2**31)):
        erased = eraser(torch.ones(1, *clip.shape[2:], dtype=torch.uint8))[0] == 0
    noise = rng.normal(mean, std, (int(erased.sum()), 3)) * 255
    clip = clip.clone()
    clip[..., erased] = torch.from_numpy(noise.round().clip(0, 255).astype(np.uint8).T)
    return clip
