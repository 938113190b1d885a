"""Names of tensors in other libraries, and the architecture that tensors and the rest of a checkpoint describe."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from timesformer.models.blocks import LIGHT_VARIANTS
from timesformer.models.weights.files import CheckpointError

_WRAPPERS = re.compile(r"^((module|model|_orig_mod)\.)+")  # DDP, a registered model, torch.compile
HEAD_MARK = "head.time_embed"
"""A tensor that all heads over tokens have."""
_ATTRIBUTES = ("net.", "network.", "backbone.")  # removed if all names have it, as parts of models have such names too

_HF_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.time_embeddings": "time_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
    "layernorm_before": "norm1",
    "attention.attention.qkv": "attn.qkv",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "temporal_layernorm": "temporal_norm1",
    "temporal_attention.attention.qkv": "temporal_attn.qkv",
    "temporal_attention.output.dense": "temporal_attn.proj",
    "temporal_dense": "temporal_fc",
}
_HF5_NAMES = {  # of transformers 5, which reads the older names too
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_VIDEOMAE_NAMES = {  # of transformers' VideoMAE, besides the above
    "fc_norm": "fc_norm",
    "attention.attention.q_bias": "attn.q.bias",
    "attention.attention.v_bias": "attn.v.bias",
}
_TO_HF = {ours: theirs for theirs, ours in _HF_NAMES.items()}
_VIDEOMAE_TO_HF = _TO_HF | {ours: theirs for theirs, ours in _VIDEOMAE_NAMES.items()}
_QKV = re.compile(r"(\.attn\.)[qkv](\.)")
_QV_BIAS = re.compile(r"(\.attn\.[qv])_bias$")  # of the original VideoMAE
_HF_PREFIX = re.compile(r"^(timesformer|vivit|vit|videomae)\.")
_HF_BLOCK = re.compile(r"^(?:encoder\.layer|layers)\.(\d+)\.(.+)$")
_HF_PATCHES = "embeddings.patch_embeddings.projection.weight"
TITLES = {"timesformer": "TimeSformer", "vivit": "ViViT", "vit": "ViT", "videomae": "VideoMAE"}
"""Names of models by model_type of transformers."""


def remove_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the prefixes of wrappers, such as `model.`, from the names of tensors."""
    return {_WRAPPERS.sub("", name): tensor for name, tensor in state.items() if name != "n_averaged"}


