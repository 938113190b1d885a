"""Scaling, cropping and flipping equal the original's."""

import numpy as np
import pytest
import torch

from timesformer.datasets.transforms import spatial as transforms

pytestmark = pytest.mark.numerical
RANDOM = ("random_short_side_scale_jitter", "random_crop", "horizontal_flip", "spatial_sampling")


@pytest.fixture(scope="module")
def golden(golden_dir):
    return torch.load(golden_dir / "transforms.pt", weights_only=True)


def run(case: dict, clip: torch.Tensor) -> torch.Tensor:
    arguments = {k: v for k, v in case.items() if k not in ("fn", "input", "numpy_seed", "out")}
    if "prob" in arguments:
        arguments["probability"] = arguments.pop("prob")
    if case["fn"] in RANDOM:
        arguments["rng"] = np.random.RandomState(case.get("numpy_seed"))
    return getattr(transforms, case["fn"])(clip, **arguments)


def test_float_clips_are_the_originals(golden):
    cases = [case for case in golden["cases"] if case["fn"] != "uniform_crop_2crops"]  # 2 crops are not offered here
    assert {case["fn"] for case in cases} == {*RANDOM, "uniform_crop"}
    for case in cases:
        clip = golden["inputs"][case["input"]].double()
        found = run(case, clip)
        assert found.shape == case["out"].shape, case
        # The original's float32 rounds the positions of pixels, up to the width, between which values change by 2.
        rounding = 2 * max(clip.shape[-2:]) * torch.finfo(torch.float32).eps
        torch.testing.assert_close(found, case["out"].double(), rtol=0, atol=rounding)


def test_uint8_clips_are_float_clips_within_rounding(golden):
    for case in golden["cases"]:
        if case["fn"] != "uniform_crop_2crops":
            clip = ((golden["inputs"][case["input"]] + 1) * 127.5).round()
            found = run(case, clip.to(torch.uint8))
            assert found.dtype == torch.uint8
            assert (found.float() - run(case, clip)).abs().max() <= 1.05, case


def test_normalisation_is_the_originals(golden):
    for case in golden["tensor_normalize"]:
        clip = case["input"].permute(3, 0, 1, 2)  # C, T, H, W
        found = transforms.tensor_normalize(clip[None], case["mean"], case["std"])[0]
        torch.testing.assert_close(found.permute(1, 2, 3, 0), case["out"], rtol=4e-7, atol=1e-6)


def test_narrow_frames_are_refused():
    with pytest.raises(ValueError, match="1024x1"):
        transforms.spatial_sampling(torch.zeros(8, 3, 1, 1024), 2, 64, 64, 64, np.random.RandomState(0))
