"""The processor: text, images, videos and audio together, as the model takes them.

Each `<|image|>`, `<|video|>` or `<|audio|>` of a text becomes as many placeholders as the Thinker's front end will give
features. That is counted from the Thinker's configuration, which the processor carries, so that no model is needed.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoProcessor, PreTrainedTokenizerBase
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from ..configuration_josie import JosieConfig, JosieThinkerConfig, audio_codec_geometry, is_codec
from ..configuration_josie.unicode_text import require_unicode
from .audio import AudioInput, is_clip, save_audio
from .batch_layout import RowItems, split_rows, to_rows
from .clip_inputs import process_clips
from .conversations import HAS_PLACES, ConversationMixin, make_labels, without_place
from .feature_extraction import JosieFeatureExtractor
from .image_processing import ImageInput, JosieImageProcessor
from .lengths import (
    count_audio_tokens,
    count_image_patches,
    count_image_tokens,
    count_video_tokens,
)
from .loading_options import AREAS, assign_options, with_areas
from .messages import ARGUMENTS, MODALITIES
from .sources import is_words
from .text_inputs import TextInputsMixin
from .units import UnitsMixin
from .video_processing import JosieVideoProcessor, VideoInput
from .waveforms import to_waveforms

PARTS = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}
OWN_CLASSES = {part.__name__: part for part in (JosieFeatureExtractor, JosieImageProcessor, JosieVideoProcessor)}
MAX_PATCHES, MAX_FRAMES = 256, 32


class PresentAttributes:
    """`get_attributes()`: of the class, the parts a processor may have; of an instance, those it has.

    It is for `ProcessorMixin.__init__`, `save_pretrained` and `__repr__`, which ask an instance and use every part that
    is named; `from_pretrained` asks the class.
    """

    NAMES = ("feature_extractor", "image_processor", "video_processor", "tokenizer")

    def __get__(self, processor: Any, owner: type) -> Any:
        """Return the method."""
        return lambda: [name for name in self.NAMES if processor is None or hasattr(processor, name)]


class JosieProcessor(ConversationMixin, UnitsMixin, TextInputsMixin):
    """Turns text, images, videos and audio into the inputs of [`JosieForConditionalGeneration`], and outputs back.

    Args:
        feature_extractor ([`JosieFeatureExtractor`] or another, *optional*): For audio; `None` without audio input.
        image_processor ([`JosieImageProcessor`], *optional*): For images; `None` without image input.
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
        for modality in MODALITIES:
            token_id = getattr(thinker_config, f"{modality}_token_id") if PARTS[modality] in parts else None
            if token_id is not None and not 0 <= token_id < len(tokenizer):
                raise ValueError(
                    f"`{modality}_token_id` must be in the vocabulary, [0, {len(tokenizer)}), got {token_id}."
                )
            setattr(self, f"{modality}_token_id", token_id)
            setattr(self, f"{modality}_token", None if token_id is None else tokenizer.convert_ids_to_tokens(token_id))

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

        An image of a codec gets at most `audio_context_fraction` of the context, as a clip does, a video twice that.

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
        output_labels: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Make model inputs.

        Inputs of a text with placeholders take their places in order. Those of a text without any go in front of it:
        images, videos, audio, then the beginning-of-text token and the text.

        Args:
            images, videos, audio (*optional*): One input; a list of them, which several texts share out by their
                placeholders, or one each; or a list of lists, one for each text. Forms: see
                [`JosieImageProcessor.preprocess`], [`JosieVideoProcessor.preprocess`] and [`as_waveform`].
            text (`str` or `list[str]`, *optional*): The texts, one a row; an empty one when `None`. A text alone may
                come first, as pipelines give it.
            output_labels (`bool`, *optional*): Also return `labels`, `(batch, length)`: the whole text, -100 at
                placeholders and padding. For what the assistant says alone, see [`JosieProcessor.apply_chat_template`].
            kwargs: `sampling_rate` of clips that come without one, in Hz; `padding` (`True`, `False` or
                `"max_length"`), `padding_side`, `max_length`, `pad_to_multiple_of`, `add_special_tokens`; `fps` or
                `num_frames` of videos; `return_tensors` (`"pt"`); or `text_kwargs`, `images_kwargs`, `videos_kwargs`,
                `audio_kwargs`, each a dict.

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask`, `(batch, length)`, and what the parts return:
            `input_features` and `input_features_mask`, or `input_values` and `padding_mask`; `pixel_values` and
            `image_grid_thw`; `pixel_values_videos` and `video_grid_thw`.

        Raises:
            `ValueError`: Nothing given, placeholders and inputs that do not match, a modality that the model does not
                take, a sequence longer than the context, or a bad input.
        """
        if text is None and is_words(images):
            images, text = None, cast(Any, images)
        values = {"image": images, "video": videos, "audio": audio}
        if text is None and all(value is None for value in values.values()):
            raise ValueError("`text`, `images`, `videos` or `audio` must be given, got none of them.")
        return_tensors, has_places = kwargs.pop("return_tensors", "pt"), kwargs.pop(HAS_PLACES, False)
        options = self._read_options(kwargs)
        texts = self._to_texts(text, values)
        found = [self._count_placeholders(row) for row in texts]
        rows: dict[str, RowItems] = {}
        has_placeholders = any(any(count.values()) for count in found)
        for modality, value in values.items():
            counts = [count[modality] for count in found]
            rows[modality] = to_rows(modality, ARGUMENTS[modality], value, counts, has_placeholders)
            self._check_counts(modality, rows[modality], found, has_places)
        data: dict[str, Any] = {}
        replacements: dict[str, list[list[str]]] = {}
        for modality, items in rows.items():
            flat = [item for row in items for item in row]
            outputs, counts = self._process(modality, flat, options) if flat else ({}, [])
            if len(counts) != len(flat):
                raise ValueError(
                    f"`{ARGUMENTS[modality]}` must be {len(flat)} inputs, got some that are {len(counts)}."
                )
            data |= outputs
            token = getattr(self, f"{modality}_token")
            replacements[modality] = split_rows([token * count for count in counts], [len(row) for row in items])
        tokens = self._tokenize(texts, found, replacements, options)
        if output_labels:
            tokens["labels"] = make_labels(tokens["input_ids"], tokens["attention_mask"], self._placeholder_ids())
        return BatchFeature(
            tokens | data, tensor_type=return_tensors, skip_tensor_conversion=self.skip_tensor_conversion
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, with a `vocab_size` that counts the tokens added to the tokenizer."""
        output = super().to_dict()
        output["thinker_config"]["text_config"]["vocab_size"] = self.vocab_size
        return output

    def _get_num_multimodal_tokens(
        self,
        image_sizes: list[list[int]] | None = None,
        video_sizes: list[list[int]] | None = None,
        audio_lengths: list[int] | None = None,
        **kwargs: Any,
    ) -> MultiModalData:
        """Return how many placeholders inputs of given sizes take; vLLM asks for it.

        Args:
            image_sizes (`list`, *optional*): Height and width of each image.
            video_sizes (`list`, *optional*): Frames that are looked at, height and width of each video.
            audio_lengths (`list[int]`, *optional*): Samples of each clip, at the rate of the feature extractor.
            kwargs: As of [`JosieProcessor.__call__`]; settings of images and videos are taken from there.

        Raises:
            `ValueError`: A modality that the model does not take, or an option that there is not.
        """
        sizes = {"image": image_sizes, "video": video_sizes, "audio": audio_lengths}
        options = self._read_options(kwargs)
        for modality, given in sizes.items():
            if given and getattr(self, f"{modality}_token") is None:
                raise ValueError(f"`{modality}` sizes must be None, as this model takes no {modality}, got {given}.")
        counts: dict[str, Any] = {}
        if image_sizes is not None:
            own = options["images_kwargs"]
            counts["num_image_tokens"] = [count_image_tokens(self, *size, own) for size in image_sizes]
            counts["num_image_patches"] = [count_image_patches(self, *size, own) for size in image_sizes]
        if video_sizes is not None:
            own = options["videos_kwargs"]
            counts["num_video_tokens"] = [count_video_tokens(self, *size, own) for size in video_sizes]
        if audio_lengths is not None:
            counts["num_audio_tokens"] = [count_audio_tokens(self, length) for length in audio_lengths]
        return MultiModalData(**counts)

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
        for row in texts:
            require_unicode("text", row)
        return texts

    def _check_counts(
        self, modality: str, items: RowItems, found: list[dict[str, int]], has_places: bool = False
    ) -> None:
        name, token = ARGUMENTS[modality], getattr(self, f"{modality}_token")
        if token is None and any(items):
            raise ValueError(f"`{name}` must be None, as this model takes no {modality}, got {sum(map(len, items))}.")
        for row, (given, count) in enumerate(zip(items, found, strict=True)):
            if has_places and token is not None and count[modality] < len(given):
                raise ValueError(without_place(modality, token, count[modality], len(given), row))
            if any(count.values()) and count[modality] != len(given):
                raise ValueError(
                    f"`{name}` must be as many as the {token} of their text ({count[modality]}), "
                    f"got {len(given)} in row {row}."
                )

    def _process(self, modality: str, items: list[Any], options: dict[str, dict]) -> tuple[dict[str, Any], list[int]]:
        """Return model inputs of all items of a modality, and how many placeholders each of them takes."""
        if modality == "audio":
            return process_clips(self, items, options["audio_kwargs"].get("sampling_rate"))
        config, part = self.thinker_config, getattr(self, PARTS[modality])
        kwargs = {name: value for name, value in options[f"{modality}s_kwargs"].items() if name != "return_tensors"}
        patch = getattr(config.vision_config, "patch_size", part.patch_size)
        if modality == "image":
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
            A list of texts; or of [`Waveform`], each `(num_samples,)`, or `(channels, num_samples)` if there are
            several channels, without padding.

        Raises:
            `ValueError`: Another mode, or there is no audio.
        """
        if generation_mode not in (None, "text", "audio"):
            raise ValueError(f"`generation_mode` must be 'text' or 'audio', got {generation_mode!r}.")
        if generation_mode == "audio":
            return to_waveforms(generated_outputs, self.output_sampling_rate)
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
        """Load the parts that the folder has: all but the tokenizer are written inside the processor's own file.

        Raises:
            `ValueError`: An option is of no part.
        """
        processor_dict = processor_dict or {}
        known = {name: _setting_names(name, processor_dict[name]) for name in PARTS_ORDER if processor_dict.get(name)}
        options = assign_options(kwargs, known, tuple(inspect.signature(cls.__init__).parameters)[1:])
        parts: list[Any] = [
            _part_from_dict(cls, name, processor_dict.get(name), options.get(name, {})) for name in PARTS_ORDER
        ]
        of_parts = {name for own in options.values() for name in own}
        kwargs = {name: value for name, value in kwargs.items() if name not in of_parts}
        subfolder = kwargs.pop("subfolder", "")
        tokenizer = cls._load_tokenizer_from_pretrained(
            "tokenizer", pretrained_model_name_or_path, subfolder=subfolder, **kwargs
        )
        return [*parts, tokenizer]


PARTS_ORDER = PresentAttributes.NAMES[:-1]


def _setting_names(name: str, values: dict[str, Any]) -> frozenset[str]:
    """Return the names of the settings that a part has, which options of loading may change."""
    own: Any = {part.__name__: part for part in (JosieImageProcessor, JosieVideoProcessor)}.get(values[f"{name}_type"])
    names = {*values, *(own.valid_kwargs.__annotations__ if own is not None else ()), *AREAS * (own is not None)}
    fixed = {f"{name}_type", "processor_class", "auto_map", "padding_side", "return_attention_mask"}
    if values[f"{name}_type"] == JosieFeatureExtractor.__name__:
        fixed |= {"feature_size"}  # as the other settings say
    return frozenset(names - fixed)


def _part_from_dict(
    processor_class: type[ProcessorMixin], name: str, values: dict | None, options: dict[str, Any]
) -> Any:
    if values is None:
        return None
    class_name = values[f"{name}_type"]
    part = OWN_CLASSES.get(class_name) or processor_class.get_possibly_dynamic_module(class_name)
    return part.from_dict(with_areas(values, options))


AutoProcessor.register(JosieConfig, JosieProcessor, exist_ok=True)
AutoProcessor.register(JosieThinkerConfig, JosieProcessor, exist_ok=True)
