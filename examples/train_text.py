"""Train a text backbone from nothing: `python examples/train_text.py examples/train_text.json`.

That takes 27 minutes on one of two CPU cores, 1,500 steps of 2,048 tokens, and reaches a perplexity of 50 a token (of
4,096) on texts it never saw, a token accuracy of 27 % (2026-11-26).

The model is a Thinker that reads text alone, a causal language model; `AutoModelForCausalLM` loads what is left, and
its `model.language_model` can be the text backbone of a larger one. Everything is stated in the configuration, a JSON
or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `TextDataArguments` in `recipes/text_data.py`: the sources, streaming, the size of blocks |
| `tokenizer` | `path` of one, and `vocab_size`, the most tokens to keep of the package's own where no path is given |
| `model` | fields of `JosieTextConfig`; or `model_type` of another text backbone of transformers, and its fields |
| `trainer` | `TrainingArguments` |
| `card` | `license`, `hardware`, `limitations` of the model card |
| `threads` | of torch; its own choice where it is missing |

A run that ends in any way goes on with the same command from its last checkpoint, and its next losses are those it
would have had, also when it trains on a stream. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints and `model`
(weights, configuration, tokenizer, model card); evaluations are perplexity and token accuracy on texts it never saw.
"""

from dataclasses import dataclass
from typing import Any

from datasets import IterableDataset
from recipes.answers import keep_scores_of
from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.model_cards import CardArguments, describe_sources, write_card
from recipes.models import save_model
from recipes.named_models import load_part
from recipes.run_log import RunLog
from recipes.runs import evaluate, start_training, train
from recipes.text_data import TextDataArguments, load_blocks
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from josie import JosieTrainer
from josie.configuration_josie import JosieThinkerConfig
from josie.modeling_josie import JosieThinkerForConditionalGeneration
from josie.tokenization import load_default_tokenizer
from josie.training.metrics import Metrics, keep_scores

SECTIONS = ("data", "tokenizer", "model", "trainer", "card", "threads")


@dataclass
class TokenizerArguments:
    """The tokenizer.

    Args:
        path (`str`, *optional*): Folder or Hub name, or `nano`; the one that ships with the package when `None`.
        vocab_size (`int`, *optional*): Most of its tokens to keep; only of the package's own.
    """

    path: str | None = None
    vocab_size: int | None = None

    def __post_init__(self):
        if self.path is not None and self.vocab_size is not None:
            raise ValueError(f"`tokenizer.vocab_size` must be null with a `path`, got {self.vocab_size}.")


def load_tokenizer(arguments: TokenizerArguments) -> PreTrainedTokenizerBase:
    """Return the tokenizer.

    Raises:
        `ValueError`: There is none in the folder, or no such folder.
    """
    if arguments.path is None:
        return load_default_tokenizer(arguments.vocab_size)
    return load_part(arguments.path, AutoTokenizer, "tokenizer.path")


def build_config(section: dict[str, Any], tokenizer: PreTrainedTokenizerBase, block_size: int) -> JosieThinkerConfig:
    """Return the configuration of a new language model.

    Args:
        section (`dict`): The section `model`.
        tokenizer (`PreTrainedTokenizerBase`): Gives size of the vocabulary and special tokens.
        block_size (`int`): Tokens of a block, which are as many positions where the section has no number.
    """
    if not isinstance(section, dict):
        raise ValueError(f"`model` must be a section of the configuration, got {section!r}.")
    options = {"model_type": "josie_text"} | section
    if options["model_type"] not in CONFIG_MAPPING:
        raise ValueError(f"`model.model_type` must be one that transformers knows, got {options['model_type']!r}.")
    known = AutoConfig.for_model(options["model_type"])
    for name in section:
        if not hasattr(known, name):
            raise ValueError(f"`model` must have fields of {type(known).__name__}, got {name!r}.")
    options = {"vocab_size": len(tokenizer), "max_position_embeddings": block_size} | options
    for name in ("pad", "bos", "eos"):
        options.setdefault(f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    config = JosieThinkerConfig(text_config=options)
    if config.text_config.vocab_size < len(tokenizer):
        raise ValueError(
            f"`model.vocab_size` must be at least the tokenizer's ({len(tokenizer)}), "
            f"got {config.text_config.vocab_size}."
        )
    if config.max_position_embeddings < block_size:
        raise ValueError(
            f"`data.block_size` must be at most `model.max_position_embeddings` ({config.max_position_embeddings}), "
            f"got {block_size}."
        )
    return config


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train, evaluate, save.

    Returns:
        What was measured on the texts that were held out; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    card = read_section(config, "card", CardArguments)
    data = read_section(config, "data", TextDataArguments)
    arguments = start_training(config, TrainingArguments)
    if arguments.max_steps < 1 and data.streaming:  # streams have no end
        raise ValueError(f"`trainer.max_steps` must be positive for a stream, got {arguments.max_steps}.")
    tokenizer = load_tokenizer(read_section(config, "tokenizer", TokenizerArguments))
    model_config = build_config(config.get("model", {}), tokenizer, data.block_size)
    training: Any
    training, validation = load_blocks(data, tokenizer)
    trainer = JosieTrainer(
        JosieThinkerForConditionalGeneration(model_config),
        arguments,
        train_dataset=training,
        eval_dataset=validation if len(validation) else None,
        data_collator=default_data_collator,
        processing_class=tokenizer,
        compute_metrics=Metrics(),
        preprocess_logits_for_metrics=keep_scores,
        callbacks=[RunLog()],
    )
    if not train(trainer, line.mode):
        return None
    return finish(trainer, data, card, line.command)


def finish(trainer: Trainer, data: TextDataArguments, card: CardArguments, command: str) -> dict[str, Any]:
    """Save the model with its tokenizer and its card.

    Args:
        trainer (`Trainer`): After training.
        data ([`TextDataArguments`]): What it was trained on.
        card ([`CardArguments`]): For the card.
        command (`str`): How the recipe was called.
    """
    save_model(trainer)
    metrics = keep_scores_of(evaluate(trainer))
    if trainer.is_world_process_zero():
        trained_on = describe_sources(data.sources)
        if not isinstance(trainer.train_dataset, IterableDataset):
            trained_on.append(f"together {len(trainer.train_dataset)} blocks of {data.block_size} tokens")  # type: ignore[arg-type]
        write_card(trainer, card, command, trained_on, metrics, "texts of the same sources that were held out")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
