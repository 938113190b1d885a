"""Serves an HTTP interface that predicts the classes of videos (docs/serving.md).

python tools/serve.py --checkpoint best.pyth --port 8000

Exit code: 0 after Ctrl-C or SIGTERM, when running requests are answered; 2 for a user error.
"""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from timesformer.arguments import Parser, add_device, add_import, as_path, as_source, at_least, positive
from timesformer.commands.command import run_command
from timesformer.errors import UserError
from timesformer.web.options import add_limits, take_limits

KEY_VARIABLE = "TIMESFORMER_API_KEY"


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    add, number = parser.add_argument, at_least(1)
    add("--checkpoint", type=as_source, required=True, metavar="FILE", help="best.pyth, the folder of a run, ...")
    add("--cfg", type=as_path, metavar="YAML", help="configuration, for checkpoints without one")
    add("--address", default="127.0.0.1", metavar="IP", help="where the server listens (%(default)s); 0.0.0.0: for all")
    add("--port", type=int, default=8000, metavar="N", help="port (%(default)s); 0: a free one")
    add("--batch-size", type=number, metavar="N", help="clips computed together; default: as the checkpoint's tests")
    add("--max-requests", type=number, default=64, metavar="N", help="running requests, more are refused (%(default)s)")
    add("--readers", type=number, metavar="N", help="videos read at the same time; default: one per core")
    add("--timeout", type=positive, default=60.0, metavar="S", help="seconds a prediction may take (%(default)g)")
    key_help = f"file with the key that requests must send; default: ${KEY_VARIABLE}, or no key"
    add("--api-key-file", type=as_path, metavar="FILE", help=key_help)
    add_device(parser)
    add_limits(parser)
    add_import(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Serves until a signal."""
    try:
        import uvicorn

        from timesformer.serving.api import make_api
    except ImportError as error:
        raise UserError(f"the service needs {error.name}: pip install 'timesformer[serve]'") from error
    from timesformer.inference.classifier import load_model
    from timesformer.runtime.resource_limits import available_cores
    from timesformer.serving.service import PredictionService
    from timesformer.web.reading import start_process_server

    key = _api_key(args.api_key_file)
    with _listen(args.address, args.port) as listener:
        start_process_server()
        classifier = load_model(args.checkpoint, args.device, cfg=args.cfg)
        print(repr(classifier), file=sys.stderr)
        limits = take_limits(vars(args))
        readers, batch = args.readers or available_cores(), args.batch_size or classifier.cfg.TEST.BATCH_SIZE
        service = PredictionService(classifier, limits, readers, args.max_requests, batch)
        host, port = listener.getsockname()[:2]
        print(f"http://{host}:{port}/docs", flush=True)
        config = uvicorn.Config(
            make_api(service, key, args.timeout), log_config=None, timeout_graceful_shutdown=round(args.timeout) + 1
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # raised again by uvicorn after it has stopped
            print("stopped", file=sys.stderr)
    return 0


def _api_key(file: Path | None) -> str:
    if file is None:
        return os.environ.get(KEY_VARIABLE, "")
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file {file} cannot be read ({error}): expected a text file with the key") from error
    if not key:
        raise UserError(f"--api-key-file {file} is empty, expected the key")
    return key


def _listen(address: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address} --port {port} cannot be used ({error}): choose another one") from error
