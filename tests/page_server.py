"""A server with nano on a free port, for tests of its page."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serving_clients import OPEN_TO_ALL
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie


@contextmanager
def run_server(port: int = 0, decides_turns: bool = True, **options: Any) -> Iterator[str]:
    """Serve nano in a thread; yield the address. `api_key=` and fields of `Limits` are its options.

    It decides by itself when it speaks, or it is made to be one of those that never learned that.
    """
    from josie.serving.engine import Engine
    from josie.serving.limits import Limits
    from josie.serving.server import make_server

    model = AutoModelForMultimodalLM.from_pretrained(josie.nano_path()).prepare_for_inference()
    if not decides_turns:
        model.config.thinker_config.unit_frames = None
    processor = AutoProcessor.from_pretrained(josie.nano_path())
    api_key = options.pop("api_key", None)
    has_started, ports = threading.Event(), []

    def note(port: int) -> None:
        ports.append(port)
        has_started.set()

    engine = Engine(model, processor, "nano", Limits(**OPEN_TO_ALL | options))
    server = make_server(engine, "127.0.0.1", port, api_key, note)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert has_started.wait(30)
        yield f"http://127.0.0.1:{ports[0]}/"
    finally:
        server.should_exit = True
        thread.join()
