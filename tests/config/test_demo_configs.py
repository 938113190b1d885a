"""The demo configurations fit the demo dataset, and siblings differ in what they compare."""

from pathlib import Path

import pytest

from timesformer.config import load_config
from timesformer.config.differences import differences
from timesformer.preparation import demo
from timesformer.preparation.demo_classes import CLASSES

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "Demo"
TIMESFORMER = "TimeSformer_divST_8x2_48"


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configuration_fits_the_demo_dataset(name: str, tmp_path: Path) -> None:
    cfg = load_config(CONFIGS / name, ["DATA.PATH_TO_DATA_DIR", str(tmp_path)])
    assert len(CLASSES) == cfg.MODEL.NUM_CLASSES
    assert cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE <= demo.FRAMES
    assert not cfg.DATA.RANDOM_FLIP  # left would become right
    assert not cfg.DATA.PRE_SAMPLING.ENABLED  # left played backwards would be right
    assert cfg.NUM_GPUS == 0


@pytest.mark.parametrize(
    ("first", "second", "keys"),
    [
        (TIMESFORMER, "TimeSformer_spaceOnly_8x2_48", {"TIMESFORMER.ATTENTION_TYPE"}),
        (TIMESFORMER, "ViViT_model1_8x2_48", {"MODEL.MODEL_NAME"}),
        (TIMESFORMER, "ViViT_model2_8x2_48", {"MODEL.MODEL_NAME", "VIVIT", "TIMESFORMER.DEPTH"}),
        ("R3D18_8x2_32", "frames_ResNet18_8x2_32", {"MODEL.MODEL_NAME"}),
    ],
)
def test_siblings_differ_in_the_model_only(first: str, second: str, keys: set[str]) -> None:
    before, after = (load_config(CONFIGS / f"{name}.yaml", check_values=False) for name in (first, second))
    changed = {change.key for change in differences(before, after)}
    assert {"VIVIT" if key.startswith("VIVIT.") else key for key in changed} == {*keys, "OUTPUT_DIR"}
    if after.MODEL.MODEL_NAME == "ViViT":
        temporal = after.VIVIT.TEMPORAL_DEPTH if after.VIVIT.MODEL == 2 else 0
        assert after.TIMESFORMER.DEPTH + temporal == before.TIMESFORMER.DEPTH
