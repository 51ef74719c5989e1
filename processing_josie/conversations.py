"""Conversations to model inputs: their images, videos and audio, what the assistant said, and how it sounded.

The route, of which transformers' `ProcessorMixin` owns every second step: [`ConversationMixin.apply_chat_template`]
takes the assistant's speech out of the messages and hands them to transformers', which renders the template, asks
`_multimodal_inputs_from_conversations` (ours) for the inputs that the parts name, and calls [`JosieProcessor.__call__`]
(ours), where inputs become features and each placeholder as many tokens as there are features. Back in transformers,
`_adjust_assistant_masks_indices` (ours) finds the tokens of each turn of the assistant by their characters. Last, here
again, labels and speech are made of these turns.
"""

import inspect
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import extract_tb
from typing import Any

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils.chat_template_utils import _get_template_variables

from ..configuration_josie.constants import IGNORE_INDEX
from .lengths import count_media_tokens
from .message_forms import read_conversations, require_rendered
from .messages import ARGUMENTS, MODALITIES, Conversation, collect_parts, list_parts
from .spoken_turns import SpokenTurn, join_codes, join_waveforms, split_speech

TURNS = "assistant_turns"
HAS_PLACES = "inputs_have_places"  # of a call of the processor: its texts were rendered of messages
_ARGUMENTS = tuple(inspect.signature(ProcessorMixin.apply_chat_template).parameters)[2:]  # behind the conversation


