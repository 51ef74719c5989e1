"""The Talker: from the Thinker's states to codes of speech, frame by frame.

At each step the backbone reads one spoken token's state (while there are any, then a learned vector) plus the codes of
the frame before, and predicts quantizer 0 of the next frame; the depth decoder predicts the frame's other quantizers,
each given the ones before it. Generation is two plain loops over preallocated caches: a nested `generate()` for every
frame is where comparable models spend nearly all their time.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.utils import can_return_tuple, torch_compilable_check

from ..configuration_josie import JosieTalkerConfig
from .backbone import JosieBackbone, JosiePreTrainedModel
from .decoding import CodeSampler, StepLoop
from .front_ends import CodeEmbedding
from .masks import length_mask
from .outputs import JosieTalkerGenerateOutput, JosieTalkerOutput

IGNORE = -100


class JosieDepthDecoder(nn.Module):
    """A small causal transformer over the codebooks of one frame (Moshi, Défossez et al., 2024).

    Position `k` reads the frame's state and the code of quantizer `k`, and predicts quantizer `k + 1`.

    Args:
        config ([`JosieTalkerConfig`]): With a `depth_decoder_config`.
    """

    def __init__(self, config: JosieTalkerConfig):
        super().__init__()
        depth_config = config.depth_decoder_config
        self.num_levels = config.num_quantizers - 1
        self.model = JosieBackbone(depth_config)
        self.input_projection = nn.Linear(config.hidden_size, depth_config.hidden_size, bias=False)
        self.code_embedding = CodeEmbedding(self.num_levels, config.codebook_size, depth_config.hidden_size)
        self.heads = nn.ModuleList(
            nn.Linear(depth_config.hidden_size, config.codebook_size, bias=config.head_bias)
            for _ in range(self.num_levels)
        )

    def forward(self, frame_states: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Predict quantizers 1...N-1 of known frames.

        Args:
            frame_states (`torch.Tensor`): `(num_frames, hidden_size)`, any frames of any rows.
            codes (`torch.LongTensor`): `(num_frames, num_quantizers - 1)`, quantizers 0...N-2 of those frames.

        Returns:
            Logits `(num_frames, num_quantizers - 1, codebook_size)`.
        """
        embeds = torch.stack(
            [self.code_embedding.embed_level(codes[:, level], level) for level in range(self.num_levels)], dim=1
        )
        hidden_states = self.model(self.input_projection(frame_states)[:, None] + embeds, use_cache=False)[0]
        return torch.stack([head(hidden_states[:, level]) for level, head in enumerate(self.heads)], dim=1)

    def make_loop(self, batch_size: int, like: torch.Tensor) -> StepLoop:
        """Return the loop for [`JosieDepthDecoder.generate`]; one serves all frames."""
        return StepLoop(self.model, batch_size, self.num_levels, like)

    def generate(
        self, frame_states: torch.Tensor, codes: torch.Tensor, sampler: CodeSampler, loop: StepLoop
    ) -> torch.Tensor:
        """Choose quantizers 1...N-1 of one frame.

        Args:
            frame_states (`torch.Tensor`): `(batch, hidden_size)`.
            codes (`torch.LongTensor`): `(batch,)`, quantizer 0.
            sampler ([`CodeSampler`]): Chooses from logits.
            loop: What [`JosieDepthDecoder.make_loop`] returned.

        Returns:
            `(batch, num_quantizers)`, quantizer 0 included.
        """
        loop.restart()
        chosen = [codes]
        base = self.input_projection(frame_states)
        for level, head in enumerate(self.heads):
            state = loop.step(base + self.code_embedding.embed_level(chosen[-1], level))
            chosen.append(sampler(head(state)))
        return torch.stack(chosen, dim=1)


