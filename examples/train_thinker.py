"""Train a Thinker on conversations of any kind: `python examples/train_thinker.py examples/train_thinker.json`.

The long part of the training of the nano that ships was 4,000 steps, .95 h on a shared core, of a smaller world. Worded
anew, answers then took 5,000 steps more, 1.0 hours (2026-11-26). `examples/nano_world/think.json` is that of the next.

Everything is stated in the configuration, a JSON or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `ConversationDataArguments` in `recipes/conversations.py`; or `nano`, `NanoArguments` in `nano_world` |
| `model` | `ModelArguments` in `recipes/models.py`: a folder or Hub name, or a preset with random weights |
| `freeze` | names of parts that learn nothing, as `model.freeze` takes them; the Talker where it is missing |
| `ctc` | `CTCArguments` in `recipes/audio_ctc.py`: the audio encoder predicts letters too; `null` for none |
| `teacher` | `TeacherArguments` in `recipes/teacher.py`: the audio encoder predicts another one's features; or `null` |
| `token_ctc` | `TokenCTCArguments` in `recipes/token_ctc.py`: the projector predicts tokens too; `null` for none |
| `hearing` | `HearingArguments` in `recipes/heard_rows.py`: clips are encoded once, ahead; `null` for at every step |
| `augmentation` | effects on the user's audio, `AudioAugmentation` in `josie.training`; `null` for none |
| `answers` | `AnswerArguments` in `recipes/answers.py`: how answers are compared at each evaluation |
| `trainer` | `TrainingArguments` |
| `card` | `license`, `hardware`, `limitations` of the model card |
| `threads` | of torch; its own choice where it is missing |

The user's turns may have images, videos and audio; with `ctc` and `token_ctc`, the `text` of an audio part is its
transcript. The assistant's recordings are only read where the Talker learns too (`"freeze": []`). `hearing` is for rows
with clips and texts alone and an encoder that learns nothing. What learns is in float32, whatever the checkpoint is in.

With `"audio_features": true` in `data`, features that `josie encode --features` made of the audio are read in its
place, by a model whose audio encoder is frozen; `hearing` makes them itself.

A run that ends in any way goes on with the same command from its last checkpoint, and its next losses are those it
would have had, also when it trains on a stream. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints, which are
whole models, `base` (the model of a preset) and `model` (weights, processor, model card, and with `ctc` the head for
letters, with which another run goes on). Evaluations are perplexity, token accuracy and answers on conversations that
were held out.
"""

from typing import Any

from recipes.answers import AnswerArguments, AnswerCheck, find_questions, keep_scores_of
from recipes.audio_ctc import CTCArguments, CTCCollator, CTCModel
from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.heard_rows import HeardCollator, HearingArguments, Listener
from recipes.model_cards import CardArguments, write_card
from recipes.models import ModelArguments, learn_in_float32, load_start, save_model
from recipes.run_log import RunLog
from recipes.runs import evaluate, start_training, train
from recipes.spoken_rows import SilentCollator, SpeechCollator, SpeechEncoder, SpokenConversations
from recipes.teacher import TaughtModel, Teacher, TeacherArguments, TeacherCollator
from recipes.token_ctc import TokenCTCArguments, TokenCTCCollator, TokenCTCModel, find_tokens, list_tokens
from transformers import TrainingArguments

from josie import JosieDataCollator, JosieTrainer
from josie.training.augmentation import AugmentingCollator, EpochCallback, number_rows, read_augmentation
from josie.training.metrics import Metrics, keep_scores

SECTIONS = ("data", "model", "freeze", "ctc", "teacher", "token_ctc", "hearing", "augmentation")
SECTIONS += ("answers", "trainer", "card", "threads")


def load_rows(config: dict[str, Any]) -> SpokenConversations:
    """Return the rows of a configuration."""
    section = config.get("data")
    if isinstance(section, dict) and "nano" in section:
        from nano_world.tasks import NanoArguments, load_nano  # whose packages other conversations do not need

        require_sections(section, "nano", within="data")
        rows = load_nano(read_section(section, "nano", NanoArguments))
        return SpokenConversations(rows, NanoArguments.LICENCES, folder="")
    return SpokenConversations.load(config)


def freeze(model: Any, names: Any) -> SpeechEncoder | None:
    """Freeze parts of a model, and return what makes codes for its Talker if that is not among them."""
    groups = model.get_groups()
    names = [name for name in ("talker",) if name in groups] if names is None else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`freeze` must be a list of names among {list(groups)}, got {names!r}.")
    model.freeze(*names)
    talker = getattr(model, "talker", None)
    learns = talker is not None and any(parameter.requires_grad for parameter in talker.parameters())
    return SpeechEncoder.of_model(model) if learns else None