class ConversationMixin(ProcessorMixin):
    """The part of [`JosieProcessor`] that takes conversations."""

    output_sampling_rate: int | None
    _starts_with_bos: Callable[[], bool]

    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        conversation: Conversation | list[Conversation],
        *args: Any,
        output_labels: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render one conversation or a batch, and make model inputs of it.

        Parts of a message's `content` are dicts with `type`: `"text"` with `text`; `"image"`, `"video"` or `"audio"`
        with the input under that name, `path`, `url` or `base64`. Audio in a turn of the assistant is how that turn
        was spoken: it puts no placeholder into the text. It may come as `codes` instead. Parts may have options: an
        image `min_pixels` and `max_pixels`, a video these, `fps`, `num_frames`, `max_frames` and `video_metadata`.
        Messages of other libraries are taken in the forms that `message_forms` and `part_forms` name.

        Args:
            conversation (`list[dict]` or a list of those): Messages with `role` and `content`.
            output_labels (`bool`): Also return what is learned; needs `tokenize` and `return_dict`.
            processor_kwargs (`dict`, *optional*): For [`JosieProcessor.__call__`].
            args, kwargs: As in transformers: `tokenize`, `return_dict`, `add_generation_prompt`...

        Returns:
            A text or texts; with `tokenize` and `return_dict` a [`BatchFeature`] as of [`JosieProcessor.__call__`].
            With `output_labels` it also has `labels`, `(batch, length)`: the assistant's words with the token that ends
            a turn, -100 elsewhere. If turns are spoken, it has `speech_mask`, `(batch, length)`, 1 for the words of a
            row's first spoken turn, 2 for those of its second, and so on; and `speech_codes`,
            `(batch, num_quantizers, num_frames)`, or `speech_values`, `(batch, 1, num_samples)` at
            `output_sampling_rate`, with `speech_values_mask`, `(batch, num_samples)`: each with a second axis of turns
            where a row has several.

        Raises:
            `ValueError`: As [`JosieProcessor.__call__`]; a message of another form, or something that the template
                would leave out; labels without `tokenize` and `return_dict`, or from a template that does not mark the
                assistant's turns; a spoken turn with two clips, or without words.
        """
        conversations, is_batched = read_conversations(conversation)
        heard, spoken = zip(*(split_speech(each) for each in conversations), strict=True)
        # Also what users of transformers' own processors write.
        processor_kwargs = dict(processor_kwargs or {})
        output_labels = processor_kwargs.pop("output_labels", False) or output_labels
        wants_masks = kwargs.get("return_assistant_tokens_mask", False)
        if output_labels:
            for name, needed in (("tokenize", True), ("return_dict", True), ("continue_final_message", False)):
                if bool(kwargs.get(name, False)) is not needed:
                    raise ValueError(f"`{name}` must be {needed} with `output_labels`, got {kwargs.get(name)}.")
            kwargs["return_assistant_tokens_mask"] = True
        named = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        template = self._resolve_chat_template(named.get("chat_template"))
        require_rendered(list(heard), template, named)
        given = list(heard) if is_batched else heard[0]
        with _template_errors():
            has_places = named.get("chat_template") is not None or self._loses_places(list(heard), template, named)
            if named.get("tokenize"):
                processor_kwargs |= {HAS_PLACES: True} if has_places else {}
            else:  # with `tokenize`, the call of the processor looks at what no one else takes
                known = {*_ARGUMENTS, *_get_template_variables(template)}
                self._read_options(processor_kwargs | {name: kwargs[name] for name in kwargs.keys() - known})
            output: Any = super().apply_chat_template(given, *args, processor_kwargs=processor_kwargs, **kwargs)
        if has_places and not named.get("tokenize"):
            self._require_places(output if is_batched else [output], list(heard))
        if not isinstance(output, BatchFeature) or TURNS not in output:
            return output
        turns = output.pop(TURNS)
        if output_labels:
            self._add_labels(output, turns, list(heard))
            rate = processor_kwargs.get("sampling_rate", processor_kwargs.get("audio_kwargs", {}).get("sampling_rate"))
            self._add_speech(output, turns, list(spoken), rate)
        if not wants_masks:
            del output["assistant_masks"]
        return output

    def get_num_tokens(self, conversation: Conversation) -> int:
        """Return how long `input_ids` of a conversation are, without decoding what is in files.

        Sizes of images and lengths of clips and videos are read from the headers of their files; only animated GIFs
        are read in full. Meant for a column `length`, by which `Trainer` groups rows of like length.

        Args:
            conversation (`list[dict]`): As in [`JosieProcessor.apply_chat_template`].

        Raises:
            `ValueError`: A file cannot be opened, or a modality of input the model does not take.
        """
        heard, _ = split_speech(conversation)
        text: Any = self.apply_chat_template(heard)
        length = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        length += int(self._starts_with_bos() and not text.startswith(self.tokenizer.bos_token))
        for modality, (items,) in collect_parts([heard]).items():
            length += sum(count_media_tokens(self, modality, item) - 1 for item in items)
        return length

    def _loses_places(self, conversations: list[Any], template: str, options: dict[str, Any]) -> bool:
        """Return whether transformers may cut placeholders that a template renders off, behind the last text.

        A processor's own template that has none, such as μOmni's, puts media in front of the text.
        """
        if not options.get("continue_final_message"):
            return False
        whole = {"chat_template": template, "continue_final_message": False, "tokenize": False, "return_dict": False}
        whole |= {"return_assistant_tokens_mask": False}
        texts: Any = super().apply_chat_template(conversations, **(options | whole))
        tokens = [getattr(self, f"{modality}_token") for modality in MODALITIES]
        return any(token in text for text in texts for token in tokens if token is not None)

    def _require_places(self, texts: list[str], conversations: list[Conversation]) -> None:
        """Raise a `ValueError` if rendered texts have fewer placeholders than parts, which need not have inputs."""
        for row, (text, conversation) in enumerate(zip(texts, conversations, strict=True)):
            parts = [part for message in conversation for part in list_parts(message) if isinstance(part, dict)]
            for modality in MODALITIES:
                token = getattr(self, f"{modality}_token")
                count = sum(part.get("type") == modality for part in parts)
                if token is not None and text.count(token) < count:
                    raise ValueError(without_place(modality, token, text.count(token), count, row))

    def _placeholder_ids(self) -> set[int]:
        ids = (getattr(self, f"{modality}_token_id") for modality in MODALITIES)
        return {token_id for token_id in ids if token_id is not None}

    def _add_labels(self, output: BatchFeature, turns: Any, conversations: list[Conversation]) -> None:
        says = any(message.get("role") == "assistant" for conversation in conversations for message in conversation)
        if says and not any(bool(row.any()) for row in map(torch.as_tensor, turns)):
            raise ValueError(
                "`output_labels` must be False for a chat template that does not mark the assistant's turns with "
                "{% generation %}, or where `max_length` cuts all of them off, got True."
            )
        output["labels"] = make_labels(output["input_ids"], turns, self._placeholder_ids())

    def _add_speech(
        self, output: BatchFeature, turns: Any, spoken: list[list[SpokenTurn]], sampling_rate: int | None
    ) -> None:
        if not any(spoken):
            return
        # Neither spoken: placeholders, and the token that ends the turn.
        silent = self._placeholder_ids() | set(self.tokenizer.all_special_ids)
        numbers = [_number_spoken(np.asarray(row), said) for row, said in zip(turns, spoken, strict=True)]
        words = make_labels(output["input_ids"], [row > 0 for row in numbers], silent)
        masks = [
            np.where(np.asarray(row) != IGNORE_INDEX, number, 0) for row, number in zip(words, numbers, strict=True)
        ]
        for row, (said, mask) in enumerate(zip(spoken, masks, strict=True)):
            if len(np.unique(mask[mask > 0])) < len(said):
                raise ValueError(
                    "A spoken turn must have words, which the chat template marks as the assistant's and `max_length` "
                    f"leaves, got none in row {row}."
                )
        output["speech_mask"] = in_form_of(output["input_ids"], masks)
        has_codes = {turn.codes is not None for said in spoken for turn in said}
        if True in has_codes:
            output["speech_codes"] = join_codes([[turn.codes for turn in said] for said in spoken])
        if False not in has_codes:
            return
        if self.output_sampling_rate is None:
            raise ValueError("The assistant's turns must have no audio, as this model has no audio codec, got one.")
        rate, most = self.output_sampling_rate, max(map(len, spoken))
        flat = [turn for said in spoken for turn in [*said, *[None] * (most - len(said))]]
        joined = join_waveforms(
            [None if turn is None or turn.codes is not None else turn.read(rate, 1, sampling_rate) for turn in flat]
        )
        for name, value in zip(("speech_values", "speech_values_mask"), joined, strict=True):
            output[name] = value.unflatten(0, (len(spoken), most)) if most > 1 else value

    def _multimodal_inputs_from_conversations(
        self, conversations: list[list[dict]], audio_loading_params: dict, load_audio_from_video: bool = False
    ) -> tuple[list, list, list, dict]:
        """Collect images, videos and audio of conversations, each nested by conversation; they are read later."""
        if load_audio_from_video:
            raise ValueError("`load_audio_from_video` must be False: give the audio as a part of its own, got True.")
        found = collect_parts(conversations)
        audio = found["audio"] if any(found["audio"]) else []
        return found["image"], found["video"], audio, {}

    def _resolve_audio_loading_params(self, processor_kwargs: dict) -> dict:
        """Keep the caller's sampling rate, or none: clips without one are refused and not guessed at."""
        given = processor_kwargs.get("audio_kwargs", {}).get("sampling_rate")
        return {"sampling_rate": processor_kwargs.get("sampling_rate", given)}

    def _adjust_assistant_masks_indices(self, processed_dict: Any, generation_indices: list) -> Any:
        """Add `assistant_masks`, and which turn each token is in, for [`ConversationMixin.apply_chat_template`]."""
        offsets = processed_dict.pop("offset_mapping")
        replacements = processed_dict.pop("text_replacement_offsets", None) or [[] for _ in offsets]
        turns = [number_turns(*row) for row in zip(offsets, generation_indices, replacements, strict=True)]
        processed_dict[TURNS] = in_form_of(processed_dict["input_ids"], turns)
        masks = [(row > 0).astype(np.int64) for row in turns]
        processed_dict["assistant_masks"] = in_form_of(processed_dict["input_ids"], masks)
        return processed_dict


