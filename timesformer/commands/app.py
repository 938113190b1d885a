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
        print("error: the web page needs Streamlit: pip install '.[app]' in a checkout", file=sys.stderr)
        return 2
    if _is_drawn_by_streamlit():
        from timesformer.web.page import show

        show(arguments)
        return 0
    try:
        from timesformer.web.options import parse

        options = parse(arguments)
        family = _check_address(options)
        from streamlit.web.cli import main as streamlit

        from timesformer.web.reading import stop_readers
        from timesformer.web.service import prepare

        prepare(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    server = {"--server.port": options.port, "--server.address": options.address}
    if family == socket.AF_INET6 and options.address != "::":
        server["--browser.serverAddress"] = f"[{options.address}]"  # Streamlit prints it as it is
    flags = [part for flag, value in server.items() if value for part in (flag, str(value))]
    try:
        return streamlit(["run", str(script), *flags, "--", *arguments], standalone_mode=False) or 0
    finally:
        stop_readers()


def _is_drawn_by_streamlit() -> bool:
    if "streamlit" not in sys.modules:  # its import takes long
        return False
    from streamlit import runtime

    return runtime.exists()


def _check_address(options: "Options") -> socket.AddressFamily:
    """Returns whether the address is an IPv4 or IPv6 one; UserError if it or the port cannot be used."""
    address, port = options.address or "127.0.0.1", options.port or 0
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        names = f"--address {address}{f' --port {port}' if port else ''}"
        raise UserError(f"{names} cannot be used ({error.strerror or error}): choose another one") from error
    return family
