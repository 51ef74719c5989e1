"""The model that a recipe starts from, and the folder in which it leaves what it made of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from josie.configuration_josie import JosieConfig, JosieThinkerConfig
from josie.modeling_josie import JosieForConditionalGeneration
from josie.nano import find_model
from josie.processing_josie import JosieProcessor
from josie.tokenization import load_default_tokenizer
from recipes.configuration import Mode

_LAST_FILE = "processor_config.json"


@dataclass
class ModelArguments:
    """The model to train.

    Args:
        path (`str`, *optional*): Folder or Hub name of a JOSIE, or of a Thinker alone; or `nano`.
        preset (`str`, *optional*): One of [`JosieConfig.preset_names`], with random weights and the package's own
            tokenizer, where there is no `path`.
        attention (`str`, *optional*): As `attn_implementation` of `from_pretrained`. Short sequences in bfloat16 are
            learned faster on a CPU with "eager" than with what is chosen when `None`.
    """

    path: str | None = None
    preset: str | None = None
    attention: str | None = None

    def __post_init__(self):
        if (self.path is None) == (self.preset is None):
            raise ValueError(f"`model` must have either `path` or `preset`, got {self.path!r} and {self.preset!r}.")


def load_model(arguments: ModelArguments, folder: Path) -> tuple[Any, Any]:
    """Return a model and its processor.

    Args:
        arguments ([`ModelArguments`]): Which.
        folder (`Path`): Where a preset's model is kept, so that a run that goes on, and adapters, find it again.

    Raises:
        `ValueError`: There is no such model, or it is of another kind.
    """
    path = None if arguments.path is None else str(find_model(arguments.path))
    if path is None:
        path = str(folder)
        if not (folder / _LAST_FILE).exists():
            config = JosieConfig.from_preset(str(arguments.preset))
            JosieForConditionalGeneration(config).save_pretrained(folder)
            tokenizer = load_default_tokenizer(config.get_text_config().vocab_size)
            JosieProcessor.from_config(config, tokenizer).save_pretrained(folder)
    try:
        kind = AutoConfig.from_pretrained(path).model_type
    except OSError as error:
        raise ValueError(f"`model.path` must be a folder or Hub name of a model, got {path!r}: {error}") from error
    classes = {JosieConfig.model_type: AutoModelForMultimodalLM, JosieThinkerConfig.model_type: AutoModelForCausalLM}
    if kind not in classes:
        raise ValueError(f"`model.path` must be a model of {list(classes)}, got one of {kind!r}.")
    model = classes[kind].from_pretrained(path, attn_implementation=arguments.attention)
    return model, AutoProcessor.from_pretrained(path)


def load_start(arguments: ModelArguments, mode: Mode, training: TrainingArguments) -> tuple[Any, Any]:
    """Return the model that a run begins with, and its processor; a run that begins anew makes that of a preset anew.

    Args:
        arguments ([`ModelArguments`]): Which.
        mode (`Mode`): The use of checkpoints.
        training (`TrainingArguments`): Of the run, in whose folder `base` is kept.
    """
    folder = Path(str(training.output_dir)) / "base"
    is_made_here = arguments.preset is not None and training.local_process_index == 0
    if mode == "restart" and is_made_here and folder.exists():
        shutil.rmtree(folder)
    return load_model(arguments, folder)


def take_voice(processor: JosieProcessor, config: JosieConfig) -> None:
    """Give a processor the rate and the names of the voices of a model's speech, where it was made for another model.

    Args:
        processor ([`JosieProcessor`]): Made for a model with the same Thinker.
        config ([`JosieConfig`]): Of the model.
    """
    talker: Any = config.talker_config
    processor.output_sampling_rate = config.sampling_rate
    processor.speakers = list((None if talker is None else talker.speakers) or [])


def learn_in_float32(model: nn.Module, is_mixed: bool) -> None:
    """Cast what learns to float32: steps are too small for the weights of a checkpoint in bfloat16 or float16.

    Args:
        model (`nn.Module`): With everything frozen that shall be.
        is_mixed (`bool`): Whether the trainer computes in less (`bf16`, `fp16`); all is in float32 where it does not.
    """
    learns = any(parameter.requires_grad for parameter in model.parameters())
    for parameter in model.parameters():
        is_half = parameter.dtype in (torch.bfloat16, torch.float16)
        if is_half and learns and (parameter.requires_grad or not is_mixed):
            parameter.data = parameter.data.float()


def save_model(trainer: Trainer) -> Path:
    """Save a trained model, whole, with its processor; all processes have to call it.

    Args:
        trainer (`Trainer`): With the processor as its `processing_class`.

    Returns:
        The folder, `model` in the trainer's `output_dir`.
    """
    folder = Path(str(trainer.args.output_dir)) / "model"
    trainer.save_model(str(folder))
    return folder


def save_in_half(model: PreTrainedModel, folder: Path, eight_bits: tuple[str, ...] = ()) -> None:
    """Save a model with weights of 16 bits, which load as 32.

    Args:
        model ([`~transformers.PreTrainedModel`]): What is saved.
        folder (`Path`): Where.
        eight_bits (`tuple[str, ...]`): Parts of the names of matrices for which `torch.float8_e4m3fn` is enough, such
            as codebooks, where the errors of one are what the next ones code.
    """
    half = {
        name: value.to(torch.float8_e4m3fn if _is_among(name, value, eight_bits) else torch.float16)
        if value.is_floating_point()
        else value
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=half)


def _is_among(name: str, value: torch.Tensor, parts: tuple[str, ...]) -> bool:
    return value.ndim > 1 and any(part in name for part in parts)