@contextmanager
def _template_errors() -> Iterator[None]:
    """Tell errors of a chat template, and of what it computes, in a sentence."""
    try:
        yield
    except TemplateError as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        if not any(frame.filename == "<template>" for frame in extract_tb(error.__traceback__)):
            raise
        raise ValueError(f"`chat_template` must render these messages, got {type(error).__name__}: {error}.") from error


def without_place(modality: str, token: str, num_places: int, num_inputs: int, row: int) -> str:
    """Return the sentence of messages whose inputs have no places in what the chat template renders.

    Args:
        modality (`"image"`, `"video"` or `"audio"`), token (`str`): Of the inputs.
        num_places (`int`), num_inputs (`int`): How many there are.
        row (`int`): Of the batch.
    """
    return (
        f"`{ARGUMENTS[modality]}` of messages must be as many as the {token} that the chat template renders "
        f"({num_places}), got {num_inputs} in row {row}: with `continue_final_message`, none behind the last text."
    )


def _number_spoken(turns: np.ndarray, spoken: list[SpokenTurn]) -> np.ndarray:
    """Return for each token the number of its spoken turn, from 1; 0 where nothing is spoken."""
    return sum(((turns == said.turn) * number for number, said in enumerate(spoken, 1)), np.zeros_like(turns))


