"""The server: an application on an address, until Ctrl-C."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from uvicorn import Config, Server as UvicornServer

from .app import make_app
from .engine import Engine
from .limits import Limits
from .timed_http import TimedHTTPProtocol

_ENDING_SECONDS = 0.1  # in which answers tell that they are cut
_LEAVING_SECONDS = 1.0  # after which connections are broken off whose clients did not take that
_LAST_SECONDS = 10  # after which requests are cancelled that nothing else has ended


class Server(UvicornServer):
    """A server that says where it listens, and whose answers end with it.

    Args:
        config (`Config`): Its settings.
        on_start (`Callable`): Called with the port.
        on_end (`Callable`): Called when it begins to end.
        on_leave (`Callable`, *optional*): Called at the second Ctrl-C, in the handler of the signal.
    """

    def __init__(
        self,
        config: Config,
        on_start: Callable[[int], Any],
        on_end: Callable[[], Any],
        on_leave: Callable[[], Any] | None = None,
    ):
        super().__init__(config)
        self.on_start, self.on_end, self.on_leave = on_start, on_end, on_leave

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        if self.started:
            self.on_start(self.servers[0].sockets[0].getsockname()[1])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Begin to end at a SIGHUP too, of a terminal that was closed, where it would end the process."""
        with super().capture_signals():
            number = getattr(signal, "SIGHUP", None)
            is_main = threading.current_thread() is threading.main_thread()
            if number is None or not is_main or signal.getsignal(number) is signal.SIG_IGN:
                yield
                return
            before = signal.signal(number, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(number, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at a signal."""
        if self.should_exit and sig == signal.SIGINT and self.on_leave is not None:
            self.on_leave()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: Any = None) -> None:
        """End the answers, then the connections."""
        self.on_end()
        await asyncio.sleep(_ENDING_SECONDS)
        asyncio.get_running_loop().call_later(_LEAVING_SECONDS, self._break_off)
        await super().shutdown(sockets=sockets)

    def _break_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def make_server(
    engine: Engine,
    host: str,
    port: int,
    api_key: str | None = None,
    on_start: Callable[[int], Any] = lambda port: None,
    on_leave: Callable[[], Any] | None = None,
) -> Server:
    """Return a server that does not run yet.

    Args:
        engine ([`Engine`]): The model.
        host (`str`), port (`int`): Where to listen; port 0 is any that is free.
        api_key (`str`, *optional*): What clients must send.
        on_start (`Callable`): Called with the port once it listens.
        on_leave (`Callable`, *optional*): As of [`Server`].
    """
    config = Config(
        make_app(engine, api_key),
        host=host,
        port=port,
        log_level="warning",
        http=TimedHTTPProtocol,
        ws="websockets-sansio",
        ws_max_size=engine.limits.max_body_bytes,
        ws_per_message_deflate=False,  # a client could send a little that becomes much
        timeout_graceful_shutdown=_LAST_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    return Server(config, on_start, engine.stop, on_leave)


def serve(
    model: Any,
    processor: Any,
    name: str,
    host: str,
    port: int,
    api_key: str | None,
    limits: Limits,
    on_start: Callable[[int], Any],
    on_leave: Callable[[], Any] | None = None,
) -> None:
    """Serve a model until Ctrl-C.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What answers.
        name (`str`): Of the model, for clients.
        host, port, api_key, on_start, on_leave: As in [`make_server`].
        limits ([`Limits`]): Of what clients may ask for.
    """
    with contextlib.suppress(KeyboardInterrupt):
        make_server(Engine(model, processor, name, limits), host, port, api_key, on_start, on_leave).run()
