"""Argument types and parsing shared by the command lines."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from timesformer.config.imports import import_modules
from timesformer.errors import UserError


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
