"""Media of a batch: from inputs of every modality to features in place of placeholders."""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import TransformersKwargs, can_return_tuple, torch_compilable_check
from typing_extensions import Unpack

from ...configuration_josie import JosieThinkerConfig
from ..losses.unused_parts import add_zero_gradients
from .front_ends import Features
from .inputs import (
    MODALITIES,
    MODALITY_INPUTS,
    AudioInputs,
    ImageInputs,
    MediaOutputs,
    ModalInputs,
    VideoInputs,
    bind_inputs,
    refuse_unknown,
    spell_inputs,
)


def join_rows(output: BaseModelOutputWithPooling) -> torch.Tensor:
    """Return the rows of all items of one modality, `(total_rows, hidden_size)`, one after the other."""
    pooled: Any = output.pooler_output
    return pooled.flatten(0, -2) if isinstance(pooled, torch.Tensor) else torch.cat(tuple(pooled))


class MediaMixin:
    """Features of [`JosieThinkerModel`]: made by its front ends, put where its placeholders are."""

    config: JosieThinkerConfig
    get_input_embeddings: Any
    language_model: Any
    # A front end that is absent is `None`.
    audio_front_end: Any
    vision_front_end: Any

    @can_return_tuple
    @spell_inputs("audio")
    def get_audio_features(
        self, *args: torch.Tensor | None, **kwargs: Unpack[AudioInputs]
    ) -> BaseModelOutputWithPooling:
        """Encode clips.

        Args:
            args, kwargs: [`AudioInputs`]; and options of the encoder, such as `output_hidden_states`.

        Returns:
            [`BaseModelOutputWithPooling`] with `pooler_output`, for each clip the rows `(num_tokens, hidden_size)` that
            replace its placeholders, and what the encoder returns.

        Raises:
            `ValueError`: The model has no audio input, or takes another kind of it.
        """
        return self._get_features("audio", args, kwargs)

    @can_return_tuple
    @spell_inputs("image")
    def get_image_features(
        self, *args: torch.Tensor | None, **kwargs: Unpack[ImageInputs]
    ) -> BaseModelOutputWithPooling:
        """Encode images, [`ImageInputs`]; the rest as `get_audio_features`."""
        return self._get_features("image", args, kwargs)

    @can_return_tuple
    @spell_inputs("video")
    def get_video_features(
        self, *args: torch.Tensor | None, **kwargs: Unpack[VideoInputs]
    ) -> BaseModelOutputWithPooling:
        """Encode videos, [`VideoInputs`]; the rest as `get_audio_features`."""
        return self._get_features("video", args, kwargs)

    def _get_features(
        self, modality: str, args: tuple[torch.Tensor | None, ...], kwargs: Any
    ) -> BaseModelOutputWithPooling:
        return _describe(self._run_front_end(modality, bind_inputs(modality, args, kwargs), **kwargs))

    def _run_front_end(self, modality: str, inputs: ModalInputs, **kwargs: Any) -> Features:
        """Run the front end of a modality; images and videos share one."""
        front_end, config_name, verb = (
            (self.audio_front_end, "audio_config", "heard")
            if modality == "audio"
            else (self.vision_front_end, "vision_config", "seen")
        )
        if front_end is None:
            raise ValueError(f"`{next(iter(inputs), modality)}` cannot be {verb}: `config.{config_name}` is None.")
        refuse_unknown(kwargs, TransformersKwargs.__optional_keys__)
        if modality == "audio":
            return front_end(**inputs, **kwargs)
        return front_end(modality, *(inputs.get(name) for name in MODALITY_INPUTS[modality]), **kwargs)

    def encode_media(
        self, mm_encoder_outputs: MediaOutputs | None = None, **inputs: Unpack[ModalInputs]
    ) -> MediaOutputs:
        """Encode all media of a batch.

        Args:
            mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*): What is encoded already, by
                modality (`"audio"`, `"image"`, `"video"`).
            inputs: The media, [`ModalInputs`].

        Returns:
            `mm_encoder_outputs` and the output of `get_audio_features` and so on for each modality that has inputs.

        Raises:
            `ValueError`: A modality is given twice, or cannot be read.
        """
        outputs: MediaOutputs = dict(mm_encoder_outputs or {})
        for modality, given in self._sort_inputs(outputs, inputs).items():
            outputs[modality] = getattr(self, f"get_{modality}_features")(**given, return_dict=True)
        return outputs

    def _sort_inputs(self, outputs: MediaOutputs | None, inputs: ModalInputs) -> dict[str, ModalInputs]:
        """Return the inputs that are given by modality; none may be given and encoded already."""
        for modality in outputs or ():
            if modality not in MODALITIES:
                raise ValueError(f"`mm_encoder_outputs` must have keys among {MODALITIES}, got {modality!r}.")
        found: Any = {}
        for modality, names in MODALITY_INPUTS.items():
            given = {name: inputs[name] for name in names if inputs.get(name) is not None}
            if given and outputs and outputs.get(modality) is not None:
                raise ValueError(
                    f"`{next(iter(given))}` must be None with `mm_encoder_outputs[{modality!r}]`, got both."
                )
            if given:
                found[modality] = given
        return found

    def embed_inputs(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: MediaOutputs | None = None,
        is_step: bool = False,
        **inputs: Unpack[ModalInputs],
    ) -> torch.Tensor:
        """Embed tokens and put the features of all media in place of their placeholders.

        Args:
            input_ids, inputs_embeds, mm_encoder_outputs, is_step, inputs: As of [`MediaMixin.read_inputs`].
        """
        return self.read_inputs(input_ids, inputs_embeds, mm_encoder_outputs, is_step, **inputs)[0]

    def read_inputs(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: MediaOutputs | None = None,
        is_step: bool = False,
        encoder_options: dict[str, Any] | None = None,
        **inputs: Unpack[ModalInputs],
    ) -> tuple[torch.Tensor, MediaOutputs]:
        """Embed tokens and put the features of all media in place of their placeholders.

        Args:
            input_ids (`torch.LongTensor`, *optional*): `(batch, length)`.
            inputs_embeds (`torch.FloatTensor`, *optional*): `(batch, length, hidden_size)`, in place of the embeddings
                of `input_ids`. Without `input_ids`, placeholders are the positions that equal their embedding.
            mm_encoder_outputs, inputs: As in `encode_media`; all are packed over the batch, in the order of their
                placeholders.
            is_step (`bool`): Whether these are tokens that generation wrote, among which is no placeholder.
            encoder_options (`dict`, *optional*): For the encoders, such as `output_hidden_states`.

        Returns:
            The embeddings, `(batch, length, hidden_size)`; and the outputs of the encoders by modality, as
            `get_audio_features` and so on return them.

        Raises:
            `ValueError`: Placeholders and features differ in number, or placeholders have no input at all.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("One of `input_ids` and `inputs_embeds` must be given, got neither.")
            embeds = self.get_input_embeddings()(input_ids)
        else:
            embeds = inputs_embeds
        given = self._sort_inputs(mm_encoder_outputs, inputs)
        outputs: MediaOutputs = {name: value for name, value in (mm_encoder_outputs or {}).items() if value is not None}
        if is_step and not given and not outputs:
            return embeds, outputs
        for modality in MODALITIES:
            rows = None
            if modality in outputs:
                rows = join_rows(outputs[modality])
            elif modality in given:
                features = self._run_front_end(modality, given[modality], **(encoder_options or {}))
                rows, outputs[modality] = features.rows, _describe(features)
            if rows is None:
                embeds = self._keep_unused(modality, embeds, given)
                if input_ids is None:
                    continue  # other tokens may share a placeholder's embedding
            places = self.get_placeholder_mask(modality, input_ids, inputs_embeds)
            self.check_placeholders(modality, places, rows)
            if rows is not None:
                embeds = embeds.masked_scatter(places[..., None], rows.to(embeds))
        return embeds, outputs

    def embed_for_layers(self, input_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the embeddings that layers of some text backbones add (Gemma 3n, Gemma 4): those of padding for media.

        Args:
            input_ids (`torch.LongTensor`, *optional*): `(batch, length)`.

        Returns:
            `per_layer_inputs`, `(batch, length, num_layers, width)`, for backbones that read them.

        Raises:
            `ValueError`: There are no ids, from which alone they can be made.
        """
        text: Any = self.config.text_config
        if not getattr(text, "hidden_size_per_layer_input", None):
            return {}
        if input_ids is None:
            raise ValueError(
                f"`input_ids` must be given to a {text.model_type!r} backbone, whose layers embed them anew, got None."
            )
        without = input_ids >= text.vocab_size_per_layer_input
        for modality in MODALITIES:
            without = without | self.get_placeholder_mask(modality, input_ids)
        known = input_ids.masked_fill(without, text.pad_token_id or 0)
        return {"per_layer_inputs": self.language_model.get_per_layer_inputs(known)}

    def get_placeholder_mask(
        self, modality: str, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return where the placeholders of a modality are, `(batch, length)`.

        Args:
            modality (`str`): `"audio"`, `"image"` or `"video"`.
            input_ids (`torch.LongTensor`, *optional*): `(batch, length)`.
            inputs_embeds (`torch.FloatTensor`, *optional*): `(batch, length, hidden_size)`; read without `input_ids`.
        """
        token_id = getattr(self.config, f"{modality}_token_id")
        tokens: Any = inputs_embeds[..., 0] if input_ids is None else input_ids  # type: ignore[index]
        if token_id is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        if input_ids is not None:
            return input_ids == token_id
        placeholder = self.get_input_embeddings()(torch.tensor(token_id, device=tokens.device))
        return (inputs_embeds == placeholder).all(dim=-1)

    def check_placeholders(self, modality: str, places: torch.Tensor, rows: torch.Tensor | None):
        """Raise a `ValueError` unless placeholders and features fit.

        Args:
            modality (`str`): `"audio"`, `"image"` or `"video"`.
            places (`torch.BoolTensor`): `(batch, length)`, true at placeholders.
            rows (`torch.FloatTensor`, *optional*): `(total_rows, hidden_size)`; `None` for no inputs.
        """
        count = places.sum()
        if rows is None:
            torch_compilable_check(
                count == 0,
                lambda: (
                    f"`input_ids` must hold no {modality} placeholders without {modality} inputs, got {int(count)}."
                ),
            )
            return
        if rows.shape[-1] != self.config.hidden_size:
            raise ValueError(
                f"`mm_encoder_outputs[{modality!r}]` must have rows of the Thinker's width "
                f"({self.config.hidden_size}), got {rows.shape[-1]}."
            )
        torch_compilable_check(
            count == rows.shape[0],
            lambda: (
                f"`input_ids` must hold as many {modality} placeholders as there are {modality} features "
                f"({rows.shape[0]}), got {int(count)}."
            ),
        )

    def _keep_unused(self, modality: str, embeds: torch.Tensor, given: dict[str, ModalInputs]) -> torch.Tensor:
        """Give the front end of a modality without inputs gradients of zero; images and videos share one."""
        if modality == "video" or (modality == "image" and "video" in given):
            return embeds
        front_end: Any = self.audio_front_end if modality == "audio" else self.vision_front_end
        return add_zero_gradients(embeds, front_end, lambda: front_end.dummy_forward())


def _describe(features: Features) -> BaseModelOutputWithPooling:
    """Return an encoder's output with the rows of each item; in a compiled graph all of them in one tensor."""
    rows: Any = features.rows if torch.compiler.is_compiling() else features.rows.split(features.counts.tolist())
    return BaseModelOutputWithPooling(
        last_hidden_state=features.encoded.last_hidden_state,
        pooler_output=rows,
        hidden_states=features.encoded.hidden_states,
        attentions=features.encoded.attentions,
    )
