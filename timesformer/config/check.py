"""Validation of a configuration: the values of the options, and rules for several of them together."""

import importlib.util
import math
import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from timesformer.config.options import OPTIONS, effects_of, get_option
from timesformer.config.sources import source_problem
from timesformer.paths import path_manager

_FOR_USE = {"model", "clips", "evaluation", "rounding"}
_CROPS = ("DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE")

_NUMBER = r"\d+(\.\d+)?"
_POLICY = (  # timm would ignore a section that it does not know
    rf"rand(-((m|n|p|mstd|mmax|inc){_NUMBER}|t(weights|3aw?)))*"
    rf"|augmix(-(m|w|d|a|b|mstd){_NUMBER})*"
    rf"|(original|originalr|v0|v0r|3a)(-mstd{_NUMBER})?"
)


class Problem(NamedTuple):
    """What is wrong with the value of an option."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key} {self.text}"


_Found = Iterator[tuple[str, str]]


def check(cfg: CfgNode, gpus: bool = True) -> list[Problem]:
    """Every problem of a configuration on this machine, which must have its data, checkpoints and (if `gpus`) GPUs."""
    rules = (
        _data,
        _dataset,
        _augmentation,
        _model,
        _solver,
        _features,
        _distillation,
        _tensorboard,
        _trackers,
        _weights,
        *([_gpus] if gpus else ()),
    )
    return [Problem(*found) for found in (*_values(cfg, OPTIONS), *(found for rule in rules for found in rule(cfg)))]


def check_use(cfg: CfgNode, given: Collection[str] = ()) -> list[Problem]:
    """The problems that matter when a trained model is used, and those of the options `given` by the user."""
    matters = {key for key in OPTIONS if _FOR_USE & effects_of(key)}
    values = (found for found in _values(cfg, given) if found[0] in matters.union(given))
    combined = (found for rule in (_data, _dataset, _model) for found in rule(cfg) if found[0] in matters)
    return [Problem(*found) for found in (*values, *combined)]


def _values(cfg: CfgNode, must_be_read: Collection[str]) -> _Found:
    for key, option in OPTIONS.items():
        value = get_option(cfg, key)
        if problem := option.problem(value):
            yield key, problem
        elif key in must_be_read and not option.is_default(value) and not option.is_read(cfg):
            yield key, f"is {value!r}, but is only read with {option.condition()}; remove it"


def _data(cfg: CfgNode) -> _Found:
    data, stretch = cfg.DATA, cfg.DATA.PRE_SAMPLING
    if (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE) and not data.PATH_TO_DATA_DIR:
        yield "DATA.PATH_TO_DATA_DIR", "is empty, expected the folder of the dataset; add DATA.PATH_TO_DATA_DIR /path"
    for key, may_be_missing in (("DATA.PATH_TO_DATA_DIR", data.DOWNLOAD), ("DATA.SPLITS_DIR", False)):
        path = get_option(cfg, key)
        if path and not may_be_missing and not path_manager.is_remote(path) and not Path(path).is_dir():
            yield key, f"is {path!r}, expected a folder that exists"
    if len(set(stretch.METHODS)) < len(stretch.METHODS):
        yield "DATA.PRE_SAMPLING.METHODS", f"is {stretch.METHODS}, expected each method once"
    if stretch.ENABLED and not stretch.METHODS:
        yield "DATA.PRE_SAMPLING.METHODS", "is empty; name a method, or set DATA.PRE_SAMPLING.ENABLED False"
    if "brightness" in stretch.METHODS and not stretch.BRIGHTNESS_FACTORS:
        yield "DATA.PRE_SAMPLING.BRIGHTNESS_FACTORS", "is empty, expected one or more numbers"
    if cfg.TEST.FRAME_ORDER == "shuffled" and data.NUM_FRAMES == 1:
        yield "TEST.FRAME_ORDER", "is shuffled, expected original: DATA.NUM_FRAMES is 1"
    scales = data.TRAIN_JITTER_SCALES
    if data.SPATIAL_MODE == "resize" and cfg.TEST.NUM_SPATIAL_CROPS == 3:
        yield "TEST.NUM_SPATIAL_CROPS", "is 3, expected 1: DATA.SPATIAL_MODE resize gives one crop, the whole frame"
    if data.SPATIAL_MODE == "crop" and (len(scales) != 2 or not data.TRAIN_CROP_SIZE <= scales[0] <= scales[1]):
        yield "DATA.TRAIN_JITTER_SCALES", f"is {scales}, expected [smallest, largest], both >= DATA.TRAIN_CROP_SIZE"
    # Frames that are decoded smaller than they are needed would be enlarged again.
    needed = {key: get_option(cfg, key) for key in _CROPS}
    if data.SPATIAL_MODE == "crop" and scales:
        needed["DATA.TRAIN_JITTER_SCALES"] = max(scales)
    key, least = max(needed.items(), key=lambda item: item[1])
    if 0 < data.DECODE_SHORT_SIDE < least:
        yield "DATA.DECODE_SHORT_SIDE", f"is {data.DECODE_SHORT_SIDE}, expected 0 or at least {least}, for {key}"


def _dataset(cfg: CfgNode) -> _Found:
    data, used = cfg.DATA, {cfg.TRAIN.DATASET, cfg.TEST.DATASET}
    if "ssv2" in used and data.RANDOM_FLIP:
        yield "DATA.RANDOM_FLIP", "is True, expected False: classes of Something-Something V2 depend on the direction"
    if not data.SPLIT_GROUPS.lower().endswith(".csv"):
        try:
            re.compile(data.SPLIT_GROUPS)
        except re.error as error:
            yield (
                "DATA.SPLIT_GROUPS",
                f"is {data.SPLIT_GROUPS!r}, expected a .csv file or a regular expression ({error})",
            )
    if data.SPLIT_RULE not in ("auto", "folds") and "folder" not in used:
        yield "DATA.SPLIT_RULE", f"is {data.SPLIT_RULE}, expected auto or folds: only DATASET folder reads other rules"
    if data.SPLIT_RULE == "folds" and len(used) > 1:
        yield "DATA.SPLIT_RULE", "is folds, expected the same TRAIN.DATASET and TEST.DATASET, whose clips are divided"
    if data.SPLIT_RULE == "folds" and data.FOLD > data.NUM_FOLDS:
        yield "DATA.FOLD", f"is {data.FOLD}, expected 1 to DATA.NUM_FOLDS {data.NUM_FOLDS}"
    if used == {"folder"}:
        of_lists = dict.fromkeys(("DATA.PATH_LABEL_SEPARATOR", "DATA.PATH_PREFIX"), ("auto", "files", "folds"))
        for key, rules in {"DATA.VAL_FRACTION": ("auto", "random", "folds"), **of_lists}.items():
            if data.SPLIT_RULE not in rules and get_option(cfg, key) != OPTIONS[key].default:
                yield key, f"is set, but DATA.SPLIT_RULE {data.SPLIT_RULE} does not read it; remove it"
    if "muwiges" in used:
        if both := sorted(set(data.TEST_SUBJECTS) & set(data.VAL_SUBJECTS)):
            yield "DATA.VAL_SUBJECTS", f"has {both}, expected none of DATA.TEST_SUBJECTS"
        if data.PROTOCOL == "cross_scene_subject" and not data.TEST_SCENES:
            yield "DATA.TEST_SCENES", "is empty, expected the scenes of the test for DATA.PROTOCOL cross_scene_subject"


def _augmentation(cfg: CfgNode) -> _Found:
    mixup, size = cfg.MIXUP, cfg.DATA.TRAIN_CROP_SIZE
    if (policy := cfg.DATA.AUTO_AUGMENT) and not re.fullmatch(_POLICY, policy):
        yield "DATA.AUTO_AUGMENT", f"is {policy!r}, expected a policy such as rand-m7-n4-mstd0.5-inc1 or augmix-m3"
    sides = mixup.CUTMIX_MINMAX
    if sides and not (len(sides) == 2 and sides[0] >= 0 and int(size * sides[0]) < int(size * sides[1]) <= size):
        yield "MIXUP.CUTMIX_MINMAX", f"is {sides}, expected [smallest, largest], 0 <= smallest < largest <= 1, or []"
    if mixup.ENABLED and not (mixup.ALPHA or mixup.CUTMIX_ALPHA or sides):
        yield "MIXUP.ENABLED", "needs MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA above 0; or set it False"
    if mixup.ENABLED and cfg.TRAIN.ENABLE and cfg.TRAIN.BATCH_SIZE == 1:
        yield "MIXUP.ENABLED", "needs a TRAIN.BATCH_SIZE of 2 or more; or set it False"


def _model(cfg: CfgNode) -> _Found:
    model, name = cfg.TIMESFORMER, cfg.MODEL.MODEL_NAME
    if name not in ("vit_base_patch16_224", "TimeSformer", "LightTimeSformer", "ViViT", "VideoMAE"):
        return
    if model.NUM_HEADS > 0 and model.EMBED_DIM % model.NUM_HEADS:
        yield "TIMESFORMER.EMBED_DIM", f"is {model.EMBED_DIM}, expected a multiple of NUM_HEADS, {model.NUM_HEADS}"
    multiples = dict.fromkeys(_CROPS, ("TIMESFORMER.PATCH_SIZE", model.PATCH_SIZE))
    if name in ("ViViT", "VideoMAE"):
        size = cfg.VIVIT.TUBELET_SIZE if len(cfg.VIVIT.TUBELET_SIZE) == 3 else [1, 1, 1]
        multiples = {key: ("the sides of VIVIT.TUBELET_SIZE", math.lcm(*size[1:])) for key in _CROPS}
        multiples["DATA.NUM_FRAMES"] = ("the frames of VIVIT.TUBELET_SIZE", size[0])
    for key, (divisor, number) in multiples.items():
        if number > 0 and (value := get_option(cfg, key)) % number:
            yield key, f"is {value}, expected a multiple of {divisor}, {number}"


def _solver(cfg: CfgNode) -> _Found:
    solver = cfg.SOLVER
    if solver.LR_POLICY == "steps_with_relative_lrs":
        steps = solver.STEPS
        if not steps or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
            yield "SOLVER.STEPS", f"is {steps}, expected ascending epochs that begin with 0"
        if len(solver.LRS) != len(steps):
            yield "SOLVER.LRS", f"has {len(solver.LRS)} factors, expected one for each of {len(steps)} SOLVER.STEPS"
    elif solver.LR_POLICY == "onecycle":
        if solver.COSINE_END_LR:
            yield "SOLVER.COSINE_END_LR", f"is {solver.COSINE_END_LR}, expected 0 with SOLVER.LR_POLICY onecycle"
    elif solver.COSINE_END_LR > solver.BASE_LR:
        yield "SOLVER.COSINE_END_LR", f"is {solver.COSINE_END_LR}, expected <= SOLVER.BASE_LR {solver.BASE_LR}"
    if solver.WARMUP_EPOCHS > 0:
        if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
            expected = f"expected < SOLVER.MAX_EPOCH {solver.MAX_EPOCH}; set SOLVER.WARMUP_EPOCHS 0"
            yield "SOLVER.WARMUP_EPOCHS", f"is {solver.WARMUP_EPOCHS}, {expected}"
        if solver.WARMUP_START_LR > solver.BASE_LR:
            yield "SOLVER.WARMUP_START_LR", f"is {solver.WARMUP_START_LR}, expected <= SOLVER.BASE_LR {solver.BASE_LR}"
    freezing = cfg.MODEL
    if freezing.UNFREEZE_EPOCH >= solver.MAX_EPOCH:
        expected = f"expected < SOLVER.MAX_EPOCH {solver.MAX_EPOCH}; set MODEL.UNFREEZE_EPOCH 0"
        yield "MODEL.UNFREEZE_EPOCH", f"is {freezing.UNFREEZE_EPOCH}, {expected}"
    if freezing.UNFROZEN and freezing.FREEZE == "none" and not freezing.LORA_RANK:
        yield "MODEL.UNFROZEN", "is set, but is only read with MODEL.FREEZE or MODEL.LORA_RANK; remove it"
    if solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV and (solver.MOMENTUM == 0 or solver.DAMPENING != 0):
        yield "SOLVER.NESTEROV", "needs SOLVER.MOMENTUM above 0 and SOLVER.DAMPENING 0; or set it False"
    batch, step = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS, cfg.GLOBAL_BATCH_SIZE
    if step > batch > 0 and step % batch:
        yield "GLOBAL_BATCH_SIZE", f"is {step}, expected a multiple of TRAIN.BATCH_SIZE x NUM_SHARDS, {batch}, or less"
    if solver.BASE_LR_SCALE_NUM_SHARDS and solver.LR_SCALE_BATCH_SIZE:
        yield "SOLVER.LR_SCALE_BATCH_SIZE", "and SOLVER.BASE_LR_SCALE_NUM_SHARDS both scale learning rates; set one"
    if cfg.TRAIN.MIXED_PRECISION == "fp16" and cfg.NUM_GPUS == 0:
        yield "TRAIN.MIXED_PRECISION", "is fp16, which needs a GPU, but NUM_GPUS is 0; set bf16 or off"
    if max(1, cfg.NUM_SHARDS) <= cfg.SHARD_ID:
        yield "SHARD_ID", f"is {cfg.SHARD_ID}, expected less than NUM_SHARDS {cfg.NUM_SHARDS}"


def _features(cfg: CfgNode) -> _Found:
    if not (cfg.FEATURES.ENABLED and cfg.TRAIN.ENABLE):
        return
    if cfg.MODEL.FREEZE != "backbone":
        yield "MODEL.FREEZE", f"is {cfg.MODEL.FREEZE}, expected backbone with FEATURES.ENABLED True"
    unused = ("MIXUP.ENABLED", "EMA.ENABLED", "TRAIN.COMPILE", "TRAIN.EARLY_STOP_PATIENCE", "SOLVER.TEMPORAL_LR_SCALE")
    for key in ("MODEL.UNFROZEN", "MODEL.UNFREEZE_EPOCH", *unused):
        if (value := get_option(cfg, key)) != (off := OPTIONS[key].default):
            yield key, f"is {value}, expected {off} with FEATURES.ENABLED True"
    rates = "FEATURES.LEARNING_RATES"
    if cfg.SOLVER.OPTIMIZING_METHOD != "adamw" and get_option(cfg, rates) == OPTIONS[rates].default:
        found = f"is {cfg.SOLVER.OPTIMIZING_METHOD}, but {rates} are for adamw"
        yield "SOLVER.OPTIMIZING_METHOD", f"{found}; set adamw, or other {rates}"
    if cfg.TRAIN.CHECKPOINT_FILE_PATH and not cfg.TRAIN.FINETUNE:
        yield "TRAIN.FINETUNE", "is False, expected True for TRAIN.CHECKPOINT_FILE_PATH with FEATURES.ENABLED True"


def _distillation(cfg: CfgNode) -> _Found:
    distill = cfg.DISTILL
    if not (distill.TEACHER and cfg.TRAIN.ENABLE):
        return
    if cfg.FEATURES.ENABLED:
        yield "DISTILL.TEACHER", "is set, expected '' (empty) with FEATURES.ENABLED True, which trains the head only"
    if bad := [pair for pair in distill.FEATURES if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", pair)]:
        yield "DISTILL.FEATURES", f"has {bad[0]!r}, expected numbers of blocks, STUDENT:TEACHER, such as 2:4"
    if distill.FEATURES and cfg.TRAIN.COMPILE:
        yield "TRAIN.COMPILE", "is True, expected False with DISTILL.FEATURES"


def _tensorboard(cfg: CfgNode) -> _Found:
    files = [key for key in OPTIONS if re.fullmatch(r"TENSORBOARD\..*(SUBSET|CATEGORIES)_PATH", key)]
    is_read = cfg.TENSORBOARD.ENABLE and cfg.TEST.ENABLE and cfg.TEST.REPORT
    for key in files if is_read else ():
        if (path := get_option(cfg, key)) and not Path(path).is_file():
            yield key, f"is {path!r}, expected a file that exists"


def _trackers(cfg: CfgNode) -> _Found:
    for key, package, install in (
        ("WANDB.ENABLED", "wandb", "wandb"),
        ("MLFLOW.ENABLED", "mlflow", "mlflow-skinny sqlalchemy alembic"),
    ):
        found = importlib.util.find_spec(package) if get_option(cfg, key) else None
        if get_option(cfg, key) and (found is None or found.origin is None):  # a folder of files has no origin
            yield key, f"is True, but {package} is not installed; pip install {install}, or set it False"


def _weights(cfg: CfgNode) -> _Found:
    # A run that resumes reads only its checkpoint, and a test only the weights that it tests.
    starts = cfg.TRAIN.ENABLE and not (cfg.TRAIN.AUTO_RESUME and _has_checkpoint(cfg, "checkpoint_epoch_*.pyth"))
    is_tested = not (cfg.TRAIN.ENABLE or cfg.TEST.CHECKPOINT_FILE_PATH or _has_checkpoint(cfg, "*.pyth"))
    for key, is_read in (
        ("TRAIN.CHECKPOINT_FILE_PATH", starts or (cfg.TEST.ENABLE and is_tested)),
        ("TEST.CHECKPOINT_FILE_PATH", cfg.TEST.ENABLE),
        ("TIMESFORMER.PRETRAINED_MODEL", starts),
        ("DISTILL.TEACHER", cfg.TRAIN.ENABLE),
    ):
        if is_read and (source := get_option(cfg, key)) and (problem := source_problem(source)):
            yield key, f"is {source!r}, {problem}"
    weights = cfg.TRAIN.CHECKPOINT_FILE_PATH or cfg.TIMESFORMER.PRETRAINED_MODEL or cfg.MODEL.PRETRAINED
    for key, off in (("TRAIN.FINETUNE", False), ("MODEL.FREEZE", "none"), ("MODEL.LORA_RANK", 0)):
        if starts and not weights and (value := get_option(cfg, key)) != off:
            yield key, f"is {value}, but no weights are loaded; set TRAIN.CHECKPOINT_FILE_PATH, or set {key} {off}"


def _has_checkpoint(cfg: CfgNode, pattern: str) -> bool:
    """Whether OUTPUT_DIR, or the folder of a repeated run in it, has a checkpoint of such a name."""
    folders = ("", "split_*/", "fold_*/", "seed_*/")
    return any(path for folder in folders for path in Path(cfg.OUTPUT_DIR).glob(f"{folder}checkpoints/{pattern}"))


def _gpus(cfg: CfgNode) -> _Found:
    if cfg.NUM_GPUS >= 1:
        import torch  # here, because it is slow to import

        if not torch.cuda.is_available():
            yield "NUM_GPUS", f"is {cfg.NUM_GPUS}, but PyTorch finds no CUDA GPU here; set NUM_GPUS 0 to run on the CPU"
