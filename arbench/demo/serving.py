"""Where the page is served: this machine alone. Gradio is not needed here."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

GRADIO = "gradio"  # of the extra "demo"
HOST = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 100  # where a free one is looked for
# The browser fetches nothing from elsewhere, whatever the page's parts would like to.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
)

# What ASGI calls so: an application is told what is asked, and by which functions it hears and answers.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def require_gradio() -> None:
    """Raise ValueError where the extra is not installed, with the way to install it."""
    if importlib.util.find_spec(GRADIO) is None:
        raise ValueError("arbench demo needs Gradio, which is not installed; expected: pip install 'arbench[demo]'")


def open_port(port: int | None = None) -> socket.socket:
    """A listening socket on this machine's own address; without `port` the first free one from 7860 on.

    Raises ValueError where the port is taken.
    """
    for number in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
            listener.listen()  # who comes before the server is up waits for it
        except (OSError, OverflowError):
            listener.close()
        else:
            return listener
    wanted = f"ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are" if port is None else f"port {port} is"
    raise ValueError(f"{wanted} not free on {HOST}; expected another --port")


class OwnMachineOnly:
    """An ASGI application whose answers forbid the browser to fetch anything from elsewhere."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)
