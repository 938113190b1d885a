"""Records the attention of a transformer's own modules, and makes maps of it over the frames."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Normalize, PowerNorm
from torch import Tensor, nn

from timesformer.datasets.clips import SampledClip, middle_view
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Video, check_classifier
from timesformer.models.attention import Attention, attention_weights
from timesformer.models.videomae import VideoMAETransformer
from timesformer.models.vit import VisionTransformer
from timesformer.models.vivit import VideoTransformer
from timesformer.models.weights.exported import ExportedNetwork

Kind = Literal["space", "time", "space_time", "steps"]
"""Tokens that attend to each other: of a frame; of a spatial position; all; the class tokens of a second encoder."""

Method = Literal["rollout", "cls"]
METHODS: tuple[Method, ...] = ("rollout", "cls")
COLORS = colormaps["inferno"]  # brightness rises, which suits any color vision


@dataclass(frozen=True)
class RecordedAttention:
    """One call of an attention module, such as "blocks.3.temporal_attn".

    Tokens attend within groups: frames for "space", spatial positions for "time", else one group.
    """

    name: str
    block: int  # from 0; blocks of "steps" are counted separately
    kind: Kind
    queries: Tensor  # [batch, groups, heads, tokens, d], like keys
    keys: Tensor

    def weights(self) -> Tensor:
        """[batch, groups, heads, queries, keys], float32, from 0 to 1; rows sum to 1."""
        return attention_weights(self.queries.float(), self.keys.float())


@dataclass
class AttentionRecord:
    """The attention of a model's last forward pass, in the order of computation."""

    attention_type: str
    has_cls: bool  # the class token precedes the patches
    grid: tuple[int, int, int, int] = (0, 0, 0, 0)  # clips, frames (or tubelets), rows and columns of patches
    steps: list[RecordedAttention] = field(default_factory=list)
    mean_pooling: bool = True  # of a model without class token: its head reads the mean token, else the first

    def find(self, block: int, *kinds: Kind) -> RecordedAttention:
        """The attention of these kinds in a block; negative numbers count from the last. UserError if there is none."""
        found = {step.block: step for step in self.steps if step.kind in kinds}
        if not found:
            raise UserError(f"models with {self.attention_type} attention have no attention over time to show")
        if not isinstance(block, Integral) or not -len(found) <= block < len(found):
            raise UserError(f"block {block!r} does not exist: expected 0 to {len(found) - 1}, or -1 for the last")
        return found[block % len(found)]


def find_transformer(model: nn.Module) -> VisionTransformer | VideoTransformer | VideoMAETransformer:
    """The TimeSformer, ViViT or VideoMAE that a model is or contains; UserError if there is none."""
    for module in model.modules():
        if isinstance(module, VisionTransformer | VideoTransformer | VideoMAETransformer):
            return module
    if isinstance(model, ExportedNetwork):
        raise UserError(f"{model.path} is an exported model, which has no attention maps: use the checkpoint")
    name = getattr(model, "name", type(model).__name__)
    known = "TimeSformer, LightTimeSformer, ViViT or VideoMAE"
    raise UserError(f"attention maps of {name} are not supported: expected {known}")


@contextmanager
def record_attention(model: nn.Module) -> Iterator[AttentionRecord]:
    """Records the attention of every block in forward passes within the context.

    The model computes as always, except that its last block computes all tokens. Each forward pass overwrites the
    record, which takes 0.2 GB per clip for a ViT-B with divided attention over 8 frames. Not thread-safe.
    """
    transformer = find_transformer(model)
    joint = transformer.attention_type in ("joint_space_time", "joint")
    record = AttentionRecord(transformer.attention_type, has_cls=hasattr(transformer, "cls_token"))
    record.mean_pooling = getattr(transformer, "mean_pooling", True)

    def begin(_: nn.Module, __: Any, tokens: Tensor) -> None:
        record.grid = tuple(tokens.shape[:4])
        record.steps.clear()

    def add(name: str, block: int, kind: Kind, q: Tensor, k: Tensor) -> None:
        batch, frames, rows, columns = record.grid
        groups = {"space": (0, (batch, frames)), "time": (1, (rows * columns, -1))}.get(kind, (0, (batch, 1)))
        # Copies, because queries and keys are views of a tensor that holds the values too.
        grouped = (x.detach().unflatten(*groups).clone() for x in (q, k))
        record.steps.append(RecordedAttention(name, block, kind, *grouped))

    with ExitStack() as stack:
        handle = transformer.patch_embed.register_forward_hook(begin)
        stack.callback(handle.remove)
        stack.callback(setattr, transformer, "last_block_cls_only", transformer.last_block_cls_only)
        transformer.last_block_cls_only = False
        for name, module in transformer.named_modules():
            if isinstance(module, Attention) and not name.startswith("head."):
                encoder, block, attention = name.split(".")
                kind = "time" if attention == "temporal_attn" else "space_time" if joint else "space"
                kind = "steps" if encoder == "temporal_blocks" else kind
                stack.callback(setattr, module, "observer", module.observer)
                module.observer = partial(add, name, int(block), kind)
        yield record


