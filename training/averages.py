"""Averages of what training logs."""

from collections.abc import Mapping

import torch
from accelerate.utils import gather_object


class AverageMeter:
    """Averages of named values since they were last asked for, which stay on their device until then.

    A vector `name` gives the averages `name_0`, `name_1` and so on.
    """

    def __init__(self):
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, torch.Tensor | int] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor] | None = None) -> None:
        """Count in one scalar or vector for each name, as a mean over `counts[name]` things; over one when `None`."""
        for name, value in values.items():
            count = 1 if counts is None else counts[name]
            value = value.detach().float() * count
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + count

    def pop(self, num_processes: int = 1) -> dict[str, float]:
        """Return the averages, over all processes, and forget what they are made of. All processes have to ask.

        What was counted in as a mean over nothing has none.
        """
        names = []
        for name, value in self._sums.items():
            names += [(name, name)] if value.ndim == 0 else [(f"{name}_{index}", name) for index in range(len(value))]
        values = torch.cat([value.flatten() for value in self._sums.values()]).tolist() if names else []
        counts = {name: float(count) for name, count in self._counts.items()}
        parts = [{name: (value, counts[key]) for (name, key), value in zip(names, values, strict=True)}]
        if num_processes > 1:
            parts = gather_object(parts)
        totals: dict[str, tuple[float, float]] = {}
        for name, (value, count) in (item for part in parts for item in part.items()):
            total, number = totals.get(name, (0.0, 0.0))
            totals[name] = total + value, number + count
        self.__init__()
        return {name: total / number for name, (total, number) in totals.items() if number}
