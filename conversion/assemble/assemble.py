"""A JOSIE of pretrained parts: a language model, an audio encoder, a vision tower and an audio codec of anybody's.

Parts keep their weights, bit for bit; what joins them (projectors, embeddings of codes, the Talker) is new and random.
The model is built without memory, its pretrained modules are put in their places, and only what is new is allocated.
At the end it is tried: its logits against the language model's, and every front end on an input of its own.
"""

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
from .checks import check_front_ends, check_logits
from .parts import Source, TextPart, load_codec, load_ear, load_eye, load_text, load_tokenizer, require_one_codec
from .processor import build_processor
from .talker import FIT, size_talker
from .vocabulary import extend_embeddings, extend_tokenizer

_PLACEHOLDERS = {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN, "audio": AUDIO_TOKEN}


@dataclass(frozen=True)
class AssembledPart:
    """One line of what a model is made of.

    Args:
        name (`str`): The module.
        class_name (`str`): Its class.
        num_parameters (`int`): How many it has; the head has none of its own where it is the embedding.
        is_pretrained (`bool`): Whether they come from a checkpoint, or are new and random.
    """

    name: str
    class_name: str
    num_parameters: int
    is_pretrained: bool


def assemble(
    text: Source,
    audio: Source | None = None,
    vision: Source | None = None,
    codec: Source | None = None,
    talker: str | dict[str, Any] | None = FIT,
    dtype: torch.dtype | None = None,
    projector_hidden_act: str | None = "gelu",
    vision_feature_select: Literal["cls", "patch"] = "patch",
    audio_context_fraction: float = 0.25,
) -> tuple[JosieForConditionalGeneration, JosieProcessor]:
    """Return a JOSIE of pretrained parts, and its processor.

    The logits of text alone are the language model's, and features and codes are those of the encoders and the codec:
    the same modules compute them. The tokenizer keeps its ids and its chat template, which is extended, see
    [`extend_chat_template`]; special tokens are added, and their rows start at the mean of the others, also where the
    language model has spare rows. How it writes by default (sampling, end of text) is the language model's.

    Args:
        text (`str` or `Path`): Folder, or name on the Hub, of a causal language model (Llama, Qwen3, Gemma 3, SmolLM,
            GPT-2...) with its tokenizer; of a multimodal one its text half is used.
        audio (`str` or `Path`, *optional*): An audio encoder (Whisper, of which the encoder is used, wav2vec 2.0,
            HuBERT, WavLM...), or an audio codec, whose codes it hears and also speaks. Deaf when `None`.
        vision (`str` or `Path`, *optional*): A vision tower (ViT, or CLIP and SigLIP, of which the half that sees is
            used), or JOVIO. Blind when `None`.
        codec (`str` or `Path`, *optional*): An audio codec to speak through (JODIO, the mel codec, Mimi, DAC,
            EnCodec...).
        talker (`str` or `dict`, *optional*): Sizes of the Talker that speaks its codes, see [`size_talker`]: `"fit"`,
            the name of a preset, or fields of its configuration. No Talker when `None`, nor without a codec.
        dtype (`torch.dtype`, *optional*): Of all parts, the codec and what is new included, because a checkpoint is
            loaded in one; the language model's own when `None`. A codec in less than float32 may choose other codes.
        projector_hidden_act (`str`, *optional*): Activation of two-layer projectors; one linear layer when `None`.
        vision_feature_select (`"patch"` or `"cls"`): Which rows of a tower the Thinker sees.
        audio_context_fraction (`float`): Largest part of the context that one clip may take.

    Returns:
        The model, in evaluation mode, and its [`JosieProcessor`].

    Raises:
        `ValueError`: A part is missing, incomplete or of another kind; parts do not fit together; or the result does
            not do what its parts did.
    """
    if not isinstance(talker, (str, dict, type(None))):
        raise ValueError(f"`talker` must be a name, a dict of fields or None, got {type(talker).__name__}.")
    language, tokenizer = load_text(text, dtype), load_tokenizer(text)
    dtype = language.model.dtype
    ear = None if audio is None else load_ear(audio, dtype)
    if audio is not None and ear is not None and codec is not None:
        require_one_codec(audio, ear.config, codec)
    voice = ear if ear is not None and is_codec(ear.config) else None
    if voice is None and codec is not None:
        voice = load_codec(codec, dtype)
    if voice is None and talker not in (None, FIT):
        raise ValueError(f"`codec` must be given for a Talker to speak through, got None with `talker` {talker!r}.")
    eye = None if vision is None else load_eye(vision, dtype)

    table: Any = language.decoder.get_input_embeddings().weight
    num_rows = table.shape[0]
    known_ids, new_ids = extend_tokenizer(tokenizer, num_rows, text)
    extend_embeddings(language.model, known_ids, new_ids)
    options = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(token) for kind, token in _PLACEHOLDERS.items()} | {
        "projector_hidden_act": projector_hidden_act,
        "vision_feature_select": vision_feature_select,
        "audio_context_fraction": audio_context_fraction,
    }
    try:
        config = _build_config(language, ear, eye, voice, talker, options)
    except StrictDataclassError as error:  # not a ValueError, unlike what it wraps
        raise ValueError(str(error.__cause__ or error)) from error
    processor = build_processor(config, tokenizer, audio, vision)
    model = _put_together(config, language, ear, eye, voice, dtype)
    _set_generation(model, language.model, tokenizer)
    check_logits(model, language.model, known_ids, text)
    check_front_ends(model, processor)
    return model, processor


