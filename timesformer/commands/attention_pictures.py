"""The pictures of `visualize`: attention in the sampled frames of a video, an animation, curves over time."""

import argparse
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.datasets.clips import middle_view
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.visualization.animation import animate
from timesformer.visualization.attention import (
    AttentionRecord,
    attention_maps,
    find_transformer,
    overlay,
    record_clip,
    time_curves,
)
from timesformer.visualization.attention_strip import PatchCurves, attention_strip
from timesformer.visualization.fonts import drawable

logger = logging.getLogger(__name__)


def write_pictures(args: argparse.Namespace, picture: Path) -> None:
    """Predicts, records the attention of one view, and writes the pictures."""
    classifier = load_model(args.checkpoint, args.device, cfg=args.cfg)
    find_transformer(classifier.model)  # fails before the slow part
    for note in classifier.notes:
        logger.info("note: %s", note)
    options = {"views": args.views, "crops": args.crops, "sampler": args.sampler}
    prediction = classifier.predict(args.video, top_k=args.top_k, keep_clips=True, **options)
    view = middle_view(classifier.options(**options)) if args.view is None else args.view
    if not 0 <= view < prediction.num_views:
        expected = (
            f"0 to {prediction.num_views - 1}" if prediction.num_views > 1 else "0, as there is one view (--views)"
        )
        raise UserError(f"--view {view}: expected {expected}")
    clip, block = prediction.clips[view], -1 if args.block is None else args.block
    record = record_clip(classifier, clip)
    maps = attention_maps(record, len(clip.frames), args.method, block, args.head)
    curves = patch_curves(record, args.time_of_patch, block, args.head) if args.time_of_patch else None
    total, height, width, _ = clip.frames.shape
    method = "attention rollout through all blocks"
    if args.method == "cls":
        tokens = "the class token" if record.has_cls else "all patches of a frame"
        method = f"attention of {tokens}, {describe_block(record, block, args.head, 'space', 'space_time')}"
    subtitle = (
        f"{method}; view {view + 1} of {prediction.num_views}; {total} frames of {width}x{height} pixels, "
        f"{'x'.join(map(str, record.grid[1:]))} patches"
    )
    names = list(classifier.class_names)
    top = [(drawable(name, f"class {names.index(name)}"), score) for name, score in prediction.top]
    write(picture, attention_strip(clip, maps, top, Path(args.video).resolve().name, subtitle, args.frames, curves))
    if args.overlay:
        write(args.overlay, animate(overlay(enlarge(clip.frames), maps), args.overlay.suffix.lower(), args.fps))
    logger.info("%s", prediction)


def patch_curves(record: AttentionRecord, patch: tuple[int, int], block: int, head: int | None) -> PatchCurves:
    """The attention of a patch (row and column) over time."""
    weights = time_curves(record, *patch, block, head)[0].cpu().numpy()
    where = describe_block(record, block, head, "time", "space_time", "steps")
    if any(step.kind == "steps" for step in record.steps):
        return PatchCurves(None, weights, f"Attention of the frames' class tokens, {where}")
    return PatchCurves(tuple(patch), weights, f"Attention over time of the framed patch, {where}")


def describe_block(record: AttentionRecord, block: int, head: int | None, *kinds: str) -> str:
    return f"block {record.find(block, *kinds).block}, {'mean of all heads' if head is None else f'head {head}'}"


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Frames with a short side of at least 256 pixels."""
    height, width = frames.shape[1:3]
    scale = max(256 / min(height, width), 1)
    size = round(width * scale), round(height * scale)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def write(path: Path, content: bytes) -> None:
    with report_write_errors(path, "choose another name"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(content))
    logger.info("%s: written", path)
