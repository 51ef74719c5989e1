"""Join a Thinker and a Talker that were trained apart: `python examples/join_parts.py THINKER TALKER OUT`.

Both are folders of whole models that began as one: the Talker reads the Thinker's token embeddings, which must be the
same. OUT gets the Thinker and the processor of the one, Talker and codec of the other; the processor then knows the
voices of that Talker and the rate of that codec.
"""

import sys
from pathlib import Path

import torch
from recipes.configuration import run
from recipes.models import take_voice
from recipes.named_models import load_named, load_part
from recipes.places import require_place
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

from josie.configuration_josie import JosieConfig
from josie.conversion.files import new_folder, require_new


def join(thinker: str, talker: str, folder: Path) -> None:
    """Save one model of two.

    Args:
        thinker, talker (`str`): Folders or Hub names.
        folder (`Path`): New.

    Raises:
        `ValueError`: `folder` cannot be made, a model is not whole or cannot speak, or their token embeddings differ.
    """
    require_place(folder, "OUT")
    require_new(folder, "OUT")
    names = {"THINKER": thinker, "TALKER": talker}
    for argument, name in names.items():
        kind = load_part(name, AutoConfig, argument).model_type
        if kind != JosieConfig.model_type:
            raise ValueError(f"`{argument}` must be a whole JOSIE, got {name!r}, of the model type {kind!r}.")
    processor = load_part(thinker, AutoProcessor, "THINKER")
    model, other = (load_named(name, AutoModelForMultimodalLM, argument) for argument, name in names.items())
    if getattr(other, "talker", None) is None:
        raise ValueError(f"`TALKER` must be a model with a Talker, got {talker!r}, without one.")
    ours, theirs = (one.get_input_embeddings().weight for one in (model, other))
    if not torch.equal(ours, theirs):
        raise ValueError("`THINKER` and `TALKER` must have the same token embeddings, got others.")
    model.talker, model.config.talker_config = other.talker, other.config.talker_config
    model.audio_codec, model.config.audio_codec_config = other.audio_codec, other.config.audio_codec_config
    take_voice(processor, model.config)
    with new_folder(folder, "OUT") as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 3:
        raise SystemExit(f"usage: join_parts.py THINKER TALKER OUT\n{__doc__}")
    run(lambda: join(given[0], given[1], Path(given[2])))


if __name__ == "__main__":
    main()
