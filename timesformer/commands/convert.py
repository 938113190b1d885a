"""Writes a checkpoint in another format.

python tools/convert_checkpoint.py TimeSformer_divST_8x32_224_K400.pyth timesformer_k400 --to hf
"""

import argparse
import logging
from collections.abc import Sequence

from timesformer.arguments import Parser, as_path, as_source
from timesformer.commands.command import run_command


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Writes a checkpoint in another format.")
    parser.add_argument(
        "source",
        type=as_source,
        metavar="IN",
        help="file, folder of Hugging Face or of a run, https:// URL, zoo:NAME, hf:OWNER/NAME, timm:NAME",
    )
    parser.add_argument("target", metavar="OUT", type=as_path, help="file to write; with --to hf, a folder")
    parser.add_argument("--to", choices=("pyth", "hf", "safetensors"), required=True, help="format to write")
    parser.add_argument("--num-heads", type=int, metavar="N", help="attention heads, for --to hf, if IN does not say")
    parser.add_argument("--num-frames", type=int, metavar="N", help="frames of a clip, for --to hf, if IN does not say")
    parser.add_argument(
        "--weights", metavar="KEY", default="", help="which of several weights in IN, such as model_ema for the average"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from timesformer.models.weights.convert import convert

    convert(args.source, args.target, args.to, args.num_heads, args.num_frames, args.weights)
    return 0
