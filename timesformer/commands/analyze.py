"""Adds sections about single clips to the report of a tested run; needs its checkpoint and videos (docs/reports.md).

python tools/analyze.py output/demo
python tools/analyze.py output/demo --parts embedding,clips DATA.PATH_TO_DATA_DIR /new/place
"""

import argparse
import logging
from collections.abc import Sequence

from timesformer.arguments import Parser, add_device, add_import, as_path, as_source, parse_intermixed
from timesformer.commands.command import run_command
from timesformer.errors import UserError

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", type=as_path, metavar="RUN", help="folder with results.json")
    add("--parts", metavar="A,B", help="some of clips, embedding, revealed and attention (all)")
    add("--clips", type=int, default=400, metavar="N", help="largest number of clips in the embedding map (400)")
    add("--checkpoint", type=as_source, metavar="FILE", help="the tested checkpoint, if it was moved")
    add_device(parser)
    add_import(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="override the configuration of the test, such as where data are")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_intermixed(make_parser(), "opts", arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from timesformer.visualization.report import write_report
    from timesformer.visualization.sections.analyze import PARTS, analyze_run

    parts = args.parts.split(",") if args.parts else PARTS
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"--parts: {unknown[0]!r} is unknown, expected some of {', '.join(PARTS)}")
    if args.clips < 4:
        raise UserError(f"--clips is {args.clips}, expected 4 or more")
    analyze_run(args.run, parts, args.clips, args.checkpoint, args.device, args.opts)
    logger.info("%s", write_report([args.run], args.run / "report.html"))
    return 0
