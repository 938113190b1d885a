"""Loading the weights of a checkpoint into a model, which may have other classes, frames, sizes or attention."""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timesformer.config.sources import ZOO
from timesformer.errors import shorten
from timesformer.models.attention import Attention
from timesformer.models.embeddings import Interpolation, resize_pos_embed, resize_time_embed, resize_tubelet_embed
from timesformer.models.parts import head_names, inner_model
from timesformer.models.weights.download import local_path
from timesformer.models.weights.exported import ExportedNetwork, exported_format, read_exported
from timesformer.models.weights.files import CheckpointError, read_weights
from timesformer.models.weights.formats import HEAD_MARK, CheckpointMetadata, metadata_of, remove_wrappers, to_native
from timesformer.models.weights.huggingface import metadata_of_folder, options_of_folder
from timesformer.runtime.subcommands import suggest_command
from timesformer.torchvision_import import import_package

_CONTAINERS = (
    *("model_state", "model", "state_dict", "model_state_dict", "net", "network", "module", "weights", "params"),
    *("teacher", "student"),
)
"""Keys under which training programs save the weights of a model, in order of preference."""
_AVERAGED = (
    *("ema_state", "model_ema", "ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict"),
    *("ema_model_state_dict", "model_state_ema", "model_state_dict_ema"),
)
"""The same for moving averages of the weights."""

_LAYER_SCALE = re.compile(r"(blocks\.\d+)\.ls([12])\.gamma")
_BACKBONE = "backbone."
_STEPS_TO_LOGITS = "head.classifier.weight"
"""A tensor that in temporal heads reads the steps of a clip, one after the other."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file or folder."""

    state: dict[str, Tensor]  # on the CPU, with the names of its model without the leading `model.`
    rest: dict[str, Any]  # other content, such as `epoch`; of a folder `config`, `preprocessor`, and `cfg` from them
    origin: str  # the library whose names the tensors had; "" for the original's
    metadata: CheckpointMetadata
    source: str = ""  # as given by the user; for the folder of a run, the path of its checkpoint
    notes: tuple[str, ...] = ()  # lines about the weights
    assumed: tuple[str, ...] = ()  # lines about options in `cfg` that were assumed, or why there is no `cfg`
    network: ExportedNetwork | None = None  # an exported model, which has no `state`


def fingerprint(model: nn.Module, class_names: Sequence[str]) -> str:
    """A hash (32 hexadecimal digits) of a model's weights and class names."""
    return hash_tensors(model.state_dict(), repr(tuple(class_names)))


