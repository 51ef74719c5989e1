"""Merge LoRA adapters into their model: `python examples/merge_adapters.py ADAPTERS OUT`.

ADAPTERS is a folder that `finetune_lora.py` left, OUT a new one: a whole model with its processor, which every command
takes. The model without them is the folder that `adapter_config.json` names.
"""

import sys
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from recipes.configuration import run
from transformers import AutoModelForMultimodalLM, AutoProcessor

from josie.conversion.files import new_folder


def merge(adapters: str, folder: Path) -> None:
    """Save the model with its adapters merged, in its own type.

    Raises:
        `ValueError`: There are no adapters in the folder.
    """
    if not Path(adapters, "adapter_config.json").is_file():
        raise ValueError(f"`ADAPTERS` must be a folder with an adapter_config.json, got {adapters!r}.")
    base = AutoModelForMultimodalLM.from_pretrained(PeftConfig.from_pretrained(adapters).base_model_name_or_path)
    dtypes = {name: value.dtype for name, value in base.named_parameters()}
    model = PeftModel.from_pretrained(base, adapters).merge_and_unload()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.data = value.data.to(dtypes.get(name, base.dtype))
    with new_folder(folder, "OUT") as unfinished:
        model.save_pretrained(unfinished)
        AutoProcessor.from_pretrained(adapters).save_pretrained(unfinished)


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 2:
        raise SystemExit(f"usage: merge_adapters.py ADAPTERS OUT\n{__doc__}")
    run(lambda: merge(given[0], Path(given[1])))


if __name__ == "__main__":
    main()
