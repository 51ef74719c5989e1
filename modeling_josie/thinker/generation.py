"""Generation of the Thinker: transformers' own, with media of every modality.

transformers encodes images and videos once before the loop (`mm_encoder_outputs`, by modality), expands them over
beams, cuts them for chunked prefill and hands them to assistants. Here audio takes the same way, a prompt may continue
from a cache that has read its media already, and answers end where positions do.
"""

import inspect
from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.cache_utils import CacheLayerMixin
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from ...configuration_josie import JosieThinkerConfig
from ..peft_wrappers import is_prompted
from .gaps import refuse_gaps
from .generation_options import check_options
from .inputs import MODALITIES, MediaOutputs, pop_inputs
from .media import join_rows
from .row_draws import RowDraws, check_seed, put_draws_last
from .state_listener import report_state

logger = logging.get_logger(__name__)

# Arguments of transformers' `generate` behind the prompt, which may be given by their place.
_BY_PLACE = ("generation_config", "logits_processor", "stopping_criteria")


def suppress_placeholders(generation_config: GenerationConfig, config: JosieThinkerConfig):
    """Forbid placeholders in generation, whose place nothing could take, and the decisions of sessions."""
    generation_config.suppress_tokens = placeholder_tokens(config) or None


def placeholder_tokens(config: JosieThinkerConfig) -> list[int]:
    """Return the ids of the placeholders that there are, and of the tokens that decide in sessions."""
    tokens = (
        *(config.image_token_id, config.video_token_id, config.audio_token_id),
        *(config.listen_token_id, config.speak_token_id),
    )
    return [token for token in tokens if token is not None]


