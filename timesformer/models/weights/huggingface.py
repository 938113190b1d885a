"""The JSON files of a folder that transformers loads: written from a run's options, and read as such options.

`config.json` describes the model, `preprocessor_config.json` how frames become clips. An export keeps what neither has
a field for, such as the sampler, in `config.json` under `OPTIONS_KEY`. For other folders it is assumed, with a note.
"""

import math
from dataclasses import replace
from typing import Any

import yaml
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.config import get_cfg
from timesformer.config.sources import ZOO
from timesformer.models.embeddings import resize_tubelet_embed
from timesformer.models.weights.files import CheckpointError
from timesformer.models.weights.formats import CheckpointMetadata, Description, describe

Options = dict[str, Any]
"""A configuration as plain values, section by section, as YAML has it."""

OPTIONS_KEY = "timesformer_options"
"""What `config.json` of an export has in addition to the fields of transformers."""

_USED: dict[str, tuple[str, ...]] = {
    "TRAIN": ("DATASET", "MIXED_PRECISION"),
    "TEST": ("DATASET", "BATCH_SIZE", "NUM_ENSEMBLE_VIEWS", "NUM_SPATIAL_CROPS"),
    "DATA": (),
    "MODEL": (),
    "TIMESFORMER": (),
    "VIVIT": (),
}
"""Sections that say how a model is used, and the keys of them that do; () for all."""
_PATHS = ("PATH_TO_DATA_DIR", "SPLITS_DIR", "PATH_PREFIX", "DOWNLOAD_URLS", "PRETRAINED_MODEL")
_MODELS = ("timesformer", "vivit")
_DEFAULTS = {  # of the processors that transformers has for the two
    "timesformer": {"offset": False, "rescale_factor": 1 / 255},
    "vivit": {"offset": True, "rescale_factor": 1 / 127.5},
}
_NORMALIZATION = {"timesformer": (0.45, 0.225), "vivit": (0.5, 0.5)}  # mean and std that the papers' models have
_RATES = {"timesformer": 32, "vivit": 2}
_KINETICS_RATES = {model.frames: model.sampling_rate for model in ZOO.values() if model.dataset == "K400"}
_SSV2_CLASSES = 174


def metadata_of_folder(config: dict[str, Any], preprocessor: dict[str, Any]) -> CheckpointMetadata:
    """Reads the facts in the content of `config.json` and of the file of the processor (empty where there is none)."""
    labels = {label: name for label, name in (config.get("id2label") or {}).items() if name != f"LABEL_{label}"}
    size = config.get("image_size")
    mean, std = _normalization(preprocessor, config.get("model_type")) or ((), ())
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
    state: dict[str, Tensor], facts: CheckpointMetadata, config: dict[str, Any], preprocessor: dict[str, Any]
) -> tuple[str, list[str]]:
    """The options that a folder's model is used with.

    Args:
        state: by this project's names.
        facts: of the folder.
        config: content of `config.json`.
        preprocessor: of the file of the processor; empty where there is none.

    Returns:
        YAML text, and what of it the folder does not say and is assumed, a line each.

    Raises:
        CheckpointError: if the model or its clips are none of this project's.
    """
    if (kind := config.get("model_type")) not in _MODELS:
        raise CheckpointError(f"its config.json has model_type {kind}, expected {' or '.join(_MODELS)}")
    model = describe(state, facts)
    if len(set(model.image_size)) > 1:
        raise CheckpointError(
            f"its clips are of {_size(model.image_size)} pixels, and those of this project are square"
        )
    kept = config.get(OPTIONS_KEY)
    if isinstance(kept, dict):
        options = {name: dict(part) if isinstance(part, dict) else part for name, part in kept.items()}
        assumed = []
    else:
        options, assumed = assumed_options(model)
        rates = {"DROP_RATE": "hidden_dropout_prob", "ATTN_DROP_RATE": "attention_probs_dropout_prob"}
        options["TIMESFORMER"] |= {key: float(config.get(theirs) or 0.0) for key, theirs in rates.items()}
    data, section = options.setdefault("DATA", {}), options.setdefault("MODEL", {})
    section["NUM_CLASSES"] = model.num_classes
    data |= {"NUM_FRAMES": model.num_frames, "TRAIN_CROP_SIZE": model.image_size[0]}
    if not preprocessor:
        data.setdefault("TEST_CROP_SIZE", model.image_size[0])
        assumed += [] if isinstance(kept, dict) else [_without_preprocessor(data)]
        return yaml.safe_dump(options), assumed
    if facts.mean and not _close(facts.mean, data.get("MEAN")):
        data["MEAN"] = list(facts.mean)
    if facts.std and not _close(facts.std, data.get("STD")):
        data["STD"] = list(facts.std)
    if not isinstance(kept, dict) and _shifts_twice(preprocessor, kind):
        assumed.append(
            f"its image processor shifts pixels to -1..1 and then normalises them again: DATA.MEAN {data['MEAN']} and "
            f"DATA.STD {data['STD']} do the same. The paper's models take pixels from -1 to 1, which is 0.5 and 0.5"
        )
    assumed += _take_crop(options, preprocessor)
    return yaml.safe_dump(options), assumed


