"""The web page: upload a video and see the model's predictions and attention (docs/web.md)."""

import argparse
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from timesformer.errors import UserError

if TYPE_CHECKING:
    from timesformer.web.options import Options

SCRIPT = Path(__file__).parents[1] / "web/__main__.py"


def make_parser() -> argparse.ArgumentParser:
    from timesformer.web.options import make_parser

    return make_parser()


def main(arguments: Sequence[str] | None = None, script: Path = SCRIPT) -> int:
    """Loads the model and starts Streamlit with the page, which is `script`, or draws it where Streamlit runs it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if find_spec("streamlit") is None:
        print("error: the web page needs Streamlit: pip install 'timesformer[app]'", file=sys.stderr)
        return 2
    if _is_drawn_by_streamlit():
        from timesformer.web.page import show

        show(arguments)
        return 0
    try:
        from timesformer.web.options import parse

        options = parse(arguments)
        _check_port(options)
        from streamlit.web.cli import main as streamlit

        from timesformer.web.service import prepare

        prepare(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    server = {"--server.port": options.port, "--server.address": options.address}
    flags = [part for flag, value in server.items() if value for part in (flag, str(value))]
    return streamlit(["run", str(script), *flags, "--", *arguments], standalone_mode=False) or 0


def _is_drawn_by_streamlit() -> bool:
    if "streamlit" not in sys.modules:  # its import takes long
        return False
    from streamlit import runtime

    return runtime.exists()


def _check_port(options: "Options") -> None:
    """UserError if the port is in use, before the model is loaded."""
    if options.port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.address or "127.0.0.1", options.port))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--port {options.port} cannot be used ({reason}): choose another one") from error