def list_parts(model: JosieForConditionalGeneration) -> list[AssembledPart]:
    """Return what an assembled model is made of, in the order of its modules."""
    thinker = model.thinker.model
    candidates: list[tuple[str, Any, bool]] = [("language_model", thinker.language_model, True)]
    candidates.append(("lm_head", model.thinker.lm_head, True))
    for name in ("audio_front_end", "vision_front_end"):
        front_end = getattr(thinker, name)
        for part, is_pretrained in (("encoder", True), ("projector", False), ("code_embedding", False)):
            candidates.append((f"{name}.{part}", getattr(front_end, part, None), is_pretrained))
    candidates += [("talker", model.talker, False)]
    candidates += [("audio_codec", model.audio_codec, True), ("vision_codec", model.vision_codec, True)]
    seen: set[int] = set()
    parts = []
    for name, module, is_pretrained in candidates:
        if module is None:
            continue
        parameters = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen |= {id(parameter) for parameter in parameters}
        count = sum(parameter.numel() for parameter in parameters)
        parts.append(AssembledPart(name, type(module).__name__, count, is_pretrained))
    return parts


def _build_config(
    language: TextPart,
    ear: PreTrainedModel | None,
    eye: PreTrainedModel | None,
    voice: PreTrainedModel | None,
    talker: str | dict[str, Any] | None,
    options: dict[str, Any],
) -> JosieConfig:
    text_config: Any = language.decoder.config
    text_config.tie_word_embeddings = language.is_tied  # multimodal checkpoints say so elsewhere
    thinker = JosieThinkerConfig(
        text_config=text_config,
        audio_config=None if ear is None else ear.config,
        vision_config=None if eye is None else eye.config,
        **options,
    )
    codec: Any = None if voice is None else voice.config
    has_talker = talker is not None and codec is not None
    return JosieConfig(
        thinker_config=thinker,
        talker_config=size_talker(thinker, audio_codec_geometry(codec), talker) if has_talker else None,  # type: ignore[arg-type]
        audio_codec_config=codec,
    )


def _put_together(
    config: JosieConfig,
    language: TextPart,
    ear: PreTrainedModel | None,
    eye: PreTrainedModel | None,
    voice: PreTrainedModel | None,
    dtype: torch.dtype,
) -> JosieForConditionalGeneration:
    """Build the model without memory, and put the pretrained modules and new ones in their places."""
    with torch.device("meta"):
        model = JosieForConditionalGeneration(config)
    thinker = model.thinker.model
    thinker.language_model = language.decoder
    model.thinker.lm_head = language.head
    for front_end, encoder in ((thinker.audio_front_end, ear), (thinker.vision_front_end, eye)):
        if front_end is None:
            continue
        if front_end.encoder is not None:
            front_end.encoder = encoder
        for part in (front_end.projector, front_end.code_embedding):
            if part is not None:
                _start(part, thinker, dtype)
    if config.talker_config is not None:
        model.talker = JosieTalkerForConditionalGeneration(config.talker_config).to(dtype)  # type: ignore[arg-type]
    model.audio_codec = voice
    model.vision_codec = eye if eye is not None and is_codec(eye.config) else None
    model.freeze_fixed_parts()
    return model.eval()


def _start(part: nn.Module, owner: PreTrainedModel, dtype: torch.dtype) -> None:
    """Allocate a module that was built without memory, and draw its weights as its owner does."""
    part.to_empty(device="cpu")
    part.apply(owner._init_weights)
    part.to(dtype)


def _set_generation(
    model: JosieForConditionalGeneration, original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Let the model write as its backbone did, end where the chat template ends a turn, and write no placeholders."""
    config: GenerationConfig = model.generation_config
    source: Any = original.generation_config or GenerationConfig()
    placeholders = config.suppress_tokens or []
    facts = {name: value for name, value in source.to_diff_dict().items() if name != "transformers_version"}
    config.update(**facts)
    ends = source.eos_token_id if source.eos_token_id is not None else original.config.get_text_config().eos_token_id
    ends = list(ends) if isinstance(ends, (list, tuple)) else [ends]
    ends += [tokenizer.eos_token_id, tokenizer.get_vocab().get(EOS_TOKEN)]
    config.update(
        eos_token_id=list(dict.fromkeys(end for end in ends if end is not None)) or None,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=sorted({*placeholders, *(source.suppress_tokens or [])}) or None,
    )
    config._from_model_config = False  # otherwise transformers forgets options it does not know
