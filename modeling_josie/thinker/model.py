"""The Thinker: a causal language model that reads text, images, videos and audio, and writes text.

Features of the front ends take the places of placeholder tokens. Generation makes them once, before its loop.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg
from typing_extensions import Unpack

from ...configuration_josie import JosieThinkerConfig
from ...configuration_josie.constants import IGNORE_INDEX
from ...configuration_josie.logit_rule import LogitRule
from ..freezing import FreezingMixin, Groups, group_parts
from ..layers.fast_linear import trains_fast
from ..losses.targets import NumItems, count_text_tokens, text_loss_divisor
from ..outputs import JosieThinkerModelOutput, JosieThinkerOutput
from ..pretrained import JosiePreTrainedModel
from . import text  # noqa: F401  (registers our text backbone with AutoModel)
from .audio_front_end import AudioFrontEnd
from .front_ends import build_part
from .gaps import count_positions, counts_by_mask, refuse_gaps
from .generation import ThinkerGenerationMixin, suppress_placeholders
from .input_stream import InputStreamMixin
from .inputs import (
    SPEECH_INPUTS,
    MediaOutputs,
    ThinkerKwargs,
    name_outputs,
    pop_inputs,
    refuse_unknown,
    spell_inputs,
)
from .media import MediaMixin
from .vision_front_end import VisionFrontEnd


class JosieThinkerPreTrainedModel(JosiePreTrainedModel):
    """Shared by the Thinker with and without its head."""

    config: JosieThinkerConfig
    _can_record_outputs = {}  # the text backbone records its own
    _name_in_whole = "thinker"
    _keys_to_ignore_on_load_unexpected = [r"^talker\.", r"^audio_codec\.", r"^vision_codec\."]

    @property
    def input_modalities(self) -> tuple[str, ...]:
        """Modalities that the model reads."""
        return self.config.input_modalities


# Their layers multiply what they read by a mask of just that, and forget what a convolution saw before several tokens.
_FIRST_MAMBAS = ("mamba", "falcon_mamba")


def _mask_of_new(attention_mask: torch.Tensor | None, length: int, cache: Any) -> torch.Tensor | None:
    """Return the mask of the last positions for the first Mambas; refuse several that go on from a cache."""
    layers = getattr(cache, "layers", None) or ()
    states = [state for layer in layers for state in getattr(layer, "conv_states", {}).values()]
    if length > 1 and any(state is not None for state in states):
        raise ValueError(
            f"`cache` must be that of nothing, or go on with one token, for a text backbone of {list(_FIRST_MAMBAS)}, "
            f"got {length} tokens: give them one by one."
        )
    return None if attention_mask is None else attention_mask[:, -length:]


class JosieThinkerModel(MediaMixin, JosieThinkerPreTrainedModel):
    """Text backbone and front ends, without the language-model head.

    Args:
        config ([`JosieThinkerConfig`]): Its parts.
    """

    def __init__(self, config: JosieThinkerConfig):
        super().__init__(config)
        self.language_model = build_part(config.text_config)
        self.audio_front_end = AudioFrontEnd(config) if config.audio_config is not None else None
        self.vision_front_end = VisionFrontEnd(config) if config.vision_config is not None else None
        parameters = inspect.signature(self.language_model.forward).parameters.values()
        named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        self._known_arguments = named | TransformersKwargs.__optional_keys__ | {"shift_labels"}
        self._counts_positions = "position_ids" in named and not counts_by_mask(self.language_model)
        self.post_init()

    def takes(self, name: str) -> bool:
        """Return whether the text backbone takes an argument of this name."""
        return name in self._known_arguments

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the text backbone."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the token embedding of the text backbone."""
        self.language_model.set_input_embeddings(value)

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
        use_cache: bool | None = None,
        mm_encoder_outputs: MediaOutputs | None = None,
        **kwargs: Unpack[ThinkerKwargs],
    ) -> JosieThinkerModelOutput:
        """Read a batch.

        Args:
            input_ids (`torch.LongTensor`, *optional*): `(batch, length)`, with placeholders where features go.
            attention_mask (`torch.Tensor`, *optional*): `(batch, past + length)`, 1 for real tokens.
            position_ids (`torch.LongTensor`, *optional*): `(batch, length)`; when `None`, counted as transformers does,
                but for what the mask hides behind a row's first token: so padding behind learned prompts is none.
            cache (`Cache`, *optional*): Of any kind.
            inputs_embeds (`torch.Tensor`, *optional*): `(batch, length, hidden_size)`, as in `embed_inputs`.
            use_cache (`bool`, *optional*): Return a cache.
            mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*): Media that are encoded already, as
                in `encode_media`.
            kwargs: The media, [`ModalInputs`]; and options of transformers and of the text backbone.

        Returns:
            [`JosieThinkerModelOutput`].

        Raises:
            `ValueError`: The sequence is longer than the positions allow, placeholders do not match, an argument has an
                unknown name, or there is padding where the text backbone would read it.
        """
        inputs = pop_inputs(kwargs)
        refuse_unknown(kwargs, self._known_arguments)
        # One token on top of a cache was written by generation; looking at it would wait for the device.
        newest = input_ids if input_ids is not None else inputs_embeds
        is_step = cache is not None and newest is not None and newest.shape[1] == 1
        asked = {name: value for name, value in kwargs.items() if name in ("output_hidden_states", "output_attentions")}
        embeds, media = self.read_inputs(input_ids, inputs_embeds, mm_encoder_outputs, is_step, asked, **inputs)
        if embeds.shape[1] > self.config.max_sequence_length:
            raise ValueError(
                f"`input_ids` must have at most {self.config.max_sequence_length} positions, placeholders "
                f"included, got {embeds.shape[1]}."
            )
        if "per_layer_inputs" not in kwargs:
            kwargs |= self.embed_for_layers(input_ids)  # type: ignore[assignment]
        if position_ids is None and isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            if (input_ids is None or cache is not None) and not is_step:  # as learned prompts are given
                refuse_gaps(self.language_model, attention_mask)
            past = 0 if cache is None else cache.get_seq_length()
            # A static cache may have a tensor for it, and a mask of all its places.
            if self._counts_positions and isinstance(past, int) and attention_mask.shape[1] == past + embeds.shape[1]:
                position_ids = count_positions(attention_mask, embeds.shape[1]).to(embeds.device)
        if self.config.text_config.model_type in _FIRST_MAMBAS:
            attention_mask = _mask_of_new(attention_mask, embeds.shape[1], cache)
        outputs = self.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            # `Trainer` sets it there
            use_cache=getattr(self.config, "use_cache", None) if use_cache is None else use_cache,
            return_dict=True,
            **kwargs,
        )
        states = outputs.last_hidden_state
        if states.dtype == torch.float32 and embeds.dtype in (torch.float16, torch.bfloat16):
            states = states.to(embeds.dtype)  # of families that add up in float32
        return JosieThinkerModelOutput(
            last_hidden_state=states,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=getattr(outputs, "attentions", None),  # recurrent models have none
            inputs_embeds=embeds,
            **name_outputs(media),
        )


