"""What the command lines share: paths that may begin with `~`, and `--` before names that begin with a dash."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def as_path(text: str) -> Path:
    """The type of an argument that is a path; a shell expands `~` in `--output ~/a`, but not in `--output=~/a`."""
    return Path(as_source(text))


def as_source(text: str) -> str:
    """The type of an argument that is a path, or a URL or a name, as checkpoints have them."""
    return os.path.expanduser(text)


def parse_intermixed(
    parser: argparse.ArgumentParser, rest: str, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """`parse_intermixed_args`, but with all words behind `--` at the end of the argument `rest`.

    Where nothing but options stands before `--`, argparse (up to Python 3.12 at least) takes it out and the words after
    it for options.

    Args:
        rest: name of a positional argument of any number of words.
        arguments: None for those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    found = parser.parse_intermixed_args(words[:end])
    setattr(found, rest, [*getattr(found, rest), *words[end + 1 :]])
    return found
