"""The Talker: from the Thinker's states to codes of speech, frame by frame.

At each step the backbone reads one spoken token's state (while there are any, then a learned vector) plus the codes of
the frame before, and predicts quantizer 0 of the next frame; the depth decoder predicts the frame's other quantizers,
each given the ones before it. Generation is two plain loops over preallocated caches: a nested `generate()` for every
frame is where comparable models spend nearly all their time.
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
from ..losses.targets import choose_frames, count_codes, target_loss
from ..outputs import JosieTalkerGenerateOutput, JosieTalkerOutput
from ..pretrained import JosiePreTrainedModel
from .decoding import CodeSampler
from .depth_decoder import JosieDepthDecoder, JosieParallelHeads
from .durations import TokenDurations
from .speech_stream import SpeechStream, collect_frames


class JosieTalkerForConditionalGeneration(FreezingMixin, JosiePreTrainedModel):
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
    accepts_loss_kwargs = False  # the Trainer counts words, of which there are none

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
        self.durations = TokenDurations(config, text_size) if config.learns_durations else None
        self.end_of_text = nn.Parameter(torch.zeros(config.hidden_size))
        self.start = nn.Parameter(torch.zeros(config.hidden_size))
        self.speaker_embedding = nn.Embedding(len(config.speakers), config.hidden_size) if config.speakers else None
        self.head = nn.Linear(config.hidden_size, config.codebook_size + config.end_of_speech, bias=config.head_bias)
        self.depth_decoder: Any = None  # one of two classes, or none
        if config.num_quantizers > 1:
            has_depth = config.depth_decoder_config is not None
            self.depth_decoder = JosieDepthDecoder(config) if has_depth else JosieParallelHeads(config)
        self.post_init()

    @property
    def max_frames(self) -> int:
        """Longest speech that the positions allow, in frames."""
        return self.config.max_position_embeddings - 1 - self.config.speech_delay

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of codes: where gradients enter when only adapters inside learn."""
        return self.code_embedding.embedding

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
    def forward(
        self,
        speech_codes: torch.Tensor,
        thinker_hidden_states: torch.Tensor | None = None,
        thinker_embeds: torch.Tensor | None = None,
        thinker_mask: torch.Tensor | None = None,
        speaker_ids: torch.Tensor | None = None,
        speech_durations: torch.Tensor | None = None,
        num_items_in_batch: Mapping[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> JosieTalkerOutput:
        """Predict every frame of known speech from the frames before it, and the loss of doing so.

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
        text, durations = self._embed_steps(batch_size, delay + num_frames, given, thinker_mask, speech_durations)
        # The frame before step s is s - delay - 1; before the first one stands the extra row `codebook_size`.
        real = (codes >= 0) & (codes < self.config.codebook_size)
        previous = torch.where(real, codes, self.config.codebook_size)[:, :, :-1]
        if self.training and self.config.code_noise:
            previous = self._mistake(previous)
        previous = nn.functional.pad(previous, (delay + 1, 0), value=self.config.codebook_size)
        inputs = text + self.code_embedding(previous)
        inputs = torch.cat((self.embed_start(batch_size, speaker_ids), inputs), dim=1)
        hidden_states = self.model(inputs, use_cache=False)[0][:, 1 + delay :]

        logits = self.head(hidden_states)
        num_items = {} if num_items_in_batch is None else num_items_in_batch
        talker_loss = target_loss(logits, codes[:, 0], num_items.get("talker"))
        loss, depth_loss, depth_logits = talker_loss, None, None
        if self.depth_decoder is not None:
            known = torch.where(real, codes, 0)
            depth_loss, depth_logits = self._predict_depth(hidden_states, known, codes, num_items.get("depth"))
            loss = talker_loss + depth_loss
        duration_loss = None
        if self.durations is not None and durations is not None:
            num_learned = num_items.get("duration", (codes[:, 0] != IGNORE_INDEX).sum())
            duration_loss = self.durations.loss(durations, real[:, 0].sum(dim=1), num_learned, speech_durations)
            loss = loss + duration_loss
        return JosieTalkerOutput(
            loss=loss,
            talker_loss=talker_loss,
            depth_loss=depth_loss,
            duration_loss=duration_loss,
            logits=logits,
            depth_logits=depth_logits,
            last_hidden_state=hidden_states,
        )

    def _predict_depth(
        self, hidden_states: torch.Tensor, known: torch.Tensor, codes: torch.Tensor, num_items: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the loss of quantizers 1...N-1, and their logits in evaluation mode."""
        states = hidden_states.flatten(0, 1)
        known, targets = (some.transpose(1, 2).flatten(0, 1) for some in (known[:, :-1], codes[:, 1:]))
        fraction = self.config.depth_loss_fraction
        # All frames make one compiled graph; how many of them are learned from would break it.
        if self.training and not (fraction == 1 and torch.compiler.is_compiling()):
            num_items = (targets != IGNORE_INDEX).sum() if num_items is None else num_items
            frames, scale = choose_frames(targets, fraction)
            logits = self.depth_decoder(states[frames], known[frames])
            return scale * target_loss(logits, targets[frames], num_items), None
        logits = self.depth_decoder(states, known)
        loss = target_loss(logits, targets, num_items)
        return loss, logits.unflatten(0, hidden_states.shape[:2]).transpose(1, 2)

    def dummy_forward(self) -> torch.Tensor:
        """Run every part on one frame of which nothing is learned, and return the loss, which is 0."""
        codes = torch.full((1, self.config.num_quantizers, 1), IGNORE_INDEX, device=self.device)
        return self(codes).loss

    @torch.no_grad()
    def generate(
        self,
        thinker_hidden_states: torch.Tensor | None = None,
        thinker_embeds: torch.Tensor | None = None,
        thinker_mask: torch.Tensor | None = None,
        speaker_ids: torch.Tensor | None = None,
        batch_size: int | None = None,
        max_new_frames: int | None = None,
        min_new_frames: int = 1,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        speed: float = 1.0,
        seed: int | list[int] | None = None,
        ends_sentence: torch.Tensor | None = None,
    ) -> JosieTalkerGenerateOutput:
        """Speak.

        Args:
            thinker_hidden_states, thinker_embeds, thinker_mask, speaker_ids: As in `forward`.
            batch_size (`int`, *optional*): Rows to generate where no text is given; 1 when `None`.
            max_new_frames (`int`, *optional*): Most frames, each `1 / frame_rate` seconds of the codec; 512, or as many
                as the positions allow, when `None`.
            min_new_frames (`int`): Frames before which speech does not end.
            do_sample, temperature, top_k, top_p, min_p: As in [`CodeSampler`], for all quantizers.

        Returns:
            [`JosieTalkerGenerateOutput`].

        Raises:
            `ValueError`: A number is out of range, or speakers are unknown.
        """
        given = thinker_hidden_states if thinker_hidden_states is not None else thinker_embeds
        stream = SpeechStream(
            self,
            given.shape[0] if given is not None else batch_size or 1,
            CodeSampler(do_sample, temperature, top_k, top_p, min_p),
            speaker_ids,
            max_new_frames,
            min_new_frames,
            speed,
            seed,
        )
        if thinker_embeds is not None or thinker_hidden_states is not None:
            stream.put(thinker_hidden_states, thinker_embeds, thinker_mask, ends_sentence)
        stream.close()
        return collect_frames(stream)

    def _mistake(self, previous: torch.Tensor) -> torch.Tensor:
        """Return what the Talker reads of earlier frames with some codes exchanged for others, at random."""
        others = torch.randint_like(previous, self.config.codebook_size)
        is_wrong = torch.rand(previous.shape, device=previous.device) < self.config.code_noise
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

    def _join_text(
        self, batch_size: int, hidden_states: torch.Tensor | None, embeds: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return what is read of each token, `(batch, num_tokens, width)`; `None` where there is no text at all."""
        if hidden_states is None and embeds is None:
            if not self.training:
                return None
            # No tokens are projected too, so that the projection takes part in every step.
            hidden_states = embeds = self.start.new_zeros(batch_size, 0, self.config.thinker_hidden_size)
        if hidden_states is None and not self.config.reads_thinker_states:
            hidden_states = embeds
        if hidden_states is None or embeds is None or hidden_states.shape != embeds.shape:
            raise ValueError("`thinker_hidden_states` and `thinker_embeds` must be given together and have one shape.")
        if hidden_states.shape[0] != batch_size:
            raise ValueError(
                f"`speech_codes` must have one row for each of the {hidden_states.shape[0]} texts, got {batch_size}."
            )
        given = torch.cat((hidden_states, embeds), dim=-1) if self.config.reads_thinker_states else embeds
        return given.to(self.start.dtype)

    def embed_tokens(self, given: torch.Tensor) -> torch.Tensor:
        """Return what tokens add to the steps that read them: `(..., width)` to `(..., hidden_size)`."""
        text = self.thinker_projection(given)
        return text if self.text_layer is None else text + self.text_layer(given)

    def _embed_text(self, batch_size: int, given: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        """Return `(batch, num_tokens + 1, hidden_size)`: what each token adds; the last when there is none any more."""
        end = self.end_of_text.expand(batch_size, 1, -1)
        if given is None:
            return end
        text = self.embed_tokens(given)
        if mask is not None:
            text = torch.where(mask[..., None].bool(), text, end)
        return torch.cat((text, end), dim=1)

    def _embed_steps(
        self,
        batch_size: int,
        num_steps: int,
        given: torch.Tensor | None,
        mask: torch.Tensor | None,
        known: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the text adds to each step, `(batch, num_steps, hidden_size)`, and how long its tokens take.

        Where it is `known` how long they do, they are read for that long.
        """
        text = self._embed_text(batch_size, given, mask)
        if self.durations is None:
            steps = torch.arange(num_steps, device=text.device) // self.config.frames_per_token
            return text[:, steps.clamp(max=text.shape[1] - 1)], None
        durations = text.new_zeros(batch_size, 0) if given is None else self.durations(given, mask)
        tokens, places = self.durations.locate(durations if known is None else known.to(durations.dtype), num_steps)
        read = text.gather(1, tokens[..., None].expand(-1, -1, text.shape[-1]))
        return read + self.durations.place(places.to(read.dtype)), durations

    def embed_step(
        self,
        hidden_states: torch.Tensor,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what the text adds to one step, `(batch, 1, hidden_size)`.

        Args:
            hidden_states, embeds (`torch.Tensor`): `(batch, 1, thinker_hidden_size)`, of the token it reads.
            mask (`torch.BoolTensor`): `(batch, 1)`, whether there is a token.
            places (`torch.Tensor`, *optional*): `(batch, 1, 2)`, where in the token it is, as
                [`TokenDurations.locate`] says; for Talkers that learn durations.
        """
        batch_size = embeds.shape[0]
        text = self._embed_text(batch_size, self._join_text(batch_size, hidden_states, embeds), mask)[:, :1]
        return text if self.durations is None else text + self.durations.place(places)

    def embed_start(self, batch_size: int, speaker_ids: torch.Tensor | None) -> torch.Tensor:
        """Return `(batch, 1, hidden_size)`: the learned start step, which carries the voice."""
        start = self.start.expand(batch_size, 1, -1)
        if self.speaker_embedding is None:
            if speaker_ids is not None:
                raise ValueError("`speaker_ids` must be None for a Talker without `config.speakers`, got ids.")
            return start
        if speaker_ids is None:
            speaker_ids = torch.zeros(batch_size, dtype=torch.long, device=start.device)
        if speaker_ids.shape != (batch_size,):
            raise ValueError(f"`speaker_ids` must have shape ({batch_size},), got {tuple(speaker_ids.shape)}.")
        torch_compilable_check(
            ((speaker_ids >= 0) & (speaker_ids < len(self.config.speakers))).all(),
            lambda: f"`speaker_ids` must be in [0, {len(self.config.speakers) - 1}], got {speaker_ids.tolist()}.",
        )
        return start + self.speaker_embedding(speaker_ids)[:, None]


AutoModel.register(JosieTalkerConfig, JosieTalkerForConditionalGeneration, exist_ok=True)