def hash_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """A hash (32 hexadecimal digits) of tensors, their names and a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass
class LoadReport:
    """What was loaded; names of tensors are without the leading `model.`."""

    loaded: list[str] = field(default_factory=list)
    adapted: list[tuple[str, str]] = field(default_factory=list)  # name, and how it was made from another
    new: list[str] = field(default_factory=list)  # tensors of the model that keep their initial values
    unused: list[str] = field(default_factory=list)  # tensors of the checkpoint that were not loaded
    notes: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)  # see `Checkpoint`
    metadata: CheckpointMetadata = field(default_factory=CheckpointMetadata)

    def table(self) -> str:
        """A table of counts and names, in which equal names of different blocks are one, and the notes."""
        rows = [("loaded", self.loaded)]
        ways: dict[str, list[str]] = {}
        for name, how in self.adapted:
            ways.setdefault(_any_block(how), []).append(name)
        rows += [(f"adapted: {how}", names) for how, names in ways.items()]
        rows += [("new (initial values kept)", self.new), ("unused (only in the checkpoint)", self.unused)]
        width = max(len(what) for what, _ in rows)
        lines = [f"{'':{width}}  tensors  names"]
        for what, names in rows:
            listed = "" if names is self.loaded else ", ".join(_distinct(names)) or "-"
            lines.append(f"{what:{width}}  {len(names):7}  {listed}".rstrip())
        return "\n".join([*lines, *self.notes])


def read_checkpoint(source: str | Path, weights: str = "") -> Checkpoint:
    """Reads the weights of a file, folder, URL or name (see `source_problem`) without running code in them.

    The file has a state dict, of the original, timm or transformers, itself or under the key `weights`; by default
    under a usual key (`model_state`, `state_dict`, ...), if possible not of a moving average. An exported model (ONNX,
    OpenVINO, torch.export) has no state dict, but is itself the `network`. Raises CheckpointError if the file is
    missing, damaged, contains code, or has no weights, and DownloadError.
    """
    path = local_path(source)
    if exported_format(path):
        network = read_exported(path)
        return Checkpoint({}, network.metadata, "", metadata_of(network.metadata), str(source), network=network)
    content, folder = read_weights(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}, expected a dict with weights")
    known = (*_CONTAINERS, *_AVERAGED)
    found = {key: state for key in (weights, *known) if key in content and (state := _find_state(content[key]))}
    if weights and weights not in found:
        raise CheckpointError(f"{path} has no weights under {weights!r}, but under {', '.join(found) or 'no key'}")
    container = next(iter(found), None)
    state = found[container] if container else _tensors(content)
    if not state:
        found = shorten(map(str, content)) or "an empty dict"
        raise CheckpointError(f"{path} has no weights: found {found}, expected tensors, or one of {', '.join(known)}")
    rest = {k: v for k, v in content.items() if k != container} if container else {}
    is_library = "network_config" in rest  # its network is one of transformers, whose names stay
    state, origin = (remove_wrappers(state), "") if is_library else to_native(state)
    notes = ()
    if others := [key for key in found if key != container]:
        averaged = " (a moving average)" if set(others) & set(_AVERAGED) else ""
        command = suggest_command("convert", str(source), "OUT", "--to", "pyth", "--weights", others[0])
        notes = (f"its weights under {container} were read; it also has {', '.join(others)}{averaged}: {command}",)
    name = str(path if path.is_file() and Path(str(source)).is_dir() else source)
    if "config" not in folder:
        return Checkpoint(state, rest, origin, _with_released(metadata_of(rest), str(source)), name, notes)
    rest |= folder
    config, preprocessor = folder["config"], folder.get("preprocessor", {})
    try:
        metadata = metadata_of_folder(config, preprocessor)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    try:
        rest["cfg"], assumed = options_of_folder(state, metadata, config, preprocessor)
    except CheckpointError as error:
        assumed = [str(error)]
    return Checkpoint(state, rest, origin, metadata, name, notes, tuple(assumed))


def _with_released(metadata: CheckpointMetadata, source: str) -> CheckpointMetadata:
    """The metadata with the normalization of a released model (`zoo:`) whose file does not have it."""
    model = ZOO.get(source.removeprefix("zoo:")) if source.startswith("zoo:") and not metadata.mean else None
    return replace(metadata, mean=model.mean, std=model.std) if model else metadata


def _tensors(content: dict[Any, Any]) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _find_state(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of one under a usual key; empty if there are none."""
    if not isinstance(content, dict):
        return {}
    inner = (content[key] for key in _CONTAINERS if isinstance(content.get(key), dict))
    return next(filter(None, map(_tensors, (*inner, content))), {})


