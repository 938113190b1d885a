"""The server of the service: where it listens, and when it is ready."""

import socket

import uvicorn
from fastapi import FastAPI

from timesformer.errors import UserError


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens on an IPv4 or IPv6 address, "::" for all of both kinds; UserError if it cannot be used."""
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        is_for_all = address == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((address, port), family=family, backlog=256, dualstack_ipv6=is_for_all)
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address} --port {port} cannot be used ({error}): choose another one") from error


def serve(api: FastAPI, listener: socket.socket, stop_seconds: int) -> None:
    """Serves until a signal, after which running requests have `stop_seconds`; prints the URL when it is ready."""
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if listener.family == socket.AF_INET6 else host}:{port}/docs"
    _Server(uvicorn.Config(api, log_config=None, timeout_graceful_shutdown=stop_seconds), url).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._url, flush=True)
