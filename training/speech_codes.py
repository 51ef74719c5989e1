"""The assistant's recorded speech to codes, ahead of training: a function for `map` of datasets, which caches them."""

from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel

from ..configuration_josie import audio_codec_geometry
from ..configuration_josie.constants import IGNORE_INDEX
from ..modeling_josie.codecs.adapters import encode_audio
from ..modeling_josie.codecs.protocol import AudioCodec
from ..processing_josie.message_forms import read_conversation
from ..processing_josie.messages import Conversation, is_audio_part, list_parts
from ..processing_josie.spoken_turns import join_turns, join_waveforms, split_codes, split_speech

_ROWS_AT_ONCE = 8


def add_speech_codes(
    examples: dict[str, list[Any]],
    codec: PreTrainedModel,
    num_quantizers: int | None = None,
    end_of_speech: bool = True,
) -> dict[str, list[np.ndarray]]:
    """Encode the audio in the assistant's turns.

    `dataset.map(partial(add_speech_codes, codec=codec), batched=True)` adds a column, made once and read from datasets'
    cache by later runs with the same codec; it works on streams too. [`JosieDataCollator`] then reads no audio of the
    assistant any more.

    Args:
        examples (`dict`): A batch of rows with `messages`, each as in [`JosieProcessor.apply_chat_template`], or with
            `conversations` in their place.
        codec: JODIO, the mel codec, or an audio tokenizer of transformers; on any device.
        num_quantizers (`int`, *optional*): Use only the first ones, as many as the Talker predicts; all when `None`.
        end_of_speech (`bool`): Add the frame by which a Talker learns to stop: the class after the last code in
            quantizer 0, -100 in the others.

    Returns:
        `speech_codes`: for each row `(num_quantizers, num_frames)`, or `(0, 0)` where nothing is spoken; of several
        turns one after the other, a frame of -100 between them. A turn that has `codes` keeps them as they are.

    Raises:
        `ValueError`: No such column, a clip cannot be read, a turn has more than one, `codes` are no integers of that
            shape, or `num_quantizers` is out of range.
    """
    config: Any = codec.config
    geometry, channels = audio_codec_geometry(config), getattr(config, "audio_channels", 1)
    columns = [examples[name] for name in ("messages", "conversations") if name in examples]
    if not columns:
        raise ValueError(f"`examples` must have a column `messages` or `conversations`, got {sorted(examples)}.")
    given: list[Any] = [next((value for value in row if value is not None), None) for row in zip(*columns, strict=True)]
    spoken = [split_speech(_require_own_codes(messages))[1] for messages in given]
    codes: dict[tuple[int, int], torch.Tensor] = {}  # by row and turn
    waveforms: dict[tuple[int, int], np.ndarray] = {}
    for row, turns in enumerate(spoken):
        for index, turn in enumerate(turns):
            if turn.codes is not None:
                codes[row, index] = turn.codes
            else:
                waveforms[row, index] = turn.read(geometry.sampling_rate, channels)
    # A row of ours is encoded as if it were alone; tokenizers of transformers do not all look past the padding.
    at_once = _ROWS_AT_ONCE if isinstance(codec, AudioCodec) else 1
    keys = sorted(waveforms, key=lambda key: waveforms[key].shape[1])
    was_training = codec.training
    codec.eval()  # or quantizers would learn from what they encode
    try:
        for start in range(0, len(keys), at_once):
            chosen = keys[start : start + at_once]
            values, mask = join_waveforms([waveforms[key] for key in chosen])
            encoded, real = encode_audio(codec, values.to(codec.device), mask.to(codec.device), num_quantizers)
            for key, value, length in zip(chosen, encoded.cpu(), real.sum(dim=1).tolist(), strict=True):
                value = value[:, :length]
                codes[key] = _end(value, geometry.codebook_size) if end_of_speech else value
    finally:
        codec.train(was_training)
    # Typed also where it is empty, as datasets takes a column's type from its first rows.
    nothing = torch.zeros(0, 0, dtype=torch.long)
    joined = (
        join_turns([codes[row, index] for index in range(len(turns))]) if turns else nothing
        for row, turns in enumerate(spoken)
    )
    return {"speech_codes": [value.numpy() for value in joined]}


def check_speech_codes(
    codes: np.ndarray, codebook_size: int, num_quantizers: int | None, most_quantizers: int, end_of_speech: bool
) -> None:
    """Raise a `ValueError` unless a Talker can learn codes.

    Args:
        codes (`np.ndarray`): `(num_quantizers, num_frames)`, or `(0, 0)` where nothing is spoken.
        codebook_size (`int`): Of the codec.
        num_quantizers (`int`, *optional*): Those that the codes must have; any up to `most_quantizers` when `None`.
        most_quantizers (`int`): Of the codec.
        end_of_speech (`bool`): Whether the class after the last code, in quantizer 0, ends them.
    """
    if codes.size == 0:
        return
    if codes.shape[0] > most_quantizers or num_quantizers not in (None, codes.shape[0]):
        allowed = f"at most {most_quantizers}" if num_quantizers is None else num_quantizers
        raise ValueError(f"`speech_codes` must be of {allowed} quantizers, got {codes.shape[0]}.")
    highest = np.full((codes.shape[0], 1), codebook_size - 1)
    highest[0] += end_of_speech
    if ((codes > highest) | ((codes < 0) & (codes != IGNORE_INDEX))).any():
        end = f", or in quantizer 0 {codebook_size} for the end" if end_of_speech else ""
        raise ValueError(
            f"`speech_codes` must be in [0, {codebook_size - 1}], or {IGNORE_INDEX}{end}, got values from "
            f"{codes.min()} to {codes.max()}."
        )


def _require_own_codes(messages: Any) -> Conversation:
    """Return messages, whose parts have codes of integers."""
    conversation = read_conversation(messages)
    for message in conversation:
        for part in list_parts(message) if message.get("role") == "assistant" else ():
            if is_audio_part(part):
                split_codes(part.get("codes"))
    return conversation


def _end(codes: torch.Tensor, end_of_speech_id: int) -> torch.Tensor:
    """Return codes with one more frame, which says that they end."""
    frame = codes.new_full((codes.shape[0], 1), IGNORE_INDEX)
    frame[0] = end_of_speech_id
    return torch.cat((codes, frame), dim=1)
