"""Which values of the options make sense, alone and together, on this machine."""

import math
import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.config.defaults import get_cfg
from timesformer.config.sources import source_problem

_DATASETS = ("kinetics", "ssv2", "hmdb51", "ucf101", "hmdb_simp", "muwiges", "folder")
WITH_OFFICIAL_SPLITS = ("hmdb51", "ucf101")
"""Datasets that read DATA.SPLIT."""
DRAWN_BY = frozenset({"DATA.SPLIT_SEED", "DATA.SPLIT_GROUPS", "DATA.TEST_SHARE", "DATA.VAL_SHARE"})
"""What the random split of class folders depends on."""
_READ_BY = {
    WITH_OFFICIAL_SPLITS: ("DATA.SPLIT", "DATA.DOWNLOAD", "DATA.DOWNLOAD_URLS"),
    (*WITH_OFFICIAL_SPLITS, "folder"): ("DATA.VAL_SHARE",),
    ("folder",): ("DATA.SPLIT_RULE", "DATA.SPLIT_SEED", "DATA.SPLIT_GROUPS", "DATA.TEST_SHARE"),
    ("kinetics", "hmdb_simp", "folder"): ("DATA.PATH_LABEL_SEPARATOR",),
    ("kinetics", "ssv2", "hmdb_simp", "muwiges", "folder"): ("DATA.PATH_PREFIX",),
    ("muwiges",): ("DATA.PROTOCOL", "DATA.TEST_SUBJECTS", "DATA.VAL_SUBJECTS", "DATA.TEST_SCENES"),
}
_METHODS = ("interpolate", "reverse", "brightness")

_NUMBER = r"\d+(\.\d+)?"
_POLICY = re.compile(  # of what timm understands; it would pass over a section that it does not know
    rf"rand(-((m|n|p|mstd|mmax|inc){_NUMBER}|t(weights|3aw?)))*"
    rf"|augmix(-(m|w|d|a|b|mstd){_NUMBER})*"
    rf"|(original|originalr|v0|v0r|3a)(-mstd{_NUMBER})?"
)

CHOICES: dict[str, tuple[str | int, ...]] = {
    "TRAIN.DATASET": _DATASETS,
    "TRAIN.MIXED_PRECISION": ("off", "bf16", "fp16"),
    "TEST.DATASET": _DATASETS,
    "TEST.NUM_SPATIAL_CROPS": (1, 3),
    "DATA.SPLIT": (1, 2, 3),
    "DATA.BALANCE": ("none", "oversample", "class_weights"),
    "DATA.ON_UNREADABLE": ("continue", "error"),
    "DATA.SPLIT_RULE": ("auto", "files", "folders", "random"),
    "DATA.PROTOCOL": ("cross_subject", "cross_scene_subject"),
    "DATA.SAMPLER_WINDOW": ("", "full", "fit"),
    "DATA.DECODING_BACKEND": ("pyav", "auto", "torchcodec"),
    "DATA.SAMPLER_START": ("", "first", "center", "random"),
    "DATA.PRE_SAMPLING.ORDER": ("before_sampling", "after_sampling"),
    "DATA.SPATIAL_MODE": ("crop", "resize"),
    "DATA.ENSEMBLE_METHOD": ("sum", "max"),
    "MIXUP.MODE": ("batch", "pair", "elem"),
    "MODEL.MODEL_NAME": ("vit_base_patch16_224", "TimeSformer", "LightTimeSformer", "ViViT"),
    "MODEL.LOSS_FUNC": ("cross_entropy",),
    "TIMESFORMER.ATTENTION_TYPE": ("divided_space_time", "joint_space_time", "space_only"),
    "TIMESFORMER.POS_EMBED_INTERPOLATION": ("bicubic", "legacy"),
    "TIMESFORMER.INIT": ("pretrained", "scratch"),
    "TIMESFORMER.VARIANT": ("", "gesture", "small", "tiny"),
    "VIVIT.MODEL": (1, 2, 3),
    "VIVIT.TUBELET_INIT": ("central", "inflate"),
    "SOLVER.LR_POLICY": ("cosine", "steps_with_relative_lrs"),
    "SOLVER.OPTIMIZING_METHOD": ("sgd", "adam", "adamw"),
    "DIST_BACKEND": ("nccl", "gloo"),
}

