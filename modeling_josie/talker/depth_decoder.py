"""Quantizers 1...N-1 of a frame, from its state and quantizer 0: one after the other, or all at once."""

import torch
from torch import nn

from ...configuration_josie import JosieTalkerConfig
from ..layers.backbone import JosieBackbone
from ..layers.embeddings import CodeEmbedding
from .decoding import CodeSampler, StepLoop


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

    def forward(self, frame_states: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Predict quantizers 1...N-1 of known frames.

        Args:
            frame_states (`torch.Tensor`): `(num_frames, hidden_size)`, any frames of any rows.
            codes (`torch.LongTensor`): `(num_frames, num_quantizers - 1)`, quantizers 0...N-2 of those frames.

        Returns:
            Logits of each quantizer, `(num_frames, codebook_size)`: in one tensor they would be the largest of a step.
        """
        embeds = self.input_projection(frame_states)[:, None] + self.code_embedding.embed(codes)
        hidden_states = self.model(embeds, use_cache=False, return_dict=True).last_hidden_state
        return tuple(head(hidden_states[:, level]) for level, head in enumerate(self.heads))

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
            embeds = base + self.code_embedding.embed_level(chosen[-1], level)
            state = loop.step(embeds[:, None])
            chosen.append(sampler(head(state[:, 0])))
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

    def forward(self, frame_states: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Predict as [`JosieDepthDecoder`]; `codes` are not read."""
        return self.heads(frame_states).unflatten(-1, (self.num_levels, -1)).unbind(1)

    def make_loop(self, batch_size: int, like: torch.Tensor) -> None:
        """Nothing is carried from level to level."""

    def generate(
        self, frame_states: torch.Tensor, codes: torch.Tensor, sampler: CodeSampler, loop: None
    ) -> torch.Tensor:
        """Choose as [`JosieDepthDecoder.generate`]."""
        logits = torch.stack(self(frame_states, codes), dim=1)
        return torch.cat((codes[:, None], sampler(logits.flatten(0, 1)).view(codes.shape[0], -1)), dim=1)
