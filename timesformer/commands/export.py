"""Exports a trained model for other runtimes, and checks the file against it (docs/deployment.md).

python tools/export.py --checkpoint best.pyth --to onnx --output m.onnx
python tools/export.py --checkpoint best.pyth --to openvino --output m.xml --clips data/val --max-drop 0.5

Exit code: 0 if the model was exported, 4 if it loses more than --max-drop, 2 for a user error, 128 + N for signal N.
"""

import argparse
import logging
from collections.abc import Sequence

from timesformer.arguments import Parser, add_import, as_path, as_source, at_least, finite
from timesformer.commands.command import run_command

DROPPED = 4
INT8_HELP = """8-bit weights and activations; ranges of the activations for every clip (dynamic, ONNX only), or from
--calibrate (static); auto: for ONNX dynamic, or static if that is not close enough; for OpenVINO static"""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Exports a trained model for other runtimes, and checks the file against it.",
        epilog="Exit code: 0 exported, 4 the file loses more than --max-drop, 2 user error. See docs/deployment.md",
    )
    add = parser.add_argument
    add("--checkpoint", type=as_source, required=True, metavar="FILE", help="best.pyth, the folder of a run, ...")
    add("--to", choices=("onnx", "openvino", "torch-export"), required=True, help="format of the file")
    add("--output", type=as_path, required=True, metavar="FILE", help="file to write: .onnx, .xml or .pt2")
    add("--half", action="store_true", help="store the weights in float16")
    add("--int8", nargs="?", const="auto", default="", choices=("auto", "dynamic", "static"), help=INT8_HELP)
    add("--calibrate", type=as_path, metavar="FOLDER", help="videos to calibrate and choose the layers of --int8 with")
    add("--dynamic-batch", action="store_true", help="take any number of clips at once, not one")
    add("--license", default="", metavar="TEXT", help="license of the weights, for the metadata of the file")
    add(
        "--clips",
        type=as_path,
        metavar="FOLDER",
        help="videos to check the file with; default: of --calibrate, or generated",
    )
    add("--max-drop", type=finite, metavar="POINTS", help="fail if the file loses more top-1 accuracy on --clips")
    add("--rounds", type=at_least(1), default=5, metavar="N", help="clips computed with each model for the speed (5)")
    device_help = "computes the checkpoint for the check: cpu (default), cuda, cuda:N or mps"
    add("--device", default="cpu", metavar="NAME", help=device_help)
    add("--overwrite", action="store_true", help="replace an existing file")
    add("--cfg", type=as_path, metavar="YAML", help="configuration, for checkpoints without one")
    add_import(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="override the configuration of the checkpoint")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_intermixed_args(arguments)
    if args.calibrate and not args.int8:
        parser.error("--calibrate needs --int8; --clips FOLDER checks the file with videos")
    if args.int8 and not args.calibrate:
        parser.error("--int8 needs --calibrate FOLDER, videos of the kind that the model will get")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from timesformer.export.exporting import ExportOptions, check_output, export_and_check, load_for_export

    options = ExportOptions(args.half, args.dynamic_batch, args.license, args.int8)
    check_output(args.output, args.to, options, args.overwrite)
    classifier = load_for_export(args.checkpoint, args.opts, args.cfg, args.device)
    print(repr(classifier), flush=True)
    int8, check, file = export_and_check(classifier, args.output, options, args.clips, args.calibrate, args.rounds)
    print("\n  ".join([str(args.output), *int8, *check.lines(), f"written to {file}"]))
    if args.max_drop is not None and check.drop > args.max_drop:
        print(f"failed: the file loses {check.drop:.2f} points, more than --max-drop {args.max_drop:g}")
        return DROPPED
    return 0
