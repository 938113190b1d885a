"""Command line of the web page."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from timesformer.arguments import Parser, add_device, add_import, as_path, as_source, at_least, positive
from timesformer.errors import UserError
from timesformer.web.uploads import Limits


@dataclass(frozen=True)
class Options:
    """The options of `timesformer app`; "" or None where one is not given."""

    checkpoint: str = ""
    fallback: str = ""
    cfg: str = ""
    fallback_cfg: str = ""
    examples: Path | None = None
    device: str | None = None
    port: int | None = None  # Streamlit's choice if not given, like the address
    address: str = ""
    limits: Limits = field(default_factory=Limits)


class _Parser(Parser):
    def error(self, message: str) -> NoReturn:  # exiting would end the server's thread
        raise UserError(self.explain(message))


def make_parser() -> argparse.ArgumentParser:
    """The command line of the page."""
    parser = _Parser(prog="timesformer app", description="A web page that predicts the class of a video.")
    for option, explanation in (
        ("--checkpoint", "best.pyth, the folder of a run, ..."),
        ("--fallback", "pretrained weights to use while --checkpoint is missing or broken"),
        ("--cfg", "configuration (YAML) of --checkpoint, if it holds none"),
        ("--fallback-cfg", "configuration (YAML) of --fallback, if it holds none"),
    ):
        parser.add_argument(option, type=as_source, default="", metavar="FILE", help=explanation)
    add_import(parser)
    parser.add_argument("--examples", type=as_path, metavar="FOLDER", help="videos for visitors to choose from")
    add_device(parser)
    parser.add_argument("--port", type=_port, metavar="N", help="of the server; default: the first free one from 8501")
    address = "where the server listens; default: 127.0.0.1, only for this machine; 0.0.0.0: for all"
    parser.add_argument("--address", default="", metavar="IP", help=address)
    add_limits(parser)
    return parser


def parse(arguments: Sequence[str]) -> Options:
    """The options of a command line; UserError if it is invalid."""
    values = vars(make_parser().parse_args(arguments))
    del values["imports"]  # imported already
    return Options(limits=take_limits(values), **values)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds the options --max-... of `Limits`."""
    for option, convert, default, explanation in (
        ("--max-megabytes", at_least(1), Limits.megabytes, "of a file"),
        ("--max-seconds", positive, Limits.seconds, "of a video"),
        ("--max-pixels", at_least(1), Limits.pixels, "of a frame"),
        ("--max-decoding-seconds", positive, Limits.decoding_seconds, "to read a video"),
    ):
        explanation += "; %(default)s"
        parser.add_argument(option, type=convert, default=default, metavar="N", help=explanation)


def take_limits(values: dict[str, Any]) -> Limits:
    """Removes the values of `add_limits` from those of a command line."""
    names = ("megabytes", "seconds", "pixels", "decoding_seconds")
    return Limits(**{name: values.pop(f"max_{name}") for name in names})


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 1 to {2**16 - 1}")
