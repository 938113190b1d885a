"""Augmentation: alike in all frames, decided by the clip's generator alone, and the original's colours."""

import importlib.util
import pickle
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.transforms import augmentation
from timesformer.datasets.transforms.augmentation import Augmentation, color_jitter, lighting_jitter
from timesformer.datasets.transforms.spatial import tensor_normalize
from timesformer.errors import UserError

pytestmark = pytest.mark.numerical
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
BY_TIMM = [
    {"AUTO_AUGMENT": "rand-m7-n4-mstd0.5-inc1"},
    {"AUTO_AUGMENT": "augmix-m5"},
    {"AUTO_AUGMENT": "original-mstd0.5"},
    {"RE_PROB": 1.0},
]
ALL = {"AUTO_AUGMENT": "rand-m9-n3-mstd0.5", "COLOR_JITTER": 0.4, "LIGHTING_JITTER": 0.1, "RE_PROB": 0.5}
ANY = [{"COLOR_JITTER": 0.4}, {"LIGHTING_JITTER": 0.5}, *(pytest.param(o, marks=needs_timm) for o in [*BY_TIMM, ALL])]


def augment(**options: Any) -> Augmentation:
    cfg = get_cfg()
    cfg.DATA.update(options)
    return Augmentation.from_cfg(cfg)


