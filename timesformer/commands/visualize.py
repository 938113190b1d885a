"""Shows where a trained model looks in a video: a picture of the sampled frames, an animation, curves over time.

python tools/visualize.py --checkpoint output/demo/checkpoints/best.pyth VIDEO --output strip.png --overlay overlay.gif
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from timesformer.arguments import Parser, add_device, add_import, as_path, as_source, at_least
from timesformer.atomic import check_absent
from timesformer.commands.command import run_command
from timesformer.errors import UserError

METHODS = ("rollout", "cls")
ANIMATIONS = (".gif", ".mp4")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("video", metavar="VIDEO", type=as_source, help="video file, or folder of frames")
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
    add("--frames", metavar="N", type=at_least(1), default=16, help="largest number of frames in the picture (16)")
    add("--fps", metavar="N", type=float, default=4.0, help="frames per second of the animation (4)")
    add("--top-k", metavar="K", type=at_least(1), default=5, help="number of predicted classes in the picture (5)")
    add_device(parser)
    add("--views", metavar="N", type=int, help="clips along the time (as in a test of the checkpoint)")
    add("--crops", type=int, choices=(1, 3), help="crops of each clip: the center, or three (as in a test)")
    add("--sampler", help="how frames are chosen, such as dense or uniform (as in a test)")
    add_import(parser)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    picture = args.output or Path(f"{Path(args.video).resolve().stem}_attention.png")
    check(args, picture)
    from timesformer.commands.attention_pictures import write_pictures

    write_pictures(args, picture)
    return 0


def check(args: argparse.Namespace, picture: Path) -> None:
    """Raises a UserError for invalid arguments."""
    if not 0.1 <= args.fps <= 100:
        raise UserError(f"--fps {args.fps:g}: expected 0.1 to 100")
    for option, path, endings in (("--output", picture, (".png",)), ("--overlay", args.overlay, ANIMATIONS)):
        if path and path.suffix.lower() not in endings:
            raise UserError(f"{option} {path}: expected a name that ends in {' or '.join(endings)}")
    if args.method == "rollout" and not args.time_of_patch and (args.block, args.head) != (None, None):
        raise UserError("--block and --head need --method cls or --time-of-patch")
    outputs = picture, args.overlay
    if Path(args.video).resolve() in (path.resolve() for path in outputs if path):
        raise UserError(f"{args.video} is the video itself: choose another name for the picture")
    if not args.overwrite:
        check_absent(outputs, "choose another name, or --overwrite")
