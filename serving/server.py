"""The server: an application on an address, until Ctrl-C."""

import contextlib
from collections.abc import Callable
from typing import Any

import uvicorn

from .app import make_app
from .engine import Engine
from .limits import Limits

_SHUTDOWN_SECONDS = 3  # that open requests have


class Server(uvicorn.Server):
    """A server that says where it listens.

    Args:
        config (`uvicorn.Config`): Its settings.
        on_start (`Callable`): Called with the port.
    """

    def __init__(self, config: uvicorn.Config, on_start: Callable[[int], Any]):
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        if self.started:
            self.on_start(self.servers[0].sockets[0].getsockname()[1])


def make_server(
    engine: Engine, host: str, port: int, api_key: str | None = None, on_start: Callable[[int], Any] = lambda port: None
) -> Server:
    """Return a server that does not run yet.

    Args:
        engine ([`Engine`]): The model.
        host (`str`), port (`int`): Where to listen; port 0 is any that is free.
        api_key (`str`, *optional*): What clients must send.
        on_start (`Callable`): Called with the port once it listens.
    """
    config = uvicorn.Config(
        make_app(engine, api_key),
        host=host,
        port=port,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=engine.limits.max_body_bytes,
        ws_per_message_deflate=False,  # a client could send a little that becomes much
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    return Server(config, on_start)


def serve(
    model: Any,
    processor: Any,
    name: str,
    host: str,
    port: int,
    api_key: str | None,
    limits: Limits,
    on_start: Callable[[int], Any],
) -> None:
    """Serve a model until Ctrl-C.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What answers.
        name (`str`): Of the model, for clients.
        host, port, api_key, on_start: As in [`make_server`].
        limits ([`Limits`]): Of what clients may ask for.
    """
    with contextlib.suppress(KeyboardInterrupt):
        make_server(Engine(model, processor, name, limits), host, port, api_key, on_start).run()
