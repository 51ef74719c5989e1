"""Train JODIO: `python examples/train_jodio.py examples/train_jodio.json`; 17 minutes, half a core; PESQ 2.1, STOI .92.

Those are 2,800 steps of 10 seconds on a core that had other work to do, without fetching the data, and medians over 50
unseen clips. `examples/nano_world/voice.json` trains the codec in `nano/jodio`, `examples/train_mel_codec.json` the mel
codec.

Everything is stated in the configuration, a JSON or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `SpeechDataArguments` in `recipes/speech_data.py`: the sources, and how they are split |
| `crops` | `CropArguments` below |
| `teacher` | `TeacherArguments` below; `null` for training without one |
| `model` | `model_type` (`jodio`, `josie_mel_codec`) and fields of its configuration; or as `read_model_section` says |
| `discriminator` | fields of `JodioDiscriminatorConfig`; `null` for training without one |
| `trainer` | `CodecTrainingArguments`: those of `TrainingArguments` and the adversarial part |
| `report` | `ReportArguments` in `recipes/audio_codec_report.py` |
| `card` | `license`, `hardware`, `limitations` of the model card |
| `threads` | of torch; its own choice where it is missing |

A run that ends in any way goes on with the same command from its last checkpoint, and its next losses are those it
would have had. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints, `model` (weights, configuration, feature
extractor, model card) and `report` (`metrics.json`, audio, spectrograms).

Needs `pip install 'josie[recipes]'`; with `josie[judge]` the report has PESQ and STOI.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from recipes.audio_codec_report import ReportArguments, require_clips, require_matplotlib, write_report
from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.model_cards import CardArguments, write_card
from recipes.models import save_in_half
from recipes.run_log import RunLog
from recipes.runs import finish_together, start_training, train
from recipes.speech_data import SpeechDataArguments, load_speech
from torchaudio.transforms import MelSpectrogram
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from josie.configuration_josie import audio_codec_geometry
from josie.modeling_josie import JodioDiscriminatorModel
from josie.nano import find_model
from josie.processing_josie import JosieFeatureExtractor
from josie.training.audio_crops import AudioCrops, AudioCropsCallback, CropSettings
from josie.training.codec_trainer import CodecTrainer, CodecTrainingArguments, check_discriminator

SECTIONS = ("data", "crops", "teacher", "model", "discriminator", "trainer", "report", "card", "threads")
MODEL_TYPES = ("jodio", "josie_mel_codec")


@dataclass
class CropArguments:
    """The crops that the codec is shown.

    Args:
        seconds (`float`): Length of a crop; rounded to whole frames of the codec.
        min_seconds (`float`): Shorter files are not used.
        max_gain_db (`float`): Crops become louder or softer by up to this.
    """

    seconds: float = 1.0
    min_seconds: float = 0.3
    max_gain_db: float = 0.0

    def __post_init__(self):
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"`crops.seconds` must be greater than 0, got {self.seconds}.")
        for name in ("min_seconds", "max_gain_db"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`crops.{name}` must be at least 0, got {getattr(self, name)}.")


@dataclass
class TeacherArguments:
    """Log-mel spectrograms that the codes shall predict, as `semantic_targets`.

    From what is heard of its decoder alone, a young encoder learns little but loudness: a linear look at its codes
    tells it at once what is in the audio. Of the model, `semantic_target_size` must be a multiple of `num_mel_bins`,
    and says how many mel frames there are to a code frame.

    Args:
        num_mel_bins (`int`): Mel bands.
        floor (`float`): Smallest value before the logarithm.
        mean, std (`float`): What is subtracted and divided by.
    """

    num_mel_bins: int = 40
    floor: float = 0.01
    mean: float = -1.3
    std: float = 2.1

    def __post_init__(self):
        if self.num_mel_bins < 1:
            raise ValueError(f"`teacher.num_mel_bins` must be at least 1, got {self.num_mel_bins}.")
        for name in ("floor", "std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`teacher.{name}` must be greater than 0, got {getattr(self, name)}.")
        if not math.isfinite(self.mean):
            raise ValueError(f"`teacher.mean` must be finite, got {self.mean}.")


class TaughtCrops(AudioCrops):
    """Crops with the log-mel spectrograms that a teacher's arguments ask for.

    Args:
        dataset (`datasets.Dataset`): As of [`AudioCrops`].
        settings ([`CropSettings`]): What a crop is.
        teacher ([`TeacherArguments`]): What its spectrogram is.
        hop_length, frames_per_code (`int`): Samples between mel frames, and mel frames to a code frame.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: CropSettings,
        teacher: TeacherArguments,
        hop_length: int,
        frames_per_code: int,
    ):
        super().__init__(dataset, settings)
        self.teacher, self.frames_per_code = teacher, frames_per_code
        # Windows of two hops, so that none reaches beyond the code frame it belongs to: codes know no future.
        self.transform = MelSpectrogram(
            settings.sampling_rate, 2 * hop_length, hop_length=hop_length, n_mels=teacher.num_mel_bins, power=1.0
        )

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return a crop with its `semantic_targets`, `(code frames, frames_per_code * num_mel_bins)`."""
        item = super().__getitem__(index)
        mel = self.transform(item["input_values"].mean(0))[:, :-1].clamp(min=self.teacher.floor).log()
        frames = ((mel - self.teacher.mean) / self.teacher.std).T
        return {**item, "semantic_targets": frames.unflatten(0, (-1, self.frames_per_code)).flatten(1)}


def read_model_section(section: Any) -> tuple[bool, dict[str, Any]]:
    """Return whether the section `model` is of a new codec, and the fields of its configuration.

    A new one has a `model_type`. A trained one to go on from has a `path`, fields to change, and as `freeze` parts that
    stay as they are: with `["encoder", "quantizer"]` and `codebook_update` `"none"` a decoder learns for codes that do.

    Raises:
        `ValueError`: It is neither, or both.
    """
    given = section if isinstance(section, dict) else {}
    model_type, path, freeze = (given.get(name) for name in ("model_type", "path", "freeze"))
    if model_type not in MODEL_TYPES if path is None else model_type is None and not isinstance(path, str):
        raise ValueError("`model` must be a section with `model_type` 'jodio' or 'josie_mel_codec', or with `path`.")
    for name, value in (("path", path), ("freeze", freeze)):
        if model_type is not None and value is not None:
            raise ValueError(
                f"`model.{name}` must be null with a `model_type`, which is of a new codec, got {value!r}; "
                """`--set 'model={"path": "..."}'` goes on from a trained one."""
            )
    if freeze is not None and not isinstance(freeze, list):
        raise ValueError(f"`model.freeze` must be a list of parts of the model, got {freeze!r}.")
    options = {name: value for name, value in given.items() if name not in ("model_type", "path", "freeze")}
    if model_type is not None:
        require_fields(AutoConfig.for_model(model_type), options)
        AutoConfig.for_model(model_type, **options)
    return model_type is not None, options


def require_fields(config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Raise a `ValueError` for an option that is no field of a configuration."""
    for name in options:
        if not hasattr(config, name):
            raise ValueError(f"`model` must have fields of {type(config).__name__}, got {name!r}.")


