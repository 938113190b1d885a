"""The demo configurations: that they fit the demo dataset, and differ in nothing but what they compare."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "Demo"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_make", ROOT / "datasets" / "demo" / "make.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_make"] = module
    spec.loader.exec_module(module)
    return module


def load(name: str, folder: Path) -> CfgNode:
    return load_config(CONFIGS / name, ["DATA.PATH_TO_DATA_DIR", str(folder)])


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configuration_fits_the_demo_dataset(name: str, tmp_path: Path, demo: ModuleType) -> None:
    cfg = load(name, tmp_path)
    assert len(demo.CLASSES) == cfg.MODEL.NUM_CLASSES
    assert cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE <= demo.FRAMES
    assert not cfg.DATA.RANDOM_FLIP  # left would become right
    assert not cfg.DATA.PRE_SAMPLING.ENABLED  # left played backwards would be right
    assert cfg.NUM_GPUS == 0


def test_space_only_sibling_differs_in_attention_alone(tmp_path: Path) -> None:
    divided, space_only = (
        load("TimeSformer_divST_8x2_48.yaml", tmp_path),
        load("TimeSformer_spaceOnly_8x2_48.yaml", tmp_path),
    )
    assert divided.OUTPUT_DIR != space_only.OUTPUT_DIR
    assert divided.TIMESFORMER.ATTENTION_TYPE == "divided_space_time"
    assert space_only.TIMESFORMER.ATTENTION_TYPE == "space_only"
    space_only.TIMESFORMER.ATTENTION_TYPE, space_only.OUTPUT_DIR = "divided_space_time", divided.OUTPUT_DIR
    assert space_only == divided


@pytest.mark.parametrize("number", [1, 2])
def test_vivit_siblings_differ_in_the_model_alone(tmp_path: Path, number: int) -> None:
    timesformer = load("TimeSformer_divST_8x2_48.yaml", tmp_path)
    vivit = load(f"ViViT_model{number}_8x2_48.yaml", tmp_path)
    assert vivit.MODEL.MODEL_NAME == "ViViT"
    assert number == vivit.VIVIT.MODEL
    blocks = vivit.TIMESFORMER.DEPTH + (vivit.VIVIT.TEMPORAL_DEPTH if number == 2 else 0)
    assert blocks == timesformer.TIMESFORMER.DEPTH
    assert vivit.OUTPUT_DIR != timesformer.OUTPUT_DIR
    vivit.MODEL.MODEL_NAME, vivit.OUTPUT_DIR = timesformer.MODEL.MODEL_NAME, timesformer.OUTPUT_DIR
    vivit.TIMESFORMER.DEPTH, vivit.VIVIT = blocks, timesformer.VIVIT
    assert vivit == timesformer


def test_the_two_resnets_differ_in_the_model_alone(tmp_path: Path) -> None:
    in_3d, by_frame = load("R3D18_8x2_32.yaml", tmp_path), load("frames_ResNet18_8x2_32.yaml", tmp_path)
    assert (in_3d.MODEL.MODEL_NAME, by_frame.MODEL.MODEL_NAME) == ("torchvision/r3d_18", "timm/resnet18")
    assert in_3d.OUTPUT_DIR != by_frame.OUTPUT_DIR
    by_frame.MODEL.MODEL_NAME, by_frame.OUTPUT_DIR = in_3d.MODEL.MODEL_NAME, in_3d.OUTPUT_DIR
    assert in_3d == by_frame
