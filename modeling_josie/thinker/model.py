"""The Thinker: a causal language model that reads text, pictures, video and sound, and writes text.

Features of the front ends take the places of placeholder tokens in `input_ids`. Generation makes them once, before the
loop, so that the loop is that of any text model, and beams or repeated sequences need no copies of pictures.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple, logging, torch_compilable_check
from transformers.utils.deprecation import deprecate_kwarg

from ...configuration_josie import JosieThinkerConfig
from ..freezing import FreezingMixin, Groups, group_parts
from ..losses.targets import NumItems, count_text_tokens, text_loss_divisor
from ..losses.unused_parts import add_zero_gradients
from ..outputs import JosieThinkerOutput
from ..pretrained import JosiePreTrainedModel
from . import text  # noqa: F401  (registers our text backbone with AutoModel)
from .front_ends import AudioFrontEnd, VisionFrontEnd

logger = logging.get_logger(__name__)

AUDIO_INPUTS = (
    "input_features",
    "input_features_mask",
    "input_values",
    "padding_mask",
    "audio_codes",
    "audio_codes_mask",
)
IMAGE_INPUTS = ("pixel_values", "image_grid_thw", "image_codes")
VIDEO_INPUTS = ("pixel_values_videos", "video_grid_thw", "video_codes")
MODALITY_INPUTS = AUDIO_INPUTS + IMAGE_INPUTS + VIDEO_INPUTS


def suppress_placeholders(generation_config: GenerationConfig, config: JosieThinkerConfig):
    """Let generation never write a placeholder, which nothing could take the place of."""
    tokens = (config.image_token_id, config.video_token_id, config.audio_token_id)
    generation_config.suppress_tokens = [token for token in tokens if token is not None] or None


class JosieThinkerPreTrainedModel(JosiePreTrainedModel):
    """Shared by the Thinker with and without its head."""

    config: JosieThinkerConfig
    _can_record_outputs = {}  # the text backbone records its own

    @property
    def input_modalities(self) -> tuple[str, ...]:
        """What the model reads."""
        return self.config.input_modalities


class JosieThinkerModel(JosieThinkerPreTrainedModel):
    """Text backbone and front ends, without the language-model head.

    Args:
        config ([`JosieThinkerConfig`]): Its parts.
    """

    def __init__(self, config: JosieThinkerConfig):
        super().__init__(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.audio_front_end = AudioFrontEnd(config) if config.audio_config is not None else None
        self.vision_front_end = VisionFrontEnd(config) if config.vision_config is not None else None
        self.max_positions = config.max_position_embeddings
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the text backbone."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the token embedding of the text backbone."""
        self.language_model.set_input_embeddings(value)

    def get_audio_features(self, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows `(num_tokens, hidden_size)` of all clips one after the other, and `(num_clips,)` counts.

        Takes `input_features` and `input_features_mask`, or `audio_codes` and `audio_codes_mask`, as
        [`AudioFrontEnd`] does.
        """
        if self.audio_front_end is None:
            raise ValueError(f"`{next(iter(inputs))}` cannot be heard: `config.audio_config` is None.")
        return self.audio_front_end(**inputs)

    def get_image_features(self, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows and counts as above, of pictures or of videos; takes what [`VisionFrontEnd`] takes."""
        if self.vision_front_end is None:
            raise ValueError(f"`{next(iter(inputs))}` cannot be seen: `config.vision_config` is None.")
        return self.vision_front_end(**inputs)

    def embed_inputs(
        self, input_ids: torch.Tensor | None, is_prompt: bool = True, **inputs: torch.Tensor | None
    ) -> torch.Tensor:
        """Embed tokens and put the features of pictures, videos and sound in place of their placeholders.

        Args:
            input_ids (`torch.LongTensor`): `(batch, length)`.
            is_prompt (`bool`): Whether placeholders have to have their inputs here; they do not in a decoding step.
            inputs: Any of `MODALITY_INPUTS`; clips, pictures and videos are packed over the batch, in the order of
                their placeholders.

        Returns:
            `(batch, length, hidden_size)`.

        Raises:
            `ValueError`: Placeholders and features differ in number, or placeholders have no input at all.
        """
        if input_ids is None:
            raise ValueError("One of `input_ids` and `inputs_embeds` must be given, got neither.")
        inputs_embeds = self.get_input_embeddings()(input_ids)
        if not is_prompt and all(value is None for value in inputs.values()):
            return inputs_embeds
        for kind, names, get_features in (
            ("audio", AUDIO_INPUTS, self.get_audio_features),
            ("image", IMAGE_INPUTS, self.get_image_features),
            ("video", VIDEO_INPUTS, self.get_image_features),
        ):
            given = {name: inputs[name] for name in names if inputs.get(name) is not None}
            if not given:
                if is_prompt:
                    self.refuse_placeholders(kind, input_ids)
                    inputs_embeds = self._keep_unused(kind, inputs_embeds, inputs)
                continue
            # One front end serves pictures and videos: codes of either are `vision_codes` to it.
            given = {"vision_codes" if name in ("image_codes", "video_codes") else name: given[name] for name in given}
            features, _ = get_features(**given)
            inputs_embeds = self._place(kind, input_ids, inputs_embeds, features)
        return inputs_embeds

    def refuse_placeholders(self, kind: str, input_ids: torch.Tensor):
        """Raise a `ValueError` if `input_ids` `(batch, length)` hold placeholders of a kind that has no input."""
        token_id = getattr(self.config, f"{kind}_token_id")
        if token_id is None:
            return
        count = (input_ids == token_id).sum()
        torch_compilable_check(
            count == 0, lambda: f"`input_ids` must hold no {kind} placeholders without {kind} inputs, got {int(count)}."
        )

    def _keep_unused(
        self, kind: str, inputs_embeds: torch.Tensor, inputs: dict[str, torch.Tensor | None]
    ) -> torch.Tensor:
        """Let the front end of a kind that has no inputs take part; pictures and videos have one."""
        if kind == "audio":
            front_end: Any = self.audio_front_end
        elif kind == "video" or any(inputs.get(name) is not None for name in VIDEO_INPUTS):
            return inputs_embeds  # has been asked for as the one of pictures, or is about to be used
        else:
            front_end = self.vision_front_end
        return add_zero_gradients(inputs_embeds, front_end, lambda: front_end.dummy_forward())

    def _place(
        self, kind: str, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        places = input_ids == getattr(self.config, f"{kind}_token_id")
        count = places.sum()
        torch_compilable_check(
            count == features.shape[0],
            lambda: (
                f"`input_ids` must hold as many {kind} placeholders as there are {kind} features "
                f"({features.shape[0]}), got {int(count)}."
            ),
        )
        return inputs_embeds.masked_scatter(places[..., None], features.to(inputs_embeds.dtype))

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        audio_codes: torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        image_codes: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        video_codes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Read a batch.

        Args:
            input_ids (`torch.LongTensor`): `(batch, length)`, with placeholders where features go.
            attention_mask (`torch.Tensor`, *optional*): `(batch, past + length)`, 1 for real tokens.
            position_ids (`torch.LongTensor`, *optional*): `(batch, length)`.
            cache (`Cache`, *optional*): Of any kind.
            inputs_embeds (`torch.Tensor`, *optional*): `(batch, length, hidden_size)`, in place of all other inputs.
            use_cache (`bool`, *optional*): Return a cache.
            input_features (`torch.Tensor`, *optional*): `(num_clips, num_mel_bins, num_frames)`, for an encoder.
            input_features_mask (`torch.Tensor`, *optional*): `(num_clips, num_frames)`.
            input_values (`torch.Tensor`, *optional*): `(num_clips, 1, num_samples)`, for an encoder of waveforms.
            padding_mask (`torch.Tensor`, *optional*): `(num_clips, num_samples)`.
            audio_codes (`torch.LongTensor`, *optional*): `(num_clips, num_quantizers, num_frames)`, for a codec.
            audio_codes_mask (`torch.Tensor`, *optional*): `(num_clips, num_frames)`.
            pixel_values (`torch.Tensor`, *optional*): `(num_images, channels, height, width)`, for an encoder.
            image_grid_thw (`torch.LongTensor`, *optional*): `(num_images, 3)`.
            image_codes (`torch.LongTensor`, *optional*): `(num_images, num_quantizers, num_patches)`.
            pixel_values_videos (`torch.Tensor`, *optional*): `(num_videos, frames, channels, height, width)`.
            video_grid_thw (`torch.LongTensor`, *optional*): `(num_videos, 3)`.
            video_codes (`torch.LongTensor`, *optional*): `(num_videos, num_quantizers, num_patches)`.

        Returns:
            [`BaseModelOutputWithPast`] with `last_hidden_state` of shape `(batch, length, hidden_size)`.

        Raises:
            `ValueError`: The sequence is longer than the positions allow, or placeholders do not match.
        """
        if use_cache is None:
            use_cache = getattr(self.config, "use_cache", None)  # `Trainer` sets it there
        modal = dict(
            input_features=input_features,
            input_features_mask=input_features_mask,
            input_values=input_values,
            padding_mask=padding_mask,
            audio_codes=audio_codes,
            audio_codes_mask=audio_codes_mask,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            image_codes=image_codes,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            video_codes=video_codes,
        )
        if inputs_embeds is None:
            inputs_embeds = self.embed_inputs(input_ids, is_prompt=cache is None, **modal)
        elif given := [name for name, value in modal.items() if value is not None]:
            raise ValueError(f"`inputs_embeds` must come without other inputs, got `{given[0]}` too.")
        if inputs_embeds.shape[1] > self.max_positions:
            raise ValueError(
                f"`input_ids` must have at most {self.max_positions} positions, placeholders "
                f"included, got {inputs_embeds.shape[1]}."
            )
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
            **kwargs,
        )


class JosieThinkerForConditionalGeneration(FreezingMixin, JosieThinkerPreTrainedModel, GenerationMixin):
    """The Thinker with its language-model head.

    Args:
        config ([`JosieThinkerConfig`]): Its parts.
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}
    target_names = ("text",)

    def __init__(self, config: JosieThinkerConfig):
        super().__init__(config)
        self.model = JosieThinkerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.text_config.vocab_size, bias=False)
        embedding = self.get_input_embeddings()
        name = next(
            name for name, module in self.named_modules() if module is embedding
        )  # families call it differently
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        suppress_placeholders(self.generation_config, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the token embedding."""
        self.model.set_input_embeddings(value)

    def get_groups(self) -> Groups:
        """Return what can be frozen by name, see [`FreezingMixin`]."""
        model = self.model
        words = {"embeddings": self.get_input_embeddings(), "head": self.lm_head}
        groups = group_parts("text", model.language_model, words)
        groups["text"].append(self.lm_head)
        for name, front_end in (("audio", model.audio_front_end), ("vision", model.vision_front_end)):
            parts = ("encoder", "projector", "code_embedding")
            groups |= group_parts(name, front_end, {part: getattr(front_end, part, None) for part in parts})
        return groups

    def count_targets(self, labels: torch.Tensor | None = None, **inputs: Any) -> dict[str, torch.Tensor]:
        """Return how many targets of each kind a batch has; takes what `forward` takes."""
        return {} if labels is None else {"text": count_text_tokens(labels)}

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        audio_codes: torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        image_codes: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        video_codes: torch.Tensor | None = None,
        num_items_in_batch: NumItems = None,
        **kwargs: Any,
    ) -> JosieThinkerOutput:
        """Predict the next token at every position.

        Args:
            labels (`torch.LongTensor`, *optional*): `(batch, length)`, the token *at* each position (they are shifted
                inside, as everywhere in transformers), -100 where nothing is to be learned.
            logits_to_keep (`int` or `torch.Tensor`): Only the last so many positions, 0 for all.
            num_items_in_batch (`torch.Tensor`, `int` or `dict[str, torch.Tensor]`, *optional*): How many words are
                learned in the whole batch of which this is a part, alone or as `"text"`; those of `labels` when `None`.

        All other arguments, and errors, as in [`JosieThinkerModel`].

        Returns:
            [`JosieThinkerOutput`].
        """
        if inputs_embeds is None:
            inputs_embeds = self.model.embed_inputs(
                input_ids,
                is_prompt=cache is None,
                input_features=input_features,
                input_features_mask=input_features_mask,
                input_values=input_values,
                padding_mask=padding_mask,
                audio_codes=audio_codes,
                audio_codes_mask=audio_codes_mask,
                pixel_values=pixel_values,
                image_grid_thw=image_grid_thw,
                image_codes=image_codes,
                pixel_values_videos=pixel_values_videos,
                video_grid_thw=video_grid_thw,
                video_codes=video_codes,
            )
        outputs = self.model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            words = kwargs.get("shift_labels")
            words = labels if words is None else nn.functional.pad(words, (1, 0))  # already shifted by the caller
            num_items = text_loss_divisor(num_items_in_batch, words)
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits, labels, vocab_size=vocab_size, num_items_in_batch=num_items, **kwargs)
        return JosieThinkerOutput(
            loss=loss,
            logits=logits,
            last_hidden_state=outputs.last_hidden_state,
            inputs_embeds=inputs_embeds,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write text: [`~transformers.GenerationMixin.generate`] with all its arguments, on inputs of every kind.

        Args:
            input_ids (`torch.LongTensor`): `(batch, length)`, left-padded where rows differ in length.
            kwargs: Inputs as in [`JosieThinkerModel`], and everything that `generate` takes in transformers.

        Raises:
            `ValueError`: The prompt leaves no position for a new token, placeholders do not match, or a prompt of more
                than text is to be read in chunks.
        """
        modal = {name: kwargs.pop(name) for name in MODALITY_INPUTS if name in kwargs}
        length = kwargs["inputs_embeds"].shape[1] if kwargs.get("inputs_embeds") is not None else 0
        length = input_ids.shape[1] if input_ids is not None else length
        room = self.config.max_position_embeddings - length
        if room < 1:
            raise ValueError(
                f"`input_ids` must have fewer than {self.config.max_position_embeddings} positions, placeholders "
                f"included, so that there is one for a new token, got {length}."
            )
        defaults = self.generation_config if generation_config is None else generation_config
        for name, most in (("max_new_tokens", room), ("max_length", self.config.max_position_embeddings)):
            wanted = kwargs.get(name)
            wanted = getattr(defaults, name) if wanted is None else wanted
            if (wanted or 0) > most:
                logger.warning(f"`{name}` is cut from {wanted} to {most}: {room} positions are left.")
                kwargs[name] = most
        if any(value is not None for value in modal.values()):
            with torch.no_grad():
                kwargs["inputs_embeds"] = self.model.embed_inputs(input_ids, **modal)
        elif input_ids is not None and kwargs.get("inputs_embeds") is None:
            for kind in ("audio", "image", "video"):
                self.model.refuse_placeholders(kind, input_ids)
        chunk_size = kwargs.get("prefill_chunk_size", defaults.prefill_chunk_size)
        if chunk_size is not None and kwargs.get("inputs_embeds") is not None:
            raise ValueError(f"`prefill_chunk_size` must be None for more than text, got {chunk_size}.")
        return super().generate(input_ids, generation_config=generation_config, **kwargs)


AutoModel.register(JosieThinkerConfig, JosieThinkerModel, exist_ok=True)
AutoModelForCausalLM.register(JosieThinkerConfig, JosieThinkerForConditionalGeneration, exist_ok=True)
