"""What other libraries call the tensors, and the architecture that tensors and a checkpoint's options describe."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from timesformer.models.variants import LIGHT_VARIANTS
from timesformer.models.weights.files import CheckpointError

_WRAPPERS = re.compile(r"^((module|model|_orig_mod)\.)+")  # DDP, a registered model, torch.compile
_ATTRIBUTES = ("net.", "network.", "backbone.")  # what training programs call their model; also parts of some models

_HF_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.time_embeddings": "time_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
}
_HF_BLOCK_NAMES = {
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
_HF_NEWER_BLOCK_NAMES = {  # transformers 5; it reads the older ones, too, which is why those are written
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_FROM_HF_BLOCK = _HF_BLOCK_NAMES | _HF_NEWER_BLOCK_NAMES
_TO_HF = {name: theirs for theirs, name in _HF_NAMES.items()}
_TO_HF_BLOCK = {name: theirs for theirs, name in _HF_BLOCK_NAMES.items()}
_QKV = re.compile(r"(\.attn\.)[qkv](\.)")
_HF_MODEL = re.compile(r"^(timesformer|vivit|vit)\.")
_HF_BLOCK = re.compile(r"^(?:encoder\.layer|layers)\.(\d+)\.(.+)$")
_HF_SIGN = "embeddings.patch_embeddings.projection.weight"
_HF_TITLES = {"timesformer": "TimeSformer", "vivit": "ViViT", "vit": "ViT"}


def to_native(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Gives tensors the names they have in this project, whatever library named them.

    Args:
        state: of the original, of this project, of timm, or of transformers' TimeSformer, ViViT or ViT (names of any
            version), with or without the prefixes that wrappers leave.

    Returns:
        The tensors by the names of facebookresearch/TimeSformer without leading `model.`, queries, keys and values in
        one; and whose names they had before, "" where nothing had to be renamed.
    """
    state = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items() if name != "n_averaged"}
    for prefix in _ATTRIBUTES:
        if all(name.startswith((prefix, "head.")) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    sign = next((name for name in state if _HF_MODEL.sub("", name) == _HF_SIGN), None)
    if sign is None:
        return state, ""
    kind = _HF_MODEL.match(sign)
    renamed = {_from_huggingface(_HF_MODEL.sub("", name)): tensor for name, tensor in state.items()}
    return _join_qkv(renamed), f"Hugging Face {_HF_TITLES[kind[1]] if kind else 'model'}"


def _from_huggingface(name: str) -> str:
    block = _HF_BLOCK.match(name)
    if not block:
        return _renamed(name, _HF_NAMES) or name
    part = _renamed(block[2], _FROM_HF_BLOCK)
    return f"blocks.{block[1]}.{part}" if part else name


def _renamed(name: str, names: dict[str, str]) -> str | None:
    """The name in another dict's words, `.weight` and `.bias` kept; None where it has none."""
    if name in names:
        return names[name]
    stem, _, kind = name.rpartition(".")
    return f"{names[stem]}.{kind}" if stem in names else None


def _join_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = [_QKV.sub(rf"\1{part}\2", name) for part in "qkv"]
        if not _QKV.search(name) or not all(part in state for part in parts):
            joined[name] = tensor
        elif name == parts[0]:
            joined[_QKV.sub(r"\1qkv\2", name)] = torch.cat([state[part] for part in parts])
    return joined


@dataclass(frozen=True)
class CheckpointMetadata:
    """What tensors do not tell about the model they are from; None and () where the checkpoint does not say.

    Attributes:
        num_heads: of an attention.
        num_frames: of a clip.
        image_size: height and width of a clip in pixels.
        activation: of the perceptrons, by the name transformers has for it.
        norm_eps: epsilon of the normalisations.
        mean, std: that clips are normalised with, of pixels from 0 to 1; () where only options say it, if anything.
        class_names: in label order.
    """

    num_heads: int | None = None
    num_frames: int | None = None
    image_size: tuple[int, int] | None = None
    activation: str | None = None
    norm_eps: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()


def metadata_of(rest: dict[str, Any]) -> CheckpointMetadata:
    """Reads the facts in what a file holds besides its weights: `cfg` (YAML text), `progress` and `class_names`.

    For a folder of transformers: `timesformer.models.weights.huggingface.metadata_of_folder`.
    """
    try:
        cfg = yaml.safe_load(rest["cfg"]) if isinstance(rest.get("cfg"), str) else None
    except yaml.YAMLError:
        cfg = None
    names = tuple(_section(rest, "progress").get("class_names") or rest.get("class_names") or ())
    if not isinstance(cfg, dict):
        return CheckpointMetadata(class_names=names)
    data = _section(cfg, "DATA")
    side = data.get("TRAIN_CROP_SIZE")
    return CheckpointMetadata(
        num_heads=_heads(cfg),
        num_frames=data.get("NUM_FRAMES"),
        image_size=(side, side) if side else None,
        class_names=names,
    )


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    return section if isinstance(section, dict) else {}


def _heads(cfg: dict[str, Any]) -> int | None:
    name, options = _section(cfg, "MODEL").get("MODEL_NAME"), _section(cfg, "TIMESFORMER")
    if name == "LightTimeSformer":
        return LIGHT_VARIANTS.get(options.get("VARIANT") or "gesture", {}).get("num_heads")
    return options.get("NUM_HEADS") if name in ("vit_base_patch16_224", "TimeSformer", "ViViT") else None


@dataclass(frozen=True)
class Description:
    """The architecture of a TimeSformer, or of a ViViT with joint attention, as far as a file has to say it.

    Attributes:
        model: "timesformer" or "vivit".
        attention_type: of TimeSformer; of ViViT always "joint_space_time".
        patch: frames, height and width of a patch or tubelet in pixels.
        image_size: height and width of a clip in pixels.
        num_frames: of a clip.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: of an attention.
        hidden_dim: units of a perceptron.
        channels: of a frame.
        qkv_bias: whether queries, keys and values have a bias.
        num_classes: outputs of the head.
        activation: of the perceptrons, by the name transformers has for it.
        norm_eps: epsilon of the normalisations.
        class_names: in label order; () where unknown.
        guessed_heads: whether `num_heads` is the convention, 64 units a head, and not what the checkpoint says.
    """

    model: str
    attention_type: str
    patch: tuple[int, int, int]
    image_size: tuple[int, int]
    num_frames: int
    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int
    channels: int
    qkv_bias: bool
    num_classes: int
    activation: str
    norm_eps: float
    class_names: tuple[str, ...]
    guessed_heads: bool


def describe(
    state: dict[str, Tensor], facts: CheckpointMetadata, num_heads: int | None = None, num_frames: int | None = None
) -> Description:
    """Reads the architecture off the tensors, and what they do not tell off the facts.

    Args:
        state: by this project's names, as `to_native` gives them.
        facts: of the checkpoint.
        num_heads: given by the user; otherwise the checkpoint's, or one for every 64 units of width.
        num_frames: given by the user, where the checkpoint does not say it.

    Raises:
        CheckpointError: if these are not the tensors of such a model, or something has to be said that is not known.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "head.weight")
    if missing := [name for name in needed if name not in state]:
        raise CheckpointError(
            f"it lacks {', '.join(missing)}, so it is neither TimeSformer nor ViViT with joint attention"
        )
    if strange := [name for name in state if name.startswith("temporal_") or name == "dist_token"]:
        raise CheckpointError(
            f"it has {strange[0]}, which no model of transformers has: of ViViT only the joint model (VIVIT.MODEL 1) "
            "is there, of TimeSformer the one with a single class token"
        )
    kernel = state["patch_embed.proj.weight"]
    embed_dim, channels = kernel.shape[:2]
    patch = (1, *kernel.shape[2:]) if kernel.ndim == 4 else tuple(kernel.shape[2:])
    model = "timesformer" if kernel.ndim == 4 else "vivit"
    if model == "vivit" or "time_embed" in state:
        divided = "blocks.0.temporal_attn.qkv.weight" in state
        attention_type = "divided_space_time" if divided else "joint_space_time"
    else:
        attention_type = "space_only"
    if model == "vivit":
        frames = num_frames or facts.num_frames
        if frames is None:
            raise CheckpointError("it does not say how many frames a clip has; give --num-frames, such as 32")
    else:
        frames = state["time_embed"].shape[1] if "time_embed" in state else num_frames or facts.num_frames or 8
    heads = num_heads or facts.num_heads or max(1, embed_dim // 64)
    if embed_dim % heads:
        raise CheckpointError(f"its width {embed_dim} cannot be split into {heads} heads; give the right --num-heads")
    places, rest = divmod(state["pos_embed"].shape[1] - 1, frames // patch[0] if model == "vivit" else 1)
    return Description(
        model=model,
        attention_type=attention_type,
        patch=patch,
        image_size=_image_size(facts, patch, places if not rest else 0),
        num_frames=frames,
        embed_dim=embed_dim,
        depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_heads=heads,
        hidden_dim=state["blocks.0.mlp.fc1.weight"].shape[0],
        channels=channels,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        num_classes=state["head.weight"].shape[0],
        activation=facts.activation or ("gelu" if model == "timesformer" else "gelu_fast"),
        norm_eps=facts.norm_eps or 1e-6,
        class_names=facts.class_names if len(facts.class_names) == state["head.weight"].shape[0] else (),
        guessed_heads=not (num_heads or facts.num_heads),
    )


def _image_size(facts: CheckpointMetadata, patch: tuple[int, int, int], places: int) -> tuple[int, int]:
    if facts.image_size:
        height, width = facts.image_size
        if (height // patch[1]) * (width // patch[2]) == places:
            return height, width
    side = math.isqrt(places)
    if not places or side * side != places:
        raise CheckpointError(
            "its position embeddings are of no square grid of patches, and it does not say which; check --num-frames"
        )
    return side * patch[1], side * patch[2]


def to_huggingface(state: dict[str, Tensor], model: Description) -> dict[str, Tensor]:
    """Gives the tensors the names of transformers that its versions 4 and 5 both read."""
    exported: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = re.match(r"blocks\.(\d+)\.(.+)", name)
        parts = {name: tensor}
        if model.model == "vivit" and ".attn.qkv." in name:
            parts = {
                name.replace(".qkv.", f".{part}."): piece for part, piece in zip("qkv", tensor.chunk(3), strict=True)
            }
        for part, piece in parts.items():
            inner = _renamed(part.split(".", 2)[2], _TO_HF_BLOCK) if block else _renamed(part, _TO_HF)
            if inner is None:
                raise CheckpointError(f"it has {name}, which transformers' {model.model} has not")
            prefix = "" if inner.startswith("classifier.") else f"{model.model}."
            key = f"{prefix}encoder.layer.{block[1]}.{inner}" if block else f"{prefix}{inner}"
            exported[key] = piece.contiguous()
    return exported
