"""A teacher of the audio encoder: another encoder, of transformers, whose features are predicted frame by frame.

A teacher needs no transcripts, so that any audio can be learned from, and says far more of each moment than letters do
(knowledge distillation, Hinton et al., 2015). It hears the clips as they are, while the encoder may hear them changed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.fingerprint import Hasher
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from josie.modeling_josie.losses.unused_parts import add_zero_gradients
from josie.processing_josie.audio import as_waveform
from josie.processing_josie.messages import is_audio_part, list_parts, part_value
from josie.training.whole_checkpoints import EXTRA_FILE
from recipes.audio_ctc import CTCArguments, CTCModel, CTCOutput, count_features
from recipes.places import make_folder


@dataclass
class TeacherArguments:
    """The teacher, and the weight of its loss.

    Args:
        path (`str`): Folder or Hub name of a model of transformers with an audio encoder: Whisper, wav2vec 2.0, HuBERT.
        layer (`int`, *optional*): Features after so many of its layers; after its last norm when `None`.
        weight (`float`): Weight of the loss.
        delay (`int`): Features by which the encoder may be late: one that is causal then knows what follows.
        only (`bool`): Train the encoder by the teacher alone; the language model is not even run. With `ctc`, whose own
            `only` says that, false.
        cache (`str`, *optional*): Folder for its features, which are made once there; at every step when `None`.
    """

    path: str
    layer: int | None = None
    weight: float = 1.0
    delay: int = 0
    only: bool = False
    cache: str | None = None

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"`teacher.weight` must be above 0, got {self.weight}.")
        if self.delay < 0:
            raise ValueError(f"`teacher.delay` must be at least 0, got {self.delay}.")


class Teacher:
    """An encoder of transformers that gives features of waveforms.

    Args:
        arguments ([`TeacherArguments`]): Which, and where its features are kept.

    Raises:
        `ValueError`: There is no such model, or no such layer.
    """

    def __init__(self, arguments: TeacherArguments):
        try:
            config: Any = AutoConfig.from_pretrained(arguments.path)
            self.extractor: Any = AutoFeatureExtractor.from_pretrained(arguments.path)
            model: Any = AutoModel.from_pretrained(arguments.path)
        except OSError as error:
            raise ValueError(
                f"`teacher.path` must be a folder or Hub name of a model, got {arguments.path!r}."
            ) from error
        self.encoder: Any = model.get_encoder() if config.is_encoder_decoder else model
        self.encoder = self.encoder.eval().requires_grad_(False)
        self.layer, self.cache = arguments.layer, None if arguments.cache is None else Path(arguments.cache)
        self.width, num_layers = self.encoder.config.hidden_size, self.encoder.config.num_hidden_layers
        if self.layer is not None and not 0 <= self.layer <= num_layers:
            raise ValueError(f"`teacher.layer` must be in [0, {num_layers}], got {self.layer}.")
        self._name = Hasher.hash((config.to_dict(), self.extractor.to_dict(), self.layer))
        if self.cache is not None:
            make_folder(self.cache, "teacher.cache")

    @property
    def sampling_rate(self) -> int:
        """Rate of the waveforms, in Hz."""
        return self.extractor.sampling_rate

    def listen(self, waveform: np.ndarray) -> np.ndarray:
        """Return the features of a clip, `(num_frames, width)`, float16.

        Args:
            waveform (`np.ndarray`): `(num_samples,)`.
        """
        if self.cache is None:
            return self._encode(waveform)
        path = self.cache / f"{self._name}-{Hasher.hash(waveform.tobytes())}.npy"
        if not path.exists():
            made = path.with_suffix(f".{np.random.default_rng().integers(2**62)}")  # other workers may be at it
            with made.open("wb") as file:
                np.save(file, self._encode(waveform))
            made.rename(path)
        return np.load(path)

    @torch.no_grad()
    def _encode(self, waveform: np.ndarray) -> np.ndarray:
        longest = getattr(self.extractor, "n_samples", None)  # Whisper reads 30 seconds, silence included
        starts = range(0, max(len(waveform), 1), longest or max(len(waveform), 1))
        pieces = []
        for start in starts:
            piece = waveform[start : start + longest] if longest else waveform
            inputs = self.extractor(piece, sampling_rate=self.sampling_rate, return_tensors="pt")
            output = self.encoder(**inputs, output_hidden_states=self.layer is not None)
            features = output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
            kept = math.ceil(features.shape[1] * len(piece) / longest) if longest else features.shape[1]
            pieces.append(features[0, :kept])
        return torch.cat(pieces).half().numpy()


@dataclass
class TeacherCollator:
    """Adds to a batch of conversations the teacher's features of what is heard.

    Args:
        collate (`Callable`): Makes the batch.
        teacher ([`Teacher`]): Makes the features.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    teacher: Teacher

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch, with `teacher_features`, `(num_clips, max_frames, width)`, and `teacher_lengths`,
        `(num_clips,)`, where there are clips."""
        batch = self.collate(rows)
        heard = [message for row in rows for message in row["messages"] if message.get("role") != "assistant"]
        parts = [part for message in heard for part in list_parts(message) if is_audio_part(part)]
        if parts:
            rate = self.teacher.sampling_rate
            clips = [self.teacher.listen(as_waveform(part_value(part), None, rate, 1)[0]) for part in parts]
            features = [torch.from_numpy(clip).float() for clip in clips]
            batch["teacher_features"] = nn.utils.rnn.pad_sequence(features, batch_first=True)
            batch["teacher_lengths"] = torch.tensor([len(clip) for clip in features])
        return batch


class TaughtModel(CTCModel):
    """A JOSIE, or a Thinker alone, whose audio encoder learns to predict a teacher's features, and perhaps letters.

    The loss is the mean square of what is missed of the features, each brought to mean 0 and variance 1: 1 for a guess
    of nothing.

    Args:
        model: As of [`CTCModel`].
        letters ([`CTCArguments`], *optional*): Of letters; none are learned when `None`.
        arguments ([`TeacherArguments`]): Of the teacher.
        width (`int`): Width of its features.

    Raises:
        `ValueError`: As [`CTCModel`], or both say `only`.
    """

    def __init__(self, model: Any, letters: CTCArguments | None, arguments: TeacherArguments, width: int):
        if letters is not None and arguments.only:
            raise ValueError("`teacher.only` must be false with `ctc`, whose own `only` says it, got true.")
        super().__init__(model, letters or CTCArguments(only=arguments.only))
        self.teaching = arguments
        if letters is None:
            self.ctc_head, self.target_names = None, tuple(name for name in self.target_names if name != "ctc")
        self.teacher_head = nn.Linear(self.encoder.config.hidden_size, width, dtype=torch.float32)
        self.target_names = (*self.target_names, "teacher")

    def count_targets(
        self, teacher_lengths: torch.Tensor | None = None, teacher_features: Any = None, **batch: Any
    ) -> dict[str, torch.Tensor]:
        """Return the number of targets of each kind in a batch; takes what `forward` takes."""
        counts = super().count_targets(**batch)
        if teacher_lengths is None:
            return counts
        return counts | {"teacher": (count_features(self.encoder, batch) - self.teaching.delay).clamp(min=0).sum()}

    def add_ctc(self, outputs: Any, *args: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the loss as [`CTCModel`] does, without CTC where no letters are learned."""
        if self.ctc_head is not None:
            return super().add_ctc(outputs, *args)
        loss: Any = outputs.get("loss")
        return self.teacher_head.weight.new_zeros(()) if loss is None else loss, None

    def forward(
        self,
        teacher_features: torch.Tensor | None = None,
        teacher_lengths: torch.Tensor | None = None,
        ctc_labels: torch.Tensor | None = None,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
        **batch: Any,
    ) -> CTCOutput:
        """Return the losses of the model, that of CTC, and that of the teacher.

        Args:
            teacher_features (`torch.FloatTensor`, *optional*): `(num_clips, max_frames, width)`.
            teacher_lengths (`torch.LongTensor`, *optional*): `(num_clips,)`, frames of each clip.
            ctc_labels, num_items_in_batch, batch: As of [`CTCModel`].
        """
        outputs, states = self.encode(batch, num_items_in_batch)
        loss, ctc_loss = self.add_ctc(outputs, states, batch, ctc_labels, num_items_in_batch)
        teacher_loss = None
        if teacher_features is None or teacher_lengths is None or states is None:
            loss = add_zero_gradients(loss, self.teacher_head, lambda: self.teacher_head(self.teacher_head.weight[:1]))
        else:
            frames = count_features(self.encoder, batch)
            missed = self._miss(states, frames, teacher_features, teacher_lengths)
            count = (frames - self.teaching.delay).clamp(min=0).sum()
            count = count if num_items_in_batch is None else num_items_in_batch["teacher"]
            teacher_loss = missed / count.clamp(min=1)
            loss = loss + self.teaching.weight * teacher_loss
        return self.describe(outputs, loss=loss, ctc_loss=ctc_loss, teacher_loss=teacher_loss)

    def _miss(
        self, states: torch.Tensor, frames: torch.Tensor, features: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Return the sum over the encoder's features of the mean squares that they miss."""
        predicted = self.teacher_head(states.to(self.teacher_head.weight.dtype))
        delay, losses = self.teaching.delay, []
        for row, clip, size, length in zip(predicted, features, frames.tolist(), lengths.tolist(), strict=True):
            if size <= delay:
                continue
            # Whatever the rates are, both cover the clip.
            wanted = nn.functional.interpolate(clip[:length].T[None], size=size, mode="linear")[0].T
            wanted = nn.functional.layer_norm(wanted, wanted.shape[-1:])
            losses.append((row[delay:size] - wanted[: size - delay]).square().mean(dim=-1).sum())
        return torch.stack(losses).sum() if losses else predicted.sum() * 0.0

    def describe_extra_weights(self) -> dict[str, str]:
        """Return the settings of letters, where they are learned."""
        return {} if self.ctc_head is None else super().describe_extra_weights()

    def load_head(self, folder: str | Path) -> None:
        """Load the heads of a checkpoint that another run left, as far as they fit."""
        if self.ctc_head is not None:
            super().load_head(folder)
        path = Path(folder, EXTRA_FILE)
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys() if name.startswith("teacher_head.")}  # noqa: SIM118
        if found and found["teacher_head.weight"].shape == self.teacher_head.weight.shape:
            self.load_state_dict(found, strict=False)