def load_pretrained(
    model: nn.Module, source: str | Path | Checkpoint, interpolation: Interpolation = "bicubic", strict: bool = False
) -> LoadReport:
    """Loads weights of the same, another or an image model into a network or a model of `build_model`.

    Embeddings and the patch projection are resized, or inflated over time. Missing temporal attention is copied from
    the spatial one if a fresh `temporal_fc` follows. A head with another number of classes, or of another kind, stays
    fresh.

    `source` is that of `read_checkpoint`, or its result. "legacy" resizes the patches as a line, as the original;
    `strict` refuses weights that leave a tensor new or unused. Raises CheckpointError, with `model` unchanged.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    source = checkpoint.source
    if checkpoint.network is not None:
        raise CheckpointError(f"{source} is an exported model, which cannot be trained: give the checkpoint instead")
    network = inner_model(model)
    heads = tuple(f"{head}." for head in head_names(model))
    wanted = network.state_dict()
    state = _fold_layer_scale(_with_backbone(checkpoint.state, wanted), wanted)
    checkpoint = replace(checkpoint, state=state)
    other_head = HEAD_MARK in wanted and _starting(checkpoint.state, heads) != _starting(wanted, heads)
    notes, values, used = _notes(network, checkpoint), {}, set()
    report = LoadReport(notes=notes, rest=checkpoint.rest, metadata=checkpoint.metadata)
    misfits, heads_of_source = [], checkpoint.metadata.num_heads
    attention = (m for n, m in network.named_modules() if isinstance(m, Attention) and not n.startswith(heads))
    num_heads = next((module.num_heads for module in attention), None)
    if num_heads and heads_of_source and num_heads != heads_of_source:  # the tensors have the same shapes
        misfits.append(f"its attention has {heads_of_source} heads, expected {num_heads} (TIMESFORMER.NUM_HEADS)")
    for name, target in wanted.items():
        origin, how = _find_origin(name, checkpoint.state, wanted), []
        value = checkpoint.state.get(origin)
        other_shape = value is not None and value.shape != target.shape
        is_fresh = other_head or (other_shape and _is_of_other_classes(name, value, target))
        if value is None or (name.startswith(heads) and is_fresh):
            report.new.append(name)
            continue
        used.add(origin)
        if origin != name:
            how.append(f"copied from {origin}")
        if other_shape:
            adapted = _adapt(name, value, target, network, checkpoint, interpolation)
            if adapted is None or adapted[0].shape != target.shape:
                misfits.append(f"{name} is {_times(value.shape)}, expected {_times(target.shape)}")
                continue
            value = adapted[0]
            how += adapted[1]
        values[name] = value
        if how:
            report.adapted.append((name, ", ".join(how)))
        else:
            report.loaded.append(name)
    report.unused = [name for name in checkpoint.state if name not in used]
    if misfits:
        remedy = "choose its model (MODEL.MODEL_NAME, MODEL.HEAD_*, TIMESFORMER.*, VIVIT.*), or another checkpoint"
        raise CheckpointError(f"{source} does not fit the model: {shorten(misfits, '; ')}; {remedy}")
    if not values:
        found, expected = shorten(checkpoint.state), shorten(wanted)
        raise CheckpointError(f"{source} has no tensor of this model: found {found}; expected {expected}")
    if strict and (report.new or report.unused):
        new, unused = (shorten(_distinct(names)) or "none" for names in (report.new, report.unused))
        raise CheckpointError(
            f"{source} does not fit the model exactly (TRAIN.STRICT_LOADING): new tensors {new}, unused tensors "
            f"{unused}; choose another checkpoint, or set it False"
        )
    network.load_state_dict(values, strict=False)
    return report


def _with_backbone(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with or without the prefix of a network under a head over tokens, as in `wanted`."""
    found, expected = (any(name.startswith(_BACKBONE) for name in names) for names in (state, wanted))
    if expected and not found:
        return {_BACKBONE + n if _BACKBONE + n in wanted else n: tensor for n, tensor in state.items()}
    if found and not expected:
        others = {name: tensor for name, tensor in state.items() if not name.startswith(_BACKBONE)}
        return others | {n.removeprefix(_BACKBONE): tensor for n, tensor in state.items() if n.startswith(_BACKBONE)}
    return state


