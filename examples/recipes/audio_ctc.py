"""Learning to hear by spelling: the audio encoder says the letters of what it hears, before and beside any answer.

Connectionist temporal classification (Graves et al., 2006) needs no alignment between sounds and letters and soon
tells a young encoder what is in a sound, where the answers of a language model, far behind it, tell it little. An
encoder of few frames spells several letters a frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.modeling_outputs import ModelOutput

from josie.modeling_josie.losses.unused_parts import add_zero_gradients
from josie.processing_josie.messages import is_audio_part, list_parts

ALPHABET = " abcdefghijklmnopqrstuvwxyz'"
HEAD_FILE = "spelling.safetensors"
_BLANK, _UNKNOWN = 0, -100


@dataclass
class ListeningArguments:
    """How much is spelled.

    Args:
        weight (`float`): Of the loss of spelling.
        letters_per_frame (`int`): Most letters that a frame of the encoder spells.
        only (`bool`): Learn nothing but to spell; the language model is not even run.
        alphabet (`str`): The letters, small ones; whatever else is in a transcript is left out.
    """

    weight: float = 0.3
    letters_per_frame: int = 3
    only: bool = False
    alphabet: str = ALPHABET

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"`listening.weight` must be above 0, got {self.weight}.")
        if self.letters_per_frame < 1:
            raise ValueError(f"`listening.letters_per_frame` must be at least 1, got {self.letters_per_frame}.")
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet) or self.alphabet != self.alphabet.lower():
            raise ValueError(f"`listening.alphabet` must be different small letters, got {self.alphabet!r}.")


@dataclass
class ListeningOutput(ModelOutput):
    """What [`ListeningModel`] returns: the loss, its part of spelling, and what the model returned."""

    loss: torch.Tensor | None = None
    spelling_loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    talker_loss: torch.Tensor | None = None
    depth_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class ListeningModel(nn.Module):
    """A JOSIE, or a Thinker alone, whose audio encoder also spells what it hears.

    Args:
        model: [`JosieForConditionalGeneration`] or [`JosieThinkerForConditionalGeneration`], with a
            [`JosieAudioEncoder`]. Where nothing but spelling is learned, everything else of it is frozen.
        arguments ([`ListeningArguments`]): How much is spelled.

    Raises:
        `ValueError`: The model hears by other means.
    """

    def __init__(self, model: Any, arguments: ListeningArguments):
        super().__init__()
        thinker = getattr(model, "thinker", model)
        audio_config = thinker.config.audio_config
        needed = "josie_audio_encoder"
        if audio_config is None or audio_config.model_type != needed:
            found = "none" if audio_config is None else f"a {audio_config.model_type!r}"
            raise ValueError(f"`listening` must be null for a model without a {needed!r}, got one with {found}.")
        self.model, self.arguments = model, arguments
        self.spell = nn.Linear(
            audio_config.hidden_size, arguments.letters_per_frame * (1 + len(arguments.alphabet)), dtype=torch.float32
        )
        self.target_names = (*model.target_names, "spelling")
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

    @property
    def config(self) -> Any:
        """The model's configuration, for who asks a trained model."""
        return self.model.config

    # What `Trainer` asks of a model.

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Compute again what gradients need."""
        self.model.gradient_checkpointing_enable(**kwargs)

    def tie_weights(self) -> None:
        """Tie the model's weights."""
        self.model.tie_weights()

    @property
    def _keys_to_ignore_on_save(self) -> list[str]:
        """Names of weights that are others of them."""
        names = dict.fromkeys(name for name, _ in self.named_parameters())
        return [name for name, _ in self.named_parameters(remove_duplicate=False) if name not in names]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the weights, those that are tied once: they are saved as they are."""
        state = super().state_dict(*args, **kwargs)
        for name in self._keys_to_ignore_on_save:
            state.pop(name, None)
        return state

    def count_targets(self, spelling: torch.Tensor | None = None, **batch: Any) -> dict[str, torch.Tensor]:
        """Return how many targets of each kind a batch has; takes what `forward` takes."""
        counts = {} if self.arguments.only else self.model.count_targets(**batch)
        return counts if spelling is None else counts | {"spelling": (spelling > _BLANK).sum()}

    def forward(
        self,
        spelling: torch.Tensor | None = None,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
        **batch: Any,
    ) -> ListeningOutput:
        """Return the losses of the model, and that of spelling.

        Args:
            spelling (`torch.LongTensor`, *optional*): `(num_clips, max_letters)`, the letters of each clip as
                [`SpellingCollator`] makes them, filled up with 0; -100 in clips that nobody has written down.
            num_items_in_batch (`dict`, *optional*): As `count_targets` returns it, of the whole batch.
            batch: Of the model.
        """
        outputs, states = self._listen(batch, num_items_in_batch)
        loss: Any = outputs.get("loss")
        loss = self.spell.weight.new_zeros(()) if loss is None else loss
        spelling_loss = None
        if spelling is None or states is None:
            loss = add_zero_gradients(loss, self.spell, lambda: self.spell(self.spell.weight[:1]))
        else:
            frames = self.encoder.downsample_mask(batch["input_features_mask"]).sum(dim=1)
            sums = self._spelling_losses(states, frames, spelling)
            count = (spelling > _BLANK).sum() if num_items_in_batch is None else num_items_in_batch["spelling"]
            spelling_loss = sums.sum() / count.clamp(min=1)
            loss = loss + self.arguments.weight * spelling_loss
        kept = {name: outputs.get(name) for name in ("text_loss", "talker_loss", "depth_loss", "logits")}
        if self.model.target_names == ("text",):  # a Thinker alone, whose only loss has no name
            kept["text_loss"] = outputs.get("loss")
        return ListeningOutput(loss=loss, spelling_loss=spelling_loss, **kept)

    def _listen(self, batch: dict[str, Any], num_items: Any) -> tuple[Any, torch.Tensor | None]:
        """Return what the model returns, and the states of its audio encoder, `(num_clips, max_frames, width)`."""
        encoder, features = self.encoder, batch.get("input_features")
        if self.arguments.only:
            if features is not None:
                return {}, encoder(features, attention_mask=batch["input_features_mask"]).last_hidden_state
            nothing = self.spell.weight.new_zeros(())
            return {"loss": add_zero_gradients(nothing, encoder, self._front_end.dummy_forward)}, None
        heard: list[Any] = []
        handle = encoder.register_forward_hook(lambda module, inputs, output: heard.append(output))
        try:
            outputs = self.model(num_items_in_batch=num_items, **batch)
        finally:
            handle.remove()
        return outputs, None if features is None else heard[0].last_hidden_state

    def _spelling_losses(self, states: torch.Tensor, frames: torch.Tensor, spelling: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood of each clip's letters, `(num_clips,)`.

        It is 0 where nobody knows them, and where they are more than the frames can spell.
        """
        losses = nn.functional.ctc_loss(
            self._spell(states).float().log_softmax(dim=-1).transpose(0, 1),
            spelling.clamp(min=_BLANK),
            frames * self.arguments.letters_per_frame,
            (spelling > _BLANK).sum(dim=1),
            blank=_BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return torch.where(spelling[:, 0] != _UNKNOWN, losses, 0.0)

    def _spell(self, states: torch.Tensor) -> torch.Tensor:
        """Return `(num_clips, letters_per_frame * max_frames, 1 + letters of the alphabet)`."""
        logits = self.spell(states.to(self.spell.weight.dtype))
        return logits.unflatten(-1, (self.arguments.letters_per_frame, -1)).flatten(1, 2)

    @torch.no_grad()
    def read_letters(self, input_features: torch.Tensor, input_features_mask: torch.Tensor) -> list[str]:
        """Return what the encoder spells of each clip, the likeliest letter at each place."""
        states = self.encoder(input_features, attention_mask=input_features_mask).last_hidden_state
        frames = self.encoder.downsample_mask(input_features_mask).sum(dim=1) * self.arguments.letters_per_frame
        chosen = zip(self._spell(states).argmax(-1), frames.tolist(), strict=True)
        rows = [torch.unique_consecutive(row[:length]).tolist() for row, length in chosen]
        return ["".join(self.arguments.alphabet[letter - 1] for letter in row if letter != _BLANK) for row in rows]

    def save_head(self, folder: Path) -> None:
        """Write the head that spells, which is no part of the model, into a folder."""
        weights = {name: value.contiguous() for name, value in self.spell.state_dict().items()}
        save_file(weights, folder / HEAD_FILE, metadata=self._describe_head())

    def load_head(self, folder: Path) -> None:
        """Go on with the head in a folder, if there is one.

        Raises:
            `ValueError`: It spells otherwise.
        """
        if not (folder / HEAD_FILE).exists():
            return
        with safe_open(folder / HEAD_FILE, framework="pt") as file:
            if file.metadata() != self._describe_head():
                raise ValueError(
                    f"`listening` must spell as {str(folder / HEAD_FILE)!r} does ({file.metadata()}), "
                    f"got {self._describe_head()}."
                )
            self.spell.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def _describe_head(self) -> dict[str, str]:
        return {"alphabet": self.arguments.alphabet, "letters_per_frame": str(self.arguments.letters_per_frame)}


@dataclass
class SpellingCollator:
    """Adds to a batch of conversations the letters of what is said in the sounds that are heard.

    They are the `text` of a content part that is a sound.

    Args:
        collate: Makes the batch.
        alphabet (`str`): The letters.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    alphabet: str = ALPHABET

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch, with `spelling`, `(num_clips, max_letters)`, where there are clips.

        It is filled up with 0, and -100 throughout in a clip that has no text.
        """
        batch = self.collate(rows)
        texts = [text for row in rows for text in list_transcripts(row["messages"])]
        if texts:
            letters = [[_UNKNOWN] if text is None else spell(text, self.alphabet) for text in texts]
            longest = max(1, *map(len, letters))
            padded = [row + [row[0] if row == [_UNKNOWN] else _BLANK] * (longest - len(row)) for row in letters]
            batch["spelling"] = torch.tensor(padded)
        return batch


def list_transcripts(messages: list[dict[str, Any]]) -> list[str | None]:
    """Return what is said in each sound that is heard, `None` where nobody knows."""
    heard = [message for message in messages if message.get("role") != "assistant"]
    return [part.get("text") for message in heard for part in list_parts(message) if is_audio_part(part)]


def spell(text: str, alphabet: str = ALPHABET) -> list[int]:
    """Return the letters of a text as numbers from 1; whatever is not in the alphabet is left out."""
    return [1 + alphabet.index(letter) for letter in text.lower() if letter in alphabet]
