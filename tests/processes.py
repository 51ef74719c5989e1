"""Two processes that work together, for tests: forks of one that has imported what they need."""

import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

# What takes long to import. None of it may start a thread of Python or torch, which a fork would lose.
PRELOADED = ("distributed_training", "josie.training.codec_trainer", "torch.distributed.fsdp")


def find_port() -> int:
    """Return a port that is free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def whole_path() -> Iterator[None]:
    """Give the processes that start inside all of this one's path, which those of Python 3.11 do not get to preload."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def start(rank: int, function: Callable[..., None], environment: dict[str, str], arguments: tuple[Any, ...]) -> None:
    """Take over the environment, with what a launcher adds to it, and call `function(rank, *arguments)`."""
    os.environ.clear()
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    function(rank, *arguments)


def call_in_two(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in two processes with the environment of a launcher, and wait for their end.

    Where one fails or is killed the other is ended, and the error of the first is raised.
    """
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    with whole_path():
        forkserver.ensure_running()
    environment = dict(os.environ, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(find_port()))
    mp.start_processes(start, (function, environment, arguments), nprocs=2, start_method="forkserver")


def run_two(function: Callable[[int, str], None], folder: Path) -> list[dict[str, Any]]:
    """Call `function(rank, folder)` in two processes, and return what each has saved as `{rank}.pt`."""
    call_in_two(function, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