def to_native(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Renames tensors to the names of facebookresearch/TimeSformer without the leading `model.`.

    Queries, keys and values are joined; a missing bias of keys, as in VideoMAE, is zero. Returns also the library, ""
    if only prefixes of wrappers were removed.
    """
    state = remove_wrappers(state)
    for prefix in () if HEAD_MARK in state else _ATTRIBUTES:  # such networks of this project have a `backbone`
        if all(name.startswith((prefix, "head.")) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if "encoder.patch_embed.proj.weight" in state:  # VideoMAE's pretraining, with a decoder
        state = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    patches = next((name for name in state if _HF_PREFIX.sub("", name) == _HF_PATCHES), None)
    if patches is None:
        renamed = {_QV_BIAS.sub(r"\1.bias", name): tensor for name, tensor in state.items()}
        return _join_qkv(renamed), "" if renamed.keys() == state.keys() else "VideoMAE"
    kind = _HF_PREFIX.match(patches)
    renamed = {_from_huggingface(_HF_PREFIX.sub("", name)): tensor for name, tensor in state.items()}
    return _join_qkv(renamed), f"Hugging Face {TITLES[kind[1]] if kind else 'model'}"


def _from_huggingface(name: str) -> str:
    if block := _HF_BLOCK.match(name):
        part = _rename(block[2], _HF_NAMES | _HF5_NAMES | _VIDEOMAE_NAMES)
        return f"blocks.{block[1]}.{part}" if part else name
    return _rename(name, _HF_NAMES) or name


def _rename(name: str, names: dict[str, str]) -> str | None:
    """The new name by that of a tensor or of its module; None if there is none."""
    if name in names:
        return names[name]
    module, _, kind = name.rpartition(".")
    return f"{names[module]}.{kind}" if module in names else None


def _join_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        q, k, v = (state.get(_QKV.sub(rf"\1{part}\2", name)) for part in "qkv")
        if k is None and name.endswith(".bias"):
            k = torch.zeros_like(tensor)
        if not _QKV.search(name) or q is None or k is None or v is None:
            joined[name] = tensor
        elif tensor is q:
            joined[_QKV.sub(r"\1qkv\2", name)] = torch.cat([q, k, v])
    return joined


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint says about its model besides the tensors; None and () if unknown."""

    num_heads: int | None = None
    num_frames: int | None = None
    image_size: tuple[int, int] | None = None  # height and width in pixels
    activation: str | None = None  # of the MLPs, transformers' name
    norm_eps: float | None = None
    mean: tuple[float, ...] = ()  # normalization of pixels in [0, 1], of each channel
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()  # in label order
    clip_seconds: float = 0.0  # median length of the training clips, 0 if unknown


def metadata_of(rest: dict[str, Any]) -> CheckpointMetadata:
    """Metadata from what a file contains besides its weights: `cfg` (YAML text), `progress` and `class_names`."""
    try:
        cfg = yaml.safe_load(rest["cfg"]) if isinstance(rest.get("cfg"), str) else None
    except yaml.YAMLError:
        cfg = None
    progress = _section(rest, "progress")
    names = tuple(progress.get("class_names") or rest.get("class_names") or ())
    seconds = progress.get("clip_seconds") or rest.get("clip_seconds")
    clip_seconds = float(seconds) if isinstance(seconds, int | float) and 0 < seconds < float("inf") else 0.0
    if not isinstance(cfg, dict):
        return CheckpointMetadata(class_names=names, clip_seconds=clip_seconds)
    data, options, num_heads = _section(cfg, "DATA"), _section(cfg, "TIMESFORMER"), None
    model_name, side = _section(cfg, "MODEL").get("MODEL_NAME"), data.get("TRAIN_CROP_SIZE")
    if model_name == "LightTimeSformer":
        num_heads = LIGHT_VARIANTS.get(options.get("VARIANT") or "gesture", {}).get("num_heads")
    elif model_name in ("vit_base_patch16_224", "TimeSformer", "ViViT", "VideoMAE"):
        num_heads = options.get("NUM_HEADS")
    return CheckpointMetadata(
        num_heads=num_heads,
        num_frames=data.get("NUM_FRAMES"),
        image_size=(side, side) if side else None,
        mean=tuple(data.get("MEAN") or ()),
        std=tuple(data.get("STD") or ()),
        norm_eps=_section(cfg, "VIDEOMAE").get("NORM_EPS") if model_name == "VideoMAE" else None,
        class_names=names,
        clip_seconds=clip_seconds,
    )


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    return section if isinstance(section, dict) else {}


@dataclass(frozen=True)
class Description:
    """The architecture of a TimeSformer, a VideoMAE, or a ViViT with joint attention."""

    model: str  # "timesformer", "vivit" or "videomae"
    attention_type: str  # of TimeSformer; "joint_space_time" for the others
    patch: tuple[int, int, int]  # frames, height and width of a patch or tubelet
    image_size: tuple[int, int]  # height and width of a clip
    num_frames: int
    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int  # of the MLPs
    channels: int
    qkv_bias: bool
    num_classes: int
    activation: str  # of the MLPs, transformers' name
    norm_eps: float
    class_names: tuple[str, ...]  # in label order; () if unknown
    mean_pooling: bool  # of VideoMAE
    guesses: tuple[str, ...]  # lines about what is not from the checkpoint


def check_linear_head(state: dict[str, Tensor]) -> None:
    """Raises CheckpointError if the tensors have a head over tokens, which transformers does not have."""
    if HEAD_MARK in state:
        raise CheckpointError("its MODEL.HEAD is attentive or temporal, expected linear, the only one of transformers")


def describe(
    state: dict[str, Tensor],
    metadata: CheckpointMetadata,
    num_heads: int | None = None,
    num_frames: int | None = None,
) -> Description:
    """Derives the architecture from the tensors (with this project's names) and the metadata of a checkpoint.

    By default, a head has 64 units. Raises CheckpointError if it is another model, or something is unknown.
    """
    check_linear_head(state)
    kernel = state.get("patch_embed.proj.weight")
    is_videomae = kernel is not None and kernel.ndim == 5 and not {"cls_token", "pos_embed"} & state.keys()
    needed = ("blocks.0.mlp.fc1.weight", "head.weight", *(() if is_videomae else ("cls_token", "pos_embed")))
    if missing := [name for name in ("patch_embed.proj.weight", *needed) if name not in state]:
        models = "TimeSformer, VideoMAE, or ViViT with joint attention"
        raise CheckpointError(f"it lacks {', '.join(missing)}, expected {models}")
    if unknown := [name for name in state if name.startswith("temporal_") or name == "dist_token"]:
        raise CheckpointError(f"it has {unknown[0]}: of ViViT, transformers has only the joint model (VIVIT.MODEL 1)")
    guesses, num_classes = [], len(state["head.weight"])
    embed_dim, channels = kernel.shape[:2]
    has_tubelets = kernel.ndim == 5
    patch = tuple(kernel.shape[2:]) if has_tubelets else (1, *kernel.shape[2:])
    if "blocks.0.temporal_attn.qkv.weight" in state:
        attention_type = "divided_space_time"
    else:
        attention_type = "joint_space_time" if has_tubelets or "time_embed" in state else "space_only"
    frames = num_frames or metadata.num_frames
    if "time_embed" in state:
        frames = state["time_embed"].shape[1]
    elif frames is None and is_videomae:
        frames = 16
        guesses.append("number of frames unknown; assumed: 16. If wrong, so are results: give --num-frames")
    elif frames is None and has_tubelets:
        raise CheckpointError("it does not say how many frames a clip has; give --num-frames, such as 32")
    heads = num_heads or metadata.num_heads or max(1, embed_dim // 64)
    if embed_dim % heads:
        raise CheckpointError(f"its width {embed_dim} is not divisible by {heads} heads; give another --num-heads")
    if not (num_heads or metadata.num_heads):
        guesses.append(
            f"number of attention heads unknown; assumed: {heads}. If wrong, so are results: give --num-heads"
        )
    if is_videomae:
        image_size = metadata.image_size or (14 * patch[1], 14 * patch[2])
        if not metadata.image_size:
            guesses.append(f"size of a clip unknown; assumed: {image_size[0]} x {image_size[1]} pixels")
    else:
        steps = (frames // patch[0]) if has_tubelets else 1
        patches, rest = divmod(state["pos_embed"].shape[1] - 1, steps)
        image_size = _image_size(metadata, patch, patches if not rest else 0)
    return Description(
        model="videomae" if is_videomae else "vivit" if has_tubelets else "timesformer",
        attention_type=attention_type,
        patch=patch,
        image_size=image_size,
        num_frames=frames or 8,
        embed_dim=embed_dim,
        depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_heads=heads,
        hidden_dim=len(state["blocks.0.mlp.fc1.weight"]),
        channels=channels,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        num_classes=num_classes,
        activation=metadata.activation or ("gelu_fast" if has_tubelets and not is_videomae else "gelu"),
        norm_eps=metadata.norm_eps or 1e-6,
        class_names=metadata.class_names if len(metadata.class_names) == num_classes else (),
        mean_pooling="fc_norm.weight" in state,
        guesses=tuple(guesses),
    )


def _image_size(metadata: CheckpointMetadata, patch: tuple[int, int, int], patches: int) -> tuple[int, int]:
    if metadata.image_size:
        height, width = metadata.image_size
        if (height // patch[1]) * (width // patch[2]) == patches:
            return height, width
    side = math.isqrt(patches)
    if not patches or side * side != patches:
        raise CheckpointError("its grid of patches is not square, and it does not say its size; check --num-frames")
    return side * patch[1], side * patch[2]


def to_huggingface(state: dict[str, Tensor], model: Description) -> dict[str, Tensor]:
    """Renames tensors to the names of transformers 4, which version 5 reads too.

    The bias of VideoMAE's keys, which has no effect, is left out. Half precision becomes float32, which the processor
    of a folder expects.
    """
    exported: dict[str, Tensor] = {}
    names = _VIDEOMAE_TO_HF if model.model == "videomae" else _TO_HF
    for name, tensor in state.items():
        tensor = tensor.float() if tensor.dtype == torch.float16 else tensor
        parts = {name: tensor}
        if model.model != "timesformer" and ".attn.qkv." in name:
            pieces = zip("qkv", tensor.chunk(3), strict=True)
            parts = {name.replace(".qkv.", f".{letter}."): piece for letter, piece in pieces}
        for part, piece in parts.items():
            block = re.match(r"blocks\.(\d+)\.(.+)", part)
            inner = _rename(block[2] if block else part, names)
            if model.model == "videomae" and part.endswith(".attn.k.bias"):
                continue
            if inner is None:
                raise CheckpointError(f"it has {name}, which transformers' {model.model} has not")
            prefix = "" if inner.startswith(("classifier.", "fc_norm.")) else f"{model.model}."
            exported[f"{prefix}encoder.layer.{block[1]}.{inner}" if block else f"{prefix}{inner}"] = piece.contiguous()
    return exported