class ThinkerGenerationMixin(GenerationMixin):
    """The steps of [`~transformers.GenerationMixin.generate`] in which media or positions matter."""

    config: JosieThinkerConfig
    generation_config: Any
    model: Any

    def generate(
        self, inputs: torch.Tensor | None = None, *args: Any, seed: int | list[int] | None = None, **kwargs: Any
    ) -> Any:
        """Write, as [`~transformers.GenerationMixin.generate`] does.

        Args:
            inputs (`torch.LongTensor`, *optional*): `(batch, length)`, left-padded where rows differ in length;
                `input_ids` is another name for it.
            seed (`int` or `list[int]`, *optional*): Of the tokens that are drawn, for each row, so that a row does not
                depend on the others; from one number rows count on. Torch's global generator draws when `None`.
            args, kwargs: As of transformers' `generate`, media among them.

        Raises:
            `ValueError`: An option would have no effect, or the inputs do not fit.
        """
        given: dict[str, Any] = kwargs | dict(zip(_BY_PLACE, args, strict=False))
        given |= {} if inputs is None else {"input_ids": inputs}
        config = given.get("generation_config")
        vocab_size = self.config.get_text_config().vocab_size
        check_options(given, config, self.generation_config, vocab_size, placeholder_tokens(self.config))
        use_cache = getattr(config or self.generation_config, "use_cache", None)
        if is_prompted(self) and given.get("use_cache", use_cache) is not False:
            raise ValueError(
                "`use_cache` must be False with learned prompts of peft, which would be passed over beside a cache, "
                "got True."
            )
        if seed is not None:
            check_seed(kwargs, self.generation_config if config is None else config)
            name = "logits_processor"
            given = kwargs.pop(name, None) if len(args) < 2 else args[1]
            processors = [*(given or ()), RowDraws(seed)]
            args = args if len(args) < 2 else (args[0], processors, *args[2:])
            kwargs |= {} if len(args) >= 2 else {name: processors}
        return super().generate(inputs, *args, **kwargs)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Return the processors of logits; rows with seeds draw behind all others."""
        return put_draws_last(super()._get_logits_processor(*args, **kwargs))

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Raise a `ValueError`: continuous batching reads tokens alone, through masks that front ends do not have."""
        raise ValueError("`generate_batch` must be `generate` with a padded batch, as there is no continuous batching.")

    init_continuous_batching = generate_batch

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Merge the options of a call, which never lets placeholders be written."""
        merged, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for length, new_tokens in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            # The length that a call says counts, rather than new tokens of a configuration behind it.
            for said in (kwargs, vars(generation_config) if generation_config is not None else {}):
                if said.get(new_tokens) is not None:
                    break
                if said.get(length):
                    setattr(merged, new_tokens, None)
                    break
        tokens = {*(merged.suppress_tokens or ()), *placeholder_tokens(self.config)}
        merged.suppress_tokens = sorted(tokens) or None
        return merged, model_kwargs

    @wraps(GenerationMixin.prepare_inputs_for_generation)  # whose signature `generate` reads
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the inputs of one step, without the tokenizers that some ways of decoding read."""
        for name in ("tokenizer", "assistant_tokenizer"):
            kwargs.pop(name, None)
        return super().prepare_inputs_for_generation(*args, **kwargs)

    def _maybe_prepare_encoder_kwargs_for_generation(
        self,
        inputs_tensor: torch.Tensor,
        model_kwargs: dict[str, Any],
        model_input_name: str | None,
        generation_config: GenerationConfig,
    ) -> dict[str, Any]:
        """Encode the media once, and split what the cache has not read by the rows of the batch."""
        mask = model_kwargs.get("attention_mask")
        if is_prompted(self) and mask is not None and mask.ndim == 2:
            refuse_gaps(self.model.language_model, nn.functional.pad(mask, (1, 0), value=1))
        is_embedded = model_input_name == "inputs_embeds"
        given = {"inputs_embeds" if is_embedded else "input_ids": inputs_tensor}
        media = self.model.encode_media(model_kwargs.pop("mm_encoder_outputs", None), **pop_inputs(model_kwargs))
        num_read = _count_read_positions(inputs_tensor, model_kwargs, generation_config, is_embedded)
        is_new = torch.arange(inputs_tensor.shape[1], device=inputs_tensor.device) >= num_read
        outputs: MediaOutputs = {}
        for modality in MODALITIES:
            output = media.get(modality)
            if output is None and is_embedded:
                continue
            places = self.model.get_placeholder_mask(modality, **given)
            rows = None if output is None else join_rows(output).to(places.device)
            if rows is not None and generation_config.is_assistant and rows.shape[-1] != self.config.hidden_size:
                # Features of a main model of another width mean nothing here: the assistant guesses without them.
                rows = rows.new_zeros(len(rows), self.config.hidden_size)
            if rows is not None and num_read and len(rows) == places.sum():
                rows = rows[is_new.expand_as(places)[places]]  # all media are given again
            places = places & is_new
            self.model.check_placeholders(modality, places, rows)
            if rows is not None and len(rows):
                outputs[modality] = _pool(rows.split(places.sum(dim=1).tolist()))
        return model_kwargs | {"mm_encoder_outputs": outputs} if outputs else model_kwargs

    def _expand_multimodal_outputs(
        self, input_ids: torch.Tensor, mm_encoder_output: MediaOutputs, expand_size: int = 1, **kwargs: Any
    ) -> MediaOutputs:
        """Repeat the features of each row of the batch, as its tokens are repeated."""
        return {
            modality: _pool([rows for rows in _items(output) for _ in range(expand_size)])
            for modality, output in mm_encoder_output.items()
        }

    def _update_model_kwargs_for_generation(self, outputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Hand the state of what was read to whoever speaks the answer."""
        report_state(outputs.last_hidden_state)
        following = super()._update_model_kwargs_for_generation(outputs, *args, **kwargs)
        if is_prompted(self):  # peft gives a learned prefix as a cache, anew for each step
            following.pop("cache", None)
        return following

    def create_masks_for_generate(self, config: Any, **kwargs: Any) -> Any:
        """Return the masks of a static cache as the family of the text backbone makes them."""
        text_config = config.get_text_config()
        causal = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text_config), None)
        own = None if causal is None else inspect.getattr_static(causal, "create_masks_for_generate", None)
        if own is None:
            return create_masks_for_generate(config=config, **kwargs)
        make, first = (own.__func__, ()) if isinstance(own, staticmethod) else (own, (self,))
        return make(*first, config=text_config, **kwargs)

    def _prefill(
        self,
        input_ids: torch.Tensor,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        is_first_iteration: bool = True,
    ) -> Any:
        """Read the prompt; an assistant's too with its media, which transformers counts as no first iteration."""
        chunk_size = generation_config.prefill_chunk_size
        if chunk_size is not None and _has_states_alone(model_kwargs.get("cache")):
            raise ValueError(
                "`prefill_chunk_size` must be None for a text backbone of states alone, which do not say how many "
                f"positions they have read, got {chunk_size}."
            )
        return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=True)

    def _assisted_decoding(
        self, input_ids: torch.Tensor, *args: Any, inputs_tensor: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError(
                "`inputs_embeds` must be None with `assistant_model` and `prompt_lookup_num_tokens`, which read "
                f"tokens, got a tensor of shape {tuple(kwargs['inputs_embeds'].shape)}."
            )
        return super()._assisted_decoding(input_ids, *args, inputs_tensor=inputs_tensor, **kwargs)

    def _prepare_generated_length(
        self,
        generation_config: GenerationConfig,
        *args: Any,
        inputs_tensor: torch.Tensor,
        input_ids_length: int,
        **kwargs: Any,
    ) -> GenerationConfig:
        """Cut the wanted length to the positions that are left.

        Raises:
            `ValueError`: The prompt leaves no position for a new token.
        """
        most, length = self.config.max_sequence_length, inputs_tensor.shape[1]
        room = most - length
        if room < 1:
            raise ValueError(
                f"`input_ids` must have fewer than {most} positions, placeholders included, so that there is one for "
                f"a new token, got {length}."
            )
        generation_config = super()._prepare_generated_length(
            generation_config, *args, inputs_tensor=inputs_tensor, input_ids_length=input_ids_length, **kwargs
        )
        wanted = generation_config.max_length - input_ids_length  # type: ignore[operator]
        if wanted > room:
            name = "max_length" if generation_config.max_new_tokens is None else "max_new_tokens"
            logger.warning(f"`{name}` leaves {wanted} new tokens, of which {room} have a position: cut to {room}.")
            generation_config.max_length = input_ids_length + room
        return generation_config


def _pool(rows: Sequence[torch.Tensor]) -> BaseModelOutputWithPooling:
    pooled: Any = tuple(rows)  # a tensor by its type, and one for each item by transformers' convention
    return BaseModelOutputWithPooling(pooler_output=pooled)


def _items(output: BaseModelOutputWithPooling) -> Sequence[torch.Tensor]:
    pooled: Any = output.pooler_output
    return pooled


def _has_states_alone(cache: Any) -> bool:
    """Return whether no layer of a cache has keys and values, of which each position has its own."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and not any(isinstance(layer, CacheLayerMixin) for layer in layers)


def _count_read_positions(
    inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any], generation_config: GenerationConfig, is_embedded: bool
) -> int:
    """Return how many positions of the inputs the cache holds already: none where only new inputs are given."""
    cache, mask = model_kwargs.get("cache"), model_kwargs.get("attention_mask")
    if cache is None:
        return 0
    if _has_states_alone(cache):
        raise ValueError(
            "`cache` must be None for a text backbone of states alone, which do not say how many positions they have "
            "read, got one."
        )
    mask_length = mask.shape[1] if mask is not None else getattr(generation_config, "_mask_length", -1)
    return int(cache.get_seq_length()) if is_embedded or mask_length == inputs_tensor.shape[1] else 0