_AT_LEAST_ONE = (
    "TRAIN.BATCH_SIZE",
    "TRAIN.EVAL_PERIOD",
    "TRAIN.CHECKPOINT_PERIOD",
    "TEST.BATCH_SIZE",
    "TEST.NUM_ENSEMBLE_VIEWS",
    "DATA.NUM_FRAMES",
    "DATA.SAMPLING_RATE",
    "DATA.TRAIN_CROP_SIZE",
    "DATA.TEST_CROP_SIZE",
    "MODEL.NUM_CLASSES",
    "TIMESFORMER.EMBED_DIM",
    "TIMESFORMER.DEPTH",
    "TIMESFORMER.NUM_HEADS",
    "TIMESFORMER.PATCH_SIZE",
    "VIVIT.TEMPORAL_DEPTH",
    "SOLVER.MAX_EPOCH",
    "LOG_PERIOD",
    "GLOBAL_BATCH_SIZE",
    "NUM_SHARDS",
    "TENSORBOARD.HISTOGRAM.TOPK",
    "TENSORBOARD.MODEL_VIS.TOPK_PREDS",
)
_NOT_NEGATIVE = (
    "TRAIN.CHECKPOINT_MINUTES",
    "TRAIN.KEEP_CHECKPOINTS",
    "TRAIN.EARLY_STOP_PATIENCE",
    "DATA.DECODE_TIMEOUT",
    "DATA.LIGHTING_JITTER",
    "DATA_LOADER.NUM_WORKERS",
    "MIXUP.ALPHA",
    "MIXUP.CUTMIX_ALPHA",
    "SOLVER.COSINE_END_LR",
    "SOLVER.WARMUP_EPOCHS",
    "SOLVER.WARMUP_START_LR",
    "SOLVER.DAMPENING",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.CLIP_GRADIENT",
    "RNG_SEED",
    "NUM_GPUS",
    "SOLVER.LR_SCALE_BATCH_SIZE",
    "TENSORBOARD.EMBEDDINGS",
)
_ABOVE_ZERO = ("DATA.TARGET_FPS", "TIMESFORMER.MLP_RATIO", "SOLVER.BASE_LR", "DIST_TIMEOUT")
_CROPS = ("DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE")
_UP_TO_ONE = ("DATA.COLOR_JITTER", "DATA.RE_PROB", "MIXUP.PROB", "MIXUP.SWITCH_PROB")
_BELOW_ONE = (
    "EMA.DECAY",
    "MODEL.DROPOUT_RATE",
    "SOLVER.LABEL_SMOOTHING",
    "TIMESFORMER.DROP_RATE",
    "TIMESFORMER.ATTN_DROP_RATE",
    "TIMESFORMER.DROP_PATH_RATE",
    "SOLVER.MOMENTUM",
)


_OF_USE = (
    "MODEL.MODEL_NAME",
    "MODEL.NUM_CLASSES",
    "TIMESFORMER.",
    "VIVIT.",
    "DATA.NUM_FRAMES",
    "DATA.SAMPL",
    "DATA.TARGET_FPS",
    "DATA.TEST_SAMPLER",
    "DATA.PRE_SAMPLING.",
    "DATA.SPATIAL_MODE",
    "DATA.TEST_CROP_SIZE",
    "DATA.TRAIN_CROP_SIZE",
    "DATA.DECOD",
    "DATA.ENSEMBLE_METHOD",
    "DATA.MEAN",
    "DATA.STD",
    "TEST.BATCH_SIZE",
    "TEST.NUM_",
    "TRAIN.MIXED_PRECISION",
    "RNG_SEED",
)


def check_use(cfg: CfgNode) -> list[str]:
    """Return what `check` says of the options that using a trained model depends on."""
    cfg = cfg.clone()
    cfg.TIMESFORMER.PRETRAINED_MODEL = ""  # where training began
    return [problem for part in (_alone, _data, _model) for problem in part(cfg) if problem.startswith(_OF_USE)]


def check(cfg: CfgNode, gpus: bool = True) -> list[str]:
    """Return one line for each value that makes no sense, beginning with its key; an empty list when all is well.

    Looks at this machine too: that the data folder and checkpoints exist and, with `gpus`, that there is a GPU for
    NUM_GPUS.
    """
    parts = (_alone, _data, _augmentation, _model, _solver, _tensorboard, _machine, *([_gpus] if gpus else ()))
    return [problem for part in parts for problem in part(cfg)]


