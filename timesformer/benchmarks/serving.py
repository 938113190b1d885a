"""The HTTP service under load: requests per second and latency, on the loopback interface."""

import statistics
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import describe_machine
from timesformer.datasets.sources.clip_files import is_video_name, walk
from timesformer.errors import UserError, counted
from timesformer.runtime.resource_limits import available_cores
from timesformer.runtime.subcommands import command_environment, command_line

if TYPE_CHECKING:
    import httpx

_TIMEOUT = 600  # seconds


class Load(NamedTuple):
    """What is sent to a service."""

    clients: int  # which send a request when the last one is answered
    requests: int  # in a round
    rounds: int


def service_table(checkpoint: str, paths: Sequence[Path], batch_sizes: Sequence[int], load: Load) -> Iterator[str]:
    """Table with a row for each `--batch-size` of `timesformer serve`.

    The services run at the same time, and get the requests in turn, so that slow phases of the machine affect all
    equally. The videos are `paths`, and those in folders of `paths`.
    """
    files = [file for path in paths for file in _files(path)]
    contents = [file.read_bytes() for file in islice(files, load.requests)]
    caption = (
        f"{describe_machine()}, {counted(available_cores(), 'core')}, which clients and service share; "
        f"{counted(load.clients, 'client')}, {counted(load.rounds, 'round')} of {counted(load.requests, 'request')}, "
        f"{counted(len(contents), 'video')}."
    )
    columns = ["`--batch-size`", "requests per second", "median latency (s)", "95th percentile (s)", "clips of a batch"]
    yield from header(caption, columns, text_columns=0)
    seconds: dict[int, float] = dict.fromkeys(batch_sizes, 0.0)
    latencies: dict[int, list[float]] = {size: [] for size in batch_sizes}
    with ExitStack() as stack:
        clients = {size: stack.enter_context(_running(checkpoint, size, load.clients)) for size in batch_sizes}
        for client in clients.values():
            _send(client, contents, load.clients, load.clients)  # starts the processes that read
        for number in range(load.rounds):
            for size in batch_sizes if number % 2 else reversed(batch_sizes):
                start = time.perf_counter()
                latencies[size] += _send(clients[size], contents, load.requests, load.clients)
                seconds[size] += time.perf_counter() - start
        for size in batch_sizes:
            rate = len(latencies[size]) / seconds[size]
            late = statistics.quantiles(latencies[size], n=20)[-1]
            shown = [f"{rate:.1f}", f"{statistics.median(latencies[size]):.2f}", f"{late:.2f}"]
            yield row([size, *shown, f"{_mean_batch(clients[size]):.1f}"])


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folders = walk(path) if path.is_dir() else []
    found = [path / folder / name for folder, _, names in folders for name in names if is_video_name(name)]
    if not found:
        raise UserError(f"--videos {path}: no video files found, expected a video or a folder of videos")
    return sorted(found)


@contextmanager
def _running(checkpoint: str, batch_size: int, clients: int) -> "Iterator[httpx.Client]":
    """A client of a service, which is stopped at the end."""
    try:
        import httpx
    except ImportError as error:
        raise UserError("the benchmark needs httpx: pip install '.[serve,benchmark]' in a checkout") from error
    options = ["--port", "0", "--batch-size", batch_size, "--max-requests", clients, "--timeout", _TIMEOUT]
    command = command_line("serve", "--checkpoint", checkpoint, *map(str, options))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=command_environment(), **pipes) as process:
        log: deque[str] = deque(maxlen=1)
        reading = Thread(target=log.extend, args=(process.stderr,))
        reading.start()
        try:
            url = process.stdout.readline().strip().removesuffix("/docs")
            if not url:
                reading.join()
                raise UserError(f"the service has not started: {''.join(log).strip()}")
            limits = httpx.Limits(max_connections=clients)
            with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False, limits=limits) as client:
                yield client
        finally:
            process.terminate()
            reading.join()


def _send(client: "httpx.Client", contents: Sequence[bytes], requests: int, clients: int) -> list[float]:
    """Seconds to the answer of each request."""

    def ask(number: int) -> float:
        start = time.perf_counter()
        answer = client.post("/v1/predict", files={"video": contents[number % len(contents)]})
        if answer.is_error:
            raise UserError(f"the service answers with {answer.status_code}: {answer.text}")
        return time.perf_counter() - start

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(ask, range(requests)))


def _mean_batch(client: "httpx.Client") -> float:
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    return float(lines["timesformer_batch_clips_sum"]) / float(lines["timesformer_batch_clips_count"])
