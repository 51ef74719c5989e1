"""Assembly: a JOSIE of a language model, an audio encoder, a vision tower and an audio codec that were trained apart.

Parts keep their weights, bit for bit; what joins them (projectors, embeddings of codes, the Talker) is new and random.
The model is built without memory, its pretrained modules are put in their places, and only what is new is allocated.
At the end it is tried: its text against the language model's, every front end on an input of its own, and all of it
against a model that is loaded anew.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.generation import GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie import JosieConfig, JosieThinkerConfig, audio_codec_geometry, is_codec
from ...modeling_josie import JosieForConditionalGeneration, JosieTalkerForConditionalGeneration
from ...processing_josie import JosieProcessor
from ...tokenization import AUDIO_TOKEN, EOS_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN
from .encoders import load_audio_encoder, load_codec, load_vision_tower, require_one_codec
from .processor import build_processor
from .reading import Source
from .talker import FIT, size_talker
from .text import TextPart, load_text
from .trials import try_front_ends, try_reload, try_text
from .vocabulary import extend_embeddings, extend_tokenizer

_PLACEHOLDERS = {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN, "audio": AUDIO_TOKEN}
# Options that say nothing without an encoder before the decoder; checkpoints such as those of XGLM have them.
_OF_ENCODERS = ("decoder_start_token_id", "forced_bos_token_id")


@dataclass
class _Parts:
    """The pretrained parts; `audio` may be the codec itself."""

    text: TextPart
    audio: PreTrainedModel | None
    vision: PreTrainedModel | None
    codec: PreTrainedModel | None


def assemble(
    text: Source,
    audio: Source | None = None,
    vision: Source | None = None,
    codec: Source | None = None,
    talker: str | dict[str, Any] | None = FIT,
    dtype: torch.dtype | None = None,
    projector_hidden_act: str | None = "gelu",
    projector_intermediate_size: int | None = None,
    vision_feature_select: Literal["cls", "patch"] = "patch",
    audio_context_fraction: float = 0.25,
    audio_stack_factor: Literal[1, 2, 4, 8] = 1,
    gguf_file: str | None = None,
    context: int | None = None,
) -> tuple[JosieForConditionalGeneration, JosieProcessor]:
    """Return a JOSIE of pretrained parts, and its processor.

    The logits of text alone are the language model's, and features and codes are those of the encoders and the codec:
    the same modules compute them. The tokenizer keeps its ids and its chat template, which is extended, see
    [`extend_chat_template`]; special tokens are added, and their rows start at the mean of the others, also where the
    language model has spare rows; the end of a turn begins as the end of text. Generation defaults (sampling, end of
    text) are the language model's.

    Args:
        text (`str` or `Path`): Folder, or name on the Hub, of a causal language model (Llama, Qwen3, Gemma 3, SmolLM,
            GPT-2...) with its tokenizer; of a multimodal one its text half is used. Or a `.gguf` file.
        audio (`str` or `Path`, *optional*): An audio encoder (Whisper, of which the encoder is used, wav2vec 2.0,
            HuBERT, WavLM...), or an audio codec, whose codes are then both input and output. No audio input when
            `None`.
        vision (`str` or `Path`, *optional*): A vision tower (ViT, or CLIP and SigLIP, of which the vision half is
            used), or JOVIO. No image and video input when `None`.
        codec (`str` or `Path`, *optional*): An audio codec to speak through (JODIO, the mel codec, Mimi, DAC,
            EnCodec...).
        talker (`str` or `dict`, *optional*): Sizes of the Talker that predicts its codes, see [`size_talker`]: `"fit"`,
            the name of a preset, or fields of its configuration. No Talker when `None`, nor without a codec.
        dtype (`torch.dtype`, *optional*): Of everything but the codecs; the language model's own when `None`. Codecs
            are in float32, since in less they choose other codes.
        projector_hidden_act (`str`, *optional*): Activation of two-layer projectors; one linear layer when `None`.
        projector_intermediate_size (`int`, *optional*): Width between their layers; the language model's when `None`.
        vision_feature_select (`"patch"` or `"cls"`): Rows of the tower's output that become tokens.
        audio_context_fraction (`float`): Largest part of the context that one clip may take.
        audio_stack_factor (`1`, `2`, `4` or `8`): Features of an audio encoder that become one token: Whisper gives 50
            features a second.
        gguf_file (`str`, *optional*): Name of the GGUF file in `text`.
        context (`int`, *optional*): Longest sequence, for language models that know none (Mamba, BLOOM...).

    Returns:
        The model, in evaluation mode, and its [`JosieProcessor`].

    Raises:
        `ValueError`: A part is missing, incomplete or of another kind; parts do not fit together; or the result does
            not do what its parts did.
    """
    if not isinstance(talker, (str, dict, type(None))):
        raise ValueError(f"`talker` must be a name, a dict of fields or None, got {type(talker).__name__}.")
    parts = _load_parts(load_text(text, dtype, gguf_file, context), audio, vision, codec)
    _refuse_idle_options(
        parts,
        projector_hidden_act=projector_hidden_act,
        projector_intermediate_size=projector_intermediate_size,
        vision_feature_select=vision_feature_select,
        audio_context_fraction=audio_context_fraction,
    )
    tokenizer = parts.text.tokenizer
    if parts.codec is None and talker not in (None, FIT):
        raise ValueError(f"`codec` must be given for a Talker to speak through, got None with `talker` {talker!r}.")

    language: Any = parts.text.model
    num_rows = language.get_input_embeddings().weight.shape[0]
    known_ids, new_ids = extend_tokenizer(tokenizer, num_rows, text)
    ends: Any = (tokenizer.get_vocab().get(EOS_TOKEN), tokenizer.eos_token_id)
    extend_embeddings(language, known_ids, new_ids, ends)
    options = {
        f"{modality}_token_id": tokenizer.convert_tokens_to_ids(token) for modality, token in _PLACEHOLDERS.items()
    } | {
        "projector_hidden_act": projector_hidden_act,
        "projector_intermediate_size": projector_intermediate_size,
        "vision_feature_select": vision_feature_select,
        "audio_context_fraction": audio_context_fraction,
        "audio_stack_factor": audio_stack_factor,
    }
    try:
        config = _build_config(parts, talker, options)
    except StrictDataclassError as error:  # not a ValueError, unlike what it wraps
        raise ValueError(str(error.__cause__ or error)) from error
    processor = build_processor(config, tokenizer, audio, vision)
    model = _put_together(config, parts)
    _set_generation(model, language, tokenizer)
    ids = try_text(model, language, known_ids, text)
    try_reload(model, processor, ids, try_front_ends(model, processor))
    return model, processor


def _refuse_idle_options(parts: _Parts, **options: Any) -> None:
    """Raise a `ValueError` for an option other than its default of a part that the model does not have."""
    has_features = {
        modality: part is not None and not is_codec(part.config)
        for modality, part in (("audio", parts.audio), ("vision", parts.vision))
    }
    needs = {
        "projector_hidden_act": (any(has_features.values()), "an encoder of audio or images"),
        "projector_intermediate_size": (any(has_features.values()), "an encoder of audio or images"),
        "vision_feature_select": (has_features["vision"], "a vision tower"),
        "audio_context_fraction": (parts.audio is not None, "audio"),
    }
    defaults = inspect.signature(assemble).parameters
    for name, value in options.items():
        is_there, part = needs[name]
        if not is_there and value != defaults[name].default:
            raise ValueError(f"`{name}` must be left out without {part}, got {value!r}.")
    if options["projector_hidden_act"] is None and options["projector_intermediate_size"] is not None:
        raise ValueError(
            "`projector_intermediate_size` must be None for projectors of one layer (`projector_hidden_act` None), got "
            f"{options['projector_intermediate_size']!r}."
        )


def _load_parts(text: TextPart, audio: Source | None, vision: Source | None, codec: Source | None) -> _Parts:
    dtype = text.model.dtype
    encoder = None if audio is None else load_audio_encoder(audio, dtype)
    if audio is not None and encoder is not None and codec is not None:
        require_one_codec(audio, encoder.config, codec)
    voice = encoder if encoder is not None and is_codec(encoder.config) else None
    if voice is None and codec is not None:
        voice = load_codec(codec)
    return _Parts(text, encoder, None if vision is None else load_vision_tower(vision, dtype), voice)


def _build_config(parts: _Parts, talker: str | dict[str, Any] | None, options: dict[str, Any]) -> JosieConfig:
    text_config: Any = parts.text.decoder.config
    text_config.tie_word_embeddings = parts.text.is_tied  # multimodal checkpoints say so elsewhere
    thinker = JosieThinkerConfig(
        text_config=text_config,
        audio_config=None if parts.audio is None else parts.audio.config,
        vision_config=None if parts.vision is None else parts.vision.config,
        lm_head_bias=parts.text.head.bias is not None,
        **options,
    )
    codec: Any = None if parts.codec is None else parts.codec.config
    has_talker = talker is not None and codec is not None
    return JosieConfig(
        thinker_config=thinker,
        talker_config=size_talker(thinker, audio_codec_geometry(codec), talker) if has_talker else None,  # type: ignore[arg-type]
        audio_codec_config=codec,
    )


def _put_together(config: JosieConfig, parts: _Parts) -> JosieForConditionalGeneration:
    """Build the model without memory, and put the pretrained modules and new ones in their places."""
    dtype = parts.text.model.dtype
    with torch.device("meta"):
        model = JosieForConditionalGeneration(config)
    thinker = model.thinker.model
    thinker.language_model = parts.text.decoder
    model.thinker.lm_head = parts.text.head
    for front_end, encoder in ((thinker.audio_front_end, parts.audio), (thinker.vision_front_end, parts.vision)):
        if front_end is None:
            continue
        if front_end.encoder is not None:
            front_end.encoder = encoder
        for part in (front_end.projector, front_end.code_embedding):
            if part is not None:
                _initialize(part, thinker, dtype)
    if config.talker_config is not None:
        model.talker = JosieTalkerForConditionalGeneration(config.talker_config)  # type: ignore[arg-type]
        _cast_parameters(model.talker, dtype)
    model.audio_codec = parts.codec
    model.vision_codec = parts.vision if parts.vision is not None and is_codec(parts.vision.config) else None
    model.freeze_fixed_parts()
    return model.eval()


def _initialize(part: nn.Module, owner: PreTrainedModel, dtype: torch.dtype) -> None:
    """Allocate a module that was built without memory, and draw its weights as its owner does."""
    part.to_empty(device="cpu")
    part.apply(owner._init_weights)
    _cast_parameters(part, dtype)


def _cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters, but no buffers: rotary frequencies stay in float32, as after loading."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _set_generation(
    model: JosieForConditionalGeneration, original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Generate as the language model did, end where the chat template ends a turn, and write no placeholders."""
    config: GenerationConfig = model.generation_config
    source: Any = original.generation_config or GenerationConfig()
    placeholders = config.suppress_tokens or []
    defaults = {name: value for name, value in source.to_diff_dict().items() if name != "transformers_version"}
    without: dict[str, Any] = dict.fromkeys(_OF_ENCODERS)
    config.update(**(defaults | without))
    ends = source.eos_token_id
    ends = ends if ends is not None else getattr(original.config.get_text_config(), "eos_token_id", None)
    ends = list(ends) if isinstance(ends, (list, tuple)) else [ends]
    ends += [tokenizer.eos_token_id, tokenizer.get_vocab().get(EOS_TOKEN)]
    config.update(
        eos_token_id=list(dict.fromkeys(end for end in ends if end is not None)) or None,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=sorted({*placeholders, *(source.suppress_tokens or [])}) or None,
    )
    config._from_model_config = False  # otherwise transformers forgets options it does not know
