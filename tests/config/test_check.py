"""Which values are refused, and that all problems are reported at once."""

from pathlib import Path
from typing import get_args

import pytest

from timesformer.config import ConfigError, check, load_config
from timesformer.config.check import Problem
from timesformer.config.options import OPTIONS
from timesformer.models.blocks import LIGHT_VARIANTS
from timesformer.models.embeddings import TubeletInit
from timesformer.models.vit import ATTENTION_TYPES
from timesformer.models.vivit import VIVIT_MODELS

FEATURES = "SOLVER.OPTIMIZING_METHOD adamw FEATURES.ENABLED True"


@pytest.fixture
def valid(tmp_path: Path) -> list[str]:
    """Overrides with which the defaults are valid on any machine."""
    return ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "NUM_GPUS", "0"]


def problems(overrides: list[str]) -> list[Problem]:
    return check(load_config(None, overrides, check_values=False))


def test_defaults_are_valid(valid: list[str]) -> None:
    assert problems(valid) == []


@pytest.mark.parametrize(
    "overrides",
    [
        "TRAIN.MIXED_PRECISION fp16",  # on the CPU
        "TEST.NUM_SPATIAL_CROPS 2",
        "MODEL.PRETRAINED True",
        "MODEL.ACT_CHECKPOINT every_0",
        "MODEL.ACT_CHECKPOINT blocks MODEL.MODEL_NAME timm/resnet18",
        "MODEL.FREEZE head TRAIN.CHECKPOINT_FILE_PATH {file}",
        "MODEL.FREEZE backbone",
        "MODEL.LORA_RANK 8",
        "MODEL.LORA_RANK 8 MODEL.FREEZE backbone TRAIN.CHECKPOINT_FILE_PATH {file}",
        "MODEL.LORA_ALPHA 8",
        "MODEL.UNFROZEN ['norm']",
        "MODEL.UNFREEZE_EPOCH 2 TRAIN.CHECKPOINT_FILE_PATH {file}",
        "MODEL.UNFREEZE_EPOCH 2 MODEL.FREEZE backbone TRAIN.CHECKPOINT_FILE_PATH {file} TRAIN.FINETUNE True "
        "FEATURES.ENABLED True SOLVER.OPTIMIZING_METHOD adamw",
        "MODEL.UNFREEZE_EPOCH 300 MODEL.FREEZE backbone TRAIN.CHECKPOINT_FILE_PATH {file}",
        "TIMESFORMER.PRETRAINED_MODEL {file} MODEL.MODEL_NAME timm/resnet18",
        "FEATURES.NUM_VIEWS 4",
        f"MODEL.FREEZE none {FEATURES}",
        f"MIXUP.ENABLED True {FEATURES} MODEL.FREEZE backbone TIMESFORMER.PRETRAINED_MODEL {{file}}",
        f"SOLVER.TEMPORAL_LR_SCALE 2 {FEATURES} MODEL.FREEZE backbone TIMESFORMER.PRETRAINED_MODEL {{file}}",
        "SOLVER.OPTIMIZING_METHOD adam FEATURES.ENABLED True MODEL.FREEZE backbone TIMESFORMER.PRETRAINED_MODEL {file}",
        f"TRAIN.FINETUNE False {FEATURES} MODEL.FREEZE backbone TRAIN.CHECKPOINT_FILE_PATH {{file}}",
        "SOLVER.LAYER_DECAY 1.1",
        "SOLVER.LABEL_SMOOTHING 1.0",
        "SOLVER.BASE_LR nan",
        "TRAIN.BATCH_SIZE 0",
        "DATA.PATH_TO_DATA_DIR /no/such/folder",
        "DATA.RANDOM_FLIP True TRAIN.DATASET ssv2",
        "DATA.SPLIT_SEED 1",
        "DATA.SPLIT_GROUPS ( TRAIN.DATASET folder",
        "DATA.TEST_FRACTION 0.2 DATA.SPLIT_RULE files TRAIN.DATASET folder",
        "DATA.VAL_FRACTION 0.2 DATA.SPLIT_RULE folders TRAIN.DATASET folder TEST.DATASET folder",
        "DATA.PATH_PREFIX /x TRAIN.DATASET hmdb51 TEST.DATASET hmdb51",
        "DATA.PATH_PREFIX /x DATA.SPLIT_RULE random TRAIN.DATASET folder TEST.DATASET folder",
        "DATA.PATH_LABEL_SEPARATOR ",
        "DATA.INV_UNIFORM_SAMPLE True DATA.SPATIAL_MODE resize TEST.NUM_SPATIAL_CROPS 1",
        "DATA.TEST_SCENES  DATA.PROTOCOL cross_scene_subject TRAIN.DATASET muwiges",
        "DATA.TEST_SCENES lab TRAIN.DATASET muwiges",
        "DATA.TEST_SUBJECTS [1,2]",
        "DATA.VAL_SUBJECTS [50] TRAIN.DATASET muwiges",
        "DATA.INPUT_CHANNEL_NUM [1]",
        "DATA.MEAN [0.5]",
        "DATA.STD [1,1,0]",
        "DATA.PRE_SAMPLING.METHODS ['reverse','reverse']",
        "DATA.PRE_SAMPLING.METHODS [] DATA.PRE_SAMPLING.ENABLED True",
        "TEST.NUM_SPATIAL_CROPS 3 DATA.SPATIAL_MODE resize",
        "DATA.TRAIN_JITTER_SCALES [200,320]",
        "DATA.DECODE_SHORT_SIDE 319",
        "DATA.DECODE_SHORT_SIDE 255 DATA.SPATIAL_MODE resize TEST.NUM_SPATIAL_CROPS 1",
        "DATA.TRAIN_CROP_SIZE 220",
        "DATA.AUTO_AUGMENT rand-tfoo",
        "MIXUP.CUTMIX_ALPHA inf",
        "MIXUP.CUTMIX_MINMAX [0.8,0.2]",
        "MIXUP.CUTMIX_MINMAX [0.2,1.2]",
        "MIXUP.ENABLED True MIXUP.ALPHA 0 MIXUP.CUTMIX_ALPHA 0",
        "MIXUP.ENABLED True TRAIN.BATCH_SIZE 1",
        "TIMESFORMER.EMBED_DIM 100",
        "TIMESFORMER.VARIANT tiny",
        "TIMESFORMER.DEPTH 6 MODEL.MODEL_NAME LightTimeSformer",
        "TIMESFORMER.PATCH_SIZE 8 MODEL.MODEL_NAME ViViT",
        "VIVIT.MODEL 2",
        "VIVIT.TUBELET_SIZE [2,16] MODEL.MODEL_NAME ViViT",
        "VIVIT.TEMPORAL_DEPTH 2 MODEL.MODEL_NAME ViViT",
        "MODEL.HEAD temporal MODEL.MODEL_NAME torchvision/r3d_18",
        "MODEL.HEAD_WIDTH 64 MODEL.HEAD attentive",
        "MODEL.HEAD_GRID 2",
        "DATA.NUM_FRAMES 7 MODEL.MODEL_NAME ViViT",
        "DATA.TEST_CROP_SIZE 256 MODEL.MODEL_NAME ViViT VIVIT.TUBELET_SIZE [2,28,32]",
        "SOLVER.STEPS [1,5] SOLVER.LRS [1,0.1] SOLVER.LR_POLICY steps_with_relative_lrs",
        "SOLVER.STEPS [0,5,5] SOLVER.LRS [1,0.1,0.1] SOLVER.LR_POLICY steps_with_relative_lrs",
        "SOLVER.LRS [1,0.1] SOLVER.STEPS [0] SOLVER.LR_POLICY steps_with_relative_lrs",
        "SOLVER.COSINE_END_LR 0.5",
        "SOLVER.COSINE_END_LR 0.01 SOLVER.LR_POLICY onecycle",
        "SOLVER.WARMUP_EPOCHS 300",
        "SOLVER.WARMUP_START_LR 0.2 SOLVER.WARMUP_EPOCHS 3",
        "SOLVER.NESTEROV True SOLVER.MOMENTUM 0.0",
        "GLOBAL_BATCH_SIZE 65",
        "TRAIN.CHECKPOINT_FILE_PATH none.pyth",
        "TRAIN.CHECKPOINT_FILE_PATH none.pyth TRAIN.ENABLE False",  # is tested
        "TEST.CHECKPOINT_FILE_PATH none.pyth TRAIN.ENABLE False",
        "TIMESFORMER.PRETRAINED_MODEL none.pth",
        "TRAIN.FINETUNE True",
        "NUM_GPUS 2",
        "SHARD_ID 1",
        "SOLVER.LR_SCALE_BATCH_SIZE 8 SOLVER.BASE_LR_SCALE_NUM_SHARDS True",
        "OUTPUT_DIR ",
    ],
)
def test_problem_names_the_key(valid: list[str], overrides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    key, *rest = overrides.format(file=__file__).split(" ")
    assert [problem.key for problem in problems([*valid, key, *rest])] == [key]


@pytest.mark.parametrize(
    "overrides",
    [
        "GLOBAL_BATCH_SIZE 128",
        "DATA.TEST_SCENES lab DATA.PROTOCOL cross_scene_subject TRAIN.DATASET muwiges",
        "DATA.SPLIT_GROUPS g\\d+ DATA.TEST_FRACTION 0.3 TEST.DATASET folder",
        "DATA.VAL_FRACTION 0.2 DATA.SPLIT_RULE folders TRAIN.DATASET folder TEST.DATASET hmdb51",
        "DATA.PATH_LABEL_SEPARATOR , DATA.PATH_PREFIX /x DATA.SPLIT_RULE files TRAIN.DATASET folder",
        "DATA.TRAIN_JITTER_SCALES [10,20] DATA.SPATIAL_MODE resize TEST.NUM_SPATIAL_CROPS 1",
        "DATA.DECODE_SHORT_SIDE 320",
        "FEATURES.NUM_VIEWS 3",  # an earlier default, in the configurations of runs
        "DATA.DECODE_SHORT_SIDE 256 DATA.SPATIAL_MODE resize TEST.NUM_SPATIAL_CROPS 1",
        "TEST.CHECKPOINT_FILE_PATH none.pyth TEST.ENABLE False",
        "TRAIN.CHECKPOINT_FILE_PATH none.pyth TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {file}",
        "TIMESFORMER.PRETRAINED_MODEL none.pth TRAIN.FINETUNE True TRAIN.ENABLE False",
        "TIMESFORMER.VARIANT tiny MODEL.MODEL_NAME LightTimeSformer",
        "SOLVER.WARMUP_START_LR 0.2",  # not used without warm-up
        "VIVIT.TEMPORAL_DEPTH 2 MODEL.MODEL_NAME ViViT VIVIT.MODEL 2",
        "MODEL.HEAD attentive MODEL.HEAD_GRID 2 MODEL.MODEL_NAME transformers/MCG-NJU/videomae-base",
        "MODEL.MODEL_NAME torchvision/r3d_18",  # the name is checked when the model is built
        "MODEL.MODEL_NAME timm/resnet18 DATA.TRAIN_CROP_SIZE 220",  # no patches
        "MODEL.MODEL_NAME transformers/owner/name MODEL.HEAD attentive MODEL.PRETRAINED True MODEL.FREEZE backbone",
        "MODEL.MODEL_NAME timm/resnet18 MODEL.PRETRAINED True TRAIN.FINETUNE True MODEL.FREEZE backbone",
        "MODEL.FREEZE all_but_last_12 TRAIN.CHECKPOINT_FILE_PATH {file} MODEL.UNFREEZE_EPOCH 1",
        "MODEL.LORA_RANK 8 MODEL.UNFROZEN ['norm'] TRAIN.CHECKPOINT_FILE_PATH {file}",
        "DATA.AUTO_AUGMENT rand-m9-p0.5-mmax20-tweights",
        "DATA.AUTO_AUGMENT augmix-m5-w4-d2-b1",
        "MIXUP.ENABLED True MIXUP.ALPHA 0 MIXUP.CUTMIX_ALPHA 0 MIXUP.CUTMIX_MINMAX [0.2,1.0]",
        "MIXUP.ENABLED True TRAIN.BATCH_SIZE 1 TRAIN.ENABLE False",
    ],
)
def test_valid_values(valid: list[str], overrides: str) -> None:
    assert problems([*valid, *overrides.format(file=__file__).split(" ")]) == []


def test_choices_match_the_models() -> None:
    assert set(OPTIONS["TIMESFORMER.VARIANT"].choices) == {"", *LIGHT_VARIANTS}
    assert OPTIONS["TIMESFORMER.ATTENTION_TYPE"].choices == ATTENTION_TYPES
    assert OPTIONS["VIVIT.MODEL"].choices == tuple(VIVIT_MODELS)
    assert OPTIONS["VIVIT.TUBELET_INIT"].choices == get_args(TubeletInit)


def test_invalid_choice_lists_the_choices_and_the_nearest(valid: list[str]) -> None:
    (problem,) = problems([*valid, "SOLVER.OPTIMIZING_METHOD", "AdamV"])
    for part in ("AdamV", "sgd, adam or adamw", "nearest is adam"):
        assert part in str(problem)


def test_all_problems_are_reported_with_their_sources(tmp_path: Path, valid: list[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("DATA:\n  SAMPLER_WINDOW: fits\n  NUM_FRAME: 8\nSOLVER:\n  MAX_EPOCH: many\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path, [*valid, "TRAIN.BATCH_SIZE", "0"])
    text = str(raised.value)
    assert len(raised.value.problems) == 4
    for part in (f"({path}:2)", f"({path}:3)", f"({path}:5)", "TRAIN.BATCH_SIZE is 0"):
        assert part in text
