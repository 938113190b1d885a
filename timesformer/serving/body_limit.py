"""A limit on the size of requests, which holds before anything stores them."""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _TooLargeError(Exception):
    pass


class BodyLimit:
    """ASGI middleware that answers 413 to requests of more than `limit` bytes, with or without Content-Length."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, is_too_large = 0, False

        async def limited() -> Message:
            nonlocal received, is_too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                is_too_large = True
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            if not is_too_large:  # else it is what the application made of the exception
                await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limit:
            is_too_large = True
        else:
            with suppress(_TooLargeError):
                await self._app(scope, limited, watched)
        if is_too_large:
            problem = f"the request has more than {self._limit / 2**20:.1f} MB: cut the video, or lower its resolution"
            await JSONResponse({"detail": problem}, 413)(scope, receive, send)
