"""config.json and preprocessor_config.json of transformers: written from a run's options, and read as such options."""

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import yaml
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.config.options import effects_of, flatten, get_cfg, set_option
from timesformer.config.sources import ZOO
from timesformer.models.embeddings import resize_tubelet_embed
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.formats import TITLES, CheckpointMetadata, Description, describe

Options = dict[str, Any]
"""A configuration as plain values, section by section, as in YAML."""
_OPTIONS_KEY = "timesformer_options"
"""The key in config.json of options without a field there, such as the sampler."""
_PROCESSOR_DEFAULTS = {  # of transformers
    "timesformer": {"offset": False, "rescale_factor": 1 / 255},
    "vivit": {"offset": True, "rescale_factor": 1 / 127.5},
    "videomae": {"offset": False, "rescale_factor": 1 / 255},
}
_NORMALIZATION = {  # mean and std of the papers' models
    "timesformer": ([0.45] * 3, [0.225] * 3),
    "vivit": ([0.5] * 3, [0.5] * 3),
    "videomae": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
_ARCHITECTURES = {"timesformer": "Timesformer", "vivit": "Vivit", "videomae": "VideoMAE"}  # class names of transformers
_SAMPLING_RATE = {"timesformer": 32, "vivit": 2, "videomae": 4}
_KINETICS_RATES = {m.frames: m.sampling_rate for m in ZOO.values() if m.dataset == "K400" and m.model == "TimeSformer"}
_SSV2_CLASSES = 174


def metadata_of_folder(config: dict[str, Any], preprocessor: dict[str, Any]) -> CheckpointMetadata:
    """Metadata from config.json and the description of the preprocessing, which may be empty."""
    labels = {label: name for label, name in (config.get("id2label") or {}).items() if name != f"LABEL_{label}"}
    size = config.get("image_size")
    mean, std = _trained_normalization(config, preprocessor)
    return CheckpointMetadata(
        num_heads=config.get("num_attention_heads"),
        num_frames=config.get("num_frames"),
        image_size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
        activation=config.get("hidden_act"),
        norm_eps=config.get("layer_norm_eps"),
        mean=mean,
        std=std,
        class_names=tuple(str(labels[key]) for key in sorted(labels, key=int)),
    )


def options_of_folder(
    state: dict[str, Tensor], metadata: CheckpointMetadata, config: dict[str, Any], preprocessor: dict[str, Any]
) -> tuple[str, list[str]]:
    """A folder's options as YAML text, and lines about those assumed; CheckpointError if they cannot be expressed."""
    kind = config.get("model_type")
    if kind not in _NORMALIZATION:
        raise CheckpointError(f"its config.json has model_type {kind}, expected {' or '.join(_NORMALIZATION)}")
    model = describe(state, metadata)
    if len(set(model.image_size)) > 1:
        raise CheckpointError(f"its image_size is {list(model.image_size)}, expected a square")
    exported = config.get(_OPTIONS_KEY)
    if isinstance(exported, dict):
        options, assumed = deepcopy(exported), []
    else:
        options, assumed = assumed_options(model)
        rates = {"DROP_RATE": "hidden_dropout_prob", "ATTN_DROP_RATE": "attention_probs_dropout_prob"}
        options["TIMESFORMER"] |= {key: float(config.get(theirs) or 0.0) for key, theirs in rates.items()}
    data = options.setdefault("DATA", {})
    options.setdefault("MODEL", {})["NUM_CLASSES"] = model.num_classes
    data |= {"NUM_FRAMES": model.num_frames, "TRAIN_CROP_SIZE": model.image_size[0]}
    if not preprocessor:
        data.setdefault("TEST_CROP_SIZE", model.image_size[0])
        if not isinstance(exported, dict):
            values = ", ".join(f"DATA.{key} {data[key]}" for key in ("MEAN", "STD", "TEST_CROP_SIZE"))
            assumed.append(f"it has no preprocessor_config.json; assumed: {values}")
        return yaml.safe_dump(options), assumed
    for key, values in zip(("MEAN", "STD"), _normalization(preprocessor, kind), strict=True):
        if not np.allclose(values, data.get(key) or 0.0, rtol=1e-9):  # the exported ones have no rounding
            data[key] = list(values)
    assumed += _set_crop(options, preprocessor)
    return yaml.safe_dump(options), assumed


def _set_crop(options: Options, preprocessor: dict[str, Any]) -> list[str]:
    """Sets how frames are scaled and cropped; returns lines about what differs from the processor."""
    data, test = options["DATA"], options.setdefault("TEST", {})
    size, center = preprocessor.get("size"), preprocessor.get("do_center_crop", True)
    scaled = _side(size, data["TRAIN_CROP_SIZE"])
    crop = _side(preprocessor.get("crop_size"), data["TRAIN_CROP_SIZE"]) if center else scaled
    squeezes = isinstance(size, dict) and bool(size.get("height"))
    data["TEST_CROP_SIZE"], data["SPATIAL_MODE"] = crop, "resize" if squeezes and scaled == crop else "crop"
    if data["SPATIAL_MODE"] == "crop":
        cfg = get_cfg()
        for name in ("DATA", "TEST"):
            cfg[name].update(options[name])
        if (short := max(scaled, crop)) != _short_side(cfg):
            test["NUM_SPATIAL_CROPS"] = 1
            data["TRAIN_JITTER_SCALES"] = [short, short * 5 // 4]  # in the ratio of the papers' 256 and 320
    if preprocessor.get("do_resize", True) and not (squeezes and scaled != crop):
        return []
    how = f"squeezes frames to {scaled} x {scaled} pixels before the crop" if squeezes else "does not scale frames"
    return [f"its image processor {how}; here their short side is scaled to {scaled} pixels"]


def _side(size: Any, default: int) -> int:
    """A side in pixels from a number, `shortest_edge`, or `height` and `width`."""
    if isinstance(size, dict):
        sides = {size[key] for key in ("shortest_edge", "height", "width") if size.get(key)}
    else:
        sides = {size or default}
    if len(sides) != 1 or not all(isinstance(side, int) for side in sides):
        raise CheckpointError(f"its image processor has size or crop_size {size}, expected equal sides in pixels")
    return sides.pop()


def _short_side(cfg: CfgNode) -> int:
    """The short side in pixels to which a test scales frames before the center crop."""
    size, scales = cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES
    return max(size, scales[0]) if cfg.TEST.NUM_SPATIAL_CROPS == 1 and scales else size


def _normalization(preprocessor: dict[str, Any], kind: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels in [0, 1] that have the effect of all steps of a processor."""
    keys = ("image_processor_type", "video_processor_type", "feature_extractor_type")
    name = next((str(preprocessor[key]) for key in keys if preprocessor.get(key)), kind or "")
    defaults = _PROCESSOR_DEFAULTS["vivit" if name.lower().startswith("vivit") else "timesformer"]
    offset, factor = (preprocessor.get(key, defaults[key]) for key in ("offset", "rescale_factor"))
    if not preprocessor.get("do_rescale", True):
        offset, factor = False, 1.0
    mean, std = (0.5 if preprocessor.get(key) is None else preprocessor[key] for key in ("image_mean", "image_std"))
    if not preprocessor.get("do_normalize", True):
        mean, std = 0.0, 1.0
    scale = 255 * factor
    try:
        means, stds = (value if isinstance(value, list) else [value] * 3 for value in (mean, std))
        return tuple(round((bool(offset) + m) / scale, 9) for m in means), tuple(round(s / scale, 9) for s in stds)
    except (TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"image_mean {mean}, image_std {std}, rescale_factor {factor} must be numbers") from error


def _trained_normalization(
    config: dict[str, Any], preprocessor: dict[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std with which a folder's weights were trained; empty if that is unknown."""
    if preprocessor:
        mean, std = _normalization(preprocessor, config.get("model_type"))
        # Google's processors normalize twice, while the models were trained with the first step.
        is_twice = config.get("model_type") == "vivit" and (mean[0], std[0]) == (0.75, 0.25)
        return ((), ()) if is_twice else (mean, std)
    described = config.get("pretrained_cfg", config)  # of timm; at the top level in older folders
    mean, std = (described.get(key) if isinstance(described, dict) else None for key in ("mean", "std"))
    return tuple(mean or ()), tuple(std or ())


def assumed_options(model: Description) -> tuple[Options, list[str]]:
    """Options for a model of which only the architecture is known, and notes on the assumed ones."""
    mean, std = _NORMALIZATION[model.model]
    side, ssv2 = model.image_size[0], model.num_classes == _SSV2_CLASSES
    rate = _KINETICS_RATES.get(model.num_frames) if model.model == "timesformer" else None
    rate, dataset = rate or _SAMPLING_RATE[model.model], "ssv2" if ssv2 else "kinetics"
    options = architecture(model)
    options["TRAIN"] = {"DATASET": dataset}
    options["TEST"] = {"DATASET": dataset, "NUM_ENSEMBLE_VIEWS": 1, "NUM_SPATIAL_CROPS": 1}
    options["DATA"] |= {
        "SAMPLER": "segment" if ssv2 else "",
        "SAMPLING_RATE": rate,
        "TRAIN_JITTER_SCALES": [side, side * 5 // 4],
        "TEST_CROP_SIZE": side,
        "MEAN": list(mean),
        "STD": list(std),
    }
    sampling = "DATA.SAMPLER segment (Something-Something V2)" if ssv2 else f"DATA.SAMPLING_RATE {rate}"
    return options, [f"it does not say how frames are sampled; assumed: {sampling}, 1 view and 1 crop in a test"]


def architecture(model: Description) -> Options:
    """The options that build a model."""
    ratio = model.hidden_dim / model.embed_dim
    if int(model.embed_dim * ratio) < model.hidden_dim:  # the model computes its width so
        ratio = math.nextafter(ratio, math.inf)
    size = {"EMBED_DIM": model.embed_dim, "DEPTH": model.depth, "NUM_HEADS": model.num_heads, "MLP_RATIO": ratio}
    options: Options = {
        "MODEL": {"MODEL_NAME": TITLES[model.model], "NUM_CLASSES": model.num_classes},
        "DATA": {"NUM_FRAMES": model.num_frames, "TRAIN_CROP_SIZE": model.image_size[0]},
        "TIMESFORMER": size,
    }
    if model.model == "vivit":
        return options | {"VIVIT": {"MODEL": 1, "TUBELET_SIZE": list(model.patch)}}
    if model.model == "videomae":
        own = {"MEAN_POOLING": model.mean_pooling, "NORM_EPS": model.norm_eps}
        return options | {"VIVIT": {"TUBELET_SIZE": list(model.patch)}, "VIDEOMAE": own}
    options["TIMESFORMER"] |= {"ATTENTION_TYPE": model.attention_type, "PATCH_SIZE": model.patch[1]}
    return options


def complete_options(options: Options, model: Description) -> Options:
    """A run's options, of which a converted file may have a part, completed with the options that the weights imply."""
    found = architecture(model)
    found["DATA"]["TEST_CROP_SIZE"] = model.image_size[0]
    if options.get("MODEL", {}).get("MODEL_NAME") == "LightTimeSformer":  # its variant gives the other sizes
        found["TIMESFORMER"] = {k: v for k, v in found["TIMESFORMER"].items() if k in ("MLP_RATIO", "PATCH_SIZE")}
    return options | {section: part | (options.get(section) or {}) for section, part in found.items()}


def adapt_to_transformers(
    state: dict[str, Tensor], model: Description, cfg: CfgNode
) -> tuple[dict[str, Tensor], Description, list[str]]:
    """The state and description for RGB clips of DATA.TEST_CROP_SIZE, and lines about changes; also changes `cfg`."""
    state, notes, data = dict(state), [], cfg.DATA
    if data.REVERSE_INPUT_CHANNEL:
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flip(1)
        data.REVERSE_INPUT_CHANNEL, data.MEAN, data.STD = False, data.MEAN[::-1], data.STD[::-1]
        notes.append("it reads BGR (DATA.REVERSE_INPUT_CHANNEL): the channels of its patch projection were reversed")
    size = (data.TEST_CROP_SIZE, data.TEST_CROP_SIZE)
    if size != model.image_size:
        if model.model != "videomae":  # whose positions are fixed
            steps = model.num_frames // model.patch[0] if model.model == "vivit" else 1
            before, after = ((steps, s[0] // model.patch[1], s[1] // model.patch[2]) for s in (model.image_size, size))
            how = cfg.TIMESFORMER.POS_EMBED_INTERPOLATION
            state["pos_embed"] = resize_tubelet_embed(state["pos_embed"], before, after, how)
            notes.append(f"its position embeddings were resized for DATA.TEST_CROP_SIZE {size[0]}")
        model, data.TRAIN_CROP_SIZE = replace(model, image_size=size), size[0]
        data.TRAIN_JITTER_SCALES = [max(side, size[0]) for side in data.TRAIN_JITTER_SCALES]
    return state, model, notes


def config_json(model: Description, cfg: CfgNode, options: Options) -> dict[str, Any]:
    """The content of config.json; `options` are those of `cfg` that were given, for `_OPTIONS_KEY`."""
    names = model.class_names or tuple(f"LABEL_{label}" for label in range(model.num_classes))
    height, width = model.image_size
    config: dict[str, Any] = {
        "architectures": [f"{_ARCHITECTURES[model.model]}ForVideoClassification"],
        "model_type": model.model,
        "image_size": height if height == width else [height, width],
        "num_frames": model.num_frames,
        "num_channels": model.channels,
        "hidden_size": model.embed_dim,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.hidden_dim,
        "hidden_act": model.activation,
        "hidden_dropout_prob": cfg.TIMESFORMER.DROP_RATE,
        "attention_probs_dropout_prob": cfg.TIMESFORMER.ATTN_DROP_RATE,
        "layer_norm_eps": model.norm_eps,
        "qkv_bias": model.qkv_bias,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
    }
    if model.model == "vivit":
        config["tubelet_size"] = list(model.patch)
    elif model.model == "videomae":
        config["qv_bias"] = config.pop("qkv_bias")
        config["patch_size"] = model.patch[1] if model.patch[1] == model.patch[2] else list(model.patch[1:])
        config |= {"tubelet_size": model.patch[0], "use_mean_pooling": model.mean_pooling}
    else:
        config |= {"patch_size": model.patch[1], "attention_type": model.attention_type}
    return config | {_OPTIONS_KEY: _exported_options(cfg, options)}


def _exported_options(cfg: CfgNode, options: Options) -> Options:
    exported: Options = {}
    for key, value in flatten(options).items():
        if effects_of(key) & {"model", "clips", "evaluation"} or key == "TRAIN.DATASET":
            set_option(exported, key, value)
    # What `adapt_to_transformers` changes
    for key in ("REVERSE_INPUT_CHANNEL", "MEAN", "STD", "TRAIN_CROP_SIZE", "TEST_CROP_SIZE", "TRAIN_JITTER_SCALES"):
        set_option(exported, f"DATA.{key}", cfg.DATA[key])
    return exported | {"RNG_SEED": cfg.RNG_SEED}


def network_files(config: dict[str, Any], cfg: CfgNode, class_names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The JSON files, by name, of a network of transformers with the `network_config` of a checkpoint."""
    if cfg.DATA.REVERSE_INPUT_CHANNEL:
        raise CheckpointError("it reads BGR (DATA.REVERSE_INPUT_CHANNEL), expected RGB")
    names = class_names or tuple(f"LABEL_{label}" for label in range(cfg.MODEL.NUM_CLASSES))
    labels = {"id2label": {str(label): name for label, name in enumerate(names)}}
    files = {"config.json": config | labels | {"label2id": {name: label for label, name in enumerate(names)}}}
    if config["model_type"] in _PROCESSOR_DEFAULTS:
        return files | {"preprocessor_config.json": preprocessor_json(config["model_type"], cfg)}
    processor = preprocessor_json("videomae", cfg)
    del processor["image_processor_type"]
    return files | {"video_preprocessor_config.json": processor | {"video_processor_type": "VJEPA2VideoProcessor"}}


def preprocessor_json(kind: str, cfg: CfgNode) -> dict[str, Any]:
    """The content of preprocessor_config.json for a model type, for the processors of the models on the hub."""
    data, vivit = cfg.DATA, kind == "vivit"
    crop = {"height": data.TEST_CROP_SIZE, "width": data.TEST_CROP_SIZE}
    squeezes = data.SPATIAL_MODE == "resize"
    # ViViT's processor normalizes pixels in [-1, 1]
    mean, std = ([2 * m - 1 for m in data.MEAN], [2 * s for s in data.STD]) if vivit else (data.MEAN, data.STD)
    processor = {
        "image_processor_type": "VivitImageProcessor" if vivit else "VideoMAEImageProcessor",
        "do_resize": True,
        "size": crop if squeezes else {"shortest_edge": _short_side(cfg)},
        "resample": 2,  # bilinear
        "do_center_crop": not squeezes,
        "crop_size": crop,
        "do_rescale": True,
        "rescale_factor": _PROCESSOR_DEFAULTS[kind]["rescale_factor"],
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    return processor | ({"offset": True} if vivit else {})
