"""Argument types and parsing shared by the command lines."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from timesformer.config.imports import import_modules
from timesformer.errors import UserError


class Parser(argparse.ArgumentParser):
    """Reports an incorrect argument in one line, with the option that is probably meant, and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {self.explain(message)}\n")

    def explain(self, message: str) -> str:
        """Returns a message of argparse with a similar option, and where all options are listed."""
        options = set(re.findall(r"--[a-z][\w-]*", self.format_help()))
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = get_close_matches(unknown[1], options, n=1) if unknown else []
        return f"{message}{f'; did you mean {near[0]}?' if near else ''} (see `{self.prog} --help`)"


def as_path(text: str) -> Path:
    """Argument type of a path; expands `~`, which shells leave in `--output=~/a`."""
    return Path(as_source(text))


def as_source(text: str) -> str:
    """Argument type of a path, URL or name of a checkpoint; expands `~`."""
    return os.path.expanduser(text)


def add_import(parser: argparse.ArgumentParser) -> None:
    """Adds `--import MODULE`, which imports the module while the command line is parsed."""
    help_text = "module, or .py file, that registers samplers, models, options, ... (docs/extending.md); repeatable"
    parser.add_argument(
        "--import", dest="imports", action="append", type=_imported, default=[], metavar="MODULE", help=help_text
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`, a name that `runtime.device.select_device` checks; "" if it is not given."""
    help_text = "cuda, cuda:N, mps or cpu; default: the CUDA GPU if there is one, else the CPU"
    parser.add_argument("--device", metavar="NAME", default="", help=help_text)


def _imported(name: str) -> str:
    try:
        import_modules([name])
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def parse_intermixed(
    parser: argparse.ArgumentParser, rest: str, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Runs `parse_intermixed_args`, which loses `--`, with the words after `--` in the positional argument `rest`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    setattr(args, rest, [*getattr(args, rest), *words[end + 1 :]])
    return args


def given_options(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Returns the options that are given, with their dashes, among those with these names in `args`."""
    values = ((name, getattr(args, name)) for name in names)
    return [f"--{name.replace('_', '-')}" for name, value in values if value or type(value) in (int, float)]


def at_least(minimum: int) -> Callable[[str], int]:
    """Argument type of integers from `minimum`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number of {minimum} or more")
        return int(text)

    return number


def between(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[str], float]:
    """Argument type of finite numbers from `least` to `most`."""
    expected = f"from {least} to {most}" if most < math.inf else f"of {least} or more"

    def number(text: str) -> float:
        value = kind(text)
        if not (least <= value <= most and value < math.inf):
            raise argparse.ArgumentTypeError(f"found {text}, expected a number {expected}")
        return value

    return number


def separated(text: str) -> list[str]:
    """Argument type of names separated by commas."""
    return [name for part in text.split(",") if (name := part.strip())]


def finite(text: str) -> float:
    """Argument type of numbers without NaN and infinity."""
    return _number(text, math.isfinite, "a finite number")


def positive(text: str) -> float:
    """Argument type of numbers above 0."""
    return _number(text, lambda number: 0 < number < float("inf"), "a number above 0")


def not_negative(text: str) -> float:
    """Argument type of numbers from 0."""
    return _number(text, lambda number: 0 <= number < float("inf"), "a number of 0 or more")


def probability(text: str) -> float:
    """Argument type of probabilities."""
    return _number(text, lambda number: 0 <= number <= 1, "a number from 0 to 1")


def _number(text: str, is_valid: Callable[[float], bool], expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not is_valid(number):
        raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}")
    return number