def _get(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _alone(cfg: CfgNode) -> Iterator[str]:
    for key, choices in CHOICES.items():
        value = _get(cfg, key)
        if key == "MODEL.MODEL_NAME" and is_baseline(cfg):
            continue  # its library knows which names it has, and says so when the model is built
        if value not in choices:
            near = get_close_matches(str(value).lower(), [c for c in choices if isinstance(c, str) and c], n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            or_baseline = "; or torchvision/<name> or timm/<name>" if key == "MODEL.MODEL_NAME" else ""
            yield f"{key} is {value!r}, expected {_either(choices)}{or_baseline}{hint}"
    for keys, holds, expected in (
        (_AT_LEAST_ONE, lambda v: v >= 1, "1 or more"),
        (_NOT_NEGATIVE, lambda v: 0 <= v < math.inf, "0 or more"),
        (_ABOVE_ZERO, lambda v: 0 < v < math.inf, "more than 0"),
        (_BELOW_ONE, lambda v: 0 <= v < 1, "0 or more and less than 1"),
        (_UP_TO_ONE, lambda v: 0 <= v <= 1, "0 to 1"),
        (("DATA.MAX_UNREADABLE", "DATA.MAX_MISSING"), lambda v: 0 <= v <= 1, "a share between 0 and 1"),
        (("DATA.TEST_SHARE", "DATA.VAL_SHARE"), lambda v: 0 < v < 1, "a share above 0 and below 1"),
        (("SOLVER.LAYER_DECAY",), lambda v: 0 < v <= 1, "more than 0 and at most 1"),
    ):
        for key in keys:
            if not holds(value := _get(cfg, key)):
                yield f"{key} is {value}, expected {expected}"


def _either(choices: tuple[str | int, ...]) -> str:
    names = [str(c) if c != "" else "'' (empty)" for c in choices]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _data(cfg: CfgNode) -> Iterator[str]:
    data = cfg.DATA
    if (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE) and not data.PATH_TO_DATA_DIR:
        yield "DATA.PATH_TO_DATA_DIR is empty, expected the folder of the dataset; add DATA.PATH_TO_DATA_DIR /path"
    for key in ("DATA.PATH_TO_DATA_DIR", "DATA.SPLITS_DIR"):
        path, is_to_come = _get(cfg, key), key == "DATA.PATH_TO_DATA_DIR" and data.DOWNLOAD
        if path and not Path(path).is_dir() and not is_to_come:
            yield f"{key} is {path!r}, expected a folder that exists"
    yield from _dataset(cfg)
    if len(data.DOWNLOAD_URLS) != 2:
        yield f"DATA.DOWNLOAD_URLS is {data.DOWNLOAD_URLS}, expected two: of the archives of videos and of lists"
    if not data.PATH_LABEL_SEPARATOR:
        yield "DATA.PATH_LABEL_SEPARATOR is empty, expected the text between path and label, such as ' ' or ','"
    if data.INPUT_CHANNEL_NUM not in ([3], [3, 3]):
        yield f"DATA.INPUT_CHANNEL_NUM is {data.INPUT_CHANNEL_NUM}, expected [3]: clips are RGB"
    for key, holds, expected in (
        ("DATA.MEAN", math.isfinite, "three numbers"),
        ("DATA.STD", lambda v: 0 < v < math.inf, "three numbers above 0"),
    ):
        if len(values := _get(cfg, key)) != 3 or not all(map(holds, values)):
            yield f"{key} is {values}, expected {expected}, one for each of R, G, B"

    stretch = data.PRE_SAMPLING
    if not set(stretch.METHODS) <= set(_METHODS) or len(set(stretch.METHODS)) < len(stretch.METHODS):
        yield f"DATA.PRE_SAMPLING.METHODS is {stretch.METHODS}, expected each of {_either(_METHODS)} at most once"
    if stretch.ENABLED and not stretch.METHODS:
        yield "DATA.PRE_SAMPLING.METHODS is empty; name a method, or set DATA.PRE_SAMPLING.ENABLED False"
    gains = stretch.BRIGHTNESS_FACTORS
    if not all(0 < gain < math.inf for gain in gains) or ("brightness" in stretch.METHODS and not gains):
        yield f"DATA.PRE_SAMPLING.BRIGHTNESS_FACTORS is {gains}, expected one or more numbers above 0"

    if data.SPATIAL_MODE == "resize" and cfg.TEST.NUM_SPATIAL_CROPS == 3:
        yield "TEST.NUM_SPATIAL_CROPS is 3, expected 1: with DATA.SPATIAL_MODE resize the whole frame is the one crop"
    if data.SPATIAL_MODE == "resize":
        yield from _unread(cfg, "DATA.INV_UNIFORM_SAMPLE", why="DATA.SPATIAL_MODE is resize, and no size is drawn")
    scales = data.TRAIN_JITTER_SCALES
    if data.SPATIAL_MODE == "crop" and (len(scales) != 2 or not data.TRAIN_CROP_SIZE <= scales[0] <= scales[1]):
        yield (
            f"DATA.TRAIN_JITTER_SCALES is {scales}, expected [smallest, largest] short side, "
            f"neither below DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE}"
        )
    yield from _decoding(data)


def _decoding(data: CfgNode) -> Iterator[str]:
    # Frames that are decoded smaller than they are needed would be enlarged again.
    needed = {f"DATA.{key}": data[key] for key in ("TRAIN_CROP_SIZE", "TEST_CROP_SIZE")}
    if data.SPATIAL_MODE == "crop" and data.TRAIN_JITTER_SCALES:
        needed["DATA.TRAIN_JITTER_SCALES"] = max(data.TRAIN_JITTER_SCALES)
    key, least = max(needed.items(), key=lambda item: item[1])
    if (short_side := data.DECODE_SHORT_SIDE) != 0 and short_side < least:
        yield f"DATA.DECODE_SHORT_SIDE is {short_side}, expected 0 or at least {least}, for {key}"


def _augmentation(cfg: CfgNode) -> Iterator[str]:
    policy, mixup = cfg.DATA.AUTO_AUGMENT, cfg.MIXUP
    if policy and not _POLICY.fullmatch(policy):
        yield (
            f"DATA.AUTO_AUGMENT is {policy!r}, expected a policy of timm's such as rand-m7-n4-mstd0.5-inc1, "
            "augmix-m3 or original-mstd0.5, or nothing"
        )
    sides, size = mixup.CUTMIX_MINMAX, cfg.DATA.TRAIN_CROP_SIZE
    if sides and not (len(sides) == 2 and sides[0] >= 0 and int(size * sides[0]) < int(size * sides[1]) <= size):
        yield f"MIXUP.CUTMIX_MINMAX is {sides}, expected [smallest, largest] with 0 <= smallest < largest <= 1, or []"
    if mixup.ENABLED and not (mixup.ALPHA or mixup.CUTMIX_ALPHA or sides):
        yield "MIXUP.ENABLED needs MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA above 0; or set it False"
    if mixup.ENABLED and cfg.TRAIN.ENABLE and cfg.TRAIN.BATCH_SIZE == 1:
        yield "MIXUP.ENABLED needs a TRAIN.BATCH_SIZE of 2 or more, as clips of a batch are mixed; or set it False"


def _dataset(cfg: CfgNode) -> Iterator[str]:
    """What only some datasets read, and what they make of it."""
    data, used = cfg.DATA, {cfg.TRAIN.DATASET, cfg.TEST.DATASET}
    for datasets, keys in _READ_BY.items():
        if not used.intersection(datasets):
            why = f"TRAIN.DATASET is {cfg.TRAIN.DATASET}, and {_either(datasets)} alone reads it"
            yield from _unread(cfg, *keys, why=why)
    if "ssv2" in used and data.RANDOM_FLIP:
        yield (
            "DATA.RANDOM_FLIP is True, expected False: classes of Something-Something V2 have a direction, and a "
            "mirrored clip of one would have the label of another"
        )
    try:
        re.compile(data.SPLIT_GROUPS)
    except re.error as error:
        yield f"DATA.SPLIT_GROUPS is {data.SPLIT_GROUPS!r}, expected a regular expression ({error})"
    if data.SPLIT_RULE in ("files", "folders"):
        keys = DRAWN_BY if used == {"folder"} else DRAWN_BY - {"DATA.VAL_SHARE"}
        yield from _unread(
            cfg, *sorted(keys), why=f"DATA.SPLIT_RULE is {data.SPLIT_RULE}, and nothing is drawn at random"
        )
    if data.SPLIT_RULE in ("folders", "random") and used == {"folder"}:
        keys = ("DATA.PATH_LABEL_SEPARATOR", "DATA.PATH_PREFIX")
        yield from _unread(cfg, *keys, why=f"DATA.SPLIT_RULE is {data.SPLIT_RULE}, and no list of paths is read")
    if "muwiges" in used:
        if both := sorted(set(data.TEST_SUBJECTS) & set(data.VAL_SUBJECTS)):
            yield f"DATA.VAL_SUBJECTS has {both}, expected none of DATA.TEST_SUBJECTS"
        if data.PROTOCOL == "cross_scene_subject" and not data.TEST_SCENES:
            yield "DATA.TEST_SCENES is empty, expected the scenes of the test for DATA.PROTOCOL cross_scene_subject"
        if data.PROTOCOL == "cross_subject":
            yield from _unread(cfg, "DATA.TEST_SCENES", why="DATA.PROTOCOL is cross_subject")


def is_baseline(cfg: CfgNode) -> bool:
    """Whether MODEL.MODEL_NAME is a model of another library, `torchvision/<name>` or `timm/<name>`."""
    return re.fullmatch(r"(torchvision|timm)/.+", cfg.MODEL.MODEL_NAME) is not None


def _model(cfg: CfgNode) -> Iterator[str]:
    if re.fullmatch(r"none|backbone|all_but_last_[1-9]\d*", cfg.MODEL.FREEZE) is None:
        yield (
            f"MODEL.FREEZE is {cfg.MODEL.FREEZE!r}, expected none, backbone, or all_but_last_N with a number of blocks "
            "of 1 or more, such as all_but_last_2"
        )
    if is_baseline(cfg):
        if cfg.TIMESFORMER.PRETRAINED_MODEL:
            yield (
                f"TIMESFORMER.PRETRAINED_MODEL is for TimeSformer, and MODEL.MODEL_NAME is {cfg.MODEL.MODEL_NAME}; "
                "set MODEL.PRETRAINED True, or give the file as TRAIN.CHECKPOINT_FILE_PATH"
            )
        return
    if cfg.MODEL.PRETRAINED:
        yield (
            f"MODEL.PRETRAINED is for torchvision/ and timm/ models, and MODEL.MODEL_NAME is {cfg.MODEL.MODEL_NAME}; "
            "name a file with TRAIN.CHECKPOINT_FILE_PATH or TIMESFORMER.PRETRAINED_MODEL"
        )
    model, name = cfg.TIMESFORMER, cfg.MODEL.MODEL_NAME
    if model.NUM_HEADS > 0 and model.EMBED_DIM % model.NUM_HEADS:
        yield (
            f"TIMESFORMER.EMBED_DIM is {model.EMBED_DIM}, "
            f"expected a multiple of TIMESFORMER.NUM_HEADS {model.NUM_HEADS}"
        )
    if name == "ViViT":
        yield from _vivit(cfg)
    else:
        yield from _unread(cfg, *(f"VIVIT.{key}" for key in cfg.VIVIT), why=f"MODEL.MODEL_NAME is {name}, not ViViT")
        yield from _not_divided(cfg, "TIMESFORMER.PATCH_SIZE", model.PATCH_SIZE, *_CROPS)
    if name == "LightTimeSformer":
        yield from _unread(
            cfg,
            *("TIMESFORMER.EMBED_DIM", "TIMESFORMER.DEPTH", "TIMESFORMER.NUM_HEADS"),
            why="LightTimeSformer takes it from TIMESFORMER.VARIANT",
        )
    if model.VARIANT and name != "LightTimeSformer":
        yield (
            f"TIMESFORMER.VARIANT is {model.VARIANT!r}, but it is a preset of LightTimeSformer "
            f"and MODEL.MODEL_NAME is {name}"
        )


def _vivit(cfg: CfgNode) -> Iterator[str]:
    yield from _unread(cfg, "TIMESFORMER.ATTENTION_TYPE", why="ViViT has VIVIT.MODEL instead")
    yield from _unread(cfg, "TIMESFORMER.PATCH_SIZE", why="ViViT has VIVIT.TUBELET_SIZE instead")
    if cfg.VIVIT.MODEL != 2:
        yield from _unread(
            cfg, "VIVIT.TEMPORAL_DEPTH", why=f"VIVIT.MODEL is {cfg.VIVIT.MODEL}, and model 2 alone has it"
        )
    size = cfg.VIVIT.TUBELET_SIZE
    if len(size) != 3 or any(side < 1 for side in size):
        yield f"VIVIT.TUBELET_SIZE is {size}, expected frames, height and width, each 1 or more"
        return
    yield from _not_divided(cfg, "the frames of a VIVIT.TUBELET_SIZE", size[0], "DATA.NUM_FRAMES")
    yield from _not_divided(cfg, "the sides of a VIVIT.TUBELET_SIZE", math.lcm(*size[1:]), *_CROPS)


def _not_divided(cfg: CfgNode, what: str, divisor: int, *keys: str) -> Iterator[str]:
    for key in keys:
        if divisor > 0 and (value := _get(cfg, key)) % divisor:
            yield f"{key} is {value}, expected a multiple of {what}, {divisor}"


def _unread(cfg: CfgNode, *keys: str, why: str) -> Iterator[str]:
    """A line for each of the keys that was given a value, where nothing would read it."""
    for key in keys:
        if (value := _get(cfg, key)) != _get(get_cfg(), key):
            yield f"{key} is {value!r}, but {why}; remove it"


def _solver(cfg: CfgNode) -> Iterator[str]:
    solver = cfg.SOLVER
    if solver.LR_POLICY == "steps_with_relative_lrs":
        steps = solver.STEPS
        if not steps or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
            yield f"SOLVER.STEPS is {steps}, expected ascending epochs that begin with 0"
        if len(solver.LRS) != len(steps):
            yield f"SOLVER.LRS has {len(solver.LRS)} factors, expected one for each of the {len(steps)} SOLVER.STEPS"
        if any(not 0 <= factor < math.inf for factor in solver.LRS):
            yield f"SOLVER.LRS is {solver.LRS}, expected factors of 0 or more"
    elif solver.COSINE_END_LR > solver.BASE_LR:
        yield f"SOLVER.COSINE_END_LR is {solver.COSINE_END_LR}, expected no more than SOLVER.BASE_LR {solver.BASE_LR}"
    if (warmup := solver.WARMUP_EPOCHS) > 0:
        if warmup >= solver.MAX_EPOCH:
            yield (
                f"SOLVER.WARMUP_EPOCHS is {warmup}, expected less than SOLVER.MAX_EPOCH {solver.MAX_EPOCH}, "
                "such as 0 for no warm-up"
            )
        if (start := solver.WARMUP_START_LR) > solver.BASE_LR:
            yield f"SOLVER.WARMUP_START_LR is {start}, expected no more than SOLVER.BASE_LR {solver.BASE_LR}"
    if solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV and (solver.MOMENTUM == 0 or solver.DAMPENING != 0):
        yield "SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0 and SOLVER.DAMPENING 0; or set SOLVER.NESTEROV False"
    if re.fullmatch(r"none|blocks|every_[1-9]\d*", recomputed := cfg.TRAIN.ACTIVATION_CHECKPOINT) is None:
        yield f"TRAIN.ACTIVATION_CHECKPOINT is {recomputed!r}, expected none, blocks, or every_N such as every_2"
    if recomputed != "none" and is_baseline(cfg):
        yield (
            f"TRAIN.ACTIVATION_CHECKPOINT is {recomputed}, expected none: MODEL.MODEL_NAME is {cfg.MODEL.MODEL_NAME}, "
            "and it is for this project's transformers"
        )
    batch, step = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS, cfg.GLOBAL_BATCH_SIZE
    if step > batch > 0 and step % batch:
        machines = f" on NUM_SHARDS {cfg.NUM_SHARDS} machines" if cfg.NUM_SHARDS > 1 else ""
        yield (
            f"GLOBAL_BATCH_SIZE is {step}, expected a multiple of TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}{machines}, "
            "or no more than it"
        )
    if solver.BASE_LR_SCALE_NUM_SHARDS and solver.LR_SCALE_BATCH_SIZE:
        yield (
            f"SOLVER.LR_SCALE_BATCH_SIZE is {solver.LR_SCALE_BATCH_SIZE}, expected 0 beside "
            "SOLVER.BASE_LR_SCALE_NUM_SHARDS True: each scales the learning rates"
        )


def _tensorboard(cfg: CfgNode) -> Iterator[str]:
    for key in ("TENSORBOARD.CONFUSION_MATRIX.FIGSIZE", "TENSORBOARD.HISTOGRAM.FIGSIZE"):
        size = _get(cfg, key)
        if len(size) != 2 or not all(1 <= side <= 100 for side in size):
            yield f"{key} is {size}, expected width and height in inches, 1 to 100"
    drawing = cfg.TENSORBOARD.ENABLE and cfg.TEST.ENABLE and cfg.TEST.REPORT
    for key in (
        "TENSORBOARD.CATEGORIES_PATH",
        "TENSORBOARD.CONFUSION_MATRIX.SUBSET_PATH",
        "TENSORBOARD.HISTOGRAM.SUBSET_PATH",
        "TENSORBOARD.WRONG_PRED_VIS.SUBSET_PATH",
    ):
        if drawing and (path := _get(cfg, key)) and not Path(path).is_file():
            yield f"{key} is {path!r}, expected a file that exists"
    if not cfg.TENSORBOARD.WRONG_PRED_VIS.TAG:
        yield "TENSORBOARD.WRONG_PRED_VIS.TAG is empty, expected what the clips are to be listed under"


def _machine(cfg: CfgNode) -> Iterator[str]:
    # A run that resumes reads its checkpoint alone, and a test the weights that it tests.
    starts = cfg.TRAIN.ENABLE and not (cfg.TRAIN.AUTO_RESUME and _has_checkpoint(cfg, "checkpoint_epoch_*.pyth"))
    is_tested = not (cfg.TRAIN.ENABLE or cfg.TEST.CHECKPOINT_FILE_PATH or _has_checkpoint(cfg, "*.pyth"))
    for key, used in (
        ("TRAIN.CHECKPOINT_FILE_PATH", starts or (cfg.TEST.ENABLE and is_tested)),
        ("TEST.CHECKPOINT_FILE_PATH", cfg.TEST.ENABLE),
        ("TIMESFORMER.PRETRAINED_MODEL", starts),
    ):
        if used and (source := _get(cfg, key)) and (problem := source_problem(source)):
            yield f"{key} is {source!r}, {problem}"
    weights = cfg.TRAIN.CHECKPOINT_FILE_PATH or cfg.TIMESFORMER.PRETRAINED_MODEL or cfg.MODEL.PRETRAINED
    if starts and cfg.TRAIN.FINETUNE and not weights:
        yield (
            "TRAIN.FINETUNE is True, but there are no weights to start from; name a checkpoint with "
            "TRAIN.CHECKPOINT_FILE_PATH, or set TRAIN.FINETUNE False to train from scratch"
        )
    if starts and cfg.MODEL.FREEZE != "none" and not weights:
        yield (
            f"MODEL.FREEZE is {cfg.MODEL.FREEZE}, but there are no weights to start from, so that random ones would "
            "stay; name a checkpoint with TRAIN.CHECKPOINT_FILE_PATH, or set MODEL.FREEZE none"
        )
    if cfg.TRAIN.MIXED_PRECISION == "fp16" and cfg.NUM_GPUS == 0:
        yield "TRAIN.MIXED_PRECISION is fp16, which is for GPUs, and NUM_GPUS is 0; on the CPU give bf16 or off"
    if not cfg.OUTPUT_DIR:
        yield "OUTPUT_DIR is empty, expected a folder for the results"
    if not 0 <= cfg.SHARD_ID < max(1, cfg.NUM_SHARDS):
        yield f"SHARD_ID is {cfg.SHARD_ID}, expected 0 to {cfg.NUM_SHARDS - 1}, for NUM_SHARDS is {cfg.NUM_SHARDS}"


def _has_checkpoint(cfg: CfgNode, pattern: str) -> bool:
    """Whether OUTPUT_DIR, or the folder of an official split in it, has a checkpoint of such a name."""
    return any(
        path for folder in ("", "split_*/") for path in Path(cfg.OUTPUT_DIR).glob(f"{folder}checkpoints/{pattern}")
    )


def _gpus(cfg: CfgNode) -> Iterator[str]:
    if cfg.NUM_GPUS >= 1:
        import torch  # here, because reading a configuration should not have to wait for it

        if not torch.cuda.is_available():
            yield (
                f"NUM_GPUS is {cfg.NUM_GPUS}, but this machine has no GPU that PyTorch can use; give NUM_GPUS 0 to run "
                "on the CPU"
            )
