"""`josie serve`: a model for pages, programs and conversations on this machine."""

import os
from typing import Annotated, NoReturn

import typer

from ..nano import NANO_NAMES
from .checkpoints import load_josie, load_processor
from .devices import choose_device
from .options import Device, Dtype, Folder, Threads, at_least_one, checked
from .progress import waiting
from .shared import report

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def _port(value: int) -> str | None:
    return None if 0 <= value < 1 << 16 else f"be in [0, {(1 << 16) - 1}]"


def _key(value: str) -> str | None:
    return None if value.isascii() and value.isprintable() and " " not in value and value else "be ASCII without spaces"


def _leave() -> NoReturn:
    """End at once, whatever is being worked at."""
    os.write(2, b"Stopped.\n")
    os._exit(0)


def serve_command(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need --api-key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.", callback=checked(_port))] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(help="Key that clients must send.", envvar="JOSIE_API_KEY", callback=checked(_key)),
    ] = None,
    max_sessions: Annotated[
        int, typer.Option(help="Spoken conversations at a time.", callback=checked(at_least_one))
    ] = 8,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = None,
) -> None:
    """Serve a model: a page to talk to it, OpenAI's endpoints, and its realtime protocol.

    Ctrl-C ends it, and the answers that are being made are told so; a second one ends it at once.
    """
    if api_key is None and host not in _LOCAL_HOSTS:
        raise ValueError(f"`--api-key` must be given where `--host` is not one of {list(_LOCAL_HOSTS)}, got {host!r}.")
    import importlib.util

    for package in ("starlette", "uvicorn", "websockets", "silero_vad", "python_multipart"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"`josie serve` needs {package}: `pip install 'josie[serve]'`.")
    with waiting(f"Loading {folder}"):
        chosen_device = choose_device(device, threads)
        processor = load_processor(folder)
        model = load_josie(folder, chosen_device, dtype)

    from ..serving.limits import Limits
    from ..serving.server import serve

    name = folder.as_posix() if folder.as_posix() in NANO_NAMES else folder.resolve().name
    shown = f"[{host}]" if ":" in host else host
    serve(
        model,
        processor,
        name,
        host,
        port,
        api_key,
        Limits(max_sessions=max_sessions),
        on_start=lambda bound: report(f"Serving {name} at http://{shown}:{bound}/ (Ctrl-C ends it)"),
        on_leave=_leave,
    )
    report("Stopped.")
