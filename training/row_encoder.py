"""Rows of a data set to rows with codes of speech, and on request with the features of an audio encoder."""

import math
from typing import Any

import torch
from datasets import Features, List, Value
from transformers import PreTrainedModel

from ..configuration_josie import audio_codec_geometry, is_codec
from ..modeling_josie import JosieForConditionalGeneration
from ..processing_josie.audio import as_waveform
from ..processing_josie.feature_extraction import JosieFeatureExtractor
from ..processing_josie.message_forms import read_conversation
from ..processing_josie.messages import is_audio_part, list_parts, part_value
from ..processing_josie.spoken_turns import with_codes
from .speech_codes import add_speech_codes, check_speech_codes

CODES = List(List(Value("int32")))
FEATURES = List(List(List(Value("float32"))))
# What the values of a row can cause: not a device or memory that fails, which says nothing of the row.
ROW_ERRORS = (ValueError, OSError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


class RowEncoder:
    """Encodes rows.

    Rows with `messages` get `speech_codes` of the assistant's recording, ended for a Talker that learns to stop, and
    their `length` in frames, 0 where nothing is spoken. Rows with `audio` get `audio_codes` and `length` in its place.
    `audio_features` are the audio encoder's last states of each clip of the user, or of the recording,
    `(num_clips, num_frames, width)`.

    Args:
        codec (`PreTrainedModel`): An audio codec.
        num_quantizers (`int`, *optional*): Use the first ones only.
        end_of_speech (`bool`): Whether conversations end with the class by which a Talker stops.
        hearing (`tuple`, *optional*): A [`JosieForConditionalGeneration`] and its processor, for `audio_features`.
    """

    def __init__(
        self, codec: PreTrainedModel, num_quantizers: int | None, end_of_speech: bool, hearing: tuple[Any, Any] | None
    ):
        self.codec, self.num_quantizers, self.end_of_speech = codec, num_quantizers, end_of_speech
        self.hearing = hearing
        self.frame_rate = audio_codec_geometry(codec.config).frame_rate

    @classmethod
    def of_model(
        cls, model: PreTrainedModel, processor: Any, num_quantizers: int | None, has_features: bool
    ) -> "RowEncoder":
        """Return the encoder of a JOSIE, whose Talker chooses the codes, or of an audio codec alone.

        Args:
            model (`PreTrainedModel`): A JOSIE or an audio codec.
            processor ([`JosieProcessor`]): Of the JOSIE; not read for a codec.
            num_quantizers (`int`, *optional*): Use the first ones only; with a JOSIE, those of its Talker when `None`.
            has_features (`bool`): Whether to encode clips of the user for the Thinker.

        Raises:
            `ValueError`: There is no audio codec, or features are asked for of a model without an audio encoder.
        """
        if not isinstance(model, JosieForConditionalGeneration):
            if has_features:
                raise ValueError("`--features` must be left out for a codec alone, which has no audio encoder.")
            try:
                return cls(model, num_quantizers, True, None)
            except ValueError as error:
                raise ValueError(
                    f"`--model` must be a JOSIE or an audio codec, got a {type(model).__name__}."
                ) from error
        if model.audio_codec is None:
            raise ValueError("`--model` must have an audio codec, got a JOSIE without.")
        audio_config = model.config.thinker_config.audio_config
        if has_features and (audio_config is None or is_codec(audio_config)):
            found = "none" if audio_config is None else f"a {audio_config.model_type!r}"
            raise ValueError(f"`--features` must be left out for a model without an audio encoder, got {found}.")
        talker = model.config.talker_config
        count = num_quantizers if num_quantizers is not None or talker is None else talker.num_quantizers
        ends = talker is None or talker.end_of_speech
        return cls(model.audio_codec, count, ends, (model, processor) if has_features else None)

    def extend_features(self, features: Features) -> Features:
        """Return the types of rows after encoding."""
        is_spoken = "messages" in features
        added = {"speech_codes" if is_spoken else "audio_codes": CODES, "length": Value("int64")}
        return Features(**(features | added | ({} if self.hearing is None else {"audio_features": FEATURES})))

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any] | str]:
        """Encode rows; in place of one that cannot be, return why."""
        try:
            return list(self._encode(rows))
        except ROW_ERRORS as error:
            if len(rows) == 1:
                return [describe_row_error(error)]
        return [result for row in rows for result in self([row])]  # and the others as ever

    def _encode(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        given = [read_conversation(row["messages"]) if "messages" in row else [_record(row["audio"])] for row in rows]
        messages = [with_codes(said, row.get("speech_codes")) for said, row in zip(given, rows, strict=True)]
        is_spoken = "messages" in rows[0]
        ends, geometry = self.end_of_speech and is_spoken, audio_codec_geometry(self.codec.config)
        codes = add_speech_codes({"messages": messages}, self.codec, self.num_quantizers, ends)["speech_codes"]
        for value in codes:  # some are given
            check_speech_codes(value, geometry.codebook_size, self.num_quantizers, geometry.num_quantizers, ends)
        encoded = []
        for row, said, value in zip(rows, given, codes, strict=True):
            result = {name: cell for name, cell in row.items() if name != "audio"}
            result |= {"speech_codes" if is_spoken else "audio_codes": value.tolist(), "length": value.shape[-1]}
            if self.hearing is not None:
                clips = _list_clips(said, heard_by="user" if is_spoken else "assistant")
                result["audio_features"] = [self._listen(clip) for clip in clips]
            encoded.append(result)
        return encoded

    @torch.no_grad()
    def _listen(self, clip: Any) -> list[list[float]]:
        """Return the encoder's states of a clip, `(num_frames, width)`, as they are for the clip alone."""
        model, processor = self.hearing  # type: ignore[misc]
        extractor = processor.feature_extractor
        rate = extractor.sampling_rate
        waveform = as_waveform(clip, None, rate, getattr(extractor, "num_channels", 1))
        if isinstance(extractor, JosieFeatureExtractor):
            inputs = extractor.extract([waveform])
        else:
            inputs = extractor(waveform[0], sampling_rate=rate, return_tensors="pt")
        inputs = inputs.to(model.device)
        states = model.thinker.get_audio_features(**inputs, return_dict=True).last_hidden_state[0]
        mask = next((value for name, value in inputs.items() if name.endswith("mask")), None)
        share = 1.0 if mask is None else float(mask.sum()) / mask.numel()  # Whisper's inputs are 30 s always
        return states[: math.ceil(len(states) * share)].float().cpu().tolist()


def describe_row_error(error: Exception) -> str:
    """Return why a row is broken."""
    if isinstance(error, (ValueError, OSError)):
        return str(error) or type(error).__name__
    return f"A row must be one that can be encoded, got one that ends in a {type(error).__name__}: {error}."


def _record(audio: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "audio", "audio": audio}]}


def _list_clips(messages: list[dict[str, Any]], heard_by: str) -> list[Any]:
    """Return the audio of the user's turns, or of the assistant's alone."""
    turns = [message for message in messages if (message.get("role") == "assistant") == (heard_by == "assistant")]
    return [part_value(part) for message in turns for part in list_parts(message) if is_audio_part(part)]
