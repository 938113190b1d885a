"""Writes the report of a run, a comparison of several, or their figures. Needs neither videos nor checkpoints.

python tools/report.py output/demo
python tools/report.py output/demo output/demo_spaceOnly --output comparison.html
python tools/report.py output/demo --figures figures/demo
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from timesformer.arguments import Parser, add_import, as_path
from timesformer.commands.command import run_command


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=as_path,
        metavar="RUN",
        help="OUTPUT_DIR of a run or of repeated runs; for figures also a study, a robustness test or a data report",
    )
    add("--output", type=as_path, metavar="HTML", help="by default RUN/report.html, comparison.html for several runs")
    add("--figures", type=as_path, metavar="DIR", help="write figures (PNG, SVG, PDF) and tables (CSV, LaTeX) instead")
    add("--overwrite", action="store_true", help="replace files that are not of these runs")
    add_import(parser)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.figures and args.output:
        parser.error("--output is for the report: give --figures or --output")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from timesformer.visualization.report import check_overwrite, write_report

    runs = [run.parent if run.name == "results.json" else run for run in args.runs]
    folders = [folder for run in runs for folder in find_runs(run)]
    if args.figures:
        from timesformer.visualization.figure_files import write_figures

        print(write_figures(folders, args.figures, args.overwrite))
        return 0
    default = runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html")
    path = args.output or default
    if not args.overwrite and (len(runs) > 1 or path.resolve() != default.resolve()):
        check_overwrite(path, folders)
    write_report(folders, path)
    print(path)
    return 0


def find_runs(folder: Path) -> list[Path]:
    """The folder, or those of the repeated runs in it."""
    if (folder / "results.json").is_file():
        return [folder]
    if (folder / "repeats.json").is_file():
        return [folder / run["folder"] for run in json.loads((folder / "repeats.json").read_text())["runs"]]
    return sorted(path.parent for path in folder.glob("split_*/results.json")) or [folder]