class JosieParallelHeads(nn.Module):
    """Quantizers 1...N-1 all at once from the frame's state: μOmni's Talker. The surface of [`JosieDepthDecoder`].

    Args:
        config ([`JosieTalkerConfig`]): Without a `depth_decoder_config`.
    """

    def __init__(self, config: JosieTalkerConfig):
        super().__init__()
        self.num_levels = config.num_quantizers - 1
        self.heads = nn.Linear(config.hidden_size, self.num_levels * config.codebook_size, bias=config.head_bias)

    def forward(self, frame_states: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """As in [`JosieDepthDecoder`]; `codes` are not read."""
        return self.heads(frame_states).unflatten(-1, (self.num_levels, -1))

    def make_loop(self, batch_size: int, like: torch.Tensor) -> None:
        """Nothing is carried from level to level."""

    def generate(
        self, frame_states: torch.Tensor, codes: torch.Tensor, sampler: CodeSampler, loop: None
    ) -> torch.Tensor:
        """As in [`JosieDepthDecoder`]."""
        logits = self(frame_states, codes)
        return torch.cat((codes[:, None], sampler(logits.flatten(0, 1)).view(codes.shape[0], -1)), dim=1)


def code_loss(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the codes that are not -100; 0 where all are.

    Args:
        logits (`torch.Tensor`): `(..., num_classes)`.
        codes (`torch.LongTensor`): `(...)`.
    """
    losses = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), codes.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return losses / (codes != IGNORE).sum().clamp(min=1)


class JosieTalkerForConditionalGeneration(JosiePreTrainedModel):
    """Backbone over frames, head for quantizer 0, depth decoder or parallel heads for the rest.

    Differs from both seeds where they are broken: the Talker hears the text, speech ends, and every quantizer that the
    codec writes is predicted.

    Args:
        config ([`JosieTalkerConfig`]): Its shape.
    """

    config: JosieTalkerConfig
    main_input_name = "speech_codes"
    output_modalities = ("audio",)

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
        self.thinker_projection = nn.Linear(2 * config.thinker_hidden_size, config.hidden_size, bias=False)
        self.end_of_text = nn.Parameter(torch.zeros(config.hidden_size))
        self.start = nn.Parameter(torch.zeros(config.hidden_size))
        self.speaker_embedding = nn.Embedding(len(config.speakers), config.hidden_size) if config.speakers else None
        self.head = nn.Linear(config.hidden_size, config.codebook_size + config.end_of_speech, bias=config.head_bias)
        self.depth_decoder = None
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

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, JosieTalkerForConditionalGeneration):
            init.normal_(module.end_of_text, std=self.config.initializer_range)
            init.normal_(module.start, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self,
        speech_codes: torch.Tensor,
        thinker_hidden_states: torch.Tensor | None = None,
        thinker_embeds: torch.Tensor | None = None,
        thinker_mask: torch.Tensor | None = None,
        speaker_ids: torch.Tensor | None = None,
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

        Returns:
            [`JosieTalkerOutput`].

        Raises:
            `ValueError`: Codes are out of range, of the wrong shape or more than the positions allow, or speakers are
                unknown.
        """
        codes = self._check_codes(speech_codes)
        batch_size, _, num_frames = codes.shape
        delay = self.config.speech_delay
        text = self.embed_text(batch_size, thinker_hidden_states, thinker_embeds, thinker_mask)
        steps = torch.arange(delay + num_frames, device=codes.device).clamp(max=text.shape[1] - 1)
        # The frame before step s is s - delay - 1; before the first one stands the extra row `codebook_size`.
        real = (codes >= 0) & (codes < self.config.codebook_size)
        previous = torch.where(real, codes, self.config.codebook_size)[:, :, :-1]
        previous = nn.functional.pad(previous, (delay + 1, 0), value=self.config.codebook_size)
        inputs = text[:, steps] + self.code_embedding(previous)
        inputs = torch.cat((self.embed_start(batch_size, speaker_ids), inputs), dim=1)
        hidden_states = self.model(inputs, use_cache=False)[0][:, 1 + delay :]

        logits = self.head(hidden_states)
        talker_loss = code_loss(logits, codes[:, 0])
        loss, depth_loss, depth_logits = talker_loss, None, None
        if self.depth_decoder is not None:
            known = torch.where(real, codes, 0)[:, :-1].transpose(1, 2).flatten(0, 1)
            depth_logits = self.depth_decoder(hidden_states.flatten(0, 1), known)
            depth_logits = depth_logits.unflatten(0, (batch_size, num_frames)).transpose(1, 2)
            depth_loss = code_loss(depth_logits, codes[:, 1:])
            loss = talker_loss + depth_loss
        return JosieTalkerOutput(
            loss=loss,
            talker_loss=talker_loss,
            depth_loss=depth_loss,
            logits=logits,
            depth_logits=depth_logits,
            last_hidden_state=hidden_states,
        )

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
        max_new_frames = min(512, self.max_frames) if max_new_frames is None else max_new_frames
        if not 1 <= max_new_frames <= self.max_frames:
            raise ValueError(f"`talker_max_new_frames` must be in [1, {self.max_frames}], got {max_new_frames}.")
        if not 1 <= min_new_frames <= max_new_frames:
            raise ValueError(f"`talker_min_new_frames` must be in [1, {max_new_frames}], got {min_new_frames}.")
        sampler = CodeSampler(do_sample, temperature, top_k, top_p, min_p)
        given = thinker_hidden_states if thinker_hidden_states is not None else thinker_embeds
        batch_size = given.shape[0] if given is not None else batch_size or 1
        text = self.embed_text(batch_size, thinker_hidden_states, thinker_embeds, thinker_mask)
        start = self.embed_start(batch_size, speaker_ids)
        delay, end_id = self.config.speech_delay, self.config.end_of_speech_id
        num_steps = 1 + delay + max_new_frames
        loop = StepLoop(self.model, batch_size, num_steps, start)
        depth_loop: Any = self.depth_decoder.make_loop(batch_size, start) if self.depth_decoder is not None else None

        loop.step(start[:, 0])
        codes = torch.full(
            (batch_size, self.config.num_quantizers), self.config.codebook_size, dtype=torch.long, device=start.device
        )
        frames: list[torch.Tensor] = []
        num_frames = torch.full((batch_size,), max_new_frames, device=start.device)
        for index in range(delay + max_new_frames):
            embeds = text[:, min(index, text.shape[1] - 1)] + self.code_embedding(codes[:, :, None])[:, 0]
            state = loop.step(embeds)
            if index < delay:
                continue
            logits = self.head(state)
            if end_id is not None and len(frames) < min_new_frames:
                logits[:, end_id] = -torch.inf
            first = sampler(logits)
            if end_id is not None:
                num_frames = torch.where(first == end_id, num_frames.clamp(max=len(frames)), num_frames)
                if bool((num_frames <= len(frames)).all()):
                    break
                first = first.clamp(max=self.config.codebook_size - 1)
            codes = first[:, None]
            if self.depth_decoder is not None:
                codes = self.depth_decoder.generate(state, first, sampler, depth_loop)
            frames.append(codes)
        audio_codes = torch.stack(frames, dim=2)
        real = length_mask(num_frames, audio_codes.shape[2])
        return JosieTalkerGenerateOutput(audio_codes=audio_codes * real[:, None], num_frames=num_frames)

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
            ((codes <= highest) & ((codes >= 0) | (codes == IGNORE))).all(),
            lambda: (
                f"`speech_codes` must be in [0, {config.codebook_size - 1}], or {IGNORE}, or in quantizer 0 "
                f"{config.end_of_speech_id} for the end, got values from {int(codes.min())} to {int(codes.max())}."
            ),
        )
        return codes

    def embed_text(
        self,
        batch_size: int,
        hidden_states: torch.Tensor | None,
        embeds: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return `(batch, num_tokens + 1, hidden_size)`: what each step adds; the last for all steps after, too."""
        end = self.end_of_text.expand(batch_size, 1, -1)
        if hidden_states is None and embeds is None:
            return end
        if hidden_states is None or embeds is None or hidden_states.shape != embeds.shape:
            raise ValueError("`thinker_hidden_states` and `thinker_embeds` must be given together and have one shape.")
        if hidden_states.shape[0] != batch_size:
            raise ValueError(
                f"`speech_codes` must have one row for each of the {hidden_states.shape[0]} texts, got {batch_size}."
            )
        text = self.thinker_projection(torch.cat((hidden_states, embeds), dim=-1).to(end.dtype))
        if mask is not None:
            text = torch.where(mask[..., None].bool(), text, end)
        return torch.cat((text, end), dim=1)

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