def cls_to_patches(record: AttentionRecord, block: int = -1, head: int | None = None) -> Tensor:
    """How much the token that the head reads attends to each patch: a class token, or the mean patch (of a frame).

    `block` may be negative to count from the last. The result is [batch, frames, rows, columns], float32, from 0 to 1.
    """
    step = record.find(block, "space", "space_time")
    queries = step.queries[..., :1, :] if record.has_cls or not record.mean_pooling else step.queries
    weights = _select_head(attention_weights(queries.float(), step.keys.float()), head).mean(dim=-2)
    return weights[..., int(record.has_cls) :].reshape(record.grid)  # from [batch, groups, keys]


def rollout(record: AttentionRecord) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928).

    The share of each patch in the input of the head, if every attention mixes tokens by half its weights (mean of the
    heads) and half its residual. The row of the output is multiplied with the matrices from the last to the first.

    Returns:
        [batch, frames, rows, columns], float32, from 0 to 1. The shares of class tokens are left out.
    """
    batch, frames, rows, columns = record.grid
    cls = int(record.has_cls)
    # Shares of each frame's tokens; the share of a class token of the whole clip is distributed over the frames.
    shares = record.steps[0].keys.new_zeros(batch, frames, cls + rows * columns, dtype=torch.float32)
    output = shares[..., :cls] if record.has_cls else shares if record.mean_pooling else shares[:, :1, :1]
    output.fill_(1 / output[0].numel())
    if frame_steps := [step for step in record.steps if step.kind == "steps"]:
        row = shares.new_zeros(batch, 1, 1 + frames)
        row[..., 0] = 1
        for step in reversed(frame_steps):
            row = _mix(row, step)
        shares[..., 0] = row[:, 0, 1:]
    for step in reversed(record.steps):
        if step.kind == "space":
            shares = _mix(shares, step)
        elif step.kind == "time":
            mixed = _mix(shares[..., cls:].transpose(1, 2), step).transpose(1, 2)
            shares = torch.cat([shares[..., :cls], mixed], dim=-1)
        elif step.kind == "space_time":
            row = torch.cat([shares[..., :cls].sum(1), shares[..., cls:].flatten(1)], dim=-1)
            row = _mix(row.unsqueeze(1), step).squeeze(1)
            patches = row[:, cls:].unflatten(1, (frames, -1))
            shares = torch.cat([row[:, :cls].unsqueeze(1).expand(-1, frames, -1) / frames, patches], dim=-1)
        if record.attention_type == "divided_space_time":
            shares[..., 0] = shares[..., 0].mean(dim=1, keepdim=True)
    return shares[..., cls:].unflatten(-1, (rows, columns))


def time_curves(record: AttentionRecord, row: int, column: int, block: int = -1, head: int | None = None) -> Tensor:
    """How much a patch (row and column from 0 at the top left) attends to each frame in one block.

    With divided attention it is the attention to the same position of the frame, with joint attention to all its
    patches. A factorised encoder attends over time only between class tokens, and `block` counts in its second encoder.
    The result is [batch, frames (from), frames (to)], float32, from 0 to 1.
    """
    _, frames, rows, columns = record.grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise UserError(f"patch {row} {column} does not exist: there are {rows} x {columns}, counted from 0")
    step, position = record.find(block, "time", "space_time", "steps"), row * columns + column
    queries, keys = step.queries.float(), step.keys.float()
    if step.kind == "time":
        return _select_head(attention_weights(queries[:, position], keys[:, position]), head)
    if step.kind == "steps":
        return _select_head(attention_weights(queries, keys), head)[:, 0, 1:, 1:]
    cls = int(record.has_cls)
    queries = queries[:, 0, :, cls + position :: rows * columns]
    weights = _select_head(attention_weights(queries, keys[:, 0]), head)
    return weights[..., cls:].unflatten(-1, (frames, -1)).sum(dim=-1)


def record_clip(classifier: Classifier, clip: SampledClip) -> AttentionRecord:
    """The attention of a classifier's model over one clip; UserError if its attention cannot be recorded."""
    if not isinstance(clip, SampledClip):
        found = f"the clip is of type {type(clip).__name__}, expected one of classifier.clips(video)"
        raise UserError(f"{found} or Prediction.clips; attention_of takes a video")
    with classifier.lock, record_attention(classifier.model) as record:
        classifier.compute(clip.clip.unsqueeze(0))
    return record


