"""Connectionist temporal classification (CTC) of letters beside the Thinker's loss, on the audio encoder's states.

CTC (Graves et al., 2006) needs no alignment between audio and letters, and teaches a young encoder sooner than the
answers of a language model, which are far behind it. An encoder of few frames predicts several letters a frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.modeling_outputs import ModelOutput

from josie.modeling_josie.losses.unused_parts import add_zero_gradients
from josie.processing_josie.messages import is_audio_part, list_parts
from josie.training.whole_checkpoints import EXTRA_FILE

ALPHABET = " abcdefghijklmnopqrstuvwxyz'"
_BLANK, _UNKNOWN = 0, -100


@dataclass
class CTCArguments:
    """The weight of CTC, and its letters.

    Args:
        weight (`float`): Weight of the loss.
        letters_per_frame (`int`): Most letters in a frame of the encoder.
        only (`bool`): Train the encoder by CTC alone; the language model is not even run.
        alphabet (`str`): The letters, small ones; everything else in a transcript is left out.
    """

    weight: float = 0.3
    letters_per_frame: int = 3
    only: bool = False
    alphabet: str = ALPHABET

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"`ctc.weight` must be above 0, got {self.weight}.")
        if self.letters_per_frame < 1:
            raise ValueError(f"`ctc.letters_per_frame` must be at least 1, got {self.letters_per_frame}.")
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet) or self.alphabet != self.alphabet.lower():
            raise ValueError(f"`ctc.alphabet` must be different small letters, got {self.alphabet!r}.")


@dataclass
class CTCOutput(ModelOutput):
    """The output of [`CTCModel`]: the loss, its own parts, and the losses and logits of the model inside.

    Args:
        loss (`torch.Tensor`): What is learned: the model's own loss and those that follow, weighted.
        ctc_loss, teacher_loss (`torch.Tensor`, *optional*): Of letters, and of a teacher's features.
        text_loss, talker_loss, depth_loss (`torch.Tensor`, *optional*): Of the model inside.
        logits (`torch.Tensor`, *optional*): Of the model inside.
    """

    loss: torch.Tensor | None = None
    ctc_loss: torch.Tensor | None = None
    teacher_loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    talker_loss: torch.Tensor | None = None
    depth_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class CTCModel(nn.Module):
    """A JOSIE, or a Thinker alone, with a head that predicts letters from its audio encoder.

    Args:
        model: [`JosieForConditionalGeneration`] or [`JosieThinkerForConditionalGeneration`], with a
            [`JosieAudioEncoder`]. With `only`, everything else of it is frozen.
        arguments ([`CTCArguments`]): The weight of CTC, and its letters.

    Raises:
        `ValueError`: The model has another audio encoder, or none.
    """

    def __init__(self, model: Any, arguments: CTCArguments):
        super().__init__()
        thinker = getattr(model, "thinker", model)
        audio_config = thinker.config.audio_config
        needed = "josie_audio_encoder"
        if audio_config is None or audio_config.model_type != needed:
            found = "none" if audio_config is None else f"a {audio_config.model_type!r}"
            raise ValueError(f"`ctc` must be null for a model without a {needed!r}, got one with {found}.")
        self.model, self.arguments = model, arguments
        num_classes = arguments.letters_per_frame * (1 + len(arguments.alphabet))
        self.ctc_head: Any = nn.Linear(audio_config.hidden_size, num_classes, dtype=torch.float32)
        self.target_names = (*model.target_names, "ctc")
        if arguments.only:
            learning = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
            model.requires_grad_(False)
            for parameter in learning:
                parameter.requires_grad_(True)

    @property
    def _front_end(self) -> Any:
        return getattr(self.model, "thinker", self.model).model.audio_front_end

    @property
    def encoder(self) -> Any:
        """The audio encoder."""
        return self._front_end.encoder

    # The interface of a model for `Trainer`.

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass."""
        self.model.gradient_checkpointing_enable(**kwargs)

    def count_targets(self, ctc_labels: torch.Tensor | None = None, **batch: Any) -> dict[str, torch.Tensor]:
        """Return the number of targets of each kind in a batch; takes what `forward` takes."""
        counts = {} if self.arguments.only else self.model.count_targets(**batch)
        return counts if ctc_labels is None else counts | {"ctc": (ctc_labels > _BLANK).sum()}

    def forward(
        self,
        ctc_labels: torch.Tensor | None = None,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
        **batch: Any,
    ) -> CTCOutput:
        """Return the losses of the model, and that of CTC.

        Args:
            ctc_labels (`torch.LongTensor`, *optional*): `(num_clips, max_letters)`, the letters of each clip as
                [`CTCCollator`] makes them, filled up with 0; -100 in clips that nobody has written down.
            num_items_in_batch (`dict`, *optional*): As `count_targets` returns it, of the whole batch.
            batch: Of the model.
        """
        outputs, states = self.encode(batch, num_items_in_batch)
        loss, ctc_loss = self.add_ctc(outputs, states, batch, ctc_labels, num_items_in_batch)
        return self.describe(outputs, loss=loss, ctc_loss=ctc_loss)

    def add_ctc(
        self,
        outputs: Any,
        states: torch.Tensor | None,
        batch: dict[str, Any],
        ctc_labels: torch.Tensor | None,
        num_items_in_batch: dict[str, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the loss of the model with that of CTC, and the latter.

        Args:
            outputs: Of the model.
            states (`torch.Tensor`, *optional*): Of the audio encoder; `None` without clips.
            batch (`dict`): Inputs of the model.
            ctc_labels (`torch.LongTensor`, *optional*): As of `forward`.
            num_items_in_batch (`dict[str, torch.Tensor]`, *optional*): Targets of the whole update; those of this batch
                when `None`.
        """
        loss: Any = outputs.get("loss")
        loss = self.ctc_head.weight.new_zeros(()) if loss is None else loss
        ctc_loss = None
        if ctc_labels is None or states is None:
            loss = add_zero_gradients(loss, self.ctc_head, lambda: self.ctc_head(self.ctc_head.weight[:1]))
        else:
            frames = count_features(self.encoder, batch)
            sums = self._ctc_losses(states, frames, ctc_labels)
            count = (ctc_labels > _BLANK).sum() if num_items_in_batch is None else num_items_in_batch["ctc"]
            ctc_loss = sums.sum() / count.clamp(min=1)
            loss = loss + self.arguments.weight * ctc_loss
        return loss, ctc_loss

    def describe(self, outputs: Any, **losses: torch.Tensor | None) -> CTCOutput:
        """Return the losses beside those of the model."""
        kept = {name: outputs.get(name) for name in ("text_loss", "talker_loss", "depth_loss", "logits")}
        if self.model.target_names == ("text",):  # a Thinker alone, whose only loss has no name
            kept["text_loss"] = outputs.get("loss")
        return CTCOutput(**losses, **kept)

    def encode(self, batch: dict[str, Any], num_items: Any) -> tuple[Any, torch.Tensor | None]:
        """Return what the model returns, and the states of its audio encoder, `(num_clips, max_frames, width)`."""
        encoder, inputs = self.encoder, encoder_inputs(batch)
        if self.arguments.only:
            if inputs is not None:
                return {}, encoder(**inputs).last_hidden_state
            nothing = encoder.proj.weight.new_zeros((), dtype=torch.float32)
            return {"loss": add_zero_gradients(nothing, encoder, self._front_end.dummy_forward)}, None
        heard: list[Any] = []
        handle = encoder.register_forward_hook(lambda module, inputs, output: heard.append(output))
        try:
            outputs = self.model(num_items_in_batch=num_items, **batch)
        finally:
            handle.remove()
        return outputs, None if inputs is None else heard[0].last_hidden_state

    def _ctc_losses(self, states: torch.Tensor, frames: torch.Tensor, ctc_labels: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood of each clip's letters, `(num_clips,)`.

        It is 0 where nobody knows them, and where they are more than the frames can spell.
        """
        losses = nn.functional.ctc_loss(
            self._letter_logits(states).float().log_softmax(dim=-1).transpose(0, 1),
            ctc_labels.clamp(min=_BLANK),
            frames * self.arguments.letters_per_frame,
            (ctc_labels > _BLANK).sum(dim=1),
            blank=_BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return torch.where(ctc_labels[:, 0] != _UNKNOWN, losses, 0.0)

    def _letter_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return `(num_clips, letters_per_frame * max_frames, 1 + letters of the alphabet)`."""
        logits = self.ctc_head(states.to(self.ctc_head.weight.dtype))
        return logits.unflatten(-1, (self.arguments.letters_per_frame, -1)).flatten(1, 2)

    @torch.no_grad()
    def read_letters(self, inputs: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Return what the encoder spells of each clip, the likeliest letter at each place.

        Args:
            inputs (`torch.Tensor`): `input_features`, or `input_values` of an encoder that reads waveforms.
            mask (`torch.Tensor`): `input_features_mask`, or `padding_mask`.
        """
        name = self.encoder.main_input_name
        batch = {name: inputs, "padding_mask" if name == "input_values" else "input_features_mask": mask}
        states = self.encoder(**encoder_inputs(batch)).last_hidden_state
        frames = count_features(self.encoder, batch) * self.arguments.letters_per_frame
        chosen = zip(self._letter_logits(states).argmax(-1), frames.tolist(), strict=True)
        rows = [torch.unique_consecutive(row[:length]).tolist() for row, length in chosen]
        return ["".join(self.arguments.alphabet[letter - 1] for letter in row if letter != _BLANK) for row in rows]

    def describe_extra_weights(self) -> dict[str, str]:
        """Return the settings that the weights of the head belong to, for the metadata of their file."""
        return {"alphabet": self.arguments.alphabet, "letters_per_frame": str(self.arguments.letters_per_frame)}

    def load_head(self, folder: str | Path) -> None:
        """Load the head of a checkpoint that another run left, if there is one.

        Raises:
            `ValueError`: It has other settings.
        """
        path = Path(folder, EXTRA_FILE)
        if not path.exists():
            return
        wanted = self.describe_extra_weights()
        with safe_open(path, framework="pt") as file:
            if "ctc_head.weight" not in file.keys():  # noqa: SIM118
                return
            metadata = {name: value for name, value in file.metadata().items() if name != "format"}
            if metadata != wanted:
                raise ValueError(f"`ctc` must have the settings of {str(path)!r} ({metadata}), got {wanted}.")
            self.load_state_dict({name: file.get_tensor(name) for name in file.keys()}, strict=False)  # noqa: SIM118


def encoder_inputs(batch: dict[str, Any]) -> Any:
    """Return the arguments of a [`JosieAudioEncoder`] in a batch, mel frames or waveforms; `None` without clips."""
    if batch.get("input_features") is not None:
        return {"input_features": batch["input_features"], "attention_mask": batch["input_features_mask"]}
    if batch.get("input_values") is not None:
        return {"input_values": batch["input_values"], "padding_mask": batch["padding_mask"]}
    return None


def count_features(encoder: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return how many features an encoder gives of each clip of a batch, `(num_clips,)`."""
    mask = batch["input_features_mask" if batch.get("input_features") is not None else "padding_mask"]
    return encoder.downsample_mask(mask).sum(dim=1)


@dataclass
class CTCCollator:
    """Adds to a batch of conversations the letters of the transcripts of the user's audio.

    A transcript is the `text` of a content part that is audio.

    Args:
        collate (`Callable`): Makes the batch.
        alphabet (`str`): The letters.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    alphabet: str = ALPHABET

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch, with `ctc_labels`, `(num_clips, max_letters)`, where there are clips.

        It is filled up with 0, and -100 throughout in a clip that has no text.
        """
        batch = self.collate(rows)
        texts = [text for row in rows for text in list_row_transcripts(row)]
        if texts:
            letters = [[_UNKNOWN] if text is None else encode_letters(text, self.alphabet) for text in texts]
            longest = max(1, *map(len, letters))
            padded = [row + [row[0] if row == [_UNKNOWN] else _BLANK] * (longest - len(row)) for row in letters]
            batch["ctc_labels"] = torch.tensor(padded)
        return batch


def list_transcripts(messages: list[dict[str, Any]]) -> list[str | None]:
    """Return the transcript of each clip of the user, `None` where there is none."""
    heard = [message for message in messages if message.get("role") != "assistant"]
    return [part.get("text") for message in heard for part in list_parts(message) if is_audio_part(part)]


def list_row_transcripts(row: dict[str, Any]) -> list[str | None]:
    """Return the transcript of each clip of a row; one of full duplex has a track, and as `text` what is said in it."""
    return list_transcripts(row["messages"]) if row.get("turns") is None else [row.get("text")]


def encode_letters(text: str, alphabet: str = ALPHABET) -> list[int]:
    """Return the letters of a text as numbers from 1; whatever is not in the alphabet is left out."""
    return [1 + alphabet.index(letter) for letter in text.lower() if letter in alphabet]
