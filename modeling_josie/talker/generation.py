"""Generation of speech: a loop over frames, and inside it the depth decoder's loop over quantizers.

Both run over preallocated caches. A nested `generate()` for every frame is where comparable models spend nearly all
their time.
"""

from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..layers.backbone import JosieBackbone
from ..layers.embeddings import CodeEmbedding
from ..layers.masks import length_mask
from ..layers.offloading import loads_own_parameters
from ..outputs import JosieTalkerGenerateOutput
from .decoding import CodeSampler, StepLoop
from .text_reading import TextReadingMixin

logger = logging.get_logger(__name__)

# Frames of speech where the caller sets no limit.
_MAX_NEW_FRAMES = 512


class TalkerGenerationMixin(TextReadingMixin):
    """`generate` of a Talker."""

    model: JosieBackbone
    code_embedding: CodeEmbedding
    head: nn.Linear
    depth_decoder: Any

    @property
    def max_frames(self) -> int:
        """Longest speech that the positions allow, in frames."""
        return self.config.max_position_embeddings - 1 - self.config.speech_delay

    @torch.no_grad()
    @loads_own_parameters
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
        **others: Any,
    ) -> JosieTalkerGenerateOutput:
        """Speak. A warning names the rows whose speech is cut at `max_new_frames`.

        Args:
            thinker_hidden_states, thinker_embeds, thinker_mask, speaker_ids: As in `forward`.
            batch_size (`int`, *optional*): Rows to generate where no text is given; 1 when `None`.
            max_new_frames (`int`, *optional*): Most frames, each `1 / frame_rate` seconds of the codec; 512, or as many
                as the positions allow, when `None`.
            min_new_frames (`int`): Frames before which speech does not end.
            do_sample, temperature, top_k, top_p, min_p: As in [`CodeSampler`], for all quantizers.
            others: None; options of transformers' `generate` that the loop does not have are refused.

        Returns:
            [`JosieTalkerGenerateOutput`].

        Raises:
            `ValueError`: A number is out of range, or speakers are unknown.
        """
        for name in others:
            raise ValueError(f"`{name}` must be an option of a Talker's `generate`, which has no such name.")
        max_new_frames = min(_MAX_NEW_FRAMES, self.max_frames) if max_new_frames is None else max_new_frames
        if not 1 <= max_new_frames <= self.max_frames:
            raise ValueError(f"`talker_max_new_frames` must be in [1, {self.max_frames}], got {max_new_frames}.")
        if not 1 <= min_new_frames <= max_new_frames:
            raise ValueError(f"`talker_min_new_frames` must be in [1, {max_new_frames}], got {min_new_frames}.")
        sampler = CodeSampler(do_sample, temperature, top_k, top_p, min_p)
        given = thinker_hidden_states if thinker_hidden_states is not None else thinker_embeds
        batch_size = given.shape[0] if given is not None else batch_size or 1
        start = self.embed_start(batch_size, speaker_ids)
        delay, end_id = self.config.speech_delay, self.config.end_of_speech_id
        given = self._join_text(batch_size, thinker_hidden_states, thinker_embeds)
        text, _, tokens = self.embed_steps(batch_size, delay + max_new_frames, given, thinker_mask)
        loop = StepLoop(self.model, batch_size, 1 + text.shape[1], start)
        depth_loop: Any = self.depth_decoder.make_loop(batch_size, start) if self.depth_decoder is not None else None

        loop.step(start)
        codes = torch.full(
            (batch_size, self.config.num_quantizers), self.config.codebook_size, dtype=torch.long, device=start.device
        )
        frames: list[torch.Tensor] = []
        num_frames = torch.full((batch_size,), max_new_frames, device=start.device)
        for index in range(delay + max_new_frames):
            embeds = text[:, index : index + 1] + self.code_embedding(codes[:, :, None])
            state = loop.step(embeds)[:, 0]
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
        else:
            # Speech trails the text by `delay` steps: what is said in the last frame was read so much earlier.
            self._warn_of_cut_rows(num_frames, max_new_frames, given, thinker_mask, tokens[:, max_new_frames - 1])
        audio_codes = torch.stack(frames, dim=2)
        real = length_mask(num_frames, audio_codes.shape[2])
        return JosieTalkerGenerateOutput(audio_codes=audio_codes * real[:, None], num_frames=num_frames)

    def _warn_of_cut_rows(
        self,
        num_frames: torch.Tensor,
        max_new_frames: int,
        given: torch.Tensor | None,
        mask: torch.Tensor | None,
        last_tokens: torch.Tensor,
    ) -> None:
        """Warn of rows whose speech was cut.

        Args:
            num_frames (`torch.LongTensor`): `(batch,)`, frames of each row.
            max_new_frames (`int`): The limit.
            given (`torch.Tensor`, *optional*): `(batch, num_tokens, width)`, the text.
            mask (`torch.Tensor`, *optional*): `(batch, num_tokens)`, 1 for real tokens.
            last_tokens (`torch.LongTensor`): `(batch,)`, index of the token that is said in the last frame.
        """
        num_tokens = torch.zeros_like(num_frames) if given is None else torch.full_like(num_frames, given.shape[1])
        if mask is not None and given is not None:
            num_tokens = mask.sum(dim=1)
        unsaid = (num_tokens - 1 - last_tokens).clamp(min=0)
        # Without a class that ends speech every row has the length that was asked for.
        is_cut = (num_frames == max_new_frames) & (num_tokens > 0) & ((unsaid > 0) | self.config.end_of_speech)
        if given is None or not bool(is_cut.any()):
            return
        rows = is_cut.nonzero()[:, 0].tolist()
        logger.warning(
            f"Speech was cut at `talker_max_new_frames` = {max_new_frames} before its end in rows {rows}, with "
            f"{unsaid[is_cut].tolist()} of {num_tokens[is_cut].tolist()} tokens still to be said. "
            f"The positions of this Talker allow {self.max_frames} frames."
        )