def _fold_layer_scale(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the layer scale of timm's vision transformers (DINOv2, ...) in the layers before it.

    The factors follow the output projections of attention (`ls1`) and MLP (`ls2`), so that nothing else changes.
    """
    scales = {name: tensor for name, tensor in state.items() if _LAYER_SCALE.fullmatch(name) and name not in wanted}
    folded = {name: tensor for name, tensor in state.items() if name not in scales}
    for name, scale in scales.items():
        block, number = _LAYER_SCALE.fullmatch(name).groups()
        layer = f"{block}.{'attn.proj' if number == '1' else 'mlp.fc2'}"
        folded[f"{layer}.weight"] = folded[f"{layer}.weight"] * scale.unsqueeze(1)
        folded[f"{layer}.bias"] = folded[f"{layer}.bias"] * scale
    return folded


def _is_of_other_classes(name: str, value: Tensor, target: Tensor) -> bool:
    return value.shape[1:] == target.shape[1:] or (name == _STEPS_TO_LOGITS and len(value) != len(target))


def _starting(names: Iterable[str], prefixes: tuple[str, ...]) -> set[str]:
    return {name for name in names if name.startswith(prefixes)}


def _find_origin(name: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """The tensor of the checkpoint from which one of the model is made, if it exists."""
    if name in state or f"{name.partition('.temporal_')[0]}.temporal_fc.weight" not in wanted:
        return name
    return name.replace(".temporal_attn.", ".attn.").replace(".temporal_norm1.", ".norm1.")


def _notes(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    notes, metadata = list(checkpoint.notes), checkpoint.metadata
    if checkpoint.origin:
        notes.append(f"{checkpoint.origin}: its tensors were renamed")
    gelu = next((module for module in network.modules() if isinstance(module, nn.GELU)), None)
    if metadata.activation and gelu and (metadata.activation != "gelu") != (gelu.approximate == "tanh"):
        notes.append(f"it was trained with {metadata.activation}, the model has GELU (approximate={gelu.approximate})")
    eps = getattr(getattr(network, "norm", None), "eps", None)
    if metadata.norm_eps and eps and metadata.norm_eps != eps:
        notes.append(f"it was trained with layer_norm_eps {metadata.norm_eps}, the model has {eps}")
    return notes


def _adapt(
    name: str, value: Tensor, target: Tensor, network: nn.Module, checkpoint: Checkpoint, interpolation: Interpolation
) -> tuple[Tensor, list[str]] | None:
    """`value` adapted to `target` and how; None or another shape if that is not possible."""
    is_native = hasattr(network, "grid")  # a transformer of this project
    if is_native and name == "patch_embed.proj.weight":
        return _adapt_patches(value, target, network)
    if name == _STEPS_TO_LOGITS and HEAD_MARK in checkpoint.state:
        before, after = (tensors[HEAD_MARK].shape[1] for tensors in (checkpoint.state, network.state_dict()))
        steps = value.unflatten(1, (before, -1)) if value.shape[1] % before == 0 else value.unsqueeze(1)
        resized = resize_time_embed(steps, after).flatten(1) * (before / after)
        return resized, [f"{before} to {after} steps"]
    if value.ndim != 3 or value.shape[::2] != target.shape[::2]:  # [1, entries, dim]
        return None
    if is_native and name == "pos_embed":
        return _adapt_pos_embed(value, target, network, checkpoint, interpolation)
    if name.removeprefix(_BACKBONE) == "pos_embed":
        return _adapt_timm_pos_embed(value, target, getattr(network, "backbone", network))
    extra = {"time_embed": 0, HEAD_MARK: 0, "temporal_pos_embed": 1}.get(name)  # the class token
    if extra is None:
        return None
    before, after = value.shape[1] - extra, target.shape[1] - extra
    table = torch.cat([value[:, :extra], resize_time_embed(value[:, extra:], after, interpolation)], dim=1)
    return table, [f"{before} to {after} {'steps' if extra else 'frames'}"]


def _adapt_patches(value: Tensor, target: Tensor, network: nn.Module) -> tuple[Tensor, list[str]]:
    how, size, before = [], tuple(target.shape[-2:]), tuple(value.shape[-2:])
    if size != before:  # pseudo-inverse resize of FlexiViT, https://arxiv.org/abs/2212.08013
        timm = import_package("timm.layers", "resizing patches")
        resampled = timm.resample_patch_embed(value.flatten(1, -3), size)  # tubelets: each frame is a channel
        value = resampled.reshape(*value.shape[:-2], *size)
        how.append(f"patches of {_times(before)} to {_times(size)} pixels, resampled")
    if value.ndim == 4 and target.ndim == 5:
        value = network.patch_embed.inflate(value)
        how.append(f"to tubelets of {target.shape[2]} frames ({network.patch_embed.init})")
    return value, how


def _adapt_pos_embed(
    value: Tensor, target: Tensor, network: nn.Module, checkpoint: Checkpoint, interpolation: Interpolation
) -> tuple[Tensor, list[str]] | None:
    names = ("cls_token", "dist_token")
    extra, kept = (sum(name in tensors for name in names) for tensors in (checkpoint.state, network.state_dict()))
    if kept > extra:
        return None
    how = []
    if dropped := ("class token", "distillation token")[kept:extra]:
        how.append(f"entry of the {' and the '.join(dropped)} left out")
    front, table = value[:, :kept], value[:, extra:]
    entries = target.shape[1] - kept
    grid = (entries // math.prod(network.grid[-2:]), *network.grid[-2:])  # steps, rows, columns
    trained = _trained_grid(table.shape[1], checkpoint, grid)
    if interpolation == "legacy" and grid[0] == 1:
        if table.shape[1] != entries:
            how.append(f"{table.shape[1]} to {entries} patches")
            table = F.interpolate(table.transpose(1, 2), size=entries, mode="nearest").transpose(1, 2)
        return torch.cat([front, table], dim=1), how
    if trained is None or (trained[0] > 1 and grid[0] == 1):
        return None
    if trained[1:] != grid[1:]:
        how.append(f"{_times(trained[1:])} to {_times(grid[1:])} patches")
    if trained[0] != grid[0]:
        how.append(f"repeated over {grid[0]} steps" if trained[0] == 1 else f"{trained[0]} to {grid[0]} steps")
    return torch.cat([front, resize_tubelet_embed(table, trained, grid, interpolation)], dim=1), how


def _adapt_timm_pos_embed(value: Tensor, target: Tensor, network: nn.Module) -> tuple[Tensor, list[str]] | None:
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if grid is None:
        return None
    extra = target.shape[1] - math.prod(grid)  # class and register tokens
    side = math.isqrt(max(0, value.shape[1] - extra))
    if side * side + extra != value.shape[1]:
        return None
    resized = resize_pos_embed(value, (side, side), tuple(grid), num_prefix_tokens=extra)
    return resized, [f"{side} x {side} to {_times(grid)} patches"]


def _trained_grid(entries: int, checkpoint: Checkpoint, grid: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Steps, rows and columns of position embeddings: by the image size, else as in `grid`, else square; else None."""
    kernel, guesses = checkpoint.state.get("patch_embed.proj.weight"), []
    is_vivit = kernel is not None and kernel.ndim == 5
    if checkpoint.metadata.image_size and kernel is not None:
        rows, columns = (n // k for n, k in zip(checkpoint.metadata.image_size, kernel.shape[-2:], strict=True))
        guesses.append((max(1, entries // max(1, rows * columns)) if is_vivit else 1, rows, columns))
    if is_vivit:
        guesses.append((entries // math.prod(grid[1:]), *grid[1:]))
    steps = grid[0] if is_vivit else 1
    side = math.isqrt(entries // steps)
    guesses.append((steps, side, side))
    return next((guess for guess in guesses if math.prod(guess) == entries > 0), None)


def _times(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "a number"


def _distinct(names: Iterable[str]) -> list[str]:
    """Names in which the numbers of blocks are left out, each once."""
    return list(dict.fromkeys(map(_any_block, names)))


def _any_block(name: str) -> str:
    return re.sub(r"\bblocks\.\d+\.", "blocks.*.", name)