def build_model(section: Any) -> PreTrainedModel:
    """Return the codec of the section `model`.

    Raises:
        `ValueError`: There is no such codec, or its weights do not fit the fields.
    """
    is_new, options = read_model_section(section)
    if is_new:
        return AutoModel.from_config(AutoConfig.for_model(section["model_type"], **options))
    path = str(find_model(section["path"]))
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise ValueError(f"`model.path` must be a folder or Hub name of a codec, got {path!r}: {error}") from error
    if config.model_type not in MODEL_TYPES:
        raise ValueError(f"`model.path` must be a model of {list(MODEL_TYPES)}, got one of {config.model_type!r}.")
    require_fields(config, options)
    try:
        model = AutoModel.from_pretrained(path, **options)
    except RuntimeError as error:  # sizes that differ
        raise ValueError(f"`model` must have fields that fit the weights in {path!r}, got {options}.") from error
    parts = dict(model.named_children())
    for name in section.get("freeze") or ():
        if name not in parts:
            raise ValueError(f"`model.freeze` must be among {list(parts)}, got {name!r}.")
        parts[name].requires_grad_(False)
    return model


def build_crops(
    speech: dict[str, Dataset],
    model: PreTrainedModel,
    arguments: CropArguments,
    seed: int,
    teacher: TeacherArguments | None = None,
) -> tuple[AudioCrops, AudioCrops | None]:
    """Return crops to train on, and fixed ones to validate with if there are clips for it.

    Args:
        speech (`dict[str, Dataset]`): Clips by split.
        model (`PreTrainedModel`): The codec, which gives rate and hop.
        arguments ([`CropArguments`]): Length and number of the crops.
        seed (`int`): Of what is drawn.
        teacher ([`TeacherArguments`], *optional*): Whose features come with the crops.
    """
    geometry = audio_codec_geometry(model.config)
    hop, rate = round(geometry.sampling_rate / geometry.frame_rate), geometry.sampling_rate
    length = max(round(arguments.seconds * rate / hop), 1) * hop
    shared = {
        "sampling_rate": rate,
        "crop_length": length,
        "num_channels": getattr(model.config, "audio_channels", 1),
        "min_length": max(round(arguments.min_seconds * rate), 1),
        "seed": seed,
    }
    if not len(speech["train"]):
        raise ValueError("`data` must leave clips to train on, got none.")
    make: Any = AudioCrops
    if teacher is not None:
        size = getattr(model.config, "semantic_target_size", None) or 0
        frames_per_code = size // teacher.num_mel_bins
        if not frames_per_code or size % teacher.num_mel_bins or hop % frames_per_code:
            raise ValueError(
                f"`model.semantic_target_size` must be `teacher.num_mel_bins` ({teacher.num_mel_bins}) times a number "
                f"that divides a code frame's {hop} samples, got {size}."
            )
        make = partial(TaughtCrops, teacher=teacher, hop_length=hop // frames_per_code, frames_per_code=frames_per_code)
    training = make(speech["train"], CropSettings(**shared, max_gain_db=arguments.max_gain_db))
    if not len(speech["validation"]):
        return training, None
    return training, make(speech["validation"], CropSettings(**shared, is_random=False))


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train, evaluate and report.

    Returns:
        What `metrics.json` has, without the single clips; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    report = read_section(config, "report", ReportArguments)
    card = read_section(config, "card", CardArguments)
    crops = read_section(config, "crops", CropArguments)
    teacher = read_section(config, "teacher", TeacherArguments) if config.get("teacher") is not None else None
    if report.num_examples:
        require_matplotlib()
    # A codec has no labels: what is evaluated is its loss.
    defaults = {"label_names": ["input_values"], "prediction_loss_only": True, "remove_unused_columns": False}
    arguments = start_training(config, CodecTrainingArguments, **defaults)
    section = config.get("model", {})
    read_model_section(section)
    discriminator = config.get("discriminator")
    if discriminator is not None:
        config_class: Any = JodioDiscriminatorModel.config_class
        discriminator = JodioDiscriminatorModel(read_section(config, "discriminator", config_class))
    check_discriminator(arguments, discriminator)
    with arguments.main_process_first():
        # First: missing data is found before a model is made or fetched.
        speech = load_speech(read_section(config, "data", SpeechDataArguments))
    model = build_model(section)
    unseen = find_unseen(speech)
    if unseen is not None:
        require_clips(model.config, unseen, report)
    training, validation = build_crops(speech, model, crops, arguments.seed, teacher)
    trainer = CodecTrainer(
        model,
        arguments,
        discriminator=discriminator,
        train_dataset=training,
        eval_dataset=validation,
        processing_class=JosieFeatureExtractor.from_config(model.config),
        callbacks=[AudioCropsCallback(training), RunLog()],
    )
    if not train(trainer, line.mode):
        return None
    return finish_together(trainer, partial(finish, trainer, speech, report, card, line.command))


def find_unseen(speech: dict[str, Dataset]) -> Dataset | None:
    """Return the clips that the report is about: those of the test, or else of the validation split."""
    return next((speech[split] for split in ("test", "validation") if len(speech[split])), None)


def finish(
    trainer: CodecTrainer,
    speech: dict[str, Dataset],
    report: ReportArguments,
    card: CardArguments,
    command: str,
    loss: dict[str, float],
) -> dict[str, Any]:
    """Save the model with its card, and report on the clips it never saw; in one process alone.

    Args:
        trainer ([`CodecTrainer`]): After training.
        speech (`dict[str, Dataset]`): Clips by split.
        report ([`ReportArguments`]): For the report.
        card ([`CardArguments`]): For the card.
        command (`str`): How the recipe was called.
        loss (`dict`): For the card, beside the scores.

    Returns:
        The scores of the report.
    """
    folder = Path(str(trainer.args.output_dir))
    model: Any = trainer.model
    save_in_half(model, folder / "model")
    trainer.processing_class.save_pretrained(folder / "model")
    unseen = find_unseen(speech)
    metrics: dict[str, Any] = {}
    if unseen is not None:
        # What was saved is what is reported on.
        saved = AutoModel.from_pretrained(folder / "model").to(model.device)
        metrics = write_report(saved, unseen, folder / "report", report)
        trainer.log({f"test_{name}": value for name, value in metrics.items()})
    licences = sorted({f"{source}: {licence}" for source, licence in zip(*_columns(speech["train"]), strict=True)})
    seconds = sum(value or 0 for value in speech["train"]["seconds"]) if _has_seconds(speech["train"]) else None
    amount = f"{len(speech['train'])} clips" + (f", {seconds / 3600:.2f} hours" if seconds is not None else "")
    data = [*licences, f"together {amount}"]
    write_card(trainer, card, command, data, loss | metrics, "clips of the same sources that were held out, medians")
    return metrics


def _columns(dataset: Dataset) -> tuple[list[str], list[str]]:
    return list(dataset["source"]), list(dataset["licence"])


def _has_seconds(dataset: Dataset) -> bool:
    return "seconds" in dataset.column_names and None not in list(dataset["seconds"])


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
