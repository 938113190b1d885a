#!/usr/bin/env python3
"""Shows where a trained model looks in a video: a picture of the sampled frames, an animation, curves over time.

python tools/visualize.py --checkpoint output/demo/checkpoints/best.pyth VIDEO --output strip.png --overlay overlay.gif
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from timesformer.arguments import add_import, as_path, as_source
from timesformer.atomic import report_write_errors, write_atomically
from timesformer.datasets.clips import middle_view
from timesformer.errors import UserError
from timesformer.inference.classifier import load_model
from timesformer.visualization.animation import FORMATS, animate
from timesformer.visualization.attention import (
    METHODS,
    AttentionRecord,
    attention_maps,
    find_transformer,
    overlay,
    record_clip,
    time_curves,
)
from timesformer.visualization.attention_strip import PatchCurves, attention_strip
from timesformer.visualization.fonts import drawable

logger = logging.getLogger("timesformer.tools.visualize")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("video", metavar="VIDEO", type=as_path, help="video file, or folder of frames")
    add("--checkpoint", type=as_source, metavar="PATH", required=True, help="best.pyth, the folder of a run, ...")
    add("--cfg", type=as_path, metavar="YAML", help="configuration, if the checkpoint holds none")
    add("--output", metavar="PNG", type=as_path, help="picture to write (VIDEO's name + _attention.png, here)")
    add("--overlay", metavar="FILE", type=as_path, help="animation to write, .gif or .mp4")
    add("--overwrite", action="store_true", help="replace existing files")
    add("--method", choices=METHODS, default="rollout", help="through all blocks, or of the class token in one")
    add("--block", metavar="N", type=int, help="for cls and the curves; 0 is the first, -1 (default) the last")
    add("--head", metavar="N", type=int, help="for cls and the curves; 0 is the first (mean of all)")
    add("--view", metavar="N", type=int, help="view of the video; 0 is the first (the middle one)")
    add("--time-of-patch", nargs=2, metavar=("ROW", "COL"), type=int, help="draw the attention of a patch over time")
    add("--frames", metavar="N", type=int, default=16, help="largest number of frames in the picture (16)")
    add("--fps", metavar="N", type=float, default=4.0, help="frames per second of the animation (4)")
    add("--top-k", metavar="K", type=int, default=5, help="number of predicted classes in the picture (5)")
    add("--device", metavar="NAME", help="cpu or cuda (cuda where there is one)")
    add("--views", metavar="N", type=int, help="clips along the time (as in a test of the checkpoint)")
    add("--crops", type=int, choices=(1, 3), help="crops of each clip: the center, or three (as in a test)")
    add("--sampler", help="how frames are chosen, such as dense or uniform (as in a test)")
    add_import(parser)
    return parser.parse_args()


def main() -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        visualize(parse_args())
    except UserError as error:
        logger.error("error: %s", error)
        return 2
    return 0


def visualize(args: argparse.Namespace) -> None:
    """Predicts, records the attention of one view, and writes the pictures."""
    picture = args.output or Path(f"{args.video.resolve().stem}_attention.png")
    check(args, picture)
    classifier = load_model(args.checkpoint, args.device, cfg=args.cfg)
    find_transformer(classifier.model)  # fails before the slow part
    for note in classifier.notes:
        logger.info("note: %s", note)
    options = {"views": args.views, "crops": args.crops, "sampler": args.sampler}
    prediction = classifier.predict(args.video, top_k=args.top_k, keep_clips=True, **options)
    view = middle_view(classifier.options(**options)) if args.view is None else args.view
    if not 0 <= view < prediction.num_views:
        raise UserError(f"--view is {view}, expected 0 to {prediction.num_views - 1}")
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
        f"{method}; view {view} of 0 to {prediction.num_views - 1}; {total} frames of {width}x{height} pixels, "
        f"{'x'.join(map(str, record.grid[1:]))} patches"
    )
    names = list(classifier.class_names)
    top = [(drawable(name, f"class {names.index(name)}"), score) for name, score in prediction.top]
    write(picture, attention_strip(clip, maps, top, args.video.resolve().name, subtitle, args.frames, curves))
    if args.overlay:
        write(args.overlay, animate(overlay(enlarge(clip.frames), maps), args.overlay.suffix.lower(), args.fps))
    logger.info("%s", prediction)


def check(args: argparse.Namespace, picture: Path) -> None:
    """Raises a UserError for invalid arguments."""
    if min(args.frames, args.top_k) < 1 or not 0.1 <= args.fps <= 100:
        raise UserError("--frames and --top-k must be 1 or more, --fps from 0.1 to 100")
    if picture.suffix.lower() != ".png" or (args.overlay and args.overlay.suffix.lower() not in FORMATS):
        raise UserError(f"--output {picture} must end in .png, --overlay {args.overlay} in {' or '.join(FORMATS)}")
    if args.method == "rollout" and not args.time_of_patch and (args.block, args.head) != (None, None):
        raise UserError("--block and --head need --method cls or --time-of-patch")
    for path in filter(None, (picture, args.overlay)):
        if path.resolve() == args.video.resolve() or (path.exists() and not args.overwrite):
            raise UserError(f"{path} exists: choose another name, or add --overwrite to replace it (not the video)")


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


if __name__ == "__main__":
    sys.exit(main())
