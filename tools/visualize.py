#!/usr/bin/env python3
"""Shows where in a video a trained model looks: a picture of the sampled frames, an overlay that moves, curves.

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

_SHORT_SIDE = 256  # pixels of a moving picture, at least


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Shows where in a video a trained model looks.")
    parser.add_argument("video", metavar="VIDEO", type=as_path, help="video file, or folder of frames")
    parser.add_argument(
        "--checkpoint", type=as_source, metavar="PATH", required=True, help="best.pyth, the folder of a run, ..."
    )
    parser.add_argument("--cfg", type=as_path, metavar="YAML", help="its configuration, if it holds none")
    parser.add_argument(
        "--output", metavar="PNG", type=as_path, help="picture to write (VIDEO's name + _attention.png, here)"
    )
    parser.add_argument("--overlay", metavar="FILE", type=as_path, help="moving picture to write, .gif or .mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace these files where they exist")
    parser.add_argument(
        "--method", choices=METHODS, default="rollout", help="through all blocks, or of the class token"
    )
    parser.add_argument(
        "--block", metavar="N", type=int, help="for cls and the curves; 0 is the first, -1 (default) the last"
    )
    parser.add_argument("--head", metavar="N", type=int, help="for cls and the curves; 0 is the first (mean of all)")
    parser.add_argument("--view", metavar="N", type=int, help="view of the video; 0 is the first (the middle one)")
    parser.add_argument(
        "--time-of-patch", nargs=2, metavar=("ROW", "COL"), type=int, help="draw to which frames this patch attends"
    )
    parser.add_argument("--frames", metavar="N", type=int, default=16, help="frames in the picture at most (16)")
    parser.add_argument("--fps", metavar="N", type=float, default=4.0, help="frames of the overlay in a second (4)")
    parser.add_argument("--top-k", metavar="K", type=int, default=5, help="predicted classes in the picture (5)")
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (cuda where there is one)")
    parser.add_argument("--views", metavar="N", type=int, help="clips along the time (as in a test of the checkpoint)")
    parser.add_argument("--crops", type=int, choices=(1, 3), help="of each clip: the centre, or three (as in a test)")
    add_import(parser)
    parser.add_argument("--sampler", help="of frames: dense, uniform, equidistant, random or segment (as in a test)")
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
    """Predicts, records the attention of one view, and writes the pictures.

    Raises:
        UserError: if an argument makes no sense, something cannot be read or written, or the model has no attention.
    """
    picture = args.output or Path(f"{args.video.resolve().stem}_attention.png")
    _check(args, picture)
    classifier = load_model(args.checkpoint, args.device, cfg=args.cfg)
    find_transformer(classifier.model)  # before anything long
    for note in classifier.notes:
        logger.info("note: %s", note)
    asked = {"views": args.views, "crops": args.crops, "sampler": args.sampler}
    prediction = classifier.predict(args.video, top_k=args.top_k, keep_clips=True, **asked)
    view = middle_view(classifier.options(**asked)) if args.view is None else args.view
    if not 0 <= view < prediction.num_views:
        raise UserError(f"--view is {view}; {args.video} is seen in {prediction.num_views} views, counted from 0")
    clip, block = prediction.clips[view], -1 if args.block is None else args.block
    record = record_clip(classifier, clip)
    maps = attention_maps(record, len(clip.frames), args.method, block, args.head)
    curves = None
    if args.time_of_patch:
        row, column = args.time_of_patch
        weights = time_curves(record, row, column, block, args.head)[0].cpu().numpy()
        curves = _patch_curves(record, weights, (row, column), block, args.head)
    _, height, width, _ = clip.frames.shape
    if args.method == "rollout":
        blocks = {(step.name.split(".")[0], step.block) for step in record.steps}
        how = f"attention rollout through {len(blocks)} blocks"
    else:
        looking = "the class token" if record.has_cls else "all patches of a frame"
        how = f"attention of {looking}, {_where(record, block, args.head, 'space', 'space_time')}"
    subtitle = (
        f"{how}; view {view}, of {prediction.num_views}; {len(clip.frames)} frames of {width}x{height} pixels in "
        f"{record.grid[1]}x{record.grid[2]}x{record.grid[3]} patches"
    )
    numbers = {name: number for number, name in enumerate(classifier.class_names)}
    top = [(drawable(name, f"class {numbers[name]}"), score) for name, score in prediction.top]
    strip = attention_strip(clip, maps, top, args.video.resolve().name, subtitle, args.frames, curves)
    _write(picture, strip)
    if args.overlay:
        _write(args.overlay, animate(overlay(_enlarged(clip.frames), maps), args.overlay.suffix.lower(), args.fps))
    logger.info("%s", prediction)


def _check(args: argparse.Namespace, picture: Path) -> None:
    for name, value in (("--frames", args.frames), ("--top-k", args.top_k)):
        if value < 1:
            raise UserError(f"{name} is {value}, expected 1 or more")
    if not 0.1 <= args.fps <= 100:
        raise UserError(f"--fps is {args.fps:g}, expected 0.1 to 100")
    if picture.suffix.lower() != ".png":
        raise UserError(f"--output is {picture}, expected a name that ends in .png")
    if args.overlay and args.overlay.suffix.lower() not in FORMATS:
        raise UserError(f"--overlay is {args.overlay}, expected a name that ends in {' or '.join(FORMATS)}")
    for path in filter(None, (picture, args.overlay)):
        if path.resolve() == args.video.resolve():
            raise UserError(f"{path} is the video itself, and would be lost; choose another name")
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} exists already: choose another name, or give --overwrite to replace it")
    if args.method == "rollout" and not args.time_of_patch and (args.block is not None or args.head is not None):
        raise UserError(
            "--block and --head are for --method cls and --time-of-patch; a rollout goes through all of them"
        )


def _patch_curves(
    record: AttentionRecord, weights: np.ndarray, place: tuple[int, int], block: int, head: int | None
) -> PatchCurves:
    where = _where(record, block, head, "time", "space_time", "steps")
    if any(step.kind == "steps" for step in record.steps):
        return PatchCurves(None, weights, f"Attention of the frames' class tokens, {where}")
    return PatchCurves(place, weights, f"Attention over time of the framed patch, {where}")


def _where(record: AttentionRecord, block: int, head: int | None, *kinds: str) -> str:
    step = record.find(block, *kinds)
    return f"block {step.block}, {'mean of all heads' if head is None else f'head {head}'}"


def _enlarged(frames: np.ndarray) -> np.ndarray:
    """Frames with a short side of 256 pixels or more."""
    height, width = frames.shape[1:3]
    scale = max(_SHORT_SIDE / min(height, width), 1)
    size = round(width * scale), round(height * scale)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def _write(path: Path, content: bytes) -> None:
    with report_write_errors(path, "choose another name"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(content))
    logger.info("%s: written", path)


if __name__ == "__main__":
    sys.exit(main())
