"""JOSIE: a Thinker that reads all modalities, a Talker that speaks its text, and codecs of audio and images."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.cache_utils import Cache
from transformers.generation import GenerationConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
from transformers.utils import can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg
from typing_extensions import Unpack

from ..configuration_josie import JosieConfig, is_codec
from .codecs import jodio, jovio, mel_codec  # noqa: F401  (registers our codecs with AutoModel)
from .codecs.adapters import encode_audio
from .codecs.inference import InferenceFormMixin
from .codecs.streaming import ThinkerStreamingState
from .duplex.session import SessionMixin
from .freezing import FreezingMixin, Groups, nest
from .generation import JosieGenerationMixin
from .losses.dropped import warn_of_dropped_speech
from .losses.targets import NumItems, code_loss_divisors
from .losses.unused_parts import add_zero_gradients
from .outputs import JosieOutput, JosieTalkerOutput, JosieThinkerStreamOutput
from .peft_wrappers import unwrap
from .pretrained import JosiePreTrainedModel
from .talker.model import JosieTalkerForConditionalGeneration
from .talker.spoken_turns import join_turns, split_turns
from .thinker.generation import suppress_placeholders
from .thinker.inputs import (
    AudioInputs,
    ImageInputs,
    MediaOutputs,
    ModalInputs,
    ThinkerKwargs,
    VideoInputs,
    bind_inputs,
    pop_inputs,
    spell_inputs,
)
from .thinker.model import JosieThinkerForConditionalGeneration


class JosieForConditionalGeneration(
    FreezingMixin, InferenceFormMixin, SessionMixin, JosieGenerationMixin, JosiePreTrainedModel
):
    """The whole model.

    The codecs are frozen and in float32 here, whatever `dtype` is asked for: this model's `forward` reads their codes,
    they are trained by their own. `prepare_for_inference` prepares codecs and Talker, as the commands of `josie` do.

    Args:
        config ([`JosieConfig`]): Its parts; those that are `None` are absent.
    """

    config: JosieConfig
    base_model_prefix = ""
    target_names = ("text", "talker", "depth", "duration")
    # Parts that may be absent are `None` then; whoever needs one checks first.
    talker: Any
    audio_codec: Any
    vision_codec: Any
    _can_record_outputs = {}

    def __init__(self, config: JosieConfig):
        super().__init__(config)
        self.thinker = JosieThinkerForConditionalGeneration(config.thinker_config)
        self.talker = JosieTalkerForConditionalGeneration(config.talker_config) if config.talker_config else None
        self.audio_codec = _build_codec(config.audio_codec_config)
        self.vision_codec = _build_codec(config.vision_codec_config)
        # Codecs in less choose other codes; `model.audio_codec.to(dtype)` asks for that.
        codecs = {"audio_codec": self.audio_codec, "vision_codec": self.vision_codec}
        self._keep_in_fp32_modules_strict = [name for name, codec in codecs.items() if codec is not None]
        self._keep_in_fp32_modules = self._keep_in_fp32_modules_strict  # which quantizers pass over
        # A config marked as derived from the model's loses options that transformers does not know when it is loaded.
        self.generation_config._from_model_config = False
        suppress_placeholders(self.generation_config, config.thinker_config)
        parts: Any = (self.thinker, self.thinker.model, self.talker)
        for part in filter(None, parts):
            part.name_or_path = config.name_or_path  # out of which its class loads it, so that adapters name it
            if config.name_or_path:
                part.config.name_or_path = config.name_or_path
        self.freeze_fixed_parts()
        self.post_init()

    def train(self, mode: bool = True):
        """Set the mode; the frozen codecs stay in evaluation mode, so that equal clips give equal codes."""
        super().train(mode)
        for codec in (self.audio_codec, self.vision_codec):
            if codec is not None:
                codec.eval()
        return self

    def prepare_for_inference(self):
        """Prepare the codecs and the Talker, see there.

        Returns:
            The model itself.

        Raises:
            `ValueError`: It is in training mode.
        """
        super().prepare_for_inference()
        if self.talker is not None:
            self.talker.prepare_for_inference()
        return self

    def freeze_fixed_parts(self):
        """Freeze the codecs."""
        super().freeze_fixed_parts()
        for codec in (self.audio_codec, self.vision_codec):
            if codec is not None:
                codec.requires_grad_(False)

    def get_groups(self) -> Groups:
        """Return what can be frozen by name, see [`FreezingMixin`]; the codecs are always frozen."""
        groups: Groups = {}
        for name in ("thinker", "talker"):
            part = getattr(self, name)
            if part is not None:
                groups |= {name: [part]} | nest(name, part.get_groups())
        codecs = {name: getattr(self, name) for name in ("audio_codec", "vision_codec")}
        return groups | {name: [codec] for name, codec in codecs.items() if codec is not None}

    def count_targets(
        self, labels: torch.Tensor | None = None, speech_codes: torch.Tensor | None = None, **inputs: Any
    ) -> dict[str, torch.Tensor]:
        """Return how many targets of each kind a batch has; takes what `forward` takes."""
        counts = self.thinker.count_targets(labels=labels)
        return counts if self.talker is None else counts | self.talker.count_targets(speech_codes=speech_codes)

    @property
    def input_modalities(self) -> tuple[str, ...]:
        """Modalities that the model reads."""
        return self.config.thinker_config.input_modalities

    @property
    def output_modalities(self) -> tuple[str, ...]:
        """Modalities that the model makes: `"text"`, and `"audio"` where it has a Talker and a codec."""
        return ("text", "audio") if self.talker is not None and self.audio_codec is not None else ("text",)

    @property
    def sampling_rate(self) -> int | None:
        """Samples a second of the speech it makes, in Hz; `None` without an audio codec."""
        return self.config.sampling_rate

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        """Keep flags and counts of what stays in float32 as they are; transformers would cast them too."""
        plan = super()._get_dtype_plan(dtype)
        kept = {name: value.dtype for name, value in self.named_buffers() if not value.is_floating_point()}
        return kept | plan if plan else plan

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.thinker.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the token embedding."""
        self.thinker.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the projection to the vocabulary."""
        return self.thinker.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module):
        """Replace the projection to the vocabulary."""
        unwrap(self.thinker).lm_head = new_embeddings

    @property
    def generation_config(self) -> GenerationConfig:
        """Defaults of `generate`: the Thinker's, one object for both."""
        return self.thinker.generation_config

    @generation_config.setter
    def generation_config(self, value: GenerationConfig):
        if "thinker" in self._modules:  # else the base class sets it before there are parts
            unwrap(self.thinker).generation_config = value

    @can_return_tuple
    @spell_inputs("audio")
    def get_audio_features(
        self, *args: torch.Tensor | None, **kwargs: Unpack[AudioInputs]
    ) -> BaseModelOutputWithPooling:
        """Encode clips, see [`JosieThinkerModel.get_audio_features`]; waveforms also for a codec."""
        return self._get_features("audio", args, kwargs)

    @can_return_tuple
    @spell_inputs("image")
    def get_image_features(
        self, *args: torch.Tensor | None, **kwargs: Unpack[ImageInputs]
    ) -> BaseModelOutputWithPooling:
        """Encode images, see [`JosieThinkerModel.get_audio_features`]; pixels also for a codec."""
        return self._get_features("image", args, kwargs)

    @can_return_tuple
    @spell_inputs("video")
    def get_video_features(
        self, *args: torch.Tensor | None, **kwargs: Unpack[VideoInputs]
    ) -> BaseModelOutputWithPooling:
        """Encode videos, see [`JosieThinkerModel.get_audio_features`]; pixels also for a codec."""
        return self._get_features("video", args, kwargs)

    def _get_features(
        self, modality: str, args: tuple[torch.Tensor | None, ...], kwargs: Any
    ) -> BaseModelOutputWithPooling:
        inputs: Any = self.encode_inputs(**bind_inputs(modality, args, kwargs))
        return getattr(self.thinker, f"get_{modality}_features")(**inputs, return_dict=True, **kwargs)

    def encode_inputs(self, **inputs: Unpack[ModalInputs]) -> ModalInputs:
        """Turn audio and pixels into codes where the Thinker reads codes, and leave everything else as it is.

        Args:
            inputs: The modal inputs.

        Returns:
            The Thinker's inputs, without those that are `None`.
        """
        given: Any = {name: value for name, value in inputs.items() if value is not None}
        if "input_values" in given and is_codec(self.config.thinker_config.audio_config):
            values, mask = given.pop("input_values"), given.pop("padding_mask", None)
            given["audio_codes"], given["audio_codes_mask"] = encode_audio(self.audio_codec, values, mask)
        if is_codec(self.config.thinker_config.vision_config):
            for pixels, grid, codes in (
                ("pixel_values", "image_grid_thw", "image_codes"),
                ("pixel_values_videos", "video_grid_thw", "video_codes"),
            ):
                if pixels not in given:
                    continue
                with torch.no_grad():
                    encoded = self.vision_codec.encode(
                        given.pop(pixels).to(self.vision_codec.dtype), grid_thw=given.get(grid)
                    )
                given[codes], given[grid] = encoded.vision_codes, encoded.grid_thw
        return given

    @can_return_tuple
    @spell_inputs()
    def append_inputs(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        streaming_state: ThinkerStreamingState | None = None,
        is_final: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **inputs: Unpack[ModalInputs],
    ) -> JosieThinkerStreamOutput:
        """Read what comes next, tokens or audio, see [`JosieThinkerForConditionalGeneration.append_inputs`].

        Where the Thinker reads codes of JODIO, a stream may also be given as `input_values`. Codes of another codec
        that streams, such as Mimi, are given as `audio_codes`.
        """
        options: Any = dict(attention_mask=attention_mask, is_final=is_final, logits_to_keep=logits_to_keep)
        values, audio_config = inputs.get("input_values"), self.config.thinker_config.audio_config
        if input_ids is not None or values is None or not is_codec(audio_config):
            given: Any = self.encode_inputs(**inputs) if input_ids is not None else inputs
            return self.thinker.append_inputs(
                input_ids, streaming_state=streaming_state, return_dict=True, **options, **given
            )
        if audio_config.model_type != "jodio":
            raise ValueError(
                f"`input_values` must be given as `audio_codes` in a stream to a codec of type "
                f"{audio_config.model_type!r}."
            )
        encoded = self.audio_codec.encode(
            values,
            inputs.get("padding_mask"),
            num_quantizers=audio_config.num_quantizers,
            streaming_state=None if streaming_state is None else streaming_state.audio,
            use_streaming=True,
            is_final=is_final,
        )
        output = self.thinker.append_inputs(
            audio_codes=encoded.audio_codes, streaming_state=streaming_state, return_dict=True, **options
        )
        if not is_final:
            output.streaming_state = replace(output.streaming_state, audio=encoded.streaming_state)
        return output

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    @spell_inputs()
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        speech_codes: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speech_durations: torch.Tensor | None = None,
        speaker_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: MediaOutputs | None = None,
        num_items_in_batch: NumItems = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[ThinkerKwargs],
    ) -> JosieOutput:
        """Predict text and speech, and the losses of doing so.

        Args:
            labels (`torch.LongTensor`, *optional*): `(batch, length)`, as in [`JosieThinkerForConditionalGeneration`].
            speech_codes (`torch.LongTensor`, *optional*): `(batch, num_quantizers, num_frames)`, what is to be said, as
                in [`JosieTalkerForConditionalGeneration`]; or `(batch, num_turns, num_quantizers, num_frames)` where
                rows have several spoken turns. -100 where there is none.
            speech_mask (`torch.Tensor`, *optional*): `(batch, length)`, 1 for the tokens that are spoken, 2 for those
                of a row's second spoken turn, and so on; when `None`, those with a label, or without `labels` all, as
                one turn, and never special tokens or placeholders.
            speech_durations (`torch.Tensor`, *optional*): `(batch, num_tokens)`, for how many frames each spoken token
                of a row is said, as in [`JosieTalkerForConditionalGeneration`]; 0 for padding.
            speaker_ids (`torch.LongTensor`, *optional*): `(batch,)`.
            num_items_in_batch (`torch.Tensor`, `int` or `dict[str, torch.Tensor]`, *optional*): What `count_targets`
                gives of the whole batch of which this is a part: the divisors of the losses; or the number of its
                text tokens, as the `Trainer` counts them: then the losses of codes are means over this part, weighted
                by its share of the text tokens. Its own targets when `None`.
            skip_logits (`bool`, *optional*): Make logits of text only where there is something to learn, and return
                none; in training with `labels` or `speech_codes` when `None`.

        All other inputs as in [`JosieThinkerModel`]; waveforms and pixels may also be given where it reads codes.

        Returns:
            [`JosieOutput`].

        Raises:
            `ValueError`: `speech_codes` without a Talker, or without a text token to learn where their number is given,
                and as the parts do.
        """
        if speech_codes is not None and self.talker is None:
            raise ValueError("`speech_codes` must be None for a model without a Talker, got codes.")
        if speech_codes is not None and labels is None and self.training:
            warn_of_dropped_speech(self)
        inputs = self.encode_inputs(**pop_inputs(kwargs))
        if skip_logits is None:
            skip_logits = self.training and (labels is not None or speech_codes is not None)
        unwrap(self.thinker)  # refuses learned prompts, which would shift what is spoken, or be passed over
        thought: Any = self.thinker(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=getattr(self.config, "use_cache", None) if use_cache is None else use_cache,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            num_items_in_batch=num_items_in_batch,
            skip_logits=skip_logits,
            return_dict=True,
            **inputs,
            **kwargs,
        )
        losses: dict[str, Any] = {"text": thought.loss}
        speech: JosieTalkerOutput | None = None
        talker_logits = depth_logits = None
        if speech_codes is not None:
            if speech_mask is None:
                speech_mask = self.get_speech_mask(input_ids, attention_mask, labels)
            options = {"speaker_ids": speaker_ids, "speech_durations": speech_durations}
            turns = split_turns(speech_codes, speech_mask, thought.last_hidden_state, thought.inputs_embeds, **options)
            speech = self.talker(
                turns.speech_codes,
                *turns.states,
                thinker_mask=turns.mask,
                speaker_ids=turns.speaker_ids,
                speech_durations=turns.speech_durations,
                num_items_in_batch=code_loss_divisors(num_items_in_batch, labels, speech_codes),
                return_dict=True,
            )
            spoken = (
                None if value is None else join_turns(value, turns.places, speech_codes)
                for value in (speech.logits, speech.depth_logits)
            )
            talker_logits, depth_logits = spoken
            losses |= {name: getattr(speech, f"{name}_loss") for name in self.talker.target_names}
        weighted = [
            getattr(self.config, f"{name}_loss_weight") * loss for name, loss in losses.items() if loss is not None
        ]
        loss = (
            self._keep_unused(torch.stack(weighted).sum(), labels, thought.last_hidden_state, speech)
            if weighted
            else None
        )
        return JosieOutput(
            loss=loss,
            text_loss=losses["text"],
            talker_loss=losses.get("talker"),
            depth_loss=losses.get("depth"),
            duration_loss=losses.get("duration"),
            logits=thought.logits,
            talker_logits=talker_logits,
            depth_logits=depth_logits,
            last_hidden_state=thought.last_hidden_state,
            cache=thought.cache,
            hidden_states=thought.hidden_states,
            attentions=thought.attentions,
            image_outputs=thought.image_outputs,
            video_outputs=thought.video_outputs,
            audio_outputs=thought.audio_outputs,
        )

    def _keep_unused(
        self,
        loss: torch.Tensor,
        labels: torch.Tensor | None,
        states: torch.Tensor,
        speech: JosieTalkerOutput | None,
    ) -> torch.Tensor:
        """Give parts that this batch does not train a gradient of zero."""
        if speech is None:
            loss = add_zero_gradients(loss, self.talker, lambda: self.talker.dummy_forward())
        if labels is None:
            loss = loss + states.flatten()[:0].sum()  # all below the head, and the head
            head = self.thinker.lm_head
            loss = add_zero_gradients(loss, head, lambda: head(states[:1, :1]))
        return loss


def _build_codec(config: Any) -> Any:
    """Return the codec that `config` describes, in at least single precision; `None` without one."""
    if config is None:
        return None
    return AutoModel.from_config(config, dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))


AutoModel.register(JosieConfig, JosieForConditionalGeneration, exist_ok=True)
# Whole also as a language model, as transformers has it of Gemma 3 and 4: what is loaded and saved loses no part.
for auto_class in (AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM):
    auto_class.register(JosieConfig, JosieForConditionalGeneration, exist_ok=True)
# `Trainer` shifts smoothed labels for the class names of the one table, `transformers serve` asks the other.
for table in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES):
    names: Any = table
    names.setdefault(JosieConfig.model_type, JosieForConditionalGeneration.__name__)
