"""Reading a checkpoint's weights into a model, also one with other classes, frames, size, channels or attention.

Whatever library wrote it (`formats.py`) and wherever it lies (`download.py`), a checkpoint arrives here with the names
of facebookresearch/TimeSformer. Files are data: nothing in them is ever run (`files.py`).
"""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timesformer.errors import shorten
from timesformer.models.attention import Attention
from timesformer.models.embeddings import Interpolation, resize_time_embed, resize_tubelet_embed
from timesformer.models.parts import head_names
from timesformer.models.weights.download import local_path
from timesformer.models.weights.files import CheckpointError, read_weights
from timesformer.models.weights.formats import CheckpointMetadata, metadata_of, to_native
from timesformer.models.weights.huggingface import metadata_of_folder, options_of_folder
from timesformer.models.weights.patch_resize import change_channels, resize_kernel

_CONTAINERS = (
    "model_state",
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "teacher",
    "student",
)
"""Keys under which training programs save the weights of a model, the one to prefer first."""
_AVERAGED = (
    "ema_state",
    "model_ema",
    "ema",
    "ema_model",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model_state_dict",
    "model_state_ema",
    "model_state_dict_ema",
)
"""The same for their moving average."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights of any origin.

    Attributes:
        state: tensors on the CPU by the names of facebookresearch/TimeSformer, without leading `model.`.
        rest: what the file holds besides them, such as `epoch` and `optimizer_state`; of a folder of Hugging Face
            `config` and `preprocessor`, and as `cfg` the options that these amount to.
        origin: whose names the tensors had, "" where they had these.
        facts: what it says about its model.
        source: what it was asked for by; of the folder of a run, the path of the checkpoint in it.
        notes: what else should be known about the weights, a line each.
        assumed: what of `cfg` no file says, a line each; where there is no `cfg`, why not.
    """

    state: dict[str, Tensor]
    rest: dict[str, Any]
    origin: str
    facts: CheckpointMetadata
    source: str = ""
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def fingerprint(model: nn.Module, class_names: Sequence[str]) -> str:
    """32 hexadecimal digits that follow from a model's weights and the names of its classes, and from nothing else."""
    digest = hashlib.blake2b(repr(tuple(class_names)).encode(), digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass
class LoadReport:
    """What became of the tensors of a model and of a checkpoint; names are without the leading `model.`.

    Attributes:
        loaded: tensors of the model taken over unchanged.
        adapted: tensors of the model made from one of another shape or name, and how.
        new: tensors of the model that keep their initial values; a head of another number of classes among them.
        unused: tensors of the checkpoint that found no place.
        notes: what else should be known, a line each.
        rest: what the file holds beside the weights.
    """

    loaded: list[str] = field(default_factory=list)
    adapted: list[tuple[str, str]] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Return a table with a row for what was loaded, each way of adapting, what is new and what was unused.

        Names that differ by the number of their block alone are joined; those loaded are counted only. Notes follow.
        """
        rows = [("loaded", self.loaded)]
        ways: dict[str, list[str]] = {}
        for name, how in self.adapted:
            ways.setdefault(_any_block(how), []).append(name)
        rows += [(f"adapted: {how}", names) for how, names in ways.items()]
        rows += [("new (initial values kept)", self.new), ("unused (only in the checkpoint)", self.unused)]
        width = max(len(what) for what, _ in rows)
        lines = [f"{'':{width}}  tensors  names"]
        for what, names in rows:
            listed = "" if names is self.loaded else ", ".join(_joined(names)) or "-"
            lines.append(f"{what:{width}}  {len(names):7}  {listed}".rstrip())
        return "\n".join([*lines, *self.notes])


def read_checkpoint(source: str | Path, weights: str = "") -> Checkpoint:
    """Reads weights from any file, folder or place that an option may name, without running anything in them.

    Args:
        source: a path, URL, `zoo:`, `hf:` or `timm:` name (`timesformer.config.sources`). The file holds a state dict,
            or a dict with one under a usual key (`model_state`, `model_state_dict`, `state_dict`, `model`, ...), in the
            format of `torch.save` or safetensors, with the names of the original, timm or transformers.
        weights: the key, for files that hold several; "": not an average, if there are others.

    Raises:
        CheckpointError: if it is missing, is not a checkpoint, is damaged, holds anything but tensors and plain values,
            or has no weights, or none under that key.
        DownloadError: if it cannot be fetched.
    """
    path = local_path(source)
    content, folder = read_weights(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dict with the weights of a model")
    known = (*_CONTAINERS, *_AVERAGED)
    found = {key: state for key in (weights, *known) if key in content and (state := _state_in(content[key]))}
    if weights and weights not in found:
        raise CheckpointError(
            f"{path} holds no weights under {weights!r}: found {', '.join(found) or 'a bare state dict'}"
        )
    container = next(iter(found), None)
    state = found[container] if container else _tensors(content)
    if not state:
        raise CheckpointError(
            f"{path} holds no weights: expected tensors by name, or a dict of them under one of {', '.join(known)}, "
            f"found {shorten(map(str, content)) or 'an empty dict'}"
        )
    rest = {k: v for k, v in content.items() if k != container} if container else {}
    state, origin = to_native(state)
    notes = _other_weights(source, [key for key in found if key != container], container)
    name = str(path if path.is_file() and Path(str(source)).is_dir() else source)
    if "config" not in folder:
        return Checkpoint(state, rest, origin, metadata_of(rest), name, notes)
    rest |= folder
    config, preprocessor = folder["config"], folder.get("preprocessor", {})
    try:
        facts = metadata_of_folder(config, preprocessor)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    try:
        rest["cfg"], assumed = options_of_folder(state, facts, config, preprocessor)
    except CheckpointError as error:
        return Checkpoint(state, rest, origin, facts, name, notes, (str(error),))
    return Checkpoint(state, rest, origin, facts, name, notes, tuple(assumed))


def _tensors(content: dict[Any, Any]) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _state_in(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of one that lies under a usual key in a dict; empty where there are none."""
    if not isinstance(content, dict):
        return {}
    inner = (content[key] for key in _CONTAINERS if isinstance(content.get(key), dict))
    return next(filter(None, map(_tensors, (*inner, content))), {})


def _other_weights(source: str | Path, others: list[str], taken: str | None) -> tuple[str, ...]:
    if not others:
        return ()
    averaged = " (a moving average of them)" if set(others) & set(_AVERAGED) else ""
    return (
        f"its weights under {taken} were taken; it also holds {', '.join(others)}{averaged}. To have those, write them "
        f"into a file: tools/convert_checkpoint.py {source} OUT --to pyth --weights {others[0]}",
    )


def load_pretrained(
    model: nn.Module, source: str | Path | Checkpoint, interpolation: Interpolation = "bicubic", strict: bool = False
) -> LoadReport:
    """Starts a model from the weights of another, or of an image ViT.

    What is adapted: position embeddings to the model's grid of patches or tubelets (of an image model repeated over
    time; an image's grid is taken to be square), time embeddings to its frames, the patch projection to its channels,
    patch size and tubelets. Temporal attention that a checkpoint has not is copied from the spatial one of the same
    block where a fresh `temporal_fc` keeps it from acting at first. A head of another number of classes stays fresh, so
    a caller that wants to test, and not to fine-tune, looks whether anything is in `new`.

    Args:
        model: a `VisionTransformer`, a `VideoTransformer` or another model, or a registered model that holds one as
            `.model`; changed in place, and not touched at all when an error is raised.
        source: see `read_checkpoint`; or what that returned.
        interpolation: "bicubic" (2-D in space, linear in time) or "legacy" (the nearest entry, as the original does
            while loading: with the patches as one line instead of a grid).
        strict: refuse a checkpoint that leaves anything new or unused.

    Raises:
        CheckpointError: as `read_checkpoint`; and if a tensor's shape cannot be adapted, the number of heads is
            another, no tensor fits, or, if strict, any is new or unused.
        DownloadError: as `read_checkpoint`.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    source = checkpoint.source
    vit = getattr(model, "model", model)
    heads = tuple(f"{head}." for head in head_names(model))
    wanted = vit.state_dict()
    report, values, misfits, used = LoadReport(rest=checkpoint.rest), {}, _other_heads(vit, checkpoint.facts), set()
    for name, target in wanted.items():
        origin, how = _origin(name, checkpoint.state, wanted), []
        if origin is None or _is_other_head(name, heads, checkpoint.state[origin], target):
            report.new.append(name)
            continue
        value = checkpoint.state[origin]
        used.add(origin)
        if origin != name:
            how.append(f"copied from {origin}")
        if value.shape != target.shape:
            adapted = _adapt(name, value, target, vit, checkpoint, interpolation)
            if adapted is None:
                misfits.append(f"{name} is {_shape(value)}, expected {_shape(target)}")
                continue
            value, change = adapted
            how.append(change)
        values[name] = value
        if how:
            report.adapted.append((name, ", ".join(how)))
        else:
            report.loaded.append(name)
    report.unused = [name for name in checkpoint.state if name not in used]
    report.notes = _notes(vit, checkpoint)
    if misfits:
        raise CheckpointError(
            f"{source} does not fit the model in {len(misfits)} points: {shorten(misfits, '; ')}. Choose the model "
            "that the checkpoint was trained as (MODEL.MODEL_NAME, TIMESFORMER.*, VIVIT.*), or another checkpoint"
        )
    if not values:
        raise CheckpointError(
            f"{source} has no tensor that this model knows: found {shorten(checkpoint.state)}; "
            f"expected {shorten(wanted)}"
        )
    if strict and (report.new or report.unused):
        raise CheckpointError(
            f"{source} does not fit the model wholly, which TRAIN.STRICT_LOADING asks for: new would be "
            f"{shorten(_joined(report.new)) or 'nothing'}, unused {shorten(_joined(report.unused)) or 'nothing'}. "
            "Choose another checkpoint, or set TRAIN.STRICT_LOADING False"
        )
    vit.load_state_dict(values, strict=False)
    return report


def _origin(name: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str | None:
    """The tensor of the checkpoint that one of the model is made from."""
    if name in state:
        return name
    block = name.partition(".temporal_")[0]
    # Only behind a `temporal_fc`, which starts at zero, are copies harmless: the model begins as the image model does.
    if f"{block}.temporal_fc.weight" not in wanted:
        return None
    spatial = name.replace(".temporal_attn.", ".attn.").replace(".temporal_norm1.", ".norm1.")
    return spatial if spatial in state else None


def _is_other_head(name: str, heads: tuple[str, ...], value: Tensor, target: Tensor) -> bool:
    return name.startswith(heads) and value.shape != target.shape and value.shape[1:] == target.shape[1:]


def _other_heads(vit: nn.Module, facts: CheckpointMetadata) -> list[str]:
    """Attention with another number of heads has tensors of the same shapes, and gives wrong results."""
    heads = next((module.num_heads for module in vit.modules() if isinstance(module, Attention)), None)
    if None in (heads, facts.num_heads) or heads == facts.num_heads:
        return []
    return [f"its attention has {facts.num_heads} heads, expected {heads} (TIMESFORMER.NUM_HEADS)"]


def _notes(vit: nn.Module, checkpoint: Checkpoint) -> list[str]:
    notes, facts = list(checkpoint.notes), checkpoint.facts
    if checkpoint.origin:
        notes.append(f"{checkpoint.origin}: its names were turned into those of this project")
    gelu = next((module for module in vit.modules() if isinstance(module, nn.GELU)), None)
    if facts.activation and gelu and (facts.activation != "gelu") != (gelu.approximate == "tanh"):
        notes.append(f"it was trained with {facts.activation}, the model has GELU ({gelu.approximate or 'exact'})")
    eps = getattr(getattr(vit, "norm", None), "eps", None)
    if facts.norm_eps and eps and facts.norm_eps != eps:
        notes.append(f"it was trained with an epsilon of {facts.norm_eps} in its norms, the model has {eps}")
    if facts.mean:
        notes.append(f"its clips are normalised with DATA.MEAN {list(facts.mean)} and DATA.STD {list(facts.std)}")
    return notes


def _adapt(
    name: str, value: Tensor, target: Tensor, vit: nn.Module, checkpoint: Checkpoint, interpolation: Interpolation
) -> tuple[Tensor, str] | None:
    """Return `value` in the shape of `target` with a word on how, or None where there is no sound way."""
    if not hasattr(vit, "grid"):  # no transformer of this project, so what its tensors mean is not known
        return None
    if name == "patch_embed.proj.weight":
        return _adapt_kernel(value, target, vit)
    if value.ndim != 3 or value.shape[::2] != target.shape[::2]:  # [1, entries, dim]
        return None
    if name == "pos_embed":
        return _adapt_pos_embed(value, target, vit, checkpoint, interpolation)
    if name == "time_embed":
        frames = target.shape[1]
        return resize_time_embed(value, frames, interpolation), f"{value.shape[1]} to {frames} frames"
    if name == "temporal_pos_embed":
        steps = target.shape[1] - 1
        table = resize_time_embed(value[:, 1:], steps, interpolation)
        return torch.cat([value[:, :1], table], dim=1), f"{value.shape[1] - 1} to {steps} steps"
    return None


def _adapt_kernel(value: Tensor, target: Tensor, vit: nn.Module) -> tuple[Tensor, str] | None:
    how = []
    if value.shape[1] == 3 != target.shape[1]:
        value = change_channels(value, target.shape[1])
        how.append(f"3 to {target.shape[1]} channels")
    if (size := tuple(target.shape[-2:])) != (before := tuple(value.shape[-2:])):
        value = resize_kernel(value, size)
        how.append(f"patches of {_times(before)} to {_times(size)} pixels, resampled")
    if value.ndim == 4 and target.ndim == 5:
        value = vit.patch_embed.inflate(value)
        how.append(f"to tubelets of {target.shape[2]} frames ({vit.patch_embed.init})")
    return (value, ", ".join(how)) if value.shape == target.shape else None


def _adapt_pos_embed(
    value: Tensor, target: Tensor, vit: nn.Module, checkpoint: Checkpoint, interpolation: Interpolation
) -> tuple[Tensor, str] | None:
    wanted = vit.state_dict().keys()
    extra, kept = (sum(name in names for name in ("cls_token", "dist_token")) for names in (checkpoint.state, wanted))
    if kept > extra:
        return None
    how = []
    if dropped := ("class token", "distillation token")[kept:extra]:
        how.append(f"entry of the {' and the '.join(dropped)} left out")
    front, table = value[:, :kept], value[:, extra:]
    entries = target.shape[1] - kept
    grid = (entries // math.prod(vit.grid[-2:]), *vit.grid[-2:])  # steps, rows, columns
    trained = _trained_grid(table.shape[1], checkpoint, grid)
    if interpolation == "legacy" and grid[0] == 1:
        if table.shape[1] != entries:
            how.append(f"{table.shape[1]} to {entries} patches")
            table = F.interpolate(table.transpose(1, 2), size=entries, mode="nearest").transpose(1, 2)
        return torch.cat([front, table], dim=1), ", ".join(how)
    if trained is None or (trained[0] > 1 and grid[0] == 1):  # one entry cannot stand for several steps
        return None
    if trained[1:] != grid[1:]:
        how.append(f"{_times(trained[1:])} to {_times(grid[1:])} patches")
    if trained[0] != grid[0]:
        how.append(f"repeated over {grid[0]} steps" if trained[0] == 1 else f"{trained[0]} to {grid[0]} steps")
    table = resize_tubelet_embed(table, trained, grid, interpolation)
    return torch.cat([front, table], dim=1), ", ".join(how)


def _trained_grid(entries: int, checkpoint: Checkpoint, grid: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Steps, rows and columns of a checkpoint's position embeddings, None where they cannot be told.

    By the picture that the checkpoint was trained on where it says so; else an image's grid is square, and one of
    tubelets has the rows and columns of `grid`, or else its steps and is square.
    """
    kernel = checkpoint.state.get("patch_embed.proj.weight")
    guesses = []
    if checkpoint.facts.image_size and kernel is not None:
        rows, columns = (n // k for n, k in zip(checkpoint.facts.image_size, kernel.shape[-2:], strict=True))
        guesses.append((max(1, entries // max(1, rows * columns)), rows, columns))
    if kernel is not None and kernel.ndim == 5:
        guesses.append((entries // math.prod(grid[1:]), *grid[1:]))
        side = math.isqrt(entries // grid[0])
        guesses.append((grid[0], side, side))
    else:
        guesses = [guess for guess in guesses if guess[0] == 1]
        side = math.isqrt(entries)
        guesses.append((1, side, side))
    return next((guess for guess in guesses if math.prod(guess) == entries > 0), None)


def _times(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _joined(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(_any_block, names)))


def _any_block(name: str) -> str:
    return re.sub(r"\bblocks\.\d+\.", "blocks.*.", name)


def _shape(tensor: Tensor) -> str:
    return _times(tensor.shape) or "a number"
