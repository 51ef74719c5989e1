"""Train a Talker on spoken text: `python examples/train_talker.py examples/train_talker.json`.

`examples/nano_world/talk.json` trains nano's. The weights that ship had 16,523 steps for another codec, then 14,000,
1.4 h on one CPU core: of new sentences 18.1 % of the words are heard wrongly, and 67 % of its answers are heard to be
exactly right (2026-11-26).

Everything is stated in the configuration, a JSON or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `ConversationDataArguments` in `recipes/conversations.py`; or `nano`, `VoiceArguments` in `nano_world` |
| `model` | `ModelArguments` in `recipes/models.py`: a folder or Hub name, or a preset with random weights |
| `start` | `TalkerStartArguments` in `recipes/talker_start.py`: what a new Talker begins with |
| `trainer` | `TrainingArguments` |
| `card` | `license`, `hardware`, `limitations` of the model card |
| `threads` | of torch; its own choice where it is missing |

Of the conversations, those are used in which a turn of the assistant has audio besides its text: how it is spoken.
`speaker` beside `messages` names the voice where the model has several. Recordings become codes by the model's own
codec, once, in `data.folder`; those of a stream whenever they come. Rows of a source 'speech' whose words are timed
tell a Talker that learns durations how long each token is said.

The Thinker and the codec stay as they are. Where the Talker reads the Thinker's states, the whole model is run; where
it reads token embeddings alone (`reads_thinker_states: false`), the Talker alone is, so that another process can train
the Thinker (but not its token embedding) at the same time. Checkpoints are whole models either way.

A run that ends in any way goes on with the same command from its last checkpoint, and its next losses are those it
would have had, also when it trains on a stream. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints, `base` (the
model of a preset) and `model`: weights of the whole model, processor, model card. Evaluations are code accuracy,
quantizer by quantizer, on speech that was held out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from recipes.answers import keep_scores_of
from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.model_cards import CardArguments, write_card
from recipes.models import ModelArguments, learn_in_float32, load_start, save_model
from recipes.run_log import RunLog
from recipes.runs import evaluate, start_training, train
from recipes.spoken_rows import Collate, SpeechCollator, SpeechEncoder, SpokenConversations, is_spoken
from recipes.talker_start import TalkerStartArguments, start_talker
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from josie import JosieDataCollator, JosieTrainer
from josie.configuration_josie.constants import IGNORE_INDEX
from josie.modeling_josie.talker.spoken_turns import split_turns
from josie.training.metrics import Metrics, keep_scores

SECTIONS = ("data", "model", "start", "trainer", "card", "threads")


@dataclass
class EmbeddingCollator:
    """Makes the inputs of a Talker alone: codes, and the embeddings of the words that are spoken.

    Args:
        collate: Makes a batch of the whole model.
        embedding (`nn.Module`): Of the Thinker's tokens; not learned here.
    """

    collate: Collate
    embedding: nn.Module

    @torch.no_grad()
    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `speech_codes`, `thinker_embeds`, `thinker_mask`, and where rows have them `speaker_ids` and
        `speech_durations`."""
        batch = self.collate(rows)
        options = {name: batch[name] for name in ("speaker_ids", "speech_durations") if name in batch}
        embeds = self.embedding(batch["input_ids"])
        turns = split_turns(batch["speech_codes"], batch["speech_mask"], embeds, **options)
        kept = {name: getattr(turns, name) for name in ("speech_codes", *options)}
        return {**kept, "thinker_embeds": turns.states[0], "thinker_mask": turns.mask}


@dataclass
class WithoutLabels:
    """Leaves the text of a batch unlearned.

    Args:
        collate (`Callable`): Makes the batch.
    """

    collate: Collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch with -100 for all `labels`."""
        batch = self.collate(rows)
        return {**batch, "labels": torch.full_like(batch["labels"], IGNORE_INDEX)}


def load_nano_rows(
    section: dict[str, Any], encode: SpeechEncoder, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, Any], list[str]]:
    """Return the rows of each split of nano's voice, and their sources in words.

    Args:
        section (`dict`): The section `data`.
        encode ([`SpeechEncoder`]): Makes codes of recordings.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Makes tokens of their texts.
    """
    from nano_world.tasks import NanoArguments  # whose packages others do not need
    from nano_world.voice import VoiceArguments, load_voice

    require_sections(section, "nano", within="data")
    return load_voice(read_section(section, "nano", VoiceArguments), encode, tokenizer), NanoArguments.LICENCES


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train, evaluate, save.

    Returns:
        The scores on speech that was held out; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    card = read_section(config, "card", CardArguments)
    chosen = read_section(config, "model", ModelArguments)
    start = read_section(config, "start", TalkerStartArguments)
    arguments: Any = start_training(
        config,
        TrainingArguments,
        remove_unused_columns=False,
        label_names=["labels", "speech_codes"],
        eval_do_concat_batches=False,
    )
    section = config.get("data")
    is_nano = isinstance(section, dict) and "nano" in section
    with arguments.main_process_first():
        # First: a missing file is found before a model is made or fetched.
        data = None if is_nano else SpokenConversations.load(config, is_spoken)
        model, processor = load_start(chosen, line.mode, arguments)
        encode = SpeechEncoder.of_model(model)  # first: that the model can speak is seen to
        start_talker(model, processor.tokenizer, start)
        if data is None:
            rows, sources = load_nano_rows(section, encode, processor.tokenizer)
        else:
            tokenizer = processor.tokenizer if model.config.talker_config.learns_durations else None
            rows, sources = data.encode(encode, tokenizer), data.sources
    learner, collator = model, SpeechCollator(JosieDataCollator(processor), encode)
    if model.config.talker_config.reads_thinker_states:
        model.freeze("thinker")
        if data is not None:
            data.require_encoder(model)
        collator = WithoutLabels(collator)
    else:
        learner, collator = model.talker, EmbeddingCollator(collator, model.get_input_embeddings())
        arguments.label_names = ["speech_codes"]
    learn_in_float32(learner, arguments.bf16 or arguments.fp16)
    held_out = rows["validation"]
    trainer = JosieTrainer(
        learner,
        arguments,
        train_dataset=rows["train"],
        eval_dataset=held_out if len(held_out) else None,
        data_collator=collator,
        processing_class=processor,
        whole_model=None if learner is model else model,
        compute_metrics=Metrics(),
        preprocess_logits_for_metrics=keep_scores,  # type: ignore[arg-type]
        callbacks=[RunLog()],
    )
    if not train(trainer, line.mode):
        return None
    metrics = keep_scores_of(evaluate(trainer))
    save_model(trainer)
    if trainer.is_world_process_zero():
        write_card(trainer, card, line.command, sources, metrics, "speech that was held out", model)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
