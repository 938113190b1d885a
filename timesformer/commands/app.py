"""The web page: upload a video and see the model's predictions and attention (docs/web.md)."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from timesformer.errors import UserError

SCRIPT = Path(__file__).parents[1] / "web/__main__.py"


def make_parser() -> argparse.ArgumentParser:
    from timesformer.web.options import make_parser

    return make_parser()


def main(arguments: Sequence[str] | None = None, script: Path = SCRIPT) -> int:
    """Starts Streamlit with the page, which is `script`, or draws the page where Streamlit runs it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from streamlit import runtime
    except ImportError:
        print("error: the web page needs Streamlit: pip install 'timesformer[app]'", file=sys.stderr)
        return 2
    from timesformer.web.options import parse

    if runtime.exists():
        from timesformer.web.page import show

        show(arguments)
        return 0
    try:
        parse(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(script), "--", *arguments])
