"""Serves an HTTP interface that predicts the classes of videos (docs/serving.md).

python tools/serve.py --checkpoint best.pyth --port 8000

Exit code: 0 after Ctrl-C or SIGTERM, when running requests are answered; 2 for a user error.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
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
    add("--address", default="127.0.0.1", metavar="IP", help="of this machine (%(default)s); 0.0.0.0 or :: for all")
    add("--port", type=int, default=8000, metavar="N", help="port (%(default)s); 0: a free one")
    add("--batch-size", type=number, metavar="N", help="clips computed together; default: as the checkpoint's tests")
    add("--max-requests", type=number, default=64, metavar="N", help="running requests, more are refused (%(default)s)")
    add("--readers", type=number, metavar="N", help="videos read at the same time; default: one per core")
    add(
        "--timeout",
        type=positive,
        default=60.0,
        metavar="S",
        help="seconds a request may take, with upload (%(default)g)",
    )
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
        from timesformer.serving.api import make_api
        from timesformer.serving.server import listen, serve
    except ImportError as error:
        raise UserError(f"the service needs {error.name}: pip install '.[serve]' in a checkout") from error
    from timesformer.inference.classifier import load_model
    from timesformer.serving.service import PredictionService
    from timesformer.web.reading import Readers

    key = _api_key(args.api_key_file)
    with listen(args.address, args.port) as listener, ExitStack() as stack:
        readers = Readers(take_limits(vars(args)), args.readers)
        stack.callback(readers.stop)
        is_warm = readers.warm_up()
        classifier = load_model(args.checkpoint, args.device, cfg=args.cfg)
        print(repr(classifier), file=sys.stderr)
        is_warm.result()
        batch_size = args.batch_size or classifier.cfg.TEST.BATCH_SIZE
        service = PredictionService(classifier, readers, args.max_requests, batch_size)
        try:
            serve(make_api(service, key, args.timeout), listener, stop_seconds=round(args.timeout) + 1)
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
