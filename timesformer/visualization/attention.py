"""What a transformer attends to: the weights of its own attention modules, and maps of them over the frames."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Normalize, PowerNorm
from torch import Tensor, nn

from timesformer.datasets.clips import SampledClip, middle_view
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Video
from timesformer.models.attention import Attention, attention_weights
from timesformer.models.vit import VisionTransformer
from timesformer.models.vivit import VideoTransformer

Kind = Literal["space", "time", "space_time", "steps"]
"""Among what an attention goes: the tokens of a frame; a place in all frames; all tokens; or, in the second encoder of
a factorised one, the frames' class tokens behind one of their own."""

Method = Literal["rollout", "cls"]
METHODS: tuple[Method, ...] = ("rollout", "cls")

COLOURS = colormaps["inferno"]
"""Colours of attention, from little to much, in an order of brightness: people with any colour vision see it."""

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue


@dataclass(frozen=True)
class RecordedAttention:
    """One use of an attention module.

    Groups are sequences that do not see each other: frames for "space", places for "time", else there is one.

    Attributes:
        name: of the module, such as "blocks.3.temporal_attn".
        block: number of its block, from 0; "steps" count for themselves.
        kind: among what it goes.
        queries: [batch, groups, heads, tokens, d], as the module used them.
        keys: the same shape.
    """

    name: str
    block: int
    kind: Kind
    queries: Tensor
    keys: Tensor

    def weights(self) -> Tensor:
        """[batch, groups, heads, queries, keys], float32, from 0 to 1; each row sums to 1."""
        return attention_weights(self.queries.float(), self.keys.float())


@dataclass
class AttentionRecord:
    """All attention of a model's last forward pass, in the order of computation.

    In the time of a model with tubelets, a frame is a tubelet's worth of frames.

    Attributes:
        attention_type: the model's.
        grid: clips, frames, rows and columns of patches.
        has_cls: whether there is a class token, which then stands before a frame's patches, or before all.
        steps: the attention of every block.
    """

    attention_type: str
    has_cls: bool
    grid: tuple[int, int, int, int] = (0, 0, 0, 0)
    steps: list[RecordedAttention] = field(default_factory=list)

    def of_block(self, block: int, *kinds: Kind) -> RecordedAttention:
        """The attention of those kinds in a block; negative numbers count from the last.

        Raises:
            UserError: if there is no such block, or no such attention in it.
        """
        found = {step.block: step for step in self.steps if step.kind in kinds}
        if not found:
            raise UserError(f"a model with {self.attention_type} attention has none over time: no curves can be drawn")
        if not -len(found) <= block < len(found):
            raise UserError(f"there is no block {block}: the model has {len(found)}, counted from 0; -1 is the last")
        return found[block % len(found)]


def transformer_of(model: nn.Module) -> VisionTransformer | VideoTransformer:
    """The TimeSformer or ViViT that a model is or has inside.

    Raises:
        UserError: if there is none, and so no attention that could be recorded.
    """
    for module in model.modules():
        if isinstance(module, VisionTransformer | VideoTransformer):
            return module
    name = getattr(model, "name", type(model).__name__)
    raise UserError(
        f"{name} has no attention to show: maps are made for TimeSformer, LightTimeSformer and ViViT, "
        "not for the models of other libraries. Give the checkpoint of one of those"
    )


@contextmanager
def record_attention(model: nn.Module) -> Iterator[AttentionRecord]:
    """Records the attention of every block in forward passes within the context.

    The model computes as it always does; its last block, too, for all tokens. Queries and keys are kept, and weights
    computed from them when asked for: for a ViT-B with divided attention over 8 frames these are 0.2 GB per clip.
    Several threads that share a model must not use it meanwhile.

    Args:
        model: a TimeSformer or ViViT, or a network that has one inside, in evaluation mode.

    Yields:
        The record, filled by each forward pass anew.

    Raises:
        UserError: if there is no such transformer in the model.
    """
    transformer = transformer_of(model)
    kind = transformer.attention_type
    record = AttentionRecord(kind, has_cls=hasattr(transformer, "cls_token"))

    def begin(_: nn.Module, __: Any, tokens: Tensor) -> None:
        record.grid = tuple(tokens.shape[:4])
        record.steps.clear()

    def note(name: str, block: int, kind: Kind, q: Tensor, k: Tensor) -> None:
        # A copy: queries and keys are views of a tensor that holds the values too.
        parts = (_grouped(t.detach(), kind, record.grid).clone() for t in (q, k))
        record.steps.append(RecordedAttention(name, block, kind, *parts))

    with ExitStack() as restored:
        handle = transformer.patch_embed.register_forward_hook(begin)
        restored.callback(handle.remove)
        restored.callback(setattr, transformer, "last_block_cls_only", transformer.last_block_cls_only)
        transformer.last_block_cls_only = False
        for name, block, kind, module in _attentions(transformer):
            restored.callback(setattr, module, "observer", module.observer)
            module.observer = partial(note, name, block, kind)
        yield record


