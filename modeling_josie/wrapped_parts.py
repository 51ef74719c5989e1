"""Names of weights where modules are wrapped: by torch, which changes names alone, or by peft, which adds adapters."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, cached_file

COMPILED = "_orig_mod"  # the name of a model in what `torch.compile` returns
ADAPTERS = "base_model.model."  # what names of adapters begin with
_HUB_OPTIONS = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")
_TORCH_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap_torch(module: Any) -> Any:
    """Return a module without what `torch.compile` and torch's data parallelism put around it."""
    while isinstance(module, nn.Module) and (name := _find_inner(module)):
        module = module._modules[name]
    return module


def _find_inner(module: nn.Module) -> str | None:
    """Return the name of the module in a wrapper of torch, `None` for any other module."""
    if COMPILED in module._modules:
        return COMPILED
    return "module" if isinstance(module, _TORCH_WRAPPERS) else None


class PlainNames:
    """The names that weights of a model have where nothing of it is wrapped by torch.

    Args:
        model (`nn.Module`): The model, as it is wrapped now.
    """

    def __init__(self, model: nn.Module):
        modules = ((name, _find_inner(module)) for name, module in model.named_modules(remove_duplicate=False))
        self.inner = {f"{name}.{inner}" if name else inner for name, inner in modules if inner}

    def find(self, name: str) -> str:
        """Return the plain name of a weight or module, also of one that was compiled elsewhere."""
        parts = name.split(".")
        steps = (".".join(parts[: index + 1]) for index in range(len(parts)))
        kept = zip(parts, steps, strict=True)
        return ".".join(part for part, step in kept if part != COMPILED and step not in self.inner)


def rename_for(model: nn.Module, state_dict: dict[str, Any], prefix: str = "") -> None:
    """Give weights the names that they have in a model as it is wrapped now, whatever was when they were saved.

    Args:
        model (`nn.Module`): Gets the weights.
        state_dict (`dict[str, Any]`): The weights.
        prefix (`str`): What all names begin with, and the model's do not.
    """
    plain = PlainNames(model)
    if not plain.inner and not any(COMPILED in name.removeprefix(prefix).split(".") for name in state_dict):
        return
    own = {plain.find(name): prefix + name for name in model.state_dict()}
    given = list(state_dict.items())
    state_dict.clear()
    state_dict.update((own.get(plain.find(name.removeprefix(prefix)), name), value) for name, value in given)


@contextmanager
def unwrapped_to_save(model: Any, state_dict: Mapping[str, Any] | None) -> Iterator[dict[str, Any] | None]:
    """Take off what torch put around modules of a model meanwhile, and give weights their plain names.

    Args:
        model (`PreTrainedModel`): Is to be saved.
        state_dict (`Mapping[str, Any]`, *optional*): Its weights, where the caller gathered them.

    Raises:
        `ValueError`: As of [`require_no_adapters`].
    """
    require_no_adapters(model, state_dict)
    plain = PlainNames(model)
    named = None if state_dict is None else {plain.find(name): value for name, value in state_dict.items()}
    wrapped = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child is not None and unwrap_torch(child) is not child
    ]
    try:
        for parent, name, child in wrapped:
            parent._modules[name] = unwrap_torch(child)
        yield named
    finally:
        for parent, name, child in wrapped:
            parent._modules[name] = child


def require_no_adapters(model: Any, state_dict: Mapping[str, Any] | None = None) -> None:
    """Raise a `ValueError` for a model whose weights would be saved beside adapters, where nothing finds them again.

    Args:
        model (`PreTrainedModel`): Is to be saved; one that transformers itself gave adapters saves these alone.
        state_dict (`Mapping[str, Any]`, *optional*): What is to be saved, where these are not all weights as they are.
    """
    plain = PlainNames(model)
    if getattr(model, "_hf_peft_config_loaded", False):  # all are the model's own, but of a part that was given some
        inside = ((name, module) for name, module in model.named_modules() if module is not model)
        places = [name for name, module in inside if is_adapted(module)]
    else:
        places = find_adapters(model)
    if state_dict is not None:
        known = {plain.find(name) for name in state_dict}
        weights = [name for name, _ in model.named_parameters() if plain.find(name) in known]
        places = [place for place in places if any(name.startswith(f"{place}.") for name in weights)]
    if not places:
        return
    steps = places[0].split(".")
    owners = (".".join(steps[: index + 1]) for index in range(len(steps)))
    place = next((name for name in owners if is_adapted(model.get_submodule(name))), places[0])
    raise ValueError(
        "`model` must be without adapters of peft inside to be saved with its weights, got some in "
        f"{plain.find(place)!r}: `save_pretrained` of what has them saves them alone, and "
        "`merge_and_unload()` of what `get_peft_model` returned puts them into the weights."
    )


def find_adapters(model: nn.Module) -> list[str]:
    """Return the names of the outermost modules of peft inside a model."""
    places: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if module is not model and is_of_peft(module) and not name.startswith(tuple(f"{place}." for place in places)):
            places.append(name)
    return places


def is_of_peft(module: nn.Module) -> bool:
    """Return whether a module is of a class of peft, which need not be installed."""
    return any(each.__module__.partition(".")[0] == "peft" for each in type(module).__mro__)


def is_adapted(module: Any) -> bool:
    """Return whether peft wraps a module, or transformers gave it adapters."""
    if isinstance(module, PreTrainedModel):
        return module._hf_peft_config_loaded
    return isinstance(module, nn.Module) and is_of_peft(module) and hasattr(module, "get_base_model")


def find_adapted_part(model: nn.Module, names: Iterable[str]) -> str:
    """Return the name of the part of a model that adapters are of: `""` for the model itself.

    Args:
        model (`nn.Module`): The model.
        names (`Iterable[str]`): Names of the weights of adapters.

    Raises:
        `ValueError`: They fit several parts equally well.
    """
    split = (name.removeprefix(ADAPTERS).split(".") for name in names)
    paths = [[step for step in path if step != COMPILED] for path in split]
    parts = {"": model} | {name: part for name, part in model.named_modules() if isinstance(part, PreTrainedModel)}
    depths = {name: sum(_walk(part, path) for path in paths) for name, part in parts.items()}
    deepest = max(depths.values())
    if depths[""] == deepest:
        return ""
    best = [name for name, depth in depths.items() if depth == deepest]
    if len(best) > 1:
        raise ValueError(
            f"`model` must be the part that the adapters are of, got a {type(model).__name__}, of which they fit each "
            f"of {best}: give one of these."
        )
    return best[0]


def _walk(module: nn.Module, path: list[str]) -> int:
    """Return for how many steps of a path there are modules."""
    current: Any = unwrap_torch(module)
    for index, step in enumerate(path):
        current = unwrap_torch(current._modules.get(step))
        if current is None:
            return index
    return len(path)


def read_adapters(folder: str, options: Mapping[str, Any]) -> tuple[list[str], dict[str, Any] | None]:
    """Return the names of the weights of adapters; and the weights, under plain names, where their model was compiled.

    There are no names where the weights are not in a file of safetensors.

    Args:
        folder (`str`): A folder or Hub name.
        options (`Mapping[str, Any]`): Of `from_pretrained`: where on the Hub, and where in a cache.
    """
    path = cached_file(
        folder,
        ADAPTER_SAFE_WEIGHTS_NAME,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None},
    )
    if path is None:
        return [], None
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if not any(COMPILED in name.split(".") for name in names):
            return names, None
        plain = {name.replace(f"{COMPILED}.", ""): file.get_tensor(name) for name in names}
    return list(plain), plain