class JosieThinkerForConditionalGeneration(
    FreezingMixin, InputStreamMixin, ThinkerGenerationMixin, JosieThinkerPreTrainedModel
):
    """The Thinker with its language-model head.

    Args:
        config ([`JosieThinkerConfig`]): Its parts.
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}
    target_names = ("text",)

    def __init__(self, config: JosieThinkerConfig):
        super().__init__(config)
        self.model = JosieThinkerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.text_config.vocab_size, bias=config.lm_head_bias)
        self.logit_rule = LogitRule.of(config.text_config)
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

    @spell_inputs("audio")
    def get_audio_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode clips, see [`JosieThinkerModel.get_audio_features`]."""
        return self.model.get_audio_features(*args, **kwargs)

    @spell_inputs("image")
    def get_image_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode images, see [`JosieThinkerModel.get_audio_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    @spell_inputs("video")
    def get_video_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode videos, see [`JosieThinkerModel.get_audio_features`]."""
        return self.model.get_video_features(*args, **kwargs)

    def get_groups(self) -> Groups:
        """Return what can be frozen by name, see [`FreezingMixin`]."""
        model = self.model
        ends = {"embeddings": self.get_input_embeddings(), "head": self.lm_head}
        groups = group_parts("text", model.language_model, ends)
        groups["text"].append(self.lm_head)
        for name, front_end in (("audio", model.audio_front_end), ("vision", model.vision_front_end)):
            parts = ("encoder", "projector", "code_embedding")
            groups |= group_parts(name, front_end, {part: getattr(front_end, part, None) for part in parts})
        return groups

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the logits `(..., vocab_size)` of states `(..., hidden_size)`, scaled and capped by family."""
        return self.logit_rule.apply(self.lm_head(hidden_states))

    def _compute_loss(
        self,
        states: torch.Tensor,
        logits: torch.Tensor | None,
        labels: torch.Tensor,
        num_items_in_batch: NumItems,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Return the loss of all logits, or of those at learned positions where none are given."""
        targets = options.pop("shift_labels", None)
        if targets is None:
            targets = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].contiguous()
        num_items = text_loss_divisor(num_items_in_batch, nn.functional.pad(targets, (1, 0)))
        if logits is None and torch.compiler.is_compiling():  # their number would break the graph
            logits = self.compute_logits(states)
        elif logits is None:
            learned = targets != IGNORE_INDEX
            logits, targets = self.compute_logits(states[learned.to(states.device)]), targets[learned]
        vocab_size = self.config.text_config.vocab_size
        return self.loss_function(
            logits, labels, vocab_size=vocab_size, num_items_in_batch=num_items, shift_labels=targets, **options
        )

    def count_targets(self, labels: torch.Tensor | None = None, **inputs: Any) -> dict[str, torch.Tensor]:
        """Return the number of targets of each kind in a batch; takes what `forward` takes."""
        return {} if labels is None else {"text": count_text_tokens(labels)}

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    @spell_inputs()
    @trains_fast
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
        mm_encoder_outputs: MediaOutputs | None = None,
        num_items_in_batch: NumItems = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[ThinkerKwargs],
    ) -> JosieThinkerOutput:
        """Predict the next token at every position.

        Args:
            labels (`torch.LongTensor`, *optional*): `(batch, length)`, the token *at* each position (they are shifted
                inside, as everywhere in transformers), -100 where nothing is to be learned.
            logits_to_keep (`int` or `torch.Tensor`): Only the last so many positions, 0 for all.
            num_items_in_batch (`torch.Tensor`, `int` or `dict[str, torch.Tensor]`, *optional*): Learned text tokens in
                the whole batch of which this is a part, alone or as `"text"`; those of `labels` when `None`.
            skip_logits (`bool`, *optional*): Make logits only where there is something to learn, and return none, which
                costs a fraction of the time and memory; in training with `labels` when `None`.

        All other arguments, and errors, as in [`JosieThinkerModel`]. A batch of the whole model may be given: what it
        holds for the Talker (`speech_codes`, `speech_mask`, `speech_durations`, `speaker_ids`) is left aside.

        Returns:
            [`JosieThinkerOutput`].
        """
        options: Any = {name: value for name, value in kwargs.items() if name not in SPEECH_INPUTS}
        outputs: Any = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **options,
        )
        states = outputs.last_hidden_state
        skip_logits = self.training and labels is not None if skip_logits is None else skip_logits
        logits = None if skip_logits else self.compute_logits(slice_logits_to_keep(states, logits_to_keep))
        loss = None if labels is None else self._compute_loss(states, logits, labels, num_items_in_batch, options)
        return JosieThinkerOutput(
            loss=loss,
            logits=logits,
            last_hidden_state=outputs.last_hidden_state,
            inputs_embeds=outputs.inputs_embeds,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=outputs.image_outputs,
            video_outputs=outputs.video_outputs,
            audio_outputs=outputs.audio_outputs,
        )


AutoModel.register(JosieThinkerConfig, JosieThinkerModel, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForImageTextToText):
    auto_class.register(JosieThinkerConfig, JosieThinkerForConditionalGeneration, exist_ok=True)
# `Trainer` shifts smoothed labels for the class names of the one table, `transformers serve` asks the other.
for table in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES):
    names: Any = table
    names.setdefault(JosieThinkerConfig.model_type, JosieThinkerForConditionalGeneration.__name__)
