"""Fine-tune any JOSIE by low-rank adapters: `python examples/finetune_lora.py examples/finetune_lora.json`.

That teaches nano what twenty animals say, from 60 conversations: 200 steps, 17 seconds on one CPU core, and it
answered 20 of 20 questions in a wording it never saw (2026-11-29).

LoRA (Hu et al., 2021) leaves the model as it is and learns small matrices beside its own, which are all that is saved.
Everything is stated in the configuration, a JSON or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `ConversationDataArguments` in `recipes/conversations.py`: JSONL files or data sets, streaming |
| `model` | `ModelArguments` in `recipes/models.py`: a folder or Hub name, or a preset with random weights |
| `lora` | `AdapterArguments` below: which parts learn, and their rank |
| `hearing` | `HearingArguments` in `recipes/heard_rows.py`: clips are encoded once, ahead; `null` for at every step |
| `answers` | `AnswerArguments` in `recipes/answers.py`: how answers are compared at each evaluation |
| `trainer` | `TrainingArguments` |
| `card` | `license`, `hardware`, `limitations` of the model card |
| `threads` | of torch; its own choice where it is missing |

The assistant's recordings are read where the Talker learns, and become codes as `train_talker.py` makes them; where it
learns alone, rows in which nothing is spoken are left out.

A run that ends in any way goes on with the same command from its last checkpoint, and its next losses are those it
would have had, also when it trains on a stream. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints, `base` (the
model of a preset) and `model` (the adapters, the processor, a model card), which `AutoModelForMultimodalLM` loads.

Needs `pip install 'josie[peft]'`.
"""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from recipes.answers import AnswerArguments, AnswerCheck, find_questions, keep_scores_of
from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.heard_rows import HeardCollator, HearingArguments, Listener
from recipes.model_cards import CardArguments, write_card
from recipes.models import ModelArguments, learn_in_float32, load_start, save_model
from recipes.run_log import RunLog
from recipes.runs import evaluate, start_training, train
from recipes.spoken_rows import SilentCollator, SpeechCollator, SpeechEncoder, SpokenConversations, is_spoken
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from josie import JosieDataCollator, JosieTrainer
from josie.training.metrics import Metrics, keep_scores

SECTIONS = ("data", "model", "lora", "hearing", "answers", "trainer", "card", "threads")
_STREAM_ROWS = 1000  # of a stream, which has no end: so many are searched for one that is spoken


@dataclass
class AdapterArguments:
    """The adapters: what learns.

    Args:
        parts (`list[str]`): Whose linear layers get adapters: `"thinker"`, its text backbone; `"talker"`, its backbone.
        layers (`list[str]`): Last names of the layers that do, such as `"q_proj"`; all when empty.
        rank (`int`): Of the learned matrices.
        alpha (`float`): Their product is scaled by this, divided by the rank.
        dropout (`float`): Of what goes into them.
        modules_to_save (`list[str]`): Names of modules that learn as a whole, and are saved with the adapters.
    """

    parts: list[Literal["thinker", "talker"]] = field(default_factory=lambda: ["thinker"])
    layers: list[str] = field(default_factory=list)
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    modules_to_save: list[str] = field(default_factory=list)

    def __post_init__(self):
        if not self.parts or set(self.parts) - {"thinker", "talker"}:
            raise ValueError(f"`lora.parts` must be of ['talker', 'thinker'], got {self.parts!r}.")
        if self.rank < 1:
            raise ValueError(f"`lora.rank` must be at least 1, got {self.rank}.")


def find_layers(model: PreTrainedModel, parts: list[str], layers: list[str] | None = None) -> list[str]:
    """Return the names of the linear layers of parts, whatever backbones they are made of.

    Args:
        model ([`PreTrainedModel`]): A JOSIE or a Thinker.
        parts (`list[str]`): `"thinker"`, `"talker"`.
        layers (`list[str]`, *optional*): Last names of those that are wanted; all when empty.

    Raises:
        `ValueError`: The model has no such part or layer.
    """
    thinker = getattr(model, "thinker", model)
    talker = getattr(model, "talker", None)
    backbones = {"thinker": thinker.model.language_model, "talker": None if talker is None else talker.model}
    missing = [part for part in parts if backbones[part] is None]
    if missing:
        raise ValueError(f"`lora.parts` must be parts that the model has, got {missing[0]!r}.")
    wanted = {id(module) for part in parts for module in backbones[part].modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in model.named_modules() if id(module) in wanted]
    known = sorted({name.rpartition(".")[2] for name in names})
    for layer in layers or []:
        if layer not in known:
            raise ValueError(f"`lora.layers` must be of {known}, got {layer!r}.")
    return [name for name in names if not layers or name.rpartition(".")[2] in layers]


