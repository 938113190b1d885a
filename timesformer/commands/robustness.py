"""Tests a checkpoint on its test set under noise, blur, compression, other frame orders and rates (docs/robustness.md).

python tools/robustness.py --checkpoint output/demo --output output/demo/robustness
python tools/robustness.py --checkpoint best.pyth --output robustness --corruptions noise,jpeg --severities 1,3,5

The same command resumes an interrupted one. Exit code: 0, 2 for a user error, 128 + N for signal N.
"""

import argparse
import logging
from collections.abc import Sequence

from timesformer.arguments import Parser, add_device, add_import, as_path, as_source, parse_intermixed, separated
from timesformer.commands.command import run_command

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=as_source, required=True, metavar="FILE", help="best.pyth, the folder of a run, ...")
    add("--output", type=as_path, required=True, metavar="DIR", help="folder for robustness.html, .json and .csv")
    add("--corruptions", type=separated, default=[], metavar="A,B", help="corruptions or groups of them (all)")
    add("--severities", type=separated, default=[], metavar="1,3", help="from 1 to 5 (all)")
    add("--overwrite", action="store_true", help="replace results of other weights, options or videos in DIR")
    add_device(parser)
    add("--cfg", type=as_path, metavar="YAML", help="configuration, for checkpoints without one")
    add_import(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="override the configuration of the checkpoint")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_intermixed(make_parser(), "opts", arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    return run_command(lambda: run(args), "interrupted; the same command resumes")


def run(args: argparse.Namespace) -> int:
    from timesformer.analysis.corruptions import select_corruptions
    from timesformer.analysis.robustness import Robustness
    from timesformer.inference.classifier import load_model
    from timesformer.visualization.pages.robustness_page import write_robustness_page

    selected = select_corruptions(args.corruptions, args.severities)
    classifier = load_model(args.checkpoint, args.device, args.opts, cfg=args.cfg)
    for note in classifier.notes:
        logger.info("note: %s", note)
    test = Robustness(classifier, args.output, args.overwrite)
    test.write_examples(selected[0])
    results = test.run(*selected)
    path = write_robustness_page(args.output)
    relative = results["relative"]
    logger.info(
        "mean corruption top-1 %.2f %%%s\n%s",
        results["mean_corruption_top1"],
        "" if relative is None else f", {relative:.1f} % of clean",
        path,
    )
    return 0
