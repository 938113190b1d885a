"""A server process without threads that forks worker processes.

`multiprocessing` has no such way: with "spawn" and "forkserver", workers import the main module again, so that a
notebook or a script of a few lines runs twice; with "fork" they inherit locks that other threads hold.
"""

import atexit
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, NamedTuple

from timesformer.runtime.resource_limits import is_out_of_files

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals of terminals and job schedulers, which the server and its workers ignore."""

_PACKAGE = str(Path(__file__).resolve().parents[3])  # the folder that `timesformer` is imported from
_PATIENCE = 5.0  # seconds in which a killed process should be gone
_WITH_THREADS = {"onnxruntime", "openvino"}  # libraries whose threads a fork would lack


class _Start(NamedTuple):
    """A request for a worker, followed by its end of a connection. A request to end one is (number, seconds)."""

    number: int
    module: str
    folder: str
    path: list[str]


class ForkServer:
    """Starts workers from a server process, which starts with the first and ends with this process; thread-safe."""

    def __init__(self) -> None:
        self._numbers = count()
        self._lock = threading.Lock()
        self._server: subprocess.Popen | _Fork | None = None
        self._requests: Connection | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def fork(self) -> None:
        """Start the server as a fork of this process, so that workers start without importing anything again.

        Call it after the imports and before anything is computed or opened. Without effect where a fork is not safe:
        elsewhere than on Linux, while other Python threads run, or after the import of a library that starts its own.
        """
        with self._lock:
            threads = threading.active_count() > 1 or not _WITH_THREADS.isdisjoint(sys.modules)
            if sys.platform != "linux" or threads or self._server is not None:
                return
            for stream in (sys.stdout, sys.stderr):
                stream.flush()  # or workers would write it again
            mine, theirs = socket.socketpair()
            with mine, theirs:
                if pid := os.fork():
                    self._server, self._requests = _Fork(pid), Connection(mine.detach())
                    return
                try:
                    mine.close()
                    os.setsid()
                    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                    run(theirs.fileno())
                finally:
                    os._exit(1)

    def start(self, module: str) -> tuple[int, Connection]:
        """Start a worker in the present folder, with the present `sys.path`.

        Its connection takes a pickled function, to which it answers why that cannot be imported ("" if it can), and
        then pickled items, to which it answers (result, error message, whether too many files are open). It ends when
        the connection is closed. The server imports `module`, so that only the first worker has to wait for it.

        Returns a number for `end`, and the connection. OSError if it cannot be started, or too many files are open.
        """
        request = _Start(next(self._numbers), module, os.getcwd(), list(map(str, sys.path)))
        mine, theirs = socket.socketpair()
        with mine, theirs:
            with self._lock:
                try:
                    self._send(request, theirs.fileno())
                except ConnectionError:  # the server was killed
                    self._stop()
                    self._send(request, theirs.fileno())
            return request.number, Connection(mine.detach())

    def end(self, number: int, seconds: float = 0.0) -> int | None:
        """Kill a worker that does not end within some seconds; its exit code, -N after signal N, None if unknown."""
        with self._lock, suppress(EOFError, OSError):
            if self._requests is not None:
                self._requests.send((number, seconds))
                if self._requests.poll(seconds + 2 * _PATIENCE):
                    return self._requests.recv()
                self._stop()  # it hangs
        return None

    def close(self) -> None:
        """End the server and its workers; the next `start` starts another."""
        with self._lock:
            self._stop()

    def _send(self, request: _Start, connection: int) -> None:
        if self._requests is None:
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
        self._requests.send(request)
        send_handle(self._requests, connection, self._server.pid)

    def _stop(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._server is not None:
            try:
                self._server.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._requests = self._server = None

    def _forget(self) -> None:
        """In a fork of this process, which must not talk to its parent's server."""
        self._lock = threading.Lock()
        if self._requests is not None:
            self._requests.close()
        self._requests = self._server = None


class _Fork:
    """A fork of this process, with the methods of `subprocess.Popen` that `ForkServer` calls."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self, timeout: float = float("inf")) -> None:
        end = time.monotonic() + timeout
        with suppress(ChildProcessError):  # another call has waited for it
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    raise subprocess.TimeoutExpired("fork", timeout)
                time.sleep(0.01)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def run(descriptor: int) -> None:
    """In the server: answer the requests that come through this socket until its other end is closed."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    requests, workers = Connection(descriptor), {}
    with suppress(EOFError, OSError):
        while True:
            request = requests.recv()
            if isinstance(request, _Start):
                workers[request.number] = _fork(request, requests)
            else:
                number, seconds = request
                requests.send(_end(workers.pop(number, None), seconds))
    for worker in workers.values():
        if worker is not None:
            worker.kill()
    os._exit(0)  # without waiting for them


def _fork(request: _Start, requests: Connection) -> BaseProcess | None:
    connection = recv_handle(requests)
    with suppress(Exception):  # the worker itself reports it
        import_module(request.module)
    worker = get_context("fork").Process(target=_work, args=(request, requests, connection))
    try:
        worker.start()
    except OSError as error:  # too many processes, or too little memory
        print(f"a process cannot be started: {error}", file=sys.stderr, flush=True)
        worker = None
    os.close(connection)
    return worker


def _end(worker: BaseProcess | None, seconds: float) -> int | None:
    if worker is None:
        return None
    worker.join(seconds)
    worker.kill()
    worker.join(_PATIENCE)
    return worker.exitcode


def _work(request: _Start, requests: Connection, descriptor: int) -> None:
    """In a worker: receive a function and then items, and answer each."""
    requests.close()
    os.chdir(request.folder)
    sys.path[:] = request.path
    connection = Connection(descriptor)
    with suppress(EOFError, ConnectionError):  # the process that asked is gone
        received = connection.recv_bytes()
        try:
            function = pickle.loads(received)
        except Exception as error:
            connection.send(f"its function cannot be imported: {error}")
            return
        connection.send("")
        while True:
            connection.send_bytes(_answer(function, connection.recv_bytes()))


def _answer(function: Callable[[Any], Any], item: bytes) -> bytes:
    try:
        return pickle.dumps((function(pickle.loads(item)), "", False))
    except Exception as error:
        return pickle.dumps((None, str(error) or type(error).__name__, is_out_of_files(error)))
