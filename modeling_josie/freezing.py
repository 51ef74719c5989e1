"""Freezing by name: groups of parameters that learn or do not."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

# A group is a list of modules and of bare parameters.
Groups = dict[str, list[Any]]


def nest(name: str, groups: Mapping[str, Iterable[nn.Module | nn.Parameter]]) -> Groups:
    """Return the groups of a part under its name: `audio` of the part `thinker` is `thinker.audio`."""
    return {f"{name}.{group}": list(members) for group, members in groups.items()}


def group_parts(name: str, part: nn.Module | None, children: Mapping[str, Any]) -> Groups:
    """Return the group of a whole part, and those of its children that are there; none for a part that is absent.

    Args:
        name (`str`): Name of the part.
        part (`nn.Module`, *optional*): The part.
        children (`dict`): Its modules and parameters by name; those that are `None` are absent.
    """
    if part is None:
        return {}
    return {name: [part]} | nest(name, {child: [member] for child, member in children.items() if member is not None})


class FreezingMixin:
    """`freeze` and `unfreeze` of models that name their groups in `get_groups`."""

    def get_groups(self) -> Groups:
        """Return what can be frozen by name; a name with a dot is a part of what stands before it."""
        raise NotImplementedError

    def freeze(self, *groups: str):
        """Freeze groups of parameters.

        Encoders of which nothing learns stay in evaluation mode, so that equal images and clips give equal features;
        all that gradients pass through keeps the mode of the model. Freezing is not saved with the weights.

        Args:
            groups (`str`): Names among `get_groups()`, such as `"thinker.vision"`.

        Returns:
            The model.

        Raises:
            `ValueError`: There is no such group.
        """
        return self._set_groups(groups, False)

    def unfreeze(self, *groups: str):
        """Unfreeze groups, except for parameters that no loss of this model reaches.

        Args:
            groups (`str`): As in `freeze`.

        Returns:
            The model.

        Raises:
            `ValueError`: There is no such group, or nothing in it can learn.
        """
        self._set_groups(groups, True)
        for name in groups:
            parameters = (parameter for member in self.get_groups()[name] for parameter in _parameters(member))
            if not any(parameter.requires_grad for parameter in parameters):
                raise ValueError(f"`groups` must be parts that a loss of this model reaches, got {name!r}.")
        return self

    def _set_groups(self, groups: tuple[str, ...], learns: bool):
        model: Any = self
        available = self.get_groups()
        for name in groups:
            if name not in available:
                raise ValueError(f"`groups` must be among {list(available)}, got {name!r}.")
        for name in groups:
            for member in available[name]:
                member.requires_grad_(learns)
        model.freeze_fixed_parts()
        return model.train(model.training)


def _parameters(member: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [member] if isinstance(member, nn.Parameter) else list(member.parameters())
