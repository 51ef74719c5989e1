"""Merge LoRA adapters into their model: `python examples/merge_adapters.py ADAPTERS OUT`.

ADAPTERS is a folder that `finetune_lora.py` left, or that peft saved, of a model or of a part of it, such as its
Thinker. OUT is a new one: a whole model with its processor, which every command takes. The model without them is the
one that `adapter_config.json` names, and has the processor where ADAPTERS have none.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict, load_peft_weights
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from recipes.configuration import run
from recipes.named_models import load_named, load_part
from recipes.places import require_place
from transformers import AutoModelForMultimodalLM, AutoProcessor, PreTrainedModel
from transformers.utils import PROCESSOR_NAME

from josie.conversion.files import new_folder, require_new
from josie.conversion.loading import reading
from josie.modeling_josie.wrapped_parts import find_adapted_part

BASE = "base_model_name_or_path"


def merge(adapters: str, folder: Path) -> None:
    """Save the model with its adapters merged, in its own type.

    Raises:
        `ValueError`: There are no adapters in the folder, or none that can be merged, or no such model, or they do not
            fit it.
    """
    require_place(folder, "OUT")
    require_new(folder, "OUT")
    base = find_base(adapters)
    has_processor = Path(adapters, PROCESSOR_NAME).is_file()
    processor = load_part(adapters if has_processor else base, AutoProcessor, "ADAPTERS" if has_processor else BASE)
    model = load_named(base, AutoModelForMultimodalLM, BASE)
    dtypes = {name: value.dtype for name, value in model.named_parameters()}
    merged = merge_into(model, adapters, base)
    with torch.no_grad():
        for name, value in merged.named_parameters():
            value.data = value.data.to(dtypes.get(name, model.dtype))
    with new_folder(folder, "OUT") as unfinished:
        merged.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)


def find_base(adapters: str) -> str:
    """Return the name of the model that adapters are for.

    Raises:
        `ValueError`: The folder has no adapters, or of a kind that no weights have room for, or they name no model.
    """
    path = Path(adapters, CONFIG_NAME)
    if not path.is_file():
        raise ValueError(f"`ADAPTERS` must be a folder with an {CONFIG_NAME}, got {adapters!r}.")
    with reading(path, "valid settings", "ADAPTERS"):
        config = PeftConfig.from_pretrained(adapters)
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ValueError(_not_mergeable(adapters, config))
    base = config.base_model_name_or_path
    if not base:
        raise ValueError(f"`{BASE}` of {str(path)!r} must name the model without adapters, got {base!r}.")
    if not any(Path(adapters, name).is_file() for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)):
        raise ValueError(f"`ADAPTERS` must be a folder with {SAFETENSORS_WEIGHTS_NAME}, got {adapters!r}, without.")
    return base


def merge_into(model: PreTrainedModel, adapters: str, base: str) -> PreTrainedModel:
    """Return a model with adapters in its weights.

    Args:
        model (`PreTrainedModel`): What they are for, or what has a part that they are for.
        adapters (`str`): Their folder.
        base (`str`): Name of the model, for messages.

    Raises:
        `ValueError`: They are damaged, of another model, or cannot be merged.
    """
    with reading(adapters, "the weights of adapters", "ADAPTERS"):
        names = load_peft_weights(adapters, device="cpu").keys()
    try:
        name = find_adapted_part(model, names)
    except ValueError as error:
        raise ValueError(f"`ADAPTERS` must be of one part of the model {base!r}, got {adapters!r}: {error}") from error
    part: Any = model.get_submodule(name)
    adapted: Any = add_adapters(part, adapters, base)
    try:
        merged = adapted.merge_and_unload()
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:  # each kind says it in its own way
        reason = str(error).split("\n")[0]
        raise ValueError(_not_mergeable(adapters, adapted.active_peft_config, reason)) from error
    if not name:
        return merged
    model.set_submodule(name, merged)
    return model


def _not_mergeable(adapters: str, config: PeftConfig, reason: str = "") -> str:
    kind = PeftType(config.peft_type).value
    return f"`ADAPTERS` must be adapters that can be merged, got {adapters!r} of type {kind}" + (
        reason and f": {reason}"
    )


def add_adapters(model: PreTrainedModel, adapters: str, base: str) -> PeftModel:
    """Return a model with adapters.

    Args:
        model (`PreTrainedModel`): What they are for.
        adapters (`str`): Their folder.
        base (`str`): Name of the model, for messages.

    Raises:
        `ValueError`: They are damaged, or of another model.
    """
    with reading(adapters, "the weights of adapters", "ADAPTERS"):
        mapping = getattr(model, "_checkpoint_conversion_mapping", None)  # as peft itself reads them
        saved = load_peft_weights(adapters, device="cpu", key_mapping=mapping)
    try:
        adapted = PeftModel.from_pretrained(model, adapters)
    except (RuntimeError, ValueError) as error:  # other sizes, or no such layers
        reason = str(error).split("\n")[:2][-1].strip()
        raise ValueError(f"`ADAPTERS` must be of the model {base!r}, got {adapters!r}: {reason}") from error
    missing = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - saved.keys()
    if missing:
        raise ValueError(f"`ADAPTERS` must be of the model {base!r}, got {adapters!r}, without {min(missing)!r}.")
    return adapted


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 2:
        raise SystemExit(f"usage: merge_adapters.py ADAPTERS OUT\n{__doc__}")
    run(lambda: merge(given[0], Path(given[1])))


if __name__ == "__main__":
    main()
