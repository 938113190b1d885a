"""Shows the learning rates and the augmented clips of a training before it runs (docs/training.md).

python tools/preview.py --cfg configs/Demo/TimeSformer_divST_8x2_48.yaml --output preview.html
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from timesformer.arguments import Parser, add_import, as_path, parse_intermixed
from timesformer.atomic import report_write_errors, write_atomically
from timesformer.commands.command import run_command
from timesformer.config import load_config
from timesformer.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cfg", dest="cfg_file", type=as_path, required=True, metavar="YAML", help="configuration of the training")
    add("--output", type=as_path, default=Path("preview.html"), metavar="FILE", help=".html or .png (preview.html)")
    add("--overwrite", action="store_true", help="replace an existing file")
    add("--videos", type=int, default=6, metavar="N", help="number of training videos, of different classes (6)")
    add("--draws", type=int, default=3, metavar="N", help="number of clips of each: those of the first N epochs (3)")
    add_import(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="options that override those of the file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_intermixed(make_parser(), "opts", arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Writes the page or picture."""
    is_png = args.output.suffix.lower() == ".png"
    if not is_png and args.output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {args.output} must end in .html or .png")
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} exists: choose another name with --output, or add --overwrite to replace it")
    if min(args.videos, args.draws) < 1:
        raise UserError(f"--videos is {args.videos} and --draws {args.draws}, expected 1 or more")
    cfg = load_config(args.cfg_file, args.opts, check_gpus=False, imports=args.imports)

    from timesformer.preparation.download import download_if_asked
    from timesformer.preview.page import Preview

    download_if_asked(cfg)
    shown = Preview(cfg, args.cfg_file.stem, args.videos, args.draws)
    content = shown.png() if is_png else shown.html()
    with report_write_errors(args.output, "choose another file with --output"):
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.output, lambda file: file.write(content))
    print(args.output)
    return 0
