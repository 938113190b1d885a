"""The model of every shipped configuration, on the meta device: its parameters, and the shape that comes out."""

import json
from pathlib import Path

import pytest
import torch

from timesformer.config import load_config
from timesformer.config.check import is_baseline
from timesformer.models import build_model

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("**/*.yaml") if path.parent.name != "studies")  # those are lists of runs

BASE, HR, LONG = "divided_space_time_8x224", "divided_space_time_16x448", "divided_space_time_96x224"
PUBLISHED = {
    "TimeSformer_divST_8x32_224": BASE,
    "TimeSformer_divST_8x32_224_4gpus": BASE,
    "TimeSformer_divST_8x32_224_TEST": BASE,
    "TimeSformer_divST_16x16_448": HR,
    "TimeSformer_divST_96x4_224": LONG,
    "TimeSformer_jointST_8x32_224": "joint_space_time_8x224",
    "TimeSformer_spaceOnly_8x32_224": "space_only_8x224",
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_model_builds_and_gives_a_score_for_each_class(path: Path) -> None:
    cfg = load_config(path, ["TIMESFORMER.PRETRAINED_MODEL", ""], check_values=False)
    if is_baseline(cfg):
        library = cfg.MODEL.MODEL_NAME.partition("/")[0]
        pytest.importorskip(library, reason=f"the baseline's library, {library}, is not installed")
    with torch.device("meta"):
        model = build_model(cfg).eval()
        clip = torch.empty(2, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
    assert model(clip).shape == (2, cfg.MODEL.NUM_CLASSES)


@pytest.mark.parametrize(("name", "reference"), PUBLISHED.items())
def test_kinetics_models_have_the_tensors_of_the_original(golden_dir: Path, name: str, reference: str) -> None:
    expected = json.loads((golden_dir / "full_size_keys.json").read_text())[reference]
    with torch.device("meta"):
        model = build_model(load_config(CONFIGS / f"Kinetics/{name}.yaml", check_values=False))
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == expected["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]
