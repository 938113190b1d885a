"""Lists the configurations that come with this package: model, clips, size, and the cost of one view.

timesformer configs                 # all
timesformer configs hmdb vivit      # names and models with these words
timesformer configs --show HMDB/TimeSformer_divST_8x32_224 > mine.yaml
"""

import argparse
import csv
from collections.abc import Iterable, Sequence

from timesformer.arguments import Parser
from timesformer.commands.command import run_command
from timesformer.config.shipped import COSTS, find_config, shipped_folder
from timesformer.errors import UserError

HEADER = ("configuration", "model", "attention", "frames", "crop", "parameters (M)", "GFLOPs")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only configurations with all of these words")
    parser.add_argument("--show", metavar="NAME", help="print the YAML file of a configuration")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.show:
        print(find_config(args.show).read_text(encoding="utf-8"), end="")
        return 0
    with (shipped_folder() / COSTS).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if matches(row, args.words)]
    if not rows:
        words = " ".join(args.words)
        raise UserError(f"no configuration has the words {words}: `timesformer configs` lists all")
    print_table([HEADER, *map(cells, rows)])
    return 0


def matches(row: dict[str, str], words: Iterable[str]) -> bool:
    text = " ".join(row[column] for column in ("configuration", "model", "attention")).lower()
    return all(word.lower() in text for word in words)


def cells(row: dict[str, str]) -> tuple[str, ...]:
    sizes = f"{int(row['parameters']) / 1e6:.2f}", f"{int(row['multiply_adds']) / 1e9:.2f}"
    return (*(row[column] for column in ("configuration", "model", "attention", "frames", "crop")), *sizes)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints columns; the last three are numbers, aligned right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        words = [cell.ljust(width) for cell, width in zip(row[:-3], widths[:-3], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[-3:], widths[-3:], strict=True)]
        print("  ".join([*words, *numbers]))
