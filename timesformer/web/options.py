"""What the web page is started with: the model, the one to fall back to, examples, limits."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from timesformer.arguments import as_path, as_source
from timesformer.errors import UserError
from timesformer.web.uploads import Limits


@dataclass(frozen=True)
class Options:
    """The command line of tools/app.py.

    checkpoint, fallback: as `timesformer.load_model` takes them; "": none.
    cfg, fallback_cfg: YAML files for the two, where they hold no configuration; "": none.
    examples: folder of videos that visitors may choose from, or None.
    device: "cpu", "cuda", ...; "": a GPU where there is one.
    limits: of a video.
    """

    checkpoint: str = ""
    fallback: str = ""
    cfg: str = ""
    fallback_cfg: str = ""
    examples: Path | None = None
    device: str = ""
    limits: Limits = field(default_factory=Limits)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # the page shows it too; leaving would end the server's thread
        raise UserError(f"{message}\n{self.format_usage()}")


def parse(arguments: Sequence[str]) -> Options:
    """The options of a command line; UserError if it makes no sense."""
    parser = _Parser(prog="tools/app.py", description="A web page that says what happens in a video.")
    parser.add_argument(
        "--checkpoint", type=as_source, default="", metavar="PTH", help="best.pyth, the folder of a run, ..."
    )
    parser.add_argument(
        "--fallback",
        type=as_source,
        default="",
        metavar="PTH",
        help="pretrained weights for when --checkpoint is missing or broken",
    )
    for option, which in (("--cfg", "--checkpoint"), ("--fallback-cfg", "--fallback")):
        parser.add_argument(
            option, type=as_source, default="", metavar="YAML", help=f"configuration of {which}, if it holds none"
        )
    parser.add_argument("--examples", type=as_path, metavar="FOLDER", help="videos for visitors to choose from")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1, ...; by default a GPU where there is one")
    limits = Limits()
    parser.add_argument(
        "--max-megabytes", type=_positive(int), default=limits.megabytes, metavar="N", help="of a file; %(default)s"
    )
    parser.add_argument(
        "--max-seconds", type=_positive(float), default=limits.seconds, metavar="S", help="of a video; %(default)s"
    )
    parser.add_argument(
        "--max-pixels", type=_positive(int), default=limits.pixels, metavar="N", help="of a frame; %(default)s"
    )
    parser.add_argument(
        "--max-decoding-seconds",
        type=_positive(float),
        default=limits.decoding_seconds,
        metavar="S",
        help="that reading a video may take; %(default)s",
    )
    args = parser.parse_args(arguments)
    return Options(
        args.checkpoint,
        args.fallback,
        args.cfg,
        args.fallback_cfg,
        args.examples,
        args.device,
        Limits(args.max_megabytes, args.max_seconds, args.max_pixels, args.max_decoding_seconds),
    )


def _positive(kind: type) -> "type":
    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
        return value

    convert.__name__ = kind.__name__  # argparse names it in "invalid float value"
    return convert  # type: ignore[return-value]