def number_turns(
    offsets: list[tuple[int, int]], spans: list[tuple[int, int]], replacements: list[dict[str, Any]]
) -> np.ndarray:
    """Return for each token which of the assistant's turns it is in, from the end: 1 for the last; 0 for none.

    Args:
        offsets (`list[tuple[int, int]]`): First and last character of each token, in the text with expanded
            placeholders; equal where a token has no characters.
        spans (`list[tuple[int, int]]`): First and last character of each turn, in the text as it was.
        replacements (`list[dict]`): Where placeholders were expanded, in order: `span` before and `new_span` after.
    """
    starts, ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    turns = np.zeros(len(offsets), dtype=np.int64)
    expanded = [replacement["span"][1] for replacement in replacements]
    shifts = [0, *(replacement["new_span"][1] - replacement["span"][1] for replacement in replacements)]
    for index, span in enumerate(spans):
        first, last = (character + shifts[bisect_right(expanded, character)] for character in span)
        turns[(starts < last) & (ends > first)] = len(spans) - index
    return turns


def make_labels(input_ids: Any, is_learned: Any, ignored_ids: set[int]) -> Any:
    """Return ids where something is learned, -100 elsewhere and at `ignored_ids`.

    Args:
        input_ids, is_learned: Rows of one length as a tensor or an array, or a list of rows; alike.
        ignored_ids (`set[int]`): Tokens that are never learned, such as placeholders.

    Returns:
        Labels in the form of `input_ids`.
    """
    ignored = list(ignored_ids)
    rows = [
        np.where(np.asarray(learned).astype(bool) & ~np.isin(ids, ignored), ids, IGNORE_INDEX)
        for ids, learned in zip(map(np.asarray, input_ids), is_learned, strict=True)
    ]
    return in_form_of(input_ids, rows)


def in_form_of(input_ids: Any, rows: list[np.ndarray]) -> Any:
    """Return rows as a tensor, an array or lists, as `input_ids` are."""
    if isinstance(input_ids, torch.Tensor):
        return torch.from_numpy(np.stack(rows))
    return np.stack(rows) if isinstance(input_ids, np.ndarray) else [row.tolist() for row in rows]
