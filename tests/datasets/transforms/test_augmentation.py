"""Augmentation: the same for all frames, decided by the clip's generator alone, and the original's colors."""

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.config.load import ConfigError
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.transforms import augmentation as transforms
from timesformer.datasets.transforms.augmentation import TRANSFORM_REGISTRY, Augmentation
from timesformer.datasets.transforms.spatial import tensor_normalize
from timesformer.errors import UserError

pytestmark = pytest.mark.numerical
EACH = [
    {"COLOR_JITTER": 0.4},
    {"LIGHTING_JITTER": 0.5},
    *({"AUTO_AUGMENT": policy} for policy in ("rand-m7-n4-mstd0.5-inc1", "augmix-m5", "original-mstd0.5")),
    {"RE_PROB": 1.0},
    {"AUTO_AUGMENT": "rand-m9-n3-mstd0.5", "COLOR_JITTER": 0.4, "LIGHTING_JITTER": 0.1, "RE_PROB": 0.5},
]


def augment(**options: Any) -> Augmentation:
    cfg = get_cfg()
    cfg.DATA.update(options)
    return Augmentation(cfg)


def rng(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


@pytest.mark.parametrize("options", EACH)
def test_frames_change_in_the_same_way(options: dict[str, Any]) -> None:
    """Augmented by the given generator alone, reproducibly."""
    ramp = torch.linspace(20, 200, 24).expand(3, 24, 24) + torch.tensor([0, 20, 40])[:, None, None]
    picture = (ramp + torch.randint(-20, 15, ramp.shape)).to(torch.uint8)
    augmentation, frames = augment(**options), picture.expand(4, 3, 24, 24).clone()
    found = [augmentation(frames, rng(seed)) for seed in range(12)]
    assert all((f.dtype, f.shape) == (torch.uint8, frames.shape) for f in found)
    assert all(torch.equal(f, f[:1].expand_as(f)) for f in found)
    assert sum(not torch.equal(f, frames) for f in found) > 8
    assert (frames == picture).all()  # the input is not modified
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    restored = pickle.loads(pickle.dumps(augmentation))  # as for a worker
    assert torch.equal(restored(frames, rng(1)), found[1])
    assert states == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())


def test_colors_change_as_the_originals(golden_dir) -> None:
    golden = torch.load(golden_dir / "transforms.pt", weights_only=True)
    frames = golden["color_input"].flip(1)  # the original's channels are B, G, R
    kinds = ["brightness_jitter", "contrast_jitter", "saturation_jitter"]
    for case in golden["color"]:
        name, arguments, generator = case["fn"], case["args"], rng(case["numpy_seed"])
        if name == "color_normalization":
            mean, std = (values[::-1] for values in arguments)
            found = tensor_normalize(frames.transpose(0, 1), mean, std).transpose(0, 1)
        elif name == "lighting_jitter":
            std, eigval, eigvec = arguments
            found = transforms.lighting_jitter(frames, std, generator, eigval, eigvec)
        else:
            strengths = arguments if name == "color_jitter" else [arguments[0] * (name == kind) for kind in kinds]
            found = transforms.color_jitter(frames, *strengths, generator)
        torch.testing.assert_close(found.flip(1), case["out"], rtol=0, atol=2e-6, msg=name)


def test_erased_rectangle_is_noise_of_the_mean_and_std() -> None:
    frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    mean, std, areas, values = [0.2, 0.5, 0.7], [0.05, 0.1, 0.05], [], []
    erase = augment(RE_PROB=0.5, MEAN=mean, STD=std)
    for seed in range(60):
        found = erase(frames, rng(seed))
        if found.any():
            inside = (found[0] > 0).any(0)
            rows, columns = inside.any(1).sum().item(), inside.any(0).sum().item()
            areas.append(rows * columns / 64**2)
            values.append(found[:, :, inside].transpose(0, 1).flatten(1) / 255)
    assert 18 < len(areas) < 42
    assert 0.015 < min(areas) < 0.1 < 0.25 < max(areas) < 0.34
    assert torch.cat(values, dim=1).mean(1).tolist() == pytest.approx(mean, abs=0.01)
    assert torch.cat(values, dim=1).std(1).tolist() == pytest.approx(std, abs=0.01)


def test_pixels_from_outside_have_the_mean_color() -> None:
    augmented = augment(AUTO_AUGMENT="rand-m10-n4-p1.0", MEAN=[0.2, 0.4, 0.6])
    frames = torch.zeros(1, 3, 24, 24, dtype=torch.uint8)
    colors = {tuple(c) for seed in range(30) for c in augmented(frames, rng(seed))[0].flatten(1).T.tolist()}
    assert (51, 102, 153) in colors
    assert (128, 128, 128) not in colors


def test_policy_that_timm_cannot_apply_is_an_error() -> None:
    with pytest.raises(UserError, match=r"DATA\.AUTO_AUGMENT"):
        augment(AUTO_AUGMENT="rand-x5")


def test_only_training_clips_are_augmented(cfg: CfgNode) -> None:
    plain = {split: ClipDataset(cfg, split)[0]["clip"] for split in ("train", "val", "test")}
    cfg.DATA.RE_PROB = 1.0
    for split, before in plain.items():
        changed = (ClipDataset(cfg, split)[0]["clip"] != before).any(0).float().mean()
        assert 0 < changed < 0.5 if split == "train" else changed == 0  # frames, crop and flip stay the same


def test_registered_transforms_are_applied_in_order(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shift:
        def __init__(self, cfg: CfgNode) -> None:
            self.size = cfg.DATA.NUM_FRAMES

        def __call__(self, clip: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
            return clip // 2 + self.size

    registered = {"invert": lambda clip, rng: 255 - clip, "half": lambda clip, rng: clip[:, ::2], "Shift": Shift}
    monkeypatch.setattr(TRANSFORM_REGISTRY, "_obj_map", registered)
    plain = {split: ClipDataset(cfg, split)[2]["clip"] for split in ("train", "val")}
    cfg.DATA.TRANSFORMS = ["invert", "Shift"]
    assert torch.equal(ClipDataset(cfg, "train")[2]["clip"], (255 - plain["train"]) // 2 + 4)
    assert torch.equal(ClipDataset(cfg, "val")[2]["clip"], plain["val"])
    for name, error in (("unknown", ConfigError), ("half", ValueError)):  # a transform keeps the shape
        cfg.DATA.TRANSFORMS = [name]
        with pytest.raises(error, match="TRANSFORMS"):
            ClipDataset(cfg, "train")[0]