def refuse_together(letters: Any, teaching: Any, tokens: Any, hearing: Any) -> None:
    """Raise a `ValueError` for sections that do not go together.

    Args:
        letters, teaching, tokens, hearing: The sections `ctc`, `teacher`, `token_ctc` and `hearing`; `None` where they
            are null.
    """
    for name, section in (("ctc", letters), ("teacher", teaching)):
        if section is not None and hearing is not None:
            raise ValueError(f"`{name}` must be null with `hearing`, as it teaches the audio encoder, got both.")
        if section is not None and tokens is not None:
            raise ValueError(f"`{name}` must be null with `token_ctc`, got both.")


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train, evaluate, save.

    Returns:
        What was measured on the conversations that were held out; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    card = read_section(config, "card", CardArguments)
    asked = read_section(config, "answers", AnswerArguments)
    chosen = read_section(config, "model", ModelArguments)
    letters = read_section(config, "ctc", CTCArguments) if config.get("ctc") is not None else None
    teaching = read_section(config, "teacher", TeacherArguments) if config.get("teacher") is not None else None
    tokens = read_section(config, "token_ctc", TokenCTCArguments) if config.get("token_ctc") is not None else None
    hearing = read_section(config, "hearing", HearingArguments) if config.get("hearing") is not None else None
    augmentation = read_augmentation(config)
    refuse_together(letters, teaching, tokens, hearing)
    arguments = start_training(
        config, TrainingArguments, remove_unused_columns=False, label_names=["labels"], eval_do_concat_batches=False
    )
    with arguments.main_process_first():
        data = load_rows(config)  # first: a missing file is found before a model is made or fetched
        model, processor = load_start(chosen, line.mode, arguments)
        encode = freeze(model, config.get("freeze"))
        learn_in_float32(model, arguments.bf16 or arguments.fp16)
        questions = find_questions(data.rows["validation"], asked.num_questions)
        data.require_encoder(model)
        if data.encoded and not letters is teaching is tokens is hearing is None:
            names = "`ctc`, `teacher`, `token_ctc` or `hearing`"
            raise ValueError(f"`data.audio_features` must be false with {names}, got true.")
        if augmentation is not None and (data.encoded or hearing is not None):
            raise ValueError("`augmentation` must be null where clips are encoded ahead, got effects.")
        if hearing is not None:
            if encode is not None:
                raise ValueError("`freeze` must have 'talker' with `hearing`, got a Talker that learns.")
            rows = Listener(model, processor, hearing).encode_splits(data.rows)
        else:
            rows = data.rows if encode is None else data.encode(encode)
    has_units = processor.thinker_config.unit_frames is not None
    timing = model.get_speech_timing() if has_units and hasattr(model, "get_speech_timing") else None
    collator: Any = JosieDataCollator(processor, speech_timing=timing)
    if hearing is not None:
        collator = HeardCollator(collator, keeps_transcripts=tokens is not None)
    else:
        collator = SilentCollator(collator) if encode is None else SpeechCollator(collator, encode)
    learner, held_out = model, rows["validation"]
    answers = AnswerCheck(model, processor, questions, asked)
    scores: dict[str, Any] = {"compute_metrics": Metrics(answers), "preprocess_logits_for_metrics": keep_scores}
    teacher = None if teaching is None else Teacher(teaching)
    if letters is not None or teaching is not None:
        learner = CTCModel(model, letters) if teaching is None else TaughtModel(model, letters, teaching, teacher.width)
        collator = collator if letters is None else CTCCollator(collator, letters.alphabet)
        learner.load_head(str(chosen.path))
        scores = {} if learner.arguments.only else scores  # there is nothing but a loss
    if tokens is not None:
        if hearing is None:
            collator, told_apart = TokenCTCCollator(collator, processor.tokenizer), list_tokens(processor.tokenizer)
        else:
            told_apart = find_tokens(rows["train"].select_columns(["transcripts"]))
        learner = TokenCTCModel(model, tokens, told_apart)
        learner.load_head(str(chosen.path))
        scores = {} if tokens.only else scores
    callbacks, train_rows = [RunLog()], rows["train"]
    if augmentation is not None:
        collator = AugmentingCollator(collator, augmentation, processor.feature_extractor.sampling_rate)
        callbacks, train_rows = [*callbacks, EpochCallback(collator)], number_rows(train_rows)
    if teacher is not None:
        collator = TeacherCollator(collator, teacher)  # around the augmentation: it hears the clips as they are
    trainer = JosieTrainer(
        learner,
        arguments,
        train_dataset=train_rows,
        eval_dataset=held_out if len(held_out) else None,
        data_collator=collator,
        processing_class=processor,
        whole_model=None if learner is model else model,
        callbacks=callbacks,
        **scores,
    )
    if not train(trainer, line.mode):
        return None
    metrics = keep_scores_of(evaluate(trainer))
    save_model(trainer)
    if trainer.is_world_process_zero():
        write_card(trainer, card, line.command, data.sources, metrics, "conversations that were held out", model)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
