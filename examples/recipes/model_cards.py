"""Model cards of finished runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from josie.conversion.hub.model_card import write_model_card


@dataclass
class CardArguments:
    """Entries of a model card that only a person knows.

    Args:
        license (`str`, *optional*): Of the weights.
        hardware (`str`, *optional*): What the model was trained on.
        limitations (`str`, *optional*): What it cannot do.
        title (`str`, *optional*): Of the card.
        license_notes (`list[str]`): Sentences about the licence: authors to name, and why it is this one.
    """

    license: str | None = None
    hardware: str | None = None
    limitations: str | None = None
    title: str | None = None
    license_notes: list[str] = field(default_factory=list)


def describe_sources(sources: list[dict[str, Any]]) -> list[str]:
    """Return the sources of a section `data` in words."""
    return [", ".join(map(str, source.values())) for source in sources]


def write_card(
    trainer: Trainer,
    card: CardArguments,
    command: str,
    data: list[str],
    metrics: dict[str, Any],
    evaluated_on: str,
    model: PreTrainedModel | None = None,
    **entries: Any,
) -> None:
    """Write the model card of a finished run into the folder `model` of its output; for one process alone.

    Args:
        trainer (`Trainer`): Its model and the hours of its log are described.
        card ([`CardArguments`]): Entries of the configuration.
        command (`str`): The command that trained the model.
        data (`list[str]`): The training data, in words.
        metrics (`dict`): The results. Nothing is evaluated here, for which all processes would be needed.
        evaluated_on (`str`): The data of these results, in words.
        model ([`PreTrainedModel`], *optional*): The model in the folder; the trainer's when `None`.
        entries: More arguments of [`write_model_card`].
    """
    if model is None:
        trained: Any = trainer.model
        adapted = getattr(trained, "get_base_model", None)  # inside peft's wrapper
        model = trained if adapted is None else adapted()
    write_model_card(
        Path(str(trainer.args.output_dir)) / "model",
        model.config,
        model=model,
        data=data,
        metrics=metrics,
        evaluated_on=evaluated_on,
        command=command,
        hours=max((entry.get("hours", 0.0) for entry in trainer.state.log_history), default=0.0),
        hardware=card.hardware,
        license=card.license,
        license_notes=card.license_notes,
        title=card.title,
        limitations=card.limitations,
        **entries,
    )
