"""Decisions about a request before its body is received."""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


def route_with(admit: Callable[[Request], AbstractAsyncContextManager[None]]) -> type[APIRoute]:
    """Returns a class of routes that enter `admit(request)` before the body is received, and exit it with the answer.

    Dependencies are too late for this: FastAPI receives the whole body before it calls them.
    """

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def handle(request: Request) -> Response:
                async with admit(request):
                    return await answer(request)

            return handle

    return Route
