"""Two processes that work together, for tests."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def run_two(function: Callable[[int, int, str], None], folder: Path) -> list[dict[str, Any]]:
    """Call `function(rank, port, folder)` in two processes, and return what each has saved as `{rank}.pt`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mp.spawn(function, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