def picture(seed: int = 0, size: int = 24) -> torch.Tensor:
    """A uint8 (3, size, size) picture of smooth colours and noise."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(20, 200, size).expand(3, size, size) + torch.tensor([0.0, 20, 40])[:, None, None]
    return (ramp + torch.randint(-20, 15, (3, size, size), generator=generator)).clamp(0, 255).to(torch.uint8)


def clip(frames: int = 3) -> torch.Tensor:
    return torch.stack([picture(seed) for seed in range(frames)])


def rng(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


def test_nothing_is_augmented_by_default() -> None:
    generator = rng()
    assert torch.equal(augment()(clip(), generator), clip())
    assert generator.randint(2**31) == rng().randint(2**31)  # nothing was drawn


@pytest.mark.parametrize("options", ANY)
def test_frames_that_are_equal_stay_equal_and_are_changed(options: dict[str, Any]) -> None:
    frames = picture().expand(4, 3, 24, 24)
    found = [augment(**options)(frames, rng(seed)) for seed in range(12)]
    assert all((f.dtype, f.shape) == (torch.uint8, frames.shape) for f in found)
    assert all(torch.equal(f, f[:1].expand_as(f)) for f in found)
    assert sum(not torch.equal(f, frames) for f in found) > 8
    assert torch.equal(frames, picture().expand(4, 3, 24, 24))  # the clip given is left as it is


@pytest.mark.parametrize("options", ANY)
def test_the_generator_given_decides_and_the_global_ones_are_left_alone(options: dict[str, Any]) -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    first = augment(**options)(clip(), rng(1))
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    before = states()
    assert torch.equal(augment(**options)(clip(), rng(1)), first)
    assert states() == before
    assert len({tuple(augment(**options)(clip(), rng(seed)).flatten().tolist()) for seed in range(6)}) > 3


def test_colours_change_as_the_originals(golden_dir) -> None:
    golden = torch.load(golden_dir / "transforms.pt", weights_only=True)
    frames = golden["color_input"].flip(1)  # the original's channels are B, G, R
    kinds = ["brightness_jitter", "contrast_jitter", "saturation_jitter"]
    assert {case["fn"] for case in golden["color"]} == {
        *kinds,
        "color_jitter",
        "lighting_jitter",
        "color_normalization",
    }
    for case in golden["color"]:
        name, arguments, generator = case["fn"], case["args"], rng(case["numpy_seed"])
        if name == "color_normalization":
            mean, std = (values[::-1] for values in arguments)
            found = tensor_normalize(frames.transpose(0, 1), mean, std).transpose(0, 1)
        elif name == "lighting_jitter":
            std, eigval, eigvec = arguments
            found = lighting_jitter(frames, std, generator, eigval, eigvec)
        else:
            strengths = arguments if name == "color_jitter" else [arguments[0] * (name == kind) for kind in kinds]
            found = color_jitter(frames, *strengths, generator)
        torch.testing.assert_close(found.flip(1), case["out"], rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_colours_of_uint8_clips_are_those_of_float_ones_within_rounding(seed: int) -> None:
    for change in (lambda c: color_jitter(c, 0.4, 0.4, 0.4, rng(seed)), lambda c: lighting_jitter(c, 0.3, rng(seed))):
        exact = (change(clip() / 255) * 255).clamp(0, 255)
        assert (change(clip()).float() - exact).abs().max() <= 0.501


@needs_timm
def test_an_erased_rectangle_is_noise_of_the_mean_and_the_rest_is_as_it_was() -> None:
    frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    mean, std = (0.2, 0.5, 0.7), (0.05, 0.1, 0.05)
    erase, shares, values = Augmentation("", 0.0, 0.0, 0.5, mean, std), [], []
    for seed in range(60):
        found = erase(frames, rng(seed))
        rows, columns = (found[0] > 0).any(0).nonzero(as_tuple=True)
        if len(rows):
            top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            inside = found[..., top:bottom, left:right].clone()
            found[..., top:bottom, left:right] = 0
            assert not found.any()
            shares.append(((bottom - top) * (right - left)).item() / 64**2)
            values.append(inside.float().transpose(0, 1).flatten(1) / 255)
    assert 18 < len(shares) < 42
    assert 0.015 < min(shares) < 0.1 < 0.25 < max(shares) < 0.34
    assert torch.cat(values, dim=1).mean(1).tolist() == pytest.approx(mean, abs=0.01)
    assert torch.cat(values, dim=1).std(1).tolist() == pytest.approx(std, abs=0.01)


@needs_timm
def test_what_moves_in_from_outside_is_of_the_mean_colour() -> None:
    frames = torch.zeros(1, 3, 24, 24, dtype=torch.uint8)
    augmented = Augmentation("rand-m10-n4-p1.0", 0.0, 0.0, 0.0, (0.2, 0.4, 0.6), (0.2, 0.2, 0.2))
    colours = {tuple(c) for seed in range(30) for c in augmented(frames, rng(seed))[0].flatten(1).T.tolist()}
    assert (51, 102, 153) in colours
    assert (128, 128, 128) not in colours


@needs_timm
@pytest.mark.parametrize("policy", ["rand-n99-tweights", "v9", "rand-x5", "rand-m7.5"])
def test_a_policy_that_timm_cannot_apply_is_refused_when_the_dataset_is_made(cfg: CfgNode, policy: str) -> None:
    cfg.DATA.AUTO_AUGMENT = policy
    with pytest.raises(UserError, match=f"DATA.AUTO_AUGMENT {policy} is not a policy"):
        ClipDataset(cfg, "train")


@pytest.mark.parametrize(
    ("options", "module"),
    [({"AUTO_AUGMENT": "rand-m1"}, "timm.data.auto_augment"), ({"RE_PROB": 0.123}, "timm.data.random_erasing")],
)
def test_without_timm_the_option_that_needs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    augmentation._policy.cache_clear()
    ((key, value),) = options.items()
    with pytest.raises(UserError, match=f"DATA.{key} {value} needs the package timm"):
        augment(**options)


@needs_timm
def test_training_clips_are_augmented_and_no_others(cfg: CfgNode) -> None:
    plain = {split: ClipDataset(cfg, split)[0]["clip"] for split in ("train", "val", "test")}
    cfg.DATA.update(ALL)
    for split, before in plain.items():
        now = ClipDataset(cfg, split)[0]["clip"]
        assert (now.dtype, now.shape) == (before.dtype, before.shape)
        assert torch.equal(now, before) is (split != "train"), split


@needs_timm
def test_augmentation_leaves_frames_crop_and_flip_as_they_were(cfg: CfgNode) -> None:
    plain = ClipDataset(cfg, "train")[3, 1]["clip"]
    cfg.DATA.RE_PROB = 1.0
    erased = ClipDataset(cfg, "train")[3, 1]["clip"]
    kept = (erased == plain).all(dim=0)
    assert 0.5 < kept.float().mean() < 1


@needs_timm
def test_workers_augment_as_the_main_process_does(cfg: CfgNode) -> None:
    cfg.DATA.update(ALL)
    alone = list(construct_loader(cfg, "train"))
    cfg.DATA_LOADER.NUM_WORKERS = 2
    for mine, theirs in zip(alone, construct_loader(cfg, "train"), strict=True):
        assert torch.equal(mine["clip"], theirs["clip"])


@needs_timm
def test_an_augmentation_can_be_sent_to_a_process_that_begins_anew() -> None:
    sent = pickle.dumps(augment(**ALL))
    assert b"timm" not in sent  # which might need the repair of torchvision first
    assert torch.equal(pickle.loads(sent)(clip(), rng()), augment(**ALL)(clip(), rng()))
