"""Reading a checkpoint's weights into a model, also one with other classes, frames, size, channels or attention.

Tensors go by the names of facebookresearch/TimeSformer. Files are data: nothing in them is ever run.
"""

import math
import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timesformer.errors import UserError
from timesformer.models.embeddings import Interpolation, resize_pos_embed, resize_time_embed
from timesformer.models.parts import head_names

_CONTAINERS = ("model_state", "model", "state_dict")
_PREFIX = re.compile(r"^((module|model|_orig_mod)\.)+")  # of wrappers: DDP, a registered model, torch.compile


class CheckpointError(UserError):
    """A file that is no checkpoint, or one whose weights do not belong to the model."""


@dataclass
class LoadReport:
    """What became of the tensors of a model and of a checkpoint; names are without the leading `model.`.

    Attributes:
        loaded: tensors of the model taken over unchanged.
        adapted: tensors of the model made from one of another shape or name, and how.
        new: tensors of the model that keep their initial values; a head of another number of classes among them.
        unused: tensors of the checkpoint that found no place.
        rest: what the file holds beside the weights.
    """

    loaded: list[str] = field(default_factory=list)
    adapted: list[tuple[str, str]] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Return a table with a row for what was loaded, each way of adapting, what is new and what was unused.

        Names that differ by the number of their block alone are joined; those loaded are counted only.
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
            listed = "" if names is self.loaded else ", ".join(dict.fromkeys(map(_any_block, names))) or "-"
            lines.append(f"{what:{width}}  {len(names):7}  {listed}".rstrip())
        return "\n".join(lines)


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights in a file written by `torch.save`, without running anything in it.

    Args:
        path: a file holding a state dict, or a dict with one under `model_state`, `model` or `state_dict`.

    Returns:
        The tensors (on the CPU) by name, without leading `module.` or `model.`; and the rest of the file, such as
        `epoch` and `optimizer_state`.

    Raises:
        CheckpointError: if the file is missing, is not a checkpoint, is damaged, holds anything but tensors and plain
            values, or has no weights.
    """
    content = _read(Path(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dict with the weights of a model")
    container = next((name for name in _CONTAINERS if isinstance(content.get(name), dict)), None)
    weights = content[container] if container else content
    state = {_PREFIX.sub("", str(k)): v for k, v in weights.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(
            f"{path} holds no weights: expected tensors by name, or a dict of them under "
            f"{', '.join(_CONTAINERS)}, found {_few(map(str, weights)) or 'an empty dict'}"
        )
    rest = {k: v for k, v in content.items() if k != container} if container else {}
    return state, rest


def load_pretrained(model: nn.Module, path: str | Path, interpolation: Interpolation = "bicubic") -> LoadReport:
    """Start a TimeSformer from the weights of another, or of an image ViT.

    What is adapted: position embeddings to the model's patch grid (a checkpoint's grid is taken to be square), time
    embeddings to its frames, the patch projection to its channels. Temporal attention that the checkpoint has not is
    copied from the spatial one of the same block. A head of another number of classes stays fresh, so a caller that
    wants to test, and not to fine-tune, looks whether anything is in `new`.

    Args:
        model: a `VisionTransformer`, or a registered model that holds one as `.model`, or a baseline, of which nothing
            but the head may differ; changed in place, and not touched at all when an error is raised.
        path: see `read_state_dict`.
        interpolation: "bicubic" (2-D in space, linear in time) or "legacy" (the nearest entry, as the original does
            while loading: with the patches as one line instead of a grid).

    Raises:
        CheckpointError: as `read_state_dict`; and if a tensor's shape cannot be adapted, or no tensor fits.
    """
    source, rest = read_state_dict(path)
    vit = getattr(model, "model", model)
    heads = tuple(f"{head}." for head in head_names(model))
    report, values, misfits, used = LoadReport(rest=rest), {}, [], set()
    for name, wanted in vit.state_dict().items():
        origin, how = name, []
        if name not in source:
            origin = name.replace(".temporal_attn.", ".attn.").replace(".temporal_norm1.", ".norm1.")
            how.append(f"copied from {origin}")
        if origin not in source:
            report.new.append(name)
            continue
        value = source[origin]
        used.add(origin)
        if value.shape != wanted.shape:
            if name.startswith(heads) and value.shape[1:] == wanted.shape[1:]:
                report.new.append(name)
                used.discard(origin)
                continue
            adapted = _adapt(name, value, wanted, getattr(vit, "grid", None), interpolation)
            if adapted is None:
                misfits.append(f"{name} is {_shape(value)}, expected {_shape(wanted)}")
                continue
            value, change = adapted
            how.append(change)
        values[name] = value
        if how:
            report.adapted.append((name, ", ".join(how)))
        else:
            report.loaded.append(name)
    report.unused = [name for name in source if name not in used]
    if misfits:
        raise CheckpointError(
            f"{path} does not fit the model in {len(misfits)} of its tensors: {_few(misfits, '; ')}. Choose the model "
            "that the checkpoint was trained as (MODEL.MODEL_NAME, TIMESFORMER.*), or another checkpoint"
        )
    if not values:
        raise CheckpointError(
            f"{path} has no tensor that this model knows: found {_few(source)}; expected {_few(vit.state_dict())}"
        )
    vit.load_state_dict(values, strict=False)
    return report


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes), expected a checkpoint; copy or download it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken bytes lead to, KeyError and OSError included
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and (refused or head.startswith(b"\x80")):
            named = f" ({refused[1]})" if refused else ""
            problem = f"holds more than tensors and plain values{named}, which could run code; it was refused and "
            problem += "nothing in it was run. Save the state dict alone, or use another checkpoint"
        elif head.startswith((b"PK", b"\x80")):
            problem = "is damaged or cut short; copy or download it again"
        else:
            problem = f"is not a checkpoint (it begins with {head!r}); expected a file written by torch.save"
        raise CheckpointError(f"{path} {problem}") from error


def _adapt(
    name: str, value: Tensor, wanted: Tensor, grid: tuple[int, int] | None, interpolation: Interpolation
) -> tuple[Tensor, str] | None:
    """Return `value` in the shape of `wanted` with a word on how, or None where there is no sound way."""
    if grid is None or value.ndim != wanted.ndim:
        return None
    same_width = value.shape[::2] == wanted.shape[::2]  # [1, entries, dim]
    if name == "pos_embed" and same_width:
        count = value.shape[1] - 1
        if interpolation == "legacy":
            line = F.interpolate(value[:, 1:].transpose(1, 2), size=wanted.shape[1] - 1, mode="nearest")
            return torch.cat([value[:, :1], line.transpose(1, 2)], dim=1), f"{count} to {grid[0] * grid[1]} patches"
        side = math.isqrt(count)
        if side * side != count:
            return None
        resized = resize_pos_embed(value, (side, side), grid)
        return resized, f"{side} x {side} to {grid[0]} x {grid[1]} patches"
    if name == "time_embed" and same_width:
        frames = wanted.shape[1]
        return resize_time_embed(value, frames, interpolation), f"{value.shape[1]} to {frames} frames"
    if name == "patch_embed.proj.weight" and value.shape[1] == 3 and value[:, 0].shape == wanted[:, 0].shape:
        # Keeps the response to grey pictures: one channel sums R, G and B; more repeat them, scaled down.
        channels = wanted.shape[1]
        repeated = value[:, torch.arange(channels) % 3] * (3 / channels)
        return value.sum(1, keepdim=True) if channels == 1 else repeated, f"3 to {channels} channels"
    return None


def _any_block(name: str) -> str:
    return re.sub(r"\bblocks\.\d+\.", "blocks.*.", name)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _few(items: Iterable[str], separator: str = ", ", limit: int = 5) -> str:
    items = list(items)
    return separator.join(items[:limit]) + (f"{separator}and {len(items) - limit} more" if len(items) > limit else "")
