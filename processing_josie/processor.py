"""The processor: text, pictures, videos and sounds together, as the model takes them.

Each `<|image|>`, `<|video|>` or `<|audio|>` of a text becomes as many placeholders as the Thinker's front end will give
features. That is counted from the Thinker's configuration, which the processor carries, so that no model is needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoProcessor, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging
from transformers.video_processing_utils import VideoProcessorMixin

from ..configuration_josie import JosieConfig, JosieThinkerConfig, audio_codec_geometry, is_codec, num_audio_tokens
from .audio import AudioInput, JosieFeatureExtractor, as_waveform, is_clip, save_audio
from .conversations import ConversationMixin
from .labels import make_labels
from .layout import ARGUMENTS, KINDS, RowItems, pad_tokens, split_rows, to_rows
from .vision import ImageInput, JosieImageProcessor, JosieVideoProcessor, VideoInput

logger = logging.get_logger(__name__)

PARTS = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}
OWN_CLASSES = {part.__name__: part for part in (JosieFeatureExtractor, JosieImageProcessor, JosieVideoProcessor)}
MAX_PATCHES, MAX_FRAMES = 256, 32


class PresentAttributes:
    """`get_attributes()` of the class names the parts a processor may have; of an instance, those it has."""

    NAMES = ("feature_extractor", "image_processor", "video_processor", "tokenizer")

    def __get__(self, processor: Any, owner: type) -> Any:
        """Return the method."""
        return lambda: [name for name in self.NAMES if processor is None or hasattr(processor, name)]


class JosieProcessor(ConversationMixin):
    """Turns text, pictures, videos and sounds into the inputs of [`JosieForConditionalGeneration`], and outputs back.

    Args:
        feature_extractor ([`JosieFeatureExtractor`] or another, *optional*): For sounds; `None` where it is deaf.
        image_processor ([`JosieImageProcessor`], *optional*): For pictures; `None` where it sees none.
        video_processor ([`JosieVideoProcessor`], *optional*): For videos; `None` where it sees none.
        tokenizer ([`PreTrainedTokenizerBase`]): For text; its vocabulary has the placeholder tokens.
        thinker_config ([`JosieThinkerConfig`] or `dict`): What placeholders are counted from.
        output_sampling_rate (`int`, *optional*): Rate of the model's speech, in Hz.
        speakers (`list[str]`, *optional*): Names of the model's voices; none when `None`.
        chat_template (`str`, *optional*): The tokenizer's when `None`.
    """

    get_attributes = PresentAttributes()  # pyright: ignore[reportAssignmentType]
    skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "offset_mapping"]
    text_kwargs = {"padding": True, "padding_side": "left"}

    def __init__(
        self,
        feature_extractor: SequenceFeatureExtractor | None = None,
        image_processor: JosieImageProcessor | None = None,
        video_processor: JosieVideoProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        thinker_config: JosieThinkerConfig | dict | None = None,
        output_sampling_rate: int | None = None,
        speakers: list[str] | None = None,
        chat_template: str | None = None,
    ):
        if tokenizer is None or thinker_config is None:
            missing = "tokenizer" if tokenizer is None else "thinker_config"
            raise ValueError(f"`{missing}` must be given, got None.")
        parts = {
            "feature_extractor": feature_extractor,
            "image_processor": image_processor,
            "video_processor": video_processor,
            "tokenizer": tokenizer,
        }
        parts = {name: part for name, part in parts.items() if part is not None}
        for name, part in parts.items():
            setattr(self, name, part)
        super().__init__(chat_template=chat_template or tokenizer.chat_template, **parts)
        if isinstance(thinker_config, dict):
            thinker_config = JosieThinkerConfig.from_dict(thinker_config)
        self.thinker_config = thinker_config
        self.output_sampling_rate = output_sampling_rate
        self.speakers = list(speakers or [])
        for kind in KINDS:
            token_id = getattr(thinker_config, f"{kind}_token_id") if PARTS[kind] in parts else None
            if token_id is not None and not 0 <= token_id < len(tokenizer):
                raise ValueError(f"`{kind}_token_id` must be in the vocabulary, [0, {len(tokenizer)}), got {token_id}.")
            setattr(self, f"{kind}_token_id", token_id)
            setattr(self, f"{kind}_token", None if token_id is None else tokenizer.convert_ids_to_tokens(token_id))

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Check the class of a part; that of videos is not exported by transformers where torchvision is missing."""
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"`{argument_name}` must be a `VideoProcessorMixin`, got a {type(argument).__name__}.")
        return VideoProcessorMixin

    @classmethod
    def from_config(
        cls, config: JosieConfig | JosieThinkerConfig, tokenizer: PreTrainedTokenizerBase
    ) -> "JosieProcessor":
        """Build the processor of a model.

        A picture of a codec gets at most `audio_context_fraction` of the context, as a clip does, a video twice that.

        Args:
            config ([`JosieConfig`] or [`JosieThinkerConfig`]): The model.
            tokenizer ([`PreTrainedTokenizerBase`]): Its tokenizer.
        """
        # Typed loosely: a configuration's fields are declared as what they may be before it is resolved.
        thinker: Any = config.thinker_config if isinstance(config, JosieConfig) else config
        codec: Any = config.audio_codec_config if isinstance(config, JosieConfig) else None
        vision, share = thinker.vision_config, thinker.max_audio_tokens
        parts: dict[str, Any] = {}
        if thinker.audio_config is not None:
            parts["feature_extractor"] = JosieFeatureExtractor.from_config(thinker.audio_config)
        if vision is not None:
            patches = min(share, MAX_PATCHES)
            parts["image_processor"] = images = JosieImageProcessor.from_config(vision, patches)
            size: Any = images.size
            temporal = vision.temporal_patch_size if is_codec(vision) else 1
            tokens = patches if is_codec(vision) else thinker.get_num_image_tokens(size.height, size.width)
            frames = min(max(2 * share // tokens, 1) * temporal, MAX_FRAMES)
            parts["video_processor"] = JosieVideoProcessor.from_config(vision, patches, frames)
        rate = None if codec is None else audio_codec_geometry(codec).sampling_rate
        talker: Any = config.talker_config if isinstance(config, JosieConfig) else None
        speakers = None if talker is None else talker.speakers
        return cls(**parts, tokenizer=tokenizer, thinker_config=thinker, output_sampling_rate=rate, speakers=speakers)

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        videos: VideoInput | None = None,
        audio: AudioInput | None = None,
        output_labels: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Make model inputs.

        Inputs of a text with placeholders take their places in order. Those of a text without any go in front of it:
        pictures, videos, sounds, then the beginning-of-text token and the text.

        Args:
            images, videos, audio (*optional*): One input; a list of them, which several texts share out by their
                placeholders, or one each; or a list of lists, one for each text. Forms: see
                [`JosieImageProcessor.preprocess`], [`JosieVideoProcessor.preprocess`] and [`as_waveform`].
            text (`str` or `list[str]`, *optional*): The texts, one a row; an empty one when `None`.
            output_labels (`bool`): Also return `labels`, `(batch, length)`: the whole text, -100 at placeholders and
                padding. For what the assistant says alone, see [`JosieProcessor.apply_chat_template`].
            kwargs: `sampling_rate` of sounds that come without one, in Hz; `padding` (`True`, `False` or
                `"max_length"`), `padding_side`, `max_length`, `pad_to_multiple_of`, `add_special_tokens`; `fps` or
                `num_frames` of videos; `return_tensors` (`"pt"`); or `text_kwargs`, `images_kwargs`, `videos_kwargs`,
                `audio_kwargs`, each a dict.

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask`, `(batch, length)`, and what the parts return:
            `input_features` and `input_features_mask`, or `input_values` and `padding_mask`; `pixel_values` and
            `image_grid_thw`; `pixel_values_videos` and `video_grid_thw`.

        Raises:
            `ValueError`: Nothing given, placeholders and inputs that do not match, a kind the model does not take, a
                sequence longer than the context, or a bad input.
        """
        values = {"image": images, "video": videos, "audio": audio}
        if text is None and all(value is None for value in values.values()):
            raise ValueError("`text`, `images`, `videos` or `audio` must be given, got none of them.")
        return_tensors = kwargs.pop("return_tensors", "pt")
        options = self._merge_kwargs(tokenizer_init_kwargs={}, **kwargs)
        texts = self._to_texts(text, values)
        found = [self._count_placeholders(row) for row in texts]
        rows: dict[str, RowItems] = {}
        for kind, value in values.items():
            counts = [count[kind] for count in found]
            rows[kind] = to_rows(kind, ARGUMENTS[kind], value, counts, any(any(count.values()) for count in found))
            self._check_counts(kind, rows[kind], found)
        data: dict[str, Any] = {}
        replacements: dict[str, list[list[str]]] = {}
        for kind, items in rows.items():
            flat = [item for row in items for item in row]
            outputs, counts = self._process(kind, flat, options) if flat else ({}, [])
            data |= outputs
            token = getattr(self, f"{kind}_token")
            replacements[kind] = split_rows([token * count for count in counts], [len(row) for row in items])
        tokens = self._tokenize(texts, found, replacements, options)
        if output_labels:
            tokens["labels"] = make_labels(tokens["input_ids"], tokens["attention_mask"], self._placeholder_ids())
        return BatchFeature(
            tokens | data, tensor_type=return_tensors, skip_tensor_conversion=self.skip_tensor_conversion
        )

    def _to_texts(self, text: str | list[str] | None, values: dict[str, Any]) -> list[str]:
        """Return the rows' texts; without any, one empty text for each list of a nested input."""
        if text is None:
            nested = [
                value
                for value in values.values()
                if isinstance(value, (list, tuple)) and value and all(isinstance(row, list) for row in value)
            ]
            return [""] * (len(nested[0]) if nested and not is_clip(nested[0][0]) else 1)
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else []
        if not texts or not all(isinstance(row, str) for row in texts):
            raise ValueError(f"`text` must be a string or a list of strings, got {text!r}.")
        return texts

    def _count_placeholders(self, text: str) -> dict[str, int]:
        """Return how many placeholders of each kind a text has, without those that were marked as plain text."""
        counts = [text.count(getattr(self, f"{kind}_token") or "\0") for kind in KINDS]
        _, offsets = self.get_text_with_replacements([text], *([""] * count for count in counts))
        kinds = [offset["type"] for row in cast(list[list[dict]], offsets) for offset in row]
        return {kind: kinds.count(kind) for kind in KINDS}

    def _check_counts(self, kind: str, items: RowItems, found: list[dict[str, int]]) -> None:
        name, token = ARGUMENTS[kind], getattr(self, f"{kind}_token")
        if token is None and any(items):
            raise ValueError(f"`{name}` must be None, as this model takes no {kind}, got {sum(map(len, items))}.")
        for row, (given, count) in enumerate(zip(items, found, strict=True)):
            if any(count.values()) and count[kind] != len(given):
                raise ValueError(
                    f"`{name}` must be as many as the {token} of their text ({count[kind]}), "
                    f"got {len(given)} in row {row}."
                )

    def _process(self, kind: str, items: list[Any], options: dict[str, dict]) -> tuple[dict[str, Any], list[int]]:
        """Return model inputs of all items of a kind, and how many placeholders each of them takes."""
        if kind == "audio":
            return self._process_clips(items, options["audio_kwargs"].get("sampling_rate"))
        config, part = self.thinker_config, getattr(self, PARTS[kind])
        kwargs = {name: value for name, value in options[f"{kind}s_kwargs"].items() if name != "return_tensors"}
        patch = getattr(config.vision_config, "patch_size", part.patch_size)
        if kind == "image":
            outputs = part(items, return_tensors="np", **kwargs)
            counts = [
                config.get_num_image_tokens(rows * patch, columns * patch)
                for _, rows, columns in outputs["image_grid_thw"].tolist()
            ]
            return dict(outputs), counts
        outputs = part(items, return_tensors="np", **kwargs)
        counts = [
            config.get_num_video_tokens(times * part.temporal_patch_size, rows * patch, columns * patch)
            for times, rows, columns in outputs["video_grid_thw"].tolist()
        ]
        return dict(outputs), counts

    def _process_clips(self, clips: list[AudioInput], sampling_rate: int | None) -> tuple[dict[str, Any], list[int]]:
        extractor = self.feature_extractor
        rate, channels = extractor.sampling_rate, getattr(extractor, "num_channels", 1)
        waveforms = [as_waveform(clip, sampling_rate, rate, channels) for clip in clips]
        if isinstance(extractor, JosieFeatureExtractor):
            outputs = dict(extractor([(waveform, rate) for waveform in waveforms], return_tensors="np"))
        else:
            outputs = dict(
                extractor(
                    [waveform[0] for waveform in waveforms],
                    sampling_rate=rate,
                    return_tensors="np",
                    return_attention_mask=True,
                )
            )
            outputs["input_features_mask"] = outputs.pop("attention_mask")  # the text has one of that name
        mask = outputs["padding_mask" if "padding_mask" in outputs else "input_features_mask"]
        counts, audio_config = [], cast(PreTrainedConfig, self.thinker_config.audio_config)
        for index, (waveform, length) in enumerate(zip(waveforms, mask.sum(axis=-1).tolist(), strict=True)):
            given = num_audio_tokens(audio_config, length)
            kept = self.thinker_config.get_num_audio_tokens(length)
            seconds = waveform.shape[1] / rate
            heard = min(seconds, getattr(extractor, "n_samples", waveform.shape[1]) / rate)
            if kept < given or heard < seconds:
                logger.warning(
                    f"`audio` clip {index} is too long for its share of the context: kept {kept} of {given} features "
                    f"({heard * kept / given:.2f} of {seconds:.2f} s)."
                )
            counts.append(kept)
        return outputs, counts

    def _tokenize(
        self,
        texts: list[str],
        found: list[dict[str, int]],
        replacements: dict[str, list[list[str]]],
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Expand placeholders, put inputs in front of texts without any, tokenize and pad."""
        kwargs = dict(options["text_kwargs"])
        padding = {name: kwargs.pop(name, None) for name in ("padding", "padding_side", "pad_to_multiple_of")}
        for name in ("return_tensors", "return_mm_token_type_ids", "return_text_replacement_offsets"):
            kwargs.pop(name, None)
        max_length = kwargs.get("max_length") if kwargs.get("truncation") else kwargs.pop("max_length", None)
        wants_bos = kwargs.pop("add_special_tokens", True) in (True, None) and self._starts_with_bos()
        bos = self.tokenizer.bos_token_id if wants_bos else None
        fronts, all_spans = [], []
        texts = list(texts)
        for row, text in enumerate(texts):
            pieces = [replacements[kind][row] for kind in KINDS]
            front: list[int] = []
            if not any(found[row].values()):
                for kind, items in zip(KINDS, pieces, strict=True):
                    count = sum(len(item) for item in items) // max(len(getattr(self, f"{kind}_token") or ""), 1)
                    front += [getattr(self, f"{kind}_token_id")] * count
                pieces = [[], [], []]
            (text,), spans = self.get_text_with_replacements([text], *pieces)
            if bos is not None and not text.startswith(self.tokenizer.bos_token):
                front.append(bos)
            texts[row] = text
            fronts.append(front)
            all_spans += spans or [[]]
        data = self._encode(texts, fronts, max_length, kwargs)
        for row, ids in enumerate(data["input_ids"]):
            self._check_ids(ids, row, replacements)
        data = pad_tokens(data, self.tokenizer.pad_token_id, max_length, **padding)
        if options["return_mm_token_type_ids"]:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        if options["return_text_replacement_offsets"]:
            data["text_replacement_offsets"] = all_spans
        return data

    def _encode(
        self, texts: list[str], fronts: list[list[int]], max_length: int | None, kwargs: dict[str, Any]
    ) -> dict[str, list]:
        """Return `input_ids`, and `offset_mapping` if wanted, of texts behind what goes in front of them."""
        rooms: list[int | None] = [None] * len(texts)
        if kwargs.get("truncation") and max_length is not None:
            for row, front in enumerate(fronts):
                if len(front) > max_length:
                    raise ValueError(
                        f"`max_length` must be at least {len(front)}, for what goes in front of row {row}, "
                        f"got {max_length}."
                    )
            rooms = [max_length - len(front) for front in fronts]
        names = ["input_ids", *(["offset_mapping"] if kwargs.get("return_offsets_mapping", False) else [])]
        data: dict[str, list] = {name: [None] * len(texts) for name in names}
        # Calling a tokenizer is slow, so that rows with the same room go together: as a rule, all.
        for room in set(rooms):
            rows = [row for row, other in enumerate(rooms) if other == room]
            limit = {} if room is None else {"max_length": room}
            encoded = self.tokenizer([texts[row] for row in rows], add_special_tokens=False, **(kwargs | limit))
            for index, row in enumerate(rows):
                data["input_ids"][row] = fronts[row] + encoded["input_ids"][index]
                if "offset_mapping" in data:
                    data["offset_mapping"][row] = [(0, 0)] * len(fronts[row]) + list(encoded["offset_mapping"][index])
        return data

    def _starts_with_bos(self) -> bool:
        """Return whether the tokenizer puts the beginning of text in front by itself; some only have the token."""
        return self.tokenizer.bos_token_id in self.tokenizer("")["input_ids"][:1]

    def _check_ids(self, ids: list[int], row: int, replacements: dict[str, list[list[str]]]) -> None:
        """Refuse ids the model does not have, more of them than its context, and placeholders lost to truncation."""
        text_config: Any = self.thinker_config.text_config
        if ids and max(ids) >= text_config.vocab_size:
            raise ValueError(
                f"`tokenizer` must give ids below the model's `vocab_size` ({text_config.vocab_size}), got {max(ids)}."
            )
        limit = getattr(text_config, "max_position_embeddings", None)
        if limit is not None and len(ids) > limit:
            raise ValueError(
                f"`text` with its placeholders must be at most {limit} tokens long, the context, "
                f"got {len(ids)} in row {row}."
            )
        for kind in KINDS:
            token = getattr(self, f"{kind}_token")
            if token is None:
                continue
            expected = sum(len(item) for item in replacements[kind][row]) // len(token)
            if ids.count(getattr(self, f"{kind}_token_id")) != expected:
                raise ValueError(
                    f"`max_length` must leave all {expected} {token} of row {row}, "
                    f"got {ids.count(getattr(self, f'{kind}_token_id'))} after truncation."
                )

    def post_process_multimodal_output(
        self,
        generated_outputs: Any,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> list[str] | list[np.ndarray]:
        """Turn what `generate` gave into texts or waveforms.

        Args:
            generated_outputs (`torch.Tensor` or [`JosieGenerateOutput`]): Token ids, `(batch, length)`; or an output
                with `sequences`, `audio_values` and `audio_lengths`.
            skip_special_tokens (`bool`): Leave special tokens out of texts.
            generation_mode (`"text"` or `"audio"`, *optional*): Which to return; text when `None`.
            kwargs: For the tokenizer's `batch_decode`.

        Returns:
            A list of texts; or of waveforms, each `(num_samples,)`, or `(channels, num_samples)` if there are several
            channels, without padding.

        Raises:
            `ValueError`: Another mode, or there is no audio.
        """
        if generation_mode not in (None, "text", "audio"):
            raise ValueError(f"`generation_mode` must be 'text' or 'audio', got {generation_mode!r}.")
        if generation_mode == "audio":
            values = getattr(generated_outputs, "audio_values", None)
            if values is None:
                raise ValueError("`generated_outputs` must have `audio_values` for audio, got none.")
            lengths = getattr(generated_outputs, "audio_lengths", None)
            lengths = [values.shape[-1]] * len(values) if lengths is None else lengths.tolist()
            clips = [
                value[:, :length] for value, length in zip(values.detach().float().cpu().numpy(), lengths, strict=True)
            ]
            return [clip[0] if len(clip) == 1 else clip for clip in clips]
        sequences = getattr(generated_outputs, "sequences", generated_outputs)
        if getattr(sequences, "ndim", 2) == 1:
            sequences = sequences[None]
        return self.batch_decode(sequences, skip_special_tokens=skip_special_tokens, **kwargs)

    def save_audio(
        self,
        audio: np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor],
        path: str | Path | Sequence[str | Path],
        sampling_rate: int | None = None,
    ) -> None:
        """Write speech to a file, or several to as many files; see [`save_audio`].

        Args:
            audio (`np.ndarray`, `torch.Tensor` or a list of them): Waveforms, `(num_samples,)` or
                `(channels, num_samples)`.
            path (`str`, `Path` or a list of them): Where to.
            sampling_rate (`int`, *optional*): In Hz; the model's when `None`.

        Raises:
            `ValueError`: As [`save_audio`], different numbers of waveforms and paths, or no known rate.
        """
        sampling_rate = self.output_sampling_rate if sampling_rate is None else sampling_rate
        if sampling_rate is None:
            raise ValueError("`sampling_rate` must be given, as this model has no audio codec, got None.")
        clips = list(audio) if isinstance(audio, (list, tuple)) else [audio]
        paths = list(path) if isinstance(path, (list, tuple)) else [path]
        if len(clips) != len(paths):
            raise ValueError(f"`path` must be as many as `audio` ({len(clips)}), got {len(paths)}.")
        clip: Any
        file: Any
        for clip, file in zip(clips, paths, strict=True):
            save_audio(file, clip, sampling_rate)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, processor_dict: dict | None = None, **kwargs: Any
    ) -> list[Any]:
        """Load the parts that the folder has: all but the tokenizer are written inside the processor's own file."""
        processor_dict = processor_dict or {}
        subfolder = kwargs.pop("subfolder", "")
        parts: list[Any] = [_part_from_dict(cls, name, processor_dict.get(name)) for name in PARTS_ORDER]
        tokenizer = cls._load_tokenizer_from_pretrained(
            "tokenizer", pretrained_model_name_or_path, subfolder=subfolder, **kwargs
        )
        return [*parts, tokenizer]


PARTS_ORDER = PresentAttributes.NAMES[:-1]


def _part_from_dict(processor_class: type[ProcessorMixin], name: str, values: dict | None) -> Any:
    if values is None:
        return None
    class_name = values[f"{name}_type"]
    return (OWN_CLASSES.get(class_name) or processor_class.get_possibly_dynamic_module(class_name)).from_dict(values)


AutoProcessor.register(JosieConfig, JosieProcessor, exist_ok=True)
AutoProcessor.register(JosieThinkerConfig, JosieProcessor, exist_ok=True)