def _take_crop(options: Options, preprocessor: dict[str, Any]) -> list[str]:
    """Sets how the processor scales and crops, and returns what of it is not the same here, a line each."""
    data, test = options["DATA"], options.setdefault("TEST", {})
    size, centre = preprocessor.get("size"), preprocessor.get("do_center_crop", True)
    scaled = _side(size, data["TRAIN_CROP_SIZE"])
    crop = _side(preprocessor.get("crop_size"), data["TRAIN_CROP_SIZE"]) if centre else scaled
    squeezes = isinstance(size, dict) and bool(size.get("height"))
    data["TEST_CROP_SIZE"], data["SPATIAL_MODE"] = crop, "resize" if squeezes and scaled == crop else "crop"
    if data["SPATIAL_MODE"] == "crop" and (short := max(scaled, crop)) != _short_side(_filled(options)):
        test["NUM_SPATIAL_CROPS"] = 1
        data["TRAIN_JITTER_SCALES"] = [short, short * 5 // 4]  # 256 and 320, as the papers have them
    if preprocessor.get("do_resize", True) and not (squeezes and scaled != crop):
        return []
    how = f"squeezes frames to {scaled} x {scaled} pixels before the crop" if squeezes else "does not scale frames"
    return [f"its image processor {how}; here their short side is scaled to {scaled} pixels"]


def _side(size: Any, default: int) -> int:
    """A side in pixels from a field of a processor: a number, `shortest_edge`, or `height` and `width`."""
    if isinstance(size, dict):
        sides = {size[key] for key in ("shortest_edge", "height", "width") if size.get(key)}
    else:
        sides = {size} if size else {default}
    if len(sides) != 1 or not all(isinstance(side, int) for side in sides):
        raise CheckpointError(f"its image processor has size or crop_size {size}, expected equal sides in pixels")
    return sides.pop()


def _short_side(cfg: CfgNode) -> int:
    """To how many pixels the short side of a tested frame is scaled before the crop in the centre of it is cut."""
    size = cfg.DATA.TEST_CROP_SIZE
    one = cfg.TEST.NUM_SPATIAL_CROPS == 1
    return max(size, cfg.DATA.TRAIN_JITTER_SCALES[0]) if one and cfg.DATA.TRAIN_JITTER_SCALES else size


def _filled(options: Options) -> CfgNode:
    """The sections DATA and TEST with the defaults of what the options do not say."""
    cfg = get_cfg()
    for name in ("DATA", "TEST"):
        cfg[name].update(options.get(name, {}))
    return cfg


def _normalization(
    preprocessor: dict[str, Any], kind: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std, of pixels from 0 to 1, that amount to what a processor does; None where it does not say."""
    if not preprocessor:
        return None
    defaults = _defaults(preprocessor, kind)
    rescales = preprocessor.get("do_rescale", True)
    scale = 255 * (preprocessor.get("rescale_factor", defaults["rescale_factor"]) if rescales else 1.0)
    shift = float(rescales and preprocessor.get("offset", defaults["offset"]))
    mean, std = (0.5 if preprocessor.get(key) is None else preprocessor[key] for key in ("image_mean", "image_std"))
    if not preprocessor.get("do_normalize", True):
        mean, std = 0.0, 1.0
    try:
        means, stds = (value if isinstance(value, list) else [value] * 3 for value in (mean, std))
        return tuple(round((shift + m) / scale, 9) for m in means), tuple(round(s / scale, 9) for s in stds)
    except (TypeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"its image processor has image_mean {mean}, image_std {std} and a scale of {scale / 255}, expected numbers"
        ) from error


def _defaults(preprocessor: dict[str, Any], kind: str | None) -> dict[str, Any]:
    keys = ("image_processor_type", "video_processor_type", "feature_extractor_type")
    name = next((str(preprocessor[key]) for key in keys if preprocessor.get(key)), kind or "")
    return _DEFAULTS["vivit" if name.lower().startswith("vivit") else "timesformer"]


def _shifts_twice(preprocessor: dict[str, Any], kind: str) -> bool:
    """Whether pixels end beyond -1..1 because the mean of those from 0 to 1 is taken of pixels from -1 to 1."""
    if not preprocessor.get("do_normalize", True) or not preprocessor.get("do_rescale", True):
        return False
    shifted = preprocessor.get("offset", _defaults(preprocessor, kind)["offset"])
    return bool(shifted) and preprocessor.get("image_mean") == [0.5] * 3


def _close(ours: tuple[float, ...], theirs: Any) -> bool:
    """Equal but for the rounding of `_normalization`."""
    return (
        isinstance(theirs, list)
        and len(ours) == len(theirs)
        and all(math.isclose(a, b, abs_tol=1e-8) for a, b in zip(ours, theirs, strict=True))
    )


def assumed_options(model: Description) -> tuple[Options, list[str]]:
    """Options for a model about which nothing but its architecture is known, and what of them is assumed, a line each.

    Clips are sampled as those that the papers' models were trained on, and tested as transformers does it: one clip,
    the centre of it.
    """
    mean, std = _NORMALIZATION[model.model]
    side, ssv2 = model.image_size[0], model.num_classes == _SSV2_CLASSES
    rate = _KINETICS_RATES.get(model.num_frames) if model.model == "timesformer" else None
    rate, dataset = rate or _RATES[model.model], "ssv2" if ssv2 else "kinetics"
    options = architecture(model)
    options["TRAIN"] = {"DATASET": dataset}
    options["TEST"] = {"DATASET": dataset, "NUM_ENSEMBLE_VIEWS": 1, "NUM_SPATIAL_CROPS": 1}
    options["DATA"] |= {
        "SAMPLER": "segment" if ssv2 else "",
        "SAMPLING_RATE": rate,
        "TRAIN_JITTER_SCALES": [side, side * 5 // 4],
        "TEST_CROP_SIZE": side,
        "MEAN": [mean] * 3,
        "STD": [std] * 3,
    }
    how = f"DATA.SAMPLER segment, as for the {_SSV2_CLASSES} classes of Something-Something V2" if ssv2 else ""
    return options, [
        f"it does not say how frames are sampled; assumed: {how or f'DATA.SAMPLING_RATE {rate}'}, "
        "TEST.NUM_ENSEMBLE_VIEWS 1, TEST.NUM_SPATIAL_CROPS 1"
    ]


def _without_preprocessor(data: Options) -> str:
    return (
        f"it has no preprocessor_config.json; assumed: DATA.MEAN {data['MEAN']}, DATA.STD {data['STD']}, "
        f"DATA.TEST_CROP_SIZE {data['TEST_CROP_SIZE']}"
    )


def architecture(model: Description) -> Options:
    """The options that build a model."""
    ratio = model.hidden_dim / model.embed_dim
    if int(model.embed_dim * ratio) < model.hidden_dim:  # which is how the width is computed
        ratio = math.nextafter(ratio, math.inf)
    options: Options = {
        "MODEL": {
            "MODEL_NAME": "ViViT" if model.model == "vivit" else "TimeSformer",
            "NUM_CLASSES": model.num_classes,
        },
        "DATA": {"NUM_FRAMES": model.num_frames, "TRAIN_CROP_SIZE": model.image_size[0]},
        "TIMESFORMER": {
            "EMBED_DIM": model.embed_dim,
            "DEPTH": model.depth,
            "NUM_HEADS": model.num_heads,
            "MLP_RATIO": ratio,
        },
    }
    if model.model == "vivit":
        return options | {"VIVIT": {"MODEL": 1, "TUBELET_SIZE": list(model.patch)}}
    options["TIMESFORMER"] |= {"ATTENTION_TYPE": model.attention_type, "PATCH_SIZE": model.patch[1]}
    return options


def completed(options: Options, model: Description) -> Options:
    """A run's options, which a converted file may hold in part, with what the weights say of the others."""
    options = {name: dict(part) if isinstance(part, dict) else part for name, part in options.items()}
    found = architecture(model)
    found["DATA"]["TEST_CROP_SIZE"] = model.image_size[0]
    if options.get("MODEL", {}).get("MODEL_NAME") == "LightTimeSformer":  # which has its sizes from its variant
        found["TIMESFORMER"] = {k: v for k, v in found["TIMESFORMER"].items() if k in ("MLP_RATIO", "PATCH_SIZE")}
    return options | {section: part | (options.get(section) or {}) for section, part in found.items()}


def as_fed_by_transformers(
    state: dict[str, Tensor], model: Description, cfg: CfgNode
) -> tuple[dict[str, Tensor], Description, list[str]]:
    """The same model for the clips that a processor of transformers makes: RGB, of the size of the test.

    Weights that read BGR get their channels turned round, and position embeddings of another size than
    DATA.TEST_CROP_SIZE are resized as the model does it in every test, since transformers does it otherwise or not.

    Args:
        state: by this project's names.
        model: what it describes.
        cfg: the options that the model is used with; changed with it.

    Returns:
        State and description, and what was changed, a line each.
    """
    state, notes, data = dict(state), [], cfg.DATA
    if data.REVERSE_INPUT_CHANNEL:
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flip(1)
        data.REVERSE_INPUT_CHANNEL, data.MEAN, data.STD = False, data.MEAN[::-1], data.STD[::-1]
        notes.append(
            "it reads BGR (DATA.REVERSE_INPUT_CHANNEL): the channels of its patch projection were turned round"
        )
    size = (data.TEST_CROP_SIZE, data.TEST_CROP_SIZE)
    if size != model.image_size:
        steps = model.num_frames // model.patch[0] if model.model == "vivit" else 1
        before, after = (
            (steps, *(n // p for n, p in zip(s, model.patch[1:], strict=True))) for s in (model.image_size, size)
        )
        how = cfg.TIMESFORMER.POS_EMBED_INTERPOLATION
        state["pos_embed"] = resize_tubelet_embed(state["pos_embed"], before, after, how)
        notes.append(
            f"its position embeddings were resized from {_size(before[1:])} to {_size(after[1:])} patches, for clips "
            f"of DATA.TEST_CROP_SIZE {size[0]} pixels"
        )
        model, data.TRAIN_CROP_SIZE = replace(model, image_size=size), size[0]
        data.TRAIN_JITTER_SCALES = [max(side, size[0]) for side in data.TRAIN_JITTER_SCALES]
    return state, model, notes


def config_json(model: Description, cfg: CfgNode, options: Options) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        model: what it describes.
        cfg: the options that the model is used with.
        options: those of them that are written down, for `OPTIONS_KEY`.
    """
    names = model.class_names or tuple(f"LABEL_{label}" for label in range(model.num_classes))
    height, width = model.image_size
    config: dict[str, Any] = {
        "architectures": [f"{model.model.capitalize()}ForVideoClassification"],
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
    else:
        config |= {"patch_size": model.patch[1], "attention_type": model.attention_type}
    return config | {OPTIONS_KEY: _used(cfg, options)}


def _used(cfg: CfgNode, options: Options) -> Options:
    """What of the options says how the model is used; what `as_fed_by_transformers` changes is as `cfg` has it."""
    kept: Options = {}
    for section, keys in _USED.items():
        part = options.get(section)
        part = part if isinstance(part, dict) else {}
        kept[section] = {k: v for k, v in part.items() if k not in _PATHS and (not keys or k in keys)}
    for key in ("REVERSE_INPUT_CHANNEL", "MEAN", "STD", "TRAIN_CROP_SIZE", "TEST_CROP_SIZE", "TRAIN_JITTER_SCALES"):
        kept["DATA"][key] = cfg.DATA[key]
    return kept | {"RNG_SEED": cfg.RNG_SEED}


def preprocessor_json(model: Description, cfg: CfgNode) -> dict[str, Any]:
    """The content of `preprocessor_config.json`, of the processor that models of the hub have."""
    data, vivit = cfg.DATA, model.model == "vivit"
    crop = {"height": data.TEST_CROP_SIZE, "width": data.TEST_CROP_SIZE}
    squeezed = data.SPATIAL_MODE == "resize"
    # ViViT's has pixels from -1 to 1 before they are normalised, in all versions of transformers.
    mean, std = ([2 * m - 1 for m in data.MEAN], [2 * s for s in data.STD]) if vivit else (data.MEAN, data.STD)
    processor = {
        "image_processor_type": "VivitImageProcessor" if vivit else "VideoMAEImageProcessor",
        "do_resize": True,
        "size": crop if squeezed else {"shortest_edge": _short_side(cfg)},
        "resample": 2,  # bilinear
        "do_center_crop": not squeezed,
        "crop_size": crop,
        "do_rescale": True,
        "rescale_factor": _DEFAULTS[model.model]["rescale_factor"],
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    return processor | ({"offset": True} if vivit else {})


def _size(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))
