"""Teach the vision encoder of nano to see: `python examples/train_sight.py examples/nano_world/see.json`.

Everything is stated in the configuration, a JSON or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `SightArguments` in `nano_world/sight.py` |
| `model` | `ModelArguments` in `recipes/models.py`, of a JOSIE with a `josie_vision_encoder` |
| `trainer` | `TrainingArguments` |
| `card` | `license`, `hardware`, `limitations` of the model card |
| `threads` | of torch; its own choice where it is missing |

A run that ends in any way goes on with the same command. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints and
`model`: the whole JOSIE, of which only the vision encoder has learned, in float32, whatever the checkpoint is in.
"""

from typing import Any

from nano_world.sight import SightArguments, SightCollator, SightModel, Sights, count_right
from nano_world.tasks import NanoArguments
from recipes.answers import keep_scores_of
from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.model_cards import CardArguments, write_card
from recipes.models import ModelArguments, learn_in_float32, load_start, save_model
from recipes.run_log import RunLog
from recipes.runs import evaluate, start_training, train
from transformers import EvalPrediction, TrainingArguments

from josie import JosieTrainer

SECTIONS = ("data", "model", "trainer", "card", "threads")


def score(prediction: EvalPrediction) -> dict[str, float]:
    """Return `accuracy`: the share of things that are seen with the right name, colour and size."""
    right, total = prediction.predictions.sum(0)
    return {"accuracy": float(right / max(total, 1))}


def find_encoder(model: Any) -> Any:
    """Return the vision encoder of a model.

    Raises:
        `ValueError`: It is of another kind.
    """
    vision_config = getattr(model, "thinker", model).config.vision_config
    if vision_config is None or vision_config.model_type != "josie_vision_encoder":
        found = None if vision_config is None else vision_config.model_type
        raise ValueError(f"`model` must see with a 'josie_vision_encoder', got {found!r}.")
    return getattr(model, "thinker", model).model.vision_front_end.encoder


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train, evaluate, save.

    Returns:
        What was measured; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    card = read_section(config, "card", CardArguments)
    shown = read_section(config, "data", SightArguments)
    arguments = start_training(config, TrainingArguments, remove_unused_columns=False, label_names=["classes"])
    chosen = read_section(config, "model", ModelArguments)
    with arguments.main_process_first():
        model, processor = load_start(chosen, line.mode, arguments)
    encoder = find_encoder(model)
    learn_in_float32(encoder, arguments.bf16 or arguments.fp16)
    grid = encoder.config.image_size // encoder.config.patch_size
    trainer = JosieTrainer(
        SightModel(encoder),
        arguments,
        train_dataset=Sights(shown, grid),
        eval_dataset=Sights(shown, grid, validation=True) if shown.num_validation_rows else None,
        data_collator=SightCollator(processor.image_processor),
        processing_class=processor,
        whole_model=model,
        callbacks=[RunLog()],
        compute_metrics=score,
        preprocess_logits_for_metrics=count_right,
    )
    if not train(trainer, line.mode):
        return None
    metrics = keep_scores_of(evaluate(trainer))
    save_model(trainer)
    if trainer.is_world_process_zero():
        data = [NanoArguments.LICENCES[0], *NanoArguments.LICENCES[-3:]]
        write_card(trainer, card, line.command, data, metrics, "images that training never had", model)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
