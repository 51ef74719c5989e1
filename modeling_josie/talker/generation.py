"""Generation of speech from a whole text: the loop over frames is that of `speech_stream`."""

from typing import Any

import torch

from ..outputs import JosieTalkerGenerateOutput
from .decoding import CodeSampler
from .speech_stream import SpeechStream, collect_frames
from .text_reading import TextReadingMixin


class TalkerGenerationMixin(TextReadingMixin):
    """`generate` of a Talker."""

    model: Any
    code_embedding: Any
    head: Any
    depth_decoder: Any
    device: Any

    @property
    def max_frames(self) -> int:
        """Longest speech that the positions allow, in frames; a longer text is said in segments."""
        return self.config.max_position_embeddings - 1 - self.config.speech_delay

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
        **others: Any,
    ) -> JosieTalkerGenerateOutput:
        """Speak. A warning names the rows whose speech is cut at `max_new_frames`.

        Args:
            thinker_hidden_states, thinker_embeds, thinker_mask, speaker_ids: As in `forward`.
            batch_size (`int`, *optional*): Rows to generate where no text is given; 1 when `None`.
            max_new_frames, min_new_frames, speed, seed: As in [`SpeechStream`].
            do_sample, temperature, top_k, top_p, min_p: As in [`CodeSampler`], for all quantizers.
            ends_sentence (`torch.Tensor`, *optional*): `(batch, num_tokens)`, where a text that is longer than the
                positions may be cut.
            others: None; options of transformers' `generate` that the loop does not have are refused.

        Returns:
            [`JosieTalkerGenerateOutput`].

        Raises:
            `ValueError`: A number is out of range, or speakers are unknown.
        """
        for name in others:
            raise ValueError(f"`{name}` must be an option of a Talker's `generate`, which has no such name.")
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
        if given is not None:
            stream.put(thinker_hidden_states, thinker_embeds, thinker_mask, ends_sentence)
        stream.close()
        return collect_frames(stream)