def attention_maps(
    record: AttentionRecord, frames: int, method: Method, block: int = -1, head: int | None = None
) -> np.ndarray:
    """Maps of the first clip of a record, float32 [frames, rows, columns]. Frames of a tubelet share a map."""
    if method not in METHODS:
        raise UserError(f"method is {method!r}, expected {' or '.join(METHODS)}")
    maps = rollout(record) if method == "rollout" else cls_to_patches(record, block, head)
    return maps[0].repeat_interleave(frames // record.grid[1], dim=0).cpu().numpy()


def overlay(frames: np.ndarray, maps: np.ndarray, scale: Normalize | None = None) -> np.ndarray:
    """Frames in gray with maps of their patches in color, from dark for little attention to bright.

    Frames and result are uint8 [frames, height, width, 3], RGB; maps are float [frames, rows, columns].
    """
    (height, width), (rows, columns) = frames.shape[1:3], maps.shape[1:]
    strength = np.asarray((scale or color_scale(maps))(maps), np.float32)
    strength = strength[:, np.arange(height) * rows // height][:, :, np.arange(width) * columns // width, np.newaxis]
    colors = COLORS(strength[..., 0])[..., :3].astype(np.float32)
    gray = frames.astype(np.float32) @ np.array([[0.299], [0.587], [0.114]], np.float32) / 255  # luma
    share = 0.35 + 0.35 * strength
    return (((1 - share) * gray + share * colors) * 255).round().astype(np.uint8)


def color_scale(maps: np.ndarray) -> PowerNorm:
    """From the smallest and largest value of maps to 0 .. 1, raised for low values; all 0 for almost equal values."""
    low, high = float(maps.min()), float(maps.max())
    return PowerNorm(0.7, low, max(high, low + 1e-3 * abs(low) + 1e-12), clip=True)


def attention_of(
    classifier: Classifier,
    video: Video,
    method: Method = "rollout",
    block: int = -1,
    head: int | None = None,
    fps: float | None = None,
) -> tuple[SampledClip, np.ndarray]:
    """The middle view of a video, and maps of its attention, float32 [frames, rows, columns], as `attention_maps`.

    `video` and `fps` are as in `Classifier.predict`.
    """
    check_classifier(classifier)
    clip = classifier.clips(video, fps=fps)[middle_view(classifier.cfg)]
    return clip, attention_maps(record_clip(classifier, clip), len(clip.frames), method, block, head)


def _mix(shares: Tensor, step: RecordedAttention) -> Tensor:
    """Rows [batch, groups, tokens] times (half the identity, half the mean of the heads' weights)."""
    heads = zip(step.queries.float().unbind(2), step.keys.float().unbind(2), strict=True)  # one by one, to save memory
    total = sum((shares.unsqueeze(-2) @ attention_weights(q, k)).squeeze(-2) for q, k in heads)
    return (shares + total / step.queries.shape[2]) / 2


def _select_head(weights: Tensor, head: int | None) -> Tensor:
    """[..., heads, queries, keys] to [..., queries, keys]: one head, or the mean of all."""
    if head is None:
        return weights.mean(dim=-3)
    if not isinstance(head, Integral) or not 0 <= head < weights.shape[-3]:
        raise UserError(f"head {head!r} does not exist: expected 0 to {weights.shape[-3] - 1}")
    return weights.select(-3, head)