def cls_to_patches(record: AttentionRecord, block: int = -1, head: int | None = None) -> Tensor:
    """How much the class token attends to each patch, in one block.

    Where the class token attends in every frame (all but joint attention), the weights are those within the frame. A
    model without class token averages all patches in its end; there it is how much those of a frame attend to each.

    Args:
        record: of a forward pass.
        block: number of the block; negative ones count from the last.
        head: number of the head; None takes the mean of all.

    Returns:
        [batch, frames, rows, columns], float32, from 0 to 1. What a sum lacks to 1 the class token gives to itself.

    Raises:
        UserError: if there is no such block or head.
    """
    step = record.of_block(block, "space", "space_time")
    queries = step.queries[..., :1, :] if record.has_cls else step.queries
    weights = _of_head(attention_weights(queries.float(), step.keys.float()), head).mean(dim=-2)
    return weights[..., int(record.has_cls) :].reshape(record.grid)  # from [batch, groups, keys]


def rollout(record: AttentionRecord) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928): how much of each patch is in what
    the head sees, if every block mixes tokens by half its attention (mean of its heads) and half its residual.

    Temporal and spatial attention of a block are two such steps, one after the other; the class token is averaged over
    the frames where the model does so. Exact for the graph of tokens: the product of all steps' matrices, from the
    left, is never larger than the row of the output.

    Args:
        record: of a forward pass.

    Returns:
        [batch, frames, rows, columns], float32, from 0 to 1. What a sum lacks to 1 are the class tokens' own shares.
    """
    batch, frames, rows, columns = record.grid
    cls = int(record.has_cls)
    # Shares of each frame's tokens; that of a class token that all frames have in common is spread over them.
    shares = record.steps[0].keys.new_zeros(batch, frames, cls + rows * columns, dtype=torch.float32)
    if record.has_cls:
        shares[..., 0] = 1 / frames
    else:
        shares[:] = 1 / (frames * rows * columns)
    over_frames = [step for step in record.steps if step.kind == "steps"]
    if over_frames:
        row = shares.new_zeros(batch, 1, 1 + frames)
        row[..., 0] = 1
        for step in reversed(over_frames):
            row = _mixed(row, step)
        shares[..., 0] = row[:, 0, 1:]
    for step in reversed(record.steps):
        if step.kind == "space":
            shares = _mixed(shares, step)
        elif step.kind == "time":
            mixed = _mixed(shares[..., cls:].transpose(1, 2), step).transpose(1, 2)
            shares = torch.cat([shares[..., :cls], mixed], dim=-1)
        elif step.kind == "space_time":
            row = torch.cat([shares[..., :1].sum(1), shares[..., 1:].flatten(1)], dim=-1)
            row = _mixed(row.unsqueeze(1), step).squeeze(1)
            patches = row[:, 1:].unflatten(1, (frames, -1))
            shares = torch.cat([row[:, :1].unsqueeze(1).expand(-1, frames, -1) / frames, patches], dim=-1)
        if record.attention_type == "divided_space_time":
            shares[..., 0] = shares[..., 0].mean(dim=1, keepdim=True)
    return shares[..., cls:].unflatten(-1, (rows, columns))


def time_curves(record: AttentionRecord, row: int, column: int, block: int = -1, head: int | None = None) -> Tensor:
    """How much a patch attends to each frame, in one block: in divided attention to its own place there, in joint
    attention to all of the frame's patches.

    A factorised encoder attends over time only between the class tokens of frames; its curves are those, alike for all
    patches, and `block` counts in its second encoder.

    Args:
        record: of a forward pass.
        row: of the patch, from 0 at the top.
        column: of the patch, from 0 at the left.
        block: number of the block; negative ones count from the last.
        head: number of the head; None takes the mean of all.

    Returns:
        [batch, frames, frames], float32, from 0 to 1: from the patch in each frame, to each frame. What a row lacks to
        1 is given to a class token.

    Raises:
        UserError: if there is no such patch, block or head, or no attention over time.
    """
    _, frames, rows, columns = record.grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise UserError(
            f"there is no patch in row {row} and column {column}: a frame has {rows} rows and {columns} columns of "
            "patches, counted from 0 at the top left"
        )
    step, place = record.of_block(block, "time", "space_time", "steps"), row * columns + column
    queries, keys = step.queries.float(), step.keys.float()
    if step.kind == "time":
        return _of_head(attention_weights(queries[:, place], keys[:, place]), head)
    if step.kind == "steps":
        return _of_head(attention_weights(queries, keys), head)[:, 0, 1:, 1:]
    start = 1 + place
    weights = _of_head(attention_weights(queries[:, 0, :, start :: rows * columns], keys[:, 0]), head)
    return weights[..., 1:].unflatten(-1, (frames, -1)).sum(dim=-1)


def record_clip(classifier: Classifier, clip: SampledClip) -> AttentionRecord:
    """The attention of a classifier's model over one clip.

    Raises:
        UserError: if the model has no attention that can be recorded.
    """
    with classifier.lock, record_attention(classifier.model) as record:
        classifier.compute(clip.clip.unsqueeze(0))
    return record


def maps_of(
    record: AttentionRecord, frames: int, method: Method, block: int = -1, head: int | None = None
) -> np.ndarray:
    """Maps for each of the `frames` of the first clip of a record, float32 [frames, rows, columns].

    Args:
        record: of a forward pass.
        frames: of the clip; frames of a tubelet share a map.
        method: "rollout" through all blocks, or "cls", the class token's attention in one block.
        block: for "cls", see `cls_to_patches`.
        head: for "cls".

    Raises:
        UserError: if there is no such method, block or head.
    """
    if method not in METHODS:
        raise UserError(f"attention maps are made by {' or '.join(METHODS)}, not by {method!r}")
    maps = rollout(record) if method == "rollout" else cls_to_patches(record, block, head)
    return maps[0].repeat_interleave(frames // record.grid[1], dim=0).cpu().numpy()


def overlay(frames: np.ndarray, maps: np.ndarray, scale: Normalize | None = None) -> np.ndarray:
    """Frames with maps of their patches over them: dark grey where little attention is, bright colours where much.

    Every pixel has the colour of its own patch: a model knows nothing finer.

    Args:
        frames: uint8 [frames, height, width, 3], RGB.
        maps: float [frames, rows, columns]; each value belongs to a patch of height / rows x width / columns pixels.
        scale: from values to 0 .. 1; None takes `colour_scale` of the maps, all together.

    Returns:
        uint8, the shape of `frames`.
    """
    (height, width), (rows, columns) = frames.shape[1:3], maps.shape[1:]
    strength = np.asarray((scale or colour_scale(maps))(maps), np.float32)
    strength = strength[:, np.arange(height) * rows // height][:, :, np.arange(width) * columns // width, np.newaxis]
    colours = COLOURS(strength[..., 0])[..., :3].astype(np.float32)
    grey = frames.astype(np.float32) @ np.array(_LUMA, np.float32)[:, np.newaxis] / 255
    share = 0.35 + 0.35 * strength
    return (((1 - share) * grey + share * colours) * 255).round().astype(np.uint8)


def colour_scale(maps: np.ndarray) -> PowerNorm:
    """From values of maps to 0 (the least of all) .. 1 (the greatest), a little raised in between, since few patches
    often have so much that the others could not be told apart. Maps that differ by less than a thousandth are all 0."""
    low, high = float(maps.min()), float(maps.max())
    return PowerNorm(0.7, low, max(high, low + 1e-3 * abs(low) + 1e-12), clip=True)


def attention_of(
    classifier: Classifier, video: Video, method: Method = "rollout", block: int = -1, head: int | None = None
) -> tuple[SampledClip, np.ndarray]:
    """The middle clip of a video as the classifier's model sees it, and where in it the model looks.

    Args:
        classifier: from `load_model`.
        video: path of a video file or a folder of frames.
        method: as in `maps_of`, like `block` and `head`.

    Returns:
        The clip, and maps [frames, rows, columns], float32.

    Raises:
        UserError: if the video cannot be read, the model has no attention that can be recorded, or no such block.
    """
    clips = classifier.clips(video)
    clip = clips[middle_view(classifier.cfg)]
    return clip, maps_of(record_clip(classifier, clip), len(clip.frames), method, block, head)


def _attentions(transformer: VisionTransformer | VideoTransformer) -> Iterator[tuple[str, int, Kind, Attention]]:
    spatial: Kind = "space_time" if transformer.attention_type in ("joint_space_time", "joint") else "space"
    for name, module in transformer.named_modules():
        if isinstance(module, Attention):
            encoder, block, attention = name.split(".")
            kind = "steps" if encoder == "temporal_blocks" else "time" if attention == "temporal_attn" else spatial
            yield name, int(block), kind, module


def _grouped(x: Tensor, kind: Kind, grid: tuple[int, int, int, int]) -> Tensor:
    """[batch, groups, heads, tokens, d] of queries or keys as a module has them."""
    batch, frames, rows, columns = grid
    if kind == "time":
        return x.unflatten(1, (rows * columns, -1))
    return x.unflatten(0, (batch, frames if kind == "space" else 1))


def _mixed(shares: Tensor, step: RecordedAttention) -> Tensor:
    """Rows [batch, groups, tokens] times (half the identity, half the mean of the heads' weights)."""
    heads = zip(step.queries.float().unbind(2), step.keys.float().unbind(2), strict=True)  # one by one, to save memory
    total = sum((shares.unsqueeze(-2) @ attention_weights(q, k)).squeeze(-2) for q, k in heads)
    return (shares + total / step.queries.shape[2]) / 2


def _of_head(weights: Tensor, head: int | None) -> Tensor:
    """[..., heads, queries, keys] to [..., queries, keys]: one head, or the mean of all."""
    if head is None:
        return weights.mean(dim=-3)
    if not 0 <= head < weights.shape[-3]:
        raise UserError(f"there is no head {head}: a block has {weights.shape[-3]}, counted from 0")
    return weights.select(-3, head)
