"""A server process without threads that forks other processes on request.

`multiprocessing` has no such way. With its methods "spawn" and "forkserver", processes import the main module again, so
that a script of a few lines, a notebook or a web page would run twice; with "fork" they inherit the locks that other
threads hold.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

_PACKAGE = str(Path(__file__).resolve().parents[2])  # the folder that this package is imported from
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals of terminals and job schedulers, which the server and its processes ignore."""

_PATIENCE = 5.0  # seconds in which a killed process should be gone


class _Start(NamedTuple):
    """A request for a process; its end of the connection follows. A request to end one is (number, seconds)."""

    number: int
    module: str
    function: str
    preload: tuple[str, ...]
    folder: str
    path: list[str]


class ProcessServer:
    """Starts processes by a server, which starts with the first of them.

    Safe to use from several threads, and nothing in this process changes by it. A server ends with the process that
    started it, however that ends, and ends the processes that it forked. Signals end neither, as those that a terminal
    or a job scheduler sends are meant for the process that started them.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._lock = threading.Lock()
        self._server: subprocess.Popen | None = None
        self._requests: Connection | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def start(self, serve: Callable[[Connection], Any], preload: Sequence[str]) -> tuple[int, Connection]:
        """Starts a process that calls `serve(connection)` in the present folder, with the present `sys.path`.

        The process cannot be forked if the other end of the connection is closed before anything is received.

        Args:
            serve: a function of a module other than the main one.
            preload: modules that the server imports, so that only the first process waits for them.

        Returns:
            A number for `end`, and this end of the connection.

        Raises:
            OSError: if the server cannot be started, or file descriptors are too few.
        """
        number = next(self._numbers)
        request = _Start(
            number, serve.__module__, serve.__qualname__, (*preload,), os.getcwd(), list(map(str, sys.path))
        )
        mine, theirs = socket.socketpair()
        with mine, theirs:
            with self._lock:
                try:
                    self._send(request, theirs)
                except ConnectionError:  # the server was killed
                    self._stop()
                    self._send(request, theirs)
            return number, Connection(mine.detach())

    def end(self, number: int, seconds: float = 0.0) -> int | None:
        """Kills a process that has not ended by itself after some seconds.

        Returns:
            Its exit code, -N where signal N ended it; None where that is not known.
        """
        with self._lock, suppress(EOFError, OSError):
            if self._requests is not None:
                self._requests.send((number, seconds))
                if self._requests.poll(seconds + 2 * _PATIENCE):
                    return self._requests.recv()
                self._stop()  # it hangs
        return None

    def close(self) -> None:
        """Ends the server and all that it started; the next `start` starts another."""
        with self._lock:
            self._stop()

    def _send(self, request: _Start, connection: socket.socket) -> None:
        if self._requests is None:
            self._launch()
        self._requests.send(request)
        with socket.socket(fileno=os.dup(self._requests.fileno())) as requests:
            socket.send_fds(requests, [b" "], [connection.fileno()])

    def _launch(self) -> None:
        mine, theirs = socket.socketpair()
        with mine, theirs:
            path = [_PACKAGE, *map(str, sys.path)]
            program = f"import sys; sys.path[:] = {path!r}; from {__name__} import run; run({theirs.fileno()})"
            self._server = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # or Ctrl-C would end it during its imports
            )
            self._requests = Connection(mine.detach())

    def _stop(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._server is not None:
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(_PATIENCE)
            self._server.kill()
            self._server.wait()
            self._server = None

    def _forget(self) -> None:
        """In a fork of this process, which must not talk to its parent's server."""
        self._lock = threading.Lock()
        if self._requests is not None:
            self._requests.close()
        self._requests = self._server = None


# ---------------------------------------------------------------- the server


def run(descriptor: int) -> None:
    """Answers requests, which come through this socket, until its other end is closed."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    requests, running = Connection(descriptor), {}
    with suppress(EOFError, OSError):
        while True:
            request = requests.recv()
            if isinstance(request, _Start):
                running[request.number] = _fork(request, descriptor)
            else:
                number, seconds = request
                requests.send(_ended(running.pop(number, None), seconds))
    for process in running.values():
        if process is not None:
            process.kill()
    os._exit(0)  # without waiting for them


def _fork(request: _Start, requests: int) -> BaseProcess | None:
    with socket.socket(fileno=os.dup(requests)) as copy:
        _, (connection,), _, _ = socket.recv_fds(copy, 1, 1)
    for module in request.preload:
        with suppress(Exception):  # the process itself raises it
            import_module(module)
    process = get_context("fork").Process(target=_serve, args=(request, requests, connection))
    try:
        process.start()
    except OSError as error:  # too many processes, or too little memory
        print(f"a process cannot be started: {error}", file=sys.stderr, flush=True)
        process = None
    os.close(connection)
    return process


def _serve(request: _Start, requests: int, connection: int) -> None:
    os.close(requests)
    os.chdir(request.folder)
    sys.path[:] = request.path
    getattr(import_module(request.module), request.function)(Connection(connection))


def _ended(process: BaseProcess | None, seconds: float) -> int | None:
    if process is None:
        return None
    process.join(seconds)
    process.kill()
    process.join(_PATIENCE)
    return process.exitcode