def require_modules(model: nn.Module, names: list[str]) -> None:
    """Raise a `ValueError` for one of `lora.modules_to_save` of nothing that could learn, or of a codec too."""
    known = [f".{name}" for name, module in model.named_modules() if next(module.parameters(), None) is not None]
    for name in names:
        found = [each for each in known if name and each.endswith(f".{name}")]
        if not found:
            raise ValueError(f"`lora.modules_to_save` must be names of modules with weights, got {name!r}.")
        frozen = [each[1:] for each in found if each.startswith((".audio_codec", ".vision_codec"))]
        if frozen:
            raise ValueError(
                f"`lora.modules_to_save` must be names outside of codecs, which are always frozen, got {name!r}, also "
                f"the name of {frozen[0]!r}."
            )


def choose_spoken(rows: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """Return the rows that parts learn from; for the Talker alone those in which the assistant speaks.

    Args:
        rows (`dict`): Of each split.
        parts (`list[str]`): The Talker, and perhaps the Thinker.

    Raises:
        `ValueError`: Nothing is spoken in the rows to train on.
    """
    train_rows: Any = rows["train"]
    searched: Any = train_rows if isinstance(train_rows, Dataset) else islice(train_rows, _STREAM_ROWS)
    if not any(map(is_spoken, searched)):
        raise ValueError("`data` must have rows with recorded answers where `lora.parts` has 'talker', got none.")
    return rows if "thinker" in parts else {split: part.filter(is_spoken) for split, part in rows.items()}


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train adapters, evaluate, save.

    Returns:
        What was measured on the conversations that were held out; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    card = read_section(config, "card", CardArguments)
    adapters = read_section(config, "lora", AdapterArguments)
    asked = read_section(config, "answers", AnswerArguments)
    chosen = read_section(config, "model", ModelArguments)
    hearing = read_section(config, "hearing", HearingArguments) if config.get("hearing") is not None else None
    speaks = "talker" in adapters.parts
    if speaks and hearing is not None:
        raise ValueError("`lora.parts` must be ['thinker'] with `hearing`, got a Talker that learns.")
    arguments = start_training(
        config,
        TrainingArguments,
        remove_unused_columns=False,
        label_names=["labels", "speech_codes"] if speaks else ["labels"],
        eval_do_concat_batches=False,
    )
    with arguments.main_process_first():
        data = SpokenConversations.load(config)  # first: a missing file is found before a model is made or fetched
        data.rows = choose_spoken(data.rows, list(adapters.parts)) if speaks else data.rows
        model, processor = load_start(chosen, line.mode, arguments)
        require_modules(model, adapters.modules_to_save)
        lora = LoraConfig(
            r=adapters.rank,
            lora_alpha=adapters.alpha,  # type: ignore[arg-type]
            lora_dropout=adapters.dropout,
            target_modules=find_layers(model, list(adapters.parts), adapters.layers),
            modules_to_save=adapters.modules_to_save or None,
        )
        encode = SpeechEncoder.of_model(model) if speaks else None
        questions = find_questions(data.rows["validation"], asked.num_questions)
        adapted: Any = get_peft_model(model, lora)
        data.require_encoder(model)
        conversations: dict[str, Any] = data.rows
        collator: Any = JosieDataCollator(processor)
        if hearing is not None:
            conversations = Listener(model, processor, hearing).encode_splits(conversations)
            collator = HeardCollator(collator)
        elif encode is not None:
            tokenizer = processor.tokenizer if model.config.talker_config.learns_durations else None
            conversations, collator = data.encode(encode, tokenizer), SpeechCollator(collator, encode)
        else:
            collator = SilentCollator(collator)
    learn_in_float32(adapted, arguments.bf16 or arguments.fp16)
    validation = conversations["validation"]
    answers = AnswerCheck(adapted, processor, questions, asked)
    trainer = JosieTrainer(
        adapted,
        arguments,
        train_dataset=conversations["train"],
        eval_dataset=validation if len(validation) else None,
        data_collator=collator,
        processing_class=processor,
        compute_metrics=Metrics(answers),
        preprocess_logits_for_metrics=keep_scores,  # type: ignore[arg-type]
        callbacks=[RunLog()],
    )
    if not train(trainer, line.mode):
        return None
    return finish(trainer, data.sources, card, line.command)


def finish(trainer: Trainer, sources: list[str], card: CardArguments, command: str) -> dict[str, Any]:
    """Save the adapters with the processor and a card.

    Args:
        trainer (`Trainer`): After training.
        sources (`list[str]`): What it was trained on, in words.
        card ([`CardArguments`]): For the card.
        command (`str`): How the recipe was called.
    """
    save_model(trainer)
    metrics = keep_scores_of(evaluate(trainer))
    if trainer.is_world_process_zero():
        base = trainer.model.config.name_or_path
        (Path(str(trainer.args.output_dir)) / "model" / "README.md").unlink(missing_ok=True)  # an empty form of peft's
        held_out = "conversations of the same sources that were held out"
        write_card(
            trainer,
            card,
            command,
            sources,
            metrics,
            held_out,
            base_model=None if Path(str(base)).is_dir() else base,
            tags=["peft", "lora"],
        )
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
