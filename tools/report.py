#!/usr/bin/env python3
"""Makes the report of a finished run from its files, or one page that compares several runs.

python tools/report.py output/demo
python tools/report.py output/demo output/demo_spaceOnly --output comparison.html

Neither videos nor checkpoints are needed. A folder with runs of several official splits counts as those runs.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timesformer.arguments import add_import, as_path
from timesformer.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=as_path, metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output",
        type=as_path,
        metavar="HTML",
        help="the page; without it, report.html in the folder of the run, or comparison.html here for several runs",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is no report of these runs, too")
    add_import(parser)
    args = parser.parse_args()
    try:
        from timesformer.visualization.report import check_overwrite, write_report

        folders = [folder for run in args.runs for folder in runs_in(run)]
        given = args.runs[0] if args.runs[0].is_dir() else folders[0]
        beside = given / "report.html" if len(args.runs) == 1 else Path("comparison.html")
        path = args.output or beside
        is_its_own = len(args.runs) == 1 and path.resolve() == beside.resolve()
        if not (args.overwrite or is_its_own):
            check_overwrite(path, folders)
        write_report(folders, path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


def runs_in(folder: Path) -> list[Path]:
    """The folder, or those of the splits that were run in it."""
    if folder.name == "results.json":
        return [folder.parent]
    splits = sorted(path.parent for path in folder.glob("split_*/results.json"))
    return splits if splits and not (folder / "results.json").is_file() else [folder]


if __name__ == "__main__":
    sys.exit(main())
