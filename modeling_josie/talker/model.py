"""The Talker: from the Thinker's states to codes of speech, frame by frame.

At each step the backbone reads one spoken token (a learned vector after the last) and the codes of the frame before,
and predicts quantizer 0 of the next frame. The depth decoder predicts the frame's other quantizers, each given the ones
before it. `generation` has the loop that speaks, `text_reading` what a step reads of the text.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, initialization as init
from transformers.utils import can_return_tuple, torch_compilable_check

from ...configuration_josie import JosieTalkerConfig
from ...configuration_josie.constants import IGNORE_INDEX
from ..freezing import FreezingMixin, Groups
from ..layers.backbone import JosieBackbone
from ..layers.embeddings import CodeEmbedding
from ..layers.fast import store_by_columns
from ..layers.fast_linear import trains_fast
from ..losses.targets import choose_frames, count_codes, target_loss
from ..outputs import JosieTalkerOutput
from ..pretrained import JosiePreTrainedModel
from .depth_decoder import JosieDepthDecoder, JosieParallelHeads
from .duration_predictor import DurationPredictor
from .generation import TalkerGenerationMixin


class JosieTalkerForConditionalGeneration(TalkerGenerationMixin, FreezingMixin, JosiePreTrainedModel):
    """Backbone over frames, head for quantizer 0, depth decoder or parallel heads for the rest.

    Differs from both seeds where they are broken: the Talker hears the text, speech ends, and every quantizer that the
    codec writes is predicted.

    Args:
        config ([`JosieTalkerConfig`]): Its shape.
    """

    config: JosieTalkerConfig
    main_input_name = "speech_codes"
    output_modalities = ("audio",)
    target_names = ("talker", "depth", "duration")
    _name_in_whole = "talker"
    _keys_to_ignore_on_load_unexpected = [r"^thinker\.", r"^audio_codec\.", r"^vision_codec\."]
    accepts_loss_kwargs = False  # the Trainer counts text tokens, of which there are none

    def __init__(self, config: JosieTalkerConfig):
        super().__init__(config)
        self.model = JosieBackbone(config)
        self.code_embedding = CodeEmbedding(
            config.num_quantizers,
            config.codebook_size,
            config.hidden_size,
            shared=config.share_code_embedding,
            num_extra=1,
        )
        text_size = (1 + config.reads_thinker_states) * config.thinker_hidden_size
        self.thinker_projection = nn.Linear(text_size, config.hidden_size, bias=False)
        self.text_layer: nn.Module | None = None
        if config.text_intermediate_size is not None:
            width = config.text_intermediate_size
            self.text_layer = nn.Sequential(
                nn.Linear(text_size, width), nn.SiLU(), nn.Linear(width, config.hidden_size, bias=False)
            )
        self.durations = DurationPredictor(config, text_size) if config.learns_durations else None
        self.end_of_text = nn.Parameter(torch.zeros(config.hidden_size))
        self.start = nn.Parameter(torch.zeros(config.hidden_size))
        self.speaker_embedding = nn.Embedding(len(config.speakers), config.hidden_size) if config.speakers else None
        self.head = nn.Linear(config.hidden_size, config.codebook_size + config.end_of_speech, bias=config.head_bias)
        self.depth_decoder: Any = None  # one of two classes, or none
        if config.num_quantizers > 1:
            has_depth = config.depth_decoder_config is not None
            self.depth_decoder = JosieDepthDecoder(config) if has_depth else JosieParallelHeads(config)
        self.post_init()

    def prepare_for_inference(self):
        """Store weights as the steps of generation read them fastest; results are the same but for rounding.

        Checkpoints do not change. `load_state_dict` keeps the order, moves and casts too; training works as ever.

        Returns:
            The Talker itself.

        Raises:
            `ValueError`: It is in training mode.
        """
        if self.training:
            raise ValueError("`prepare_for_inference` must be called in evaluation mode, got a model in training mode.")
        store_by_columns(self)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of codes: where gradients enter when only adapters inside learn."""
        return self.code_embedding.embedding

    def set_input_embeddings(self, value: nn.Module):
        """Replace the embedding of codes, by one with as many rows."""
        self.code_embedding.embedding = value

    def get_groups(self) -> Groups:
        """Return what can be frozen by name, see [`FreezingMixin`]."""
        embeddings = [self.code_embedding, self.start, self.end_of_text]
        if self.speaker_embedding is not None:
            embeddings.append(self.speaker_embedding)
        projection = [part for part in (self.thinker_projection, self.text_layer) if part is not None]
        groups: Groups = {"embeddings": embeddings, "projection": projection}
        if self.durations is not None:
            groups["durations"] = [self.durations]
        groups |= {"backbone": [self.model], "head": [self.head]}
        return groups if self.depth_decoder is None else groups | {"depth": [self.depth_decoder]}

    def count_targets(self, speech_codes: torch.Tensor | None = None, **inputs: Any) -> dict[str, torch.Tensor]:
        """Return how many targets of each kind a batch has; takes what `forward` takes."""
        return {} if speech_codes is None else count_codes(speech_codes)

    def reset_weights(self) -> None:
        """Initialise what is no module's; called by [`JosiePreTrainedModel`]."""
        init.normal_(self.end_of_text, std=self.config.initializer_range)
        init.normal_(self.start, std=self.config.initializer_range)

    @can_return_tuple
    @trains_fast
    def forward(
        self,
        speech_codes: torch.Tensor,
        thinker_hidden_states: torch.Tensor | None = None,
        thinker_embeds: torch.Tensor | None = None,
        thinker_mask: torch.Tensor | None = None,
        speaker_ids: torch.Tensor | None = None,
        speech_durations: torch.Tensor | None = None,
        num_items_in_batch: Mapping[str, torch.Tensor] | None = None,
        return_loss: bool = True,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> JosieTalkerOutput:
        """Predict every frame of known speech from the frames before it.

        Args:
            speech_codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`, the codes *of* each frame: frame
                `t` is predicted from frames before `t`, nothing is shifted by the caller. -100 where nothing is
                learned (padding at the end); in quantizer 0, `config.end_of_speech_id` marks the end.
            thinker_hidden_states, thinker_embeds (`torch.Tensor`, *optional*): `(batch, num_tokens,
                thinker_hidden_size)`, the Thinker's hidden states and embeddings of the spoken tokens, padded on the
                right; no text when `None`.
            thinker_mask (`torch.Tensor`, *optional*): `(batch, num_tokens)`, 1 for real tokens.
            speaker_ids (`torch.LongTensor`, *optional*): `(batch,)`, rows of `config.speakers`; the first when `None`.
            speech_durations (`torch.Tensor`, *optional*): `(batch, num_tokens)`, for how many frames each token is
                said, not only whole ones, as an aligner found it; 0 for padding. For Talkers that learn durations.
            num_items_in_batch (`dict[str, torch.Tensor]`, *optional*): What `count_targets` gives of the whole batch of
                which this is a part; its own when `None`.
            return_loss (`bool`): Whether to return losses. `Trainer` looks for this name to evaluate a model whose
                targets are not called labels.
            output_hidden_states, output_attentions (`bool`, *optional*): Return those of the backbone; as
                `config.output_hidden_states` and `config.output_attentions` say when `None`.

        Returns:
            [`JosieTalkerOutput`], in training mode without `depth_logits`: only frames with something to learn are
            decoded, or `config.depth_loss_fraction` of them.

        Raises:
            `ValueError`: Codes are out of range, of the wrong shape or more than the positions allow, speakers are
                unknown, or durations do not fit.
        """
        codes = self._check_codes(speech_codes)
        batch_size, _, num_frames = codes.shape
        delay = self.config.speech_delay
        given = self._join_text(batch_size, thinker_hidden_states, thinker_embeds)
        if speech_durations is not None:
            self._check_durations(speech_durations, given)
        text, durations, _ = self.embed_steps(batch_size, delay + num_frames, given, thinker_mask, speech_durations)
        # The frame before step s is s - delay - 1; before the first one stands the extra row `codebook_size`.
        real = (codes >= 0) & (codes < self.config.codebook_size)
        previous = torch.where(real, codes, self.config.codebook_size)[:, :, :-1]
        if self.training and self.config.code_noise:
            previous = self._corrupt_codes(previous)
        previous = nn.functional.pad(previous, (delay + 1, 0), value=self.config.codebook_size)
        inputs = text + self.code_embedding(previous)
        inputs = torch.cat((self.embed_start(batch_size, speaker_ids), inputs), dim=1)
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        asked = {name: value for name, value in asked.items() if value is not None}
        outputs = self.model(inputs, use_cache=False, return_dict=True, **asked)
        hidden_states = outputs.last_hidden_state[:, 1 + delay :]

        logits = self.head(hidden_states)
        num_items = {} if num_items_in_batch is None else num_items_in_batch
        losses: dict[str, torch.Tensor] = {"talker": target_loss(logits, codes[:, 0], num_items.get("talker"))}
        depth_logits = None
        if self.depth_decoder is not None:
            known = torch.where(real, codes, 0)
            losses["depth"], depth_logits = self._predict_depth(hidden_states, known, codes, num_items.get("depth"))
        if self.durations is not None and durations is not None:
            num_learned = num_items.get("duration", (codes[:, 0] != IGNORE_INDEX).sum())
            lengths = real[:, 0].sum(dim=1)
            losses["duration"] = self.durations.loss(durations, lengths, num_learned, speech_durations)
        return JosieTalkerOutput(
            loss=torch.stack(list(losses.values())).sum() if return_loss else None,
            talker_loss=losses["talker"] if return_loss else None,
            depth_loss=losses.get("depth") if return_loss else None,
            duration_loss=losses.get("duration") if return_loss else None,
            logits=logits,
            depth_logits=depth_logits,
            last_hidden_state=hidden_states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _predict_depth(
        self, hidden_states: torch.Tensor, known: torch.Tensor, codes: torch.Tensor, num_items: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the loss of quantizers 1...N-1, and their logits in evaluation mode."""
        states = hidden_states.flatten(0, 1)
        known, targets = (some.transpose(1, 2).flatten(0, 1) for some in (known[:, :-1], codes[:, 1:]))
        num_items = (targets != IGNORE_INDEX).sum() if num_items is None else num_items
        scale, fraction = 1.0, self.config.depth_loss_fraction
        # All frames make one compiled graph; how many of them are learned from would break it.
        if self.training and not (fraction == 1 and torch.compiler.is_compiling()):
            frames, scale = choose_frames(targets, fraction)
            states, known, targets = states[frames], known[frames], targets[frames]
        levels = self.depth_decoder(states, known)
        losses = [target_loss(logits, targets[:, level], num_items) for level, logits in enumerate(levels)]
        loss = scale * torch.stack(losses).sum()
        if self.training:
            return loss, None
        return loss, torch.stack(levels, dim=1).unflatten(0, hidden_states.shape[:2]).transpose(1, 2)

    def dummy_forward(self) -> torch.Tensor:
        """Run every part on one frame of which nothing is learned, and return the loss, which is 0."""
        codes = torch.full((1, self.config.num_quantizers, 1), IGNORE_INDEX, device=self.device)
        return self(codes).loss

    def _corrupt_codes(self, previous: torch.Tensor) -> torch.Tensor:
        """Exchange a share of the codes of earlier frames at random: corrupted teacher forcing.

        A Talker that reads true codes alone meets its own errors for the first time when it speaks (exposure bias).
        """
        others = torch.randint_like(previous, self.config.codebook_size)
        is_wrong = torch.rand(previous.shape, dtype=torch.float32, device=previous.device) < self.config.code_noise
        return torch.where(is_wrong & (previous < self.config.codebook_size), others, previous)

    def _check_codes(self, codes: torch.Tensor) -> torch.Tensor:
        config = self.config
        if codes.ndim != 3 or codes.shape[1] != config.num_quantizers or codes.shape[2] == 0:
            raise ValueError(
                f"`speech_codes` must have shape (batch, {config.num_quantizers}, num_frames), "
                f"got {tuple(codes.shape)}."
            )
        if codes.shape[2] > self.max_frames:
            raise ValueError(f"`speech_codes` must have at most {self.max_frames} frames, got {codes.shape[2]}.")
        if codes.dtype.is_floating_point or codes.dtype == torch.bool:
            raise ValueError(f"`speech_codes` must be integers, got {codes.dtype}.")
        highest = torch.full((config.num_quantizers, 1), config.codebook_size - 1, device=codes.device)
        highest[0] += config.end_of_speech
        torch_compilable_check(
            ((codes <= highest) & ((codes >= 0) | (codes == IGNORE_INDEX))).all(),
            lambda: (
                f"`speech_codes` must be in [0, {config.codebook_size - 1}], or {IGNORE_INDEX}, or in quantizer 0 "
                f"{config.end_of_speech_id} for the end, got values from {int(codes.min())} to {int(codes.max())}."
            ),
        )
        return codes

    def _check_durations(self, durations: torch.Tensor, given: torch.Tensor | None) -> None:
        if self.durations is None:
            raise ValueError("`speech_durations` must be None for a Talker that does not learn them, got a tensor.")
        shape = None if given is None else tuple(given.shape[:2])
        if tuple(durations.shape) != shape:
            raise ValueError(
                f"`speech_durations` must have a number for each spoken token, in all {shape}, "
                f"got {tuple(durations.shape)}."
            )


AutoModel.register(JosieTalkerConfig, JosieTalkerForConditionalGeneration, exist_ok=True)
