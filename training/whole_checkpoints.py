"""Checkpoints of a whole model, where a part of it is trained, or a module with a head of its own around it."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from ..modeling_josie.wrapped_parts import PlainNames

EXTRA_FILE = "extra_weights.safetensors"


class WholeCheckpoints:
    """Saves and loads the whole model of a module that trains.

    Parameters and buffers that both have are found by identity, before anything is sharded or wrapped.

    Args:
        whole (`PreTrainedModel`): The model that checkpoints hold; never sharded itself.
        trained (`nn.Module`): A part of it, or a module around it or around a part. The method
            `describe_extra_weights`, if it has one, returns metadata for the file of its own weights.
    """

    def __init__(self, whole: PreTrainedModel, trained: nn.Module):
        self.whole, self.trained = whole, trained
        self.plain = PlainNames(whole)  # in checkpoints nothing is compiled
        names: dict[int, list[str]] = {}  # of tied weights several
        for name, tensor in _list_tensors(whole):
            names.setdefault(id(tensor), []).append(self.plain.find(name))
        self.names = {name: names.get(id(tensor), []) for name, tensor in _list_tensors(trained)}

    def save(self, folder: str | Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write the whole model, and its weights that are not the whole model's.

        Args:
            folder (`str` or `Path`): The checkpoint.
            state (`dict`, *optional*): Weights of the trained module, gathered from all processes; its own when `None`.
        """
        weights: dict[str, Any] = {self.plain.find(name): value for name, value in self.whole.state_dict().items()}
        extra = {}
        for name, value in (self.trained.state_dict() if state is None else state).items():
            targets = self.names[name]
            weights |= {target: value for target in targets if target in weights}
            if not targets:
                extra[name] = value.detach().cpu().contiguous()
        self.whole.save_pretrained(folder, state_dict=weights)
        if extra:
            describe: Any = getattr(self.trained, "describe_extra_weights", dict)
            save_file(extra, Path(folder, EXTRA_FILE), metadata={"format": "pt", **describe()})

    def load(self, folder: str | Path) -> None:
        """Give the trained module the weights of a checkpoint.

        Raises:
            `ValueError`: Some are missing.
        """
        path = Path(folder)
        saved: dict[str, torch.Tensor] = {}
        for file in sorted(path.glob("model*.safetensors")):
            saved |= load_file(file)
        found = {name: saved[target] for name, targets in self.names.items() for target in targets if target in saved}
        if (path / EXTRA_FILE).is_file():
            found |= load_file(path / EXTRA_FILE)
        for name in self.trained.load_state_dict(found, strict=False).missing_keys:
            raise ValueError(f"`resume_from_checkpoint` must have all weights, got {str(folder)!r} without {name!r}.")


def _list_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
