"""Train JOVIO: `python examples/train_jovio.py examples/train_jovio.json`; 11 minutes on a shared core, PSNR 34.5 dB.

Those are 600 steps on one core that had other work to do (2026-11-28), without the start, which takes one more, and
the mean over 117 unseen images with all 16 quantizers; with 8, 4, 2 and 1 of them it is 31.2, 28.1, 25.3 and 22.7 dB.
The codec in `nano/jovio` is of that run. Its images are under licences that let anybody use it (CC-BY-SA-4.0).

Everything is stated in the configuration, a JSON or YAML file with these sections:

| section | what |
| --- | --- |
| `data` | `ImageDataArguments` in `recipes/image_data.py` |
| `model` | fields of `JovioConfig` |
| `start` | `StartArguments` below; without it, the model starts from random weights |
| `trainer` | `TrainingArguments` |
| `report` | `ReportArguments` in `recipes/vision_codec_report.py` |
| `card` | `license`, `license_notes`, `hardware`, `limitations`, `title` of the model card |
| `threads` | of torch; its own choice where it is missing |

A run that ends in any way goes on with the same command from its last checkpoint, and its next losses are those it
would have had. In `trainer.output_dir` it leaves `log.jsonl`, checkpoints, `model` (weights, configuration, processors,
model card) and `report` (`metrics.json`, `sheet.png`).

What makes minutes on a CPU enough is the start. Before the first step the patch projections are set to the principal
components of patches, the transformers to the identity and the codebooks to the residuals of those components, which
already is a fair transform codec; what training adds is what the transformers learn.

Needs `pip install 'josie[recipes]'`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from recipes.configuration import CommandLine, read_section, require_sections, run_training
from recipes.image_data import ImageDataArguments, RandomCrops, StoredImage, load_images
from recipes.image_sources import COLLECTIONS
from recipes.model_cards import CardArguments, write_card
from recipes.models import save_in_half
from recipes.progress import progress
from recipes.run_log import RunLog
from recipes.runs import count_rows, find_checkpoint, finish_together, start_training, train
from recipes.vision_codec_report import ReportArguments, average_scores, score_images, write_report
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from josie.configuration_josie import JovioConfig
from josie.modeling_josie import JovioModel, ResidualVectorQuantizer
from josie.processing_josie import JovioImageProcessor, JovioVideoProcessor
from josie.training.codec_trainer import CodecTrainer

SECTIONS = ("data", "model", "start", "trainer", "report", "card", "threads")


@dataclass
class StartArguments:
    """The start of the model at the principal components of patches.

    Args:
        num_crops (`int`): Crops whose patches are looked at.
        num_steps (`int`): Batches of patches that the codebooks learn from.
        batch_size (`int`): Patches in a batch.
        dead_code_threshold (`float`): Codes that are used less in a batch are replaced, until the last third of these
            steps; 0 replaces none. Plain patches are so many that k-means leaves most codes to them, and unused.
        learning_rate_scale (`float`): Share of the learning rate for all but the decoder's transformer: what begins
            near its place should not be shaken out of it.
    """

    num_crops: int = 600
    num_steps: int = 200
    batch_size: int = 4096
    dead_code_threshold: float = 2.0
    learning_rate_scale: float = 0.1

    def __post_init__(self):
        if self.dead_code_threshold < 0:
            raise ValueError(f"`start.dead_code_threshold` must be at least 0, got {self.dead_code_threshold}.")
        if self.learning_rate_scale <= 0:
            raise ValueError(f"`start.learning_rate_scale` must be greater than 0, got {self.learning_rate_scale}.")
        for name in ("num_crops", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`start.{name}` must be at least 1, got {getattr(self, name)}.")


def cut_patches(pixel_values: torch.Tensor, config: JovioConfig) -> torch.Tensor:
    """Return the patches of one crop as the model sees them.

    Args:
        pixel_values (`torch.Tensor`): `(frames, channels, height, width)`, in [0, 1].
        config ([`JovioConfig`]): Gives their size; frames that fill no patch are left out, an image is repeated.

    Returns:
        `(num_patches, channels * temporal_patch_size * patch_size ** 2)`, in [-1, 1].
    """
    time, side = config.temporal_patch_size, config.patch_size
    frames = pixel_values.repeat_interleave(time, dim=0) if len(pixel_values) == 1 else pixel_values
    cells = frames.unfold(0, time, time).unfold(2, side, side).unfold(3, side, side) * 2 - 1
    # (times, channels, rows, columns, frame, y, x)
    return cells.permute(0, 2, 3, 1, 4, 5, 6).flatten(3).flatten(0, 2)


@torch.no_grad()
def start_from_principal_components(model: JovioModel, patches: torch.Tensor, arguments: StartArguments) -> None:
    """Make a new model a transform codec: principal components of patches, and codebooks for what they leave.

    Between the projections the components are scaled to the square root of their deviation, so that the transformers
    see small ones too; the quantizer sees them as they are, so that its errors are errors of pixels. The transformers
    begin as the identity.

    Args:
        model ([`JovioModel`]): Its transformers have one width and no last norm, and its quantizer is not split.
        patches (`torch.Tensor`): `(num_patches, size)`, as from [`cut_patches`].
        arguments ([`StartArguments`]): How the codebooks learn.

    Raises:
        `ValueError`: The model has another form.
    """
    config = model.config
    backbones, quantizer = (model.encoder, model.decoder), model.quantizer
    if any(not isinstance(backbone.norm, nn.Identity) for backbone in backbones):
        raise ValueError("`start` needs `final_norm_type` 'none' in `encoder_config` and `decoder_config`.")
    if not (isinstance(model.decoder_proj, nn.Identity) and isinstance(quantizer, ResidualVectorQuantizer)):
        raise ValueError("`start` needs an encoder and a decoder of one width and no semantic quantizers.")
    if not isinstance(quantizer.proj_in, nn.Linear) or config.codebook_update != "ema":
        raise ValueError("`start` needs a `codebook_dim` below `hidden_size` and `codebook_update` 'ema'.")
    mean = patches.mean(0)
    centered = patches - mean
    _, vectors = torch.linalg.eigh(centered.T @ centered / len(patches))
    width = min(vectors.shape[0], config.encoder_config.hidden_size)
    vectors = vectors.flip(1)[:, :width].T
    scales = (centered @ vectors.T).std(0).clamp(min=1e-4).sqrt()

    embed, side, overlap = model.patch_embed, config.patch_size, config.patch_overlap
    embed.weight.zero_().flatten(1)[:width] = vectors / scales[:, None]
    embed.bias.zero_()[:width] = -(vectors @ mean) / scales
    painted = (config.num_channels, config.temporal_patch_size, side + 2 * overlap, side + 2 * overlap)
    inside = slice(overlap, overlap + side)
    target = (config.num_channels, config.temporal_patch_size, side, side)
    head = model.pixel_head
    head.weight.zero_().unflatten(0, painted)[:, :, inside, inside, :width] = (vectors.T * scales).unflatten(0, target)
    head.bias.zero_().unflatten(0, painted)[:, :, inside, inside] = mean.unflatten(0, target)
    places = range(min(width, config.codebook_dim))
    quantizer.proj_in.weight.zero_()[places, places] = scales[: len(places)]
    quantizer.proj_out.weight.zero_()[places, places] = 1 / scales[: len(places)]
    for layer in (layer for backbone in backbones for layer in backbone.layers):
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    fit_codebooks(quantizer, (centered @ vectors.T) / scales, config.encoder_config.hidden_size, arguments)


def fit_codebooks(
    quantizer: ResidualVectorQuantizer, latents: torch.Tensor, hidden_size: int, arguments: StartArguments
) -> None:
    """Train codebooks from latents alone, by averages over all batches so far.

    Args:
        quantizer ([`ResidualVectorQuantizer`]): Whose codebooks learn.
        latents (`torch.Tensor`): `(num_latents, width)`.
        hidden_size (`int`): Width that the quantizer reads; what is missing is 0.
        arguments ([`StartArguments`]): Steps and batch size.
    """
    config, was_training = quantizer.config, quantizer.training
    kept = {name: getattr(config, name) for name in ("ema_decay", "quantizer_dropout", "dead_code_threshold")}
    quantizer.train()
    config.quantizer_dropout = 0.0
    for step in progress(range(arguments.num_steps), "Codebooks to start from"):
        config.ema_decay = min(step / (step + 10), kept["ema_decay"])
        config.dead_code_threshold = arguments.dead_code_threshold if 3 * step < 2 * arguments.num_steps else 0
        batch = latents[torch.randint(len(latents), (arguments.batch_size,))]
        quantizer(nn.functional.pad(batch, (0, hidden_size - batch.shape[1])).T[None])
    for name, value in kept.items():
        setattr(config, name, value)
    quantizer.train(was_training)


def build_config(section: dict[str, Any]) -> JovioConfig:
    """Return the configuration of a new codec from the section `model`."""
    known = JovioConfig()
    if not isinstance(section, dict):
        raise ValueError(f"`model` must be a section of the configuration, got {section!r}.")
    for name in section:
        if not hasattr(known, name):
            raise ValueError(f"`model` must have fields of JovioConfig, got {name!r}.")
    if section.get("model_type", "jovio") != "jovio":
        raise ValueError(f"`model.model_type` must be 'jovio', got {section['model_type']!r}.")
    return JovioConfig(**section)


def build_optimizer(model: JovioModel, arguments: TrainingArguments, scale: float) -> torch.optim.Optimizer:
    """Return the optimizer that is asked for, with a share of the learning rate for all but the decoder's transformer.

    Args:
        model ([`JovioModel`]): The codec.
        arguments (`TrainingArguments`): Optimizer, learning rate, weight decay.
        scale (`float`): The share.

    Raises:
        `ValueError`: The optimizer chooses by itself what it learns, and how fast.
    """
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    is_plain = isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)
    if not is_plain or options.keys() & {"params", "model", "optimizer_dict"}:
        raise ValueError(
            "`trainer.optim` must be one for any parameters, such as 'adamw_torch', with `start`, by which some learn "
            f"faster than others, got {OptimizerNames(arguments.optim).value!r}."
        )
    fast = list(model.decoder.parameters())
    among = {id(parameter) for parameter in fast}
    slow = [parameter for parameter in model.parameters() if id(parameter) not in among]
    groups: list[dict[str, Any]] = [{"params": fast}, {"params": slow, "lr": scale * arguments.learning_rate}]
    return optimizer_class([group | {"weight_decay": arguments.weight_decay} for group in groups], **options)


def collate_crops(crops: list[dict[str, torch.Tensor]], config: JovioConfig) -> dict[str, torch.Tensor]:
    """Put crops, `(frames, channels, height, width)` each, into one batch, 0 past the end of each."""
    pixels = [crop["pixel_values"] for crop in crops]
    shape = [max(sizes) for sizes in zip(*(item.shape for item in pixels), strict=True)]
    batch = pixels[0].new_zeros(len(pixels), *shape)
    for row, item in zip(batch, pixels, strict=True):
        row[tuple(slice(size) for size in item.shape)] = item
    grids = [config.get_grid(len(item), *item.shape[-2:]) for item in pixels]
    counts = torch.tensor([len(item) for item in pixels])
    return {"pixel_values": batch, "grid_thw": torch.tensor(grids), "num_frames": counts}


def require_crops(data: ImageDataArguments, training: RandomCrops) -> None:
    """Raise a `ValueError` if there is nothing to train on, or a shape that no image or clip has."""
    if not training.weights:
        raise ValueError(
            f"`data.weights` must have kinds of the images to train on, {list(training.sources)}, "
            f"got {list(data.weights)}."
        )
    for shape in data.shapes:
        if shape[0] > training.most_frames:
            raise ValueError(
                f"`data.shapes` must have at most the frames of the longest clip ({training.most_frames}), got {shape}."
            )


def train_model(line: CommandLine) -> dict[str, Any] | None:
    """Train, evaluate and report.

    Returns:
        What `metrics.json` has; `None` if the run was asked to stop before its end.
    """
    config = line.config
    require_sections(config, *SECTIONS)
    report = read_section(config, "report", ReportArguments)
    card = read_section(config, "card", CardArguments)
    data = read_section(config, "data", ImageDataArguments)
    start = read_section(config, "start", StartArguments) if config.get("start") is not None else None
    # A codec has no labels: what is evaluated is its loss. Crops come in their order, so that batches are of one shape.
    defaults = {
        "label_names": ["pixel_values"],
        "prediction_loss_only": True,
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
    }
    arguments = start_training(config, TrainingArguments, **defaults)
    model_config = build_config(config.get("model", {}))
    with arguments.main_process_first():
        images = load_images(data)  # before a model is made
        is_new = line.mode == "restart" or find_checkpoint(Path(str(arguments.output_dir))) is None
    model = JovioModel(model_config)
    if arguments.max_steps < 1:  # crops are without end, so there are no epochs
        raise ValueError(f"`trainer.max_steps` must be positive, got {arguments.max_steps}.")
    optimizer = build_optimizer(model, arguments, start.learning_rate_scale) if start is not None else None
    size = count_rows(arguments)  # crops of a step are of one shape, however many there are at once
    training = RandomCrops(data, images["train"], arguments.max_steps * size, arguments.seed, size)
    require_crops(data, training)
    validation = RandomCrops(data, images["validation"], data.num_validation_crops, arguments.seed, size)
    if start is not None and is_new:
        crops: Any = RandomCrops(data, images["train"], start.num_crops, arguments.seed + 1)
        patches = torch.cat(
            [cut_patches(crop["pixel_values"], model.config) for crop in progress(crops, "Patches to start from")]
        )
        start_from_principal_components(model, patches, start)
    trainer = CodecTrainer(
        model,
        arguments,
        train_dataset=training,
        eval_dataset=validation if len(validation) else None,
        data_collator=partial(collate_crops, config=model.config),
        processing_class=Processors.from_config(model.config, report.max_pixels),
        callbacks=[RunLog()],
        optimizers=(optimizer, None),
    )
    if not train(trainer, line.mode):
        return None
    return finish_together(trainer, partial(finish, trainer, data, images, report, card, line.command))


def finish(
    trainer: CodecTrainer,
    data: ImageDataArguments,
    images: dict[str, list[StoredImage]],
    report: ReportArguments,
    card: CardArguments,
    command: str,
    loss: dict[str, float],
) -> dict[str, Any]:
    """Save the model with its processors and card, and report on the images it never saw; in one process alone.

    Args:
        trainer ([`CodecTrainer`]): After training.
        data ([`ImageDataArguments`]): Sources of the images.
        images (`dict[str, list[StoredImage]]`): Images by split.
        report ([`ReportArguments`]): For the report.
        card ([`CardArguments`]): For the card.
        command (`str`): How the recipe was called.
        loss (`dict`): For the card, beside the scores.

    Returns:
        The scores of the report.
    """
    folder = Path(str(trainer.args.output_dir))
    model: Any = trainer.model
    save_in_half(model, folder / "model", eight_bits=(".codebook", ".layers."))
    trainer.processing_class.save_pretrained(folder / "model")
    unseen = [image for image in images["test"] if image.source != "video"]
    metrics: dict[str, Any] = {}
    if unseen:
        # What was saved is what is reported on, and what its rounding costs is said.
        most = model.config.num_quantizers
        saved: Any = JovioModel.from_pretrained(folder / "model").to(model.device)
        precise = score_images(model, Path(data.folder), unseen, report.max_pixels, [most])
        metrics = write_report(saved, Path(data.folder), unseen, folder / "report", report)
        metrics[f"psnr_{most}_float32"] = average_scores(precise, [most])[f"psnr_{most}"]
        trainer.log({f"test_{name}": value for name, value in metrics.items()})
    held_out = f"{len(unseen)} images of the same sources that were held out, means"
    write_card(trainer, card, command, describe_data(images["train"]), loss | metrics, held_out)
    return metrics


def describe_data(images: list[StoredImage]) -> list[str]:
    """Return a line for each source, collection and licence of the training data, with its authors, for the card."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for image in images:
        rows.setdefault((image.source, image.collection, image.licence), []).append(image.author)
    lines = []
    for (source, name, licence), authors in sorted(rows.items()):
        title = COLLECTIONS[name].title if name in COLLECTIONS else name or "unnamed files"
        credit = ", ".join(sorted({author for author in authors if author}))
        what = "clips" if source == "video" else source
        what = what.removesuffix("s") if len(authors) == 1 else what
        lines.append(f"{len(authors)} {what} of {title} ({licence})" + (f", by {credit}" if credit else ""))
    return lines


class Processors(tuple):
    """The processors of images and of videos, saved together."""

    @classmethod
    def from_config(cls, config: JovioConfig, max_pixels: int) -> "Processors":
        """Return the processors that make the inputs of a codec.

        Args:
            config ([`JovioConfig`]): The codec's.
            max_pixels (`int`): Larger images are shrunk to this area.
        """
        side = config.patch_size
        size = {"min_pixels": side**2, "max_pixels": max_pixels}
        times = {"temporal_patch_size": config.temporal_patch_size, "max_frames": config.max_frames}
        return cls(
            (JovioImageProcessor(patch_size=side, size=size), JovioVideoProcessor(patch_size=side, size=size, **times))
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Save both."""
        for processor in self:
            processor.save_pretrained(folder)


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    run_training(__doc__, train_model, argv)


if __name__ == "__main__":
    main()
