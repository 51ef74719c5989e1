"""Speed of a processor that computes with fewer bits. Many have no instructions for it, and take many times as long."""

import time
from functools import cache

import torch

_SIZE, _NUM_TRIES = 128, 5
SLOW = 2.0  # times as long, from which it is worth a word


@cache
def measure_slowdown(dtype: torch.dtype) -> float:
    """Return how many times as long a product of matrices takes on the processor as in float32; the best of some tries.

    Args:
        dtype (`torch.dtype`): Of the matrices.
    """
    return _time_product(dtype) / _time_product(torch.float32)


def _time_product(dtype: torch.dtype) -> float:
    matrix = torch.ones(_SIZE, _SIZE, dtype=dtype)
    times = []
    for _ in range(1 + _NUM_TRIES):  # the first one also prepares
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def describe_slowdown(dtype: torch.dtype, device: torch.device | str) -> str | None:
    """Return a sentence on a dtype that is slow where it is asked for; `None` where it is not.

    Args:
        dtype (`torch.dtype`): Asked for.
        device (`torch.device` or `str`): Where; accelerators are taken to have the instructions.
    """
    if torch.device(device).type != "cpu" or dtype == torch.float32:
        return None
    slowdown = measure_slowdown(dtype)
    if slowdown < SLOW:
        return None
    name = str(dtype).removeprefix("torch.")
    return f"This processor multiplies {slowdown:.0f} times as slowly in {name} as in float32."
