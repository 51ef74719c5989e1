"""Steps of the loops as modules that take and return plain tensors, for `torch.export` and all that reads its programs.

A Python loop, a cache object or a dictionary of buffers is not part of a graph. Here each step's state is a few tensors
that go in and come out, so that whoever runs the program, in whatever language, writes the loop. The Thinker needs none
of this: `transformers.exporters` takes its prompt and its step as they are.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers.cache_utils import DynamicCache

from .codecs.jodio import JodioModel
from .codecs.seanet import SeanetStack
from .layers.backbone import JosieBackbone
from .talker.model import JosieDepthDecoder, JosieTalkerForConditionalGeneration

# What an exported batch may be: its size is part of guards on other sizes, which need a bound.
MAX_BATCH_SIZE = 1024


def make_cache(past: torch.Tensor) -> DynamicCache:
    """Return the cache of keys and values of all layers, `(2 * num_layers, batch, heads, length, head_dim)`."""
    states = past.unbind()
    return DynamicCache(list(zip(states[::2], states[1::2], strict=True)))


def stack_cache(cache: DynamicCache) -> torch.Tensor:
    """Return what [`make_cache`] takes."""
    return torch.stack([cast(torch.Tensor, states) for layer in cache.layers for states in (layer.keys, layer.values)])


def past_shape(backbone: JosieBackbone, batch_size: int, length: int) -> tuple[int, ...]:
    """Return the shape of what [`make_cache`] takes.

    Args:
        backbone ([`JosieBackbone`]): The transformer.
        batch_size (`int`): Rows.
        length (`int`): Positions of the past.
    """
    config = backbone.config
    heads: int = config.num_key_value_heads or config.num_attention_heads
    head_dim: int = config.head_dim or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers, batch_size, heads, length, head_dim


class ExportableStep(nn.Module):
    """A step with what its export needs: inputs to trace it with, and which of their sizes stay free."""

    def example_inputs(self, batch_size: int = 3) -> dict[str, torch.Tensor]:
        """Return the arguments of `forward`, at the start of a stream."""
        raise NotImplementedError

    def dynamic_shapes(self) -> dict[str, dict[int, Dim]]:
        """Return the free sizes by argument, as `torch.export` takes them. All others are part of the program."""
        raise NotImplementedError

    @torch.no_grad()
    def export(self) -> ExportedProgram:
        """Return the program, which `torch.export.save` writes and `torch.export.load` reads without this package."""
        self.eval()
        inputs = self.example_inputs()
        self(**inputs)  # what is computed once and kept, such as mel filters, must not come from the trace
        shapes = tuple(self.dynamic_shapes().get(name) for name in inputs)
        return torch.export.export(self, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)


class JodioStep(ExportableStep):
    """Parts of both directions of JODIO: the state of a stream, which is of constant size, in three tensors.

    Its names are `contexts`, `(batch, size)`, the last inputs of all convolutions one after the other; `past`,
    `(2 * num_layers, batch, heads, context_frames, head_dim)`, keys and values; and `num_frames`, `(batch,)`, how many
    frames each row has behind it. All begin as zeros, and a row that is set to zeros begins anew.

    Args:
        transformer ([`JosieBackbone`]): The transformer of the direction.
        stack ([`SeanetStack`]): The convolutions of the direction.
        frames (`int`): How many frames a step takes.
        context_frames (`int`, *optional*): How many frames before itself a frame sees. What the transformer's window
            says when `None`; must be given where there is no window.

    Raises:
        `ValueError`: `frames` is below 1; `context_frames` is given where there is a window, not given where there is
            none, or below 1.
    """

    def __init__(self, transformer: JosieBackbone, stack: SeanetStack, frames: int, context_frames: int | None = None):
        super().__init__()
        if frames < 1:
            raise ValueError(f"`frames` must be at least 1, got {frames}.")
        window = transformer.config.sliding_window
        if (context_frames is None) == (window is None) or (context_frames is not None and context_frames < 1):
            allowed = "None where the transformer has a window" if window else "at least 1, as there is no window"
            raise ValueError(f"`context_frames` must be {allowed}, got {context_frames}.")
        self.context_frames: int = window - 1 if window is not None else cast(int, context_frames)
        self.frames = frames
        self.transformer = transformer
        self.stack = stack

    def initial_state(self, batch_size: int) -> dict[str, torch.Tensor]:
        """Return the state at the start of `batch_size` streams."""
        weight = next(self.parameters())
        size = sum(length * channels for length, channels in self.stack.context_shapes.values())
        shape = past_shape(self.transformer, batch_size, self.context_frames)
        return dict(
            contexts=weight.new_zeros(batch_size, size),
            past=weight.new_zeros(shape),
            num_frames=torch.zeros(batch_size, dtype=torch.long, device=weight.device),
        )

    def dynamic_shapes(self) -> dict[str, dict[int, Dim]]:
        """The batch. How many frames a step takes is part of the program."""
        batch = Dim("batch", max=MAX_BATCH_SIZE)
        free = {name: {0: batch} for name in ("input_values", "audio_codes", "contexts", "num_frames")}
        return free | dict(past={1: batch})

    def part_contexts(self, contexts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the contexts of the convolutions by name."""
        shapes = self.stack.context_shapes
        parts = contexts.split([length * channels for length, channels in shapes.values()], dim=1)
        return {name: part.unflatten(1, shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}

    def join_contexts(self, contexts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return what [`JodioStep.part_contexts`] takes."""
        return torch.cat([contexts[name].flatten(1) for name in self.stack.context_shapes], dim=1)

    def attend(
        self, hidden_states: torch.Tensor, past: torch.Tensor, num_frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the transformer.

        Args:
            hidden_states (`torch.Tensor`): `(batch, frames, hidden_size)`.
            past (`torch.Tensor`): Keys and values of the `context_frames` before, see [`past_shape`].
            num_frames (`torch.LongTensor`): `(batch,)`, frames of each row that came before.
        """
        frames, device = hidden_states.shape[1], hidden_states.device
        queries = torch.arange(frames, device=device)[:, None]
        keys = torch.arange(-self.context_frames, frames, device=device)
        is_near = (keys <= queries) & (keys >= queries - self.context_frames)
        sees = is_near & (num_frames[:, None, None, None] + keys >= 0)
        mask = torch.zeros_like(sees, dtype=hidden_states.dtype)
        mask = mask.masked_fill(~sees, torch.finfo(hidden_states.dtype).min)
        cache = make_cache(past)
        output = self.transformer(
            hidden_states,
            attention_mask=mask,
            position_ids=num_frames[:, None] + queries[:, 0],
            cache=cache,
        )
        return output.last_hidden_state, stack_cache(cache)[:, :, :, frames:]


class JodioEncodeStep(JodioStep):
    """JODIO's encoder over the next whole frames of a stream.

    Args:
        model ([`JodioModel`]): The codec.
        frames, context_frames (`int`): As in [`JodioStep`].
    """

    def __init__(self, model: JodioModel, frames: int = 1, context_frames: int | None = None):
        super().__init__(model.encoder_transformer, model.encoder, frames, context_frames)
        self.proj = model.encoder_proj
        self.quantizer = model.quantizer
        self.config = model.config
        self.hop_length = model.config.hop_length
        self.audio_channels = model.config.audio_channels

    def example_inputs(self, batch_size: int = 3) -> dict[str, torch.Tensor]:
        """Noise, and the state at the start."""
        shape = (batch_size, self.audio_channels, self.frames * self.hop_length)
        state = self.initial_state(batch_size)
        return dict(input_values=torch.rand(shape).to(state["contexts"]), **state)

    def forward(
        self, input_values: torch.Tensor, contexts: torch.Tensor, past: torch.Tensor, num_frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode.

        Args:
            input_values (`torch.Tensor`): `(batch, channels, frames * hop_length)`, in [-1, 1].
            contexts, past, num_frames: The state, see [`JodioStep`].

        Returns:
            Codes `(batch, num_quantizers, frames)`, and the next state.
        """
        encoded = self.stack(input_values.transpose(1, 2), self.part_contexts(contexts))
        hidden_states, past = self.attend(self.proj(encoded.hidden_states), past, num_frames)
        latents = cast(Any, self.stack).add_skip(hidden_states, encoded.skip)
        codes, contexts = self.quantizer.encode(latents.transpose(1, 2)), self.join_contexts(encoded.context)
        return codes, contexts, past, num_frames + latents.shape[1]


class JodioDecodeStep(JodioStep):
    """JODIO's decoder over the next frames of a stream.

    Args:
        model ([`JodioModel`]): The codec.
        frames, context_frames (`int`): As in [`JodioStep`].
    """

    def __init__(self, model: JodioModel, frames: int = 1, context_frames: int | None = None):
        decoding = model.get_decoding()
        super().__init__(decoding.transformer, decoding.stack, frames, context_frames)
        self.quantizer = decoding.quantizer
        self.latent_proj = decoding.latent_proj
        self.proj = decoding.proj
        self.config = model.config
        self.dtype = model.dtype
        self.num_quantizers = model.config.num_quantizers

    def example_inputs(self, batch_size: int = 3) -> dict[str, torch.Tensor]:
        """Codes of 0, and the state at the start."""
        state = self.initial_state(batch_size)
        shape = (batch_size, self.num_quantizers, self.frames)
        return dict(audio_codes=state["num_frames"].new_zeros(shape), **state)

    def forward(
        self, audio_codes: torch.Tensor, contexts: torch.Tensor, past: torch.Tensor, num_frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decode.

        Args:
            audio_codes (`torch.LongTensor`): `(batch, num_quantizers, frames)`, in range: not checked here.
            contexts, past, num_frames: The state, see [`JodioStep`].

        Returns:
            Samples `(batch, channels, frames * hop_length)`, and the next state.
        """
        latents = self.quantizer.decode(audio_codes).transpose(1, 2)
        hidden_states, past = self.attend(self.latent_proj(latents), past, num_frames)
        decoded = self.stack(self.proj(hidden_states), latents, self.part_contexts(contexts))
        audio_values, contexts = decoded.hidden_states.transpose(1, 2), self.join_contexts(decoded.context)
        return audio_values.to(self.dtype), contexts, past, num_frames + audio_codes.shape[2]


class TalkerStep(ExportableStep):
    """The Talker's backbone over the next step of all rows; [`TalkerDepthLoop`] completes the frame.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): The Talker.
    """

    def __init__(self, talker: JosieTalkerForConditionalGeneration):
        super().__init__()
        self.talker = talker

    @torch.no_grad()
    def initial_past(self, batch_size: int, speaker_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Return `past` after the learned start step, which carries the voice: made here once, kept as a constant.

        Args:
            batch_size (`int`): Rows.
            speaker_ids (`torch.LongTensor`, *optional*): `(batch,)`, rows of `config.speakers`; the first when `None`.

        Returns:
            `(2 * num_layers, batch, heads, 1, head_dim)`.
        """
        cache = DynamicCache()
        self.talker.model(self.talker.embed_start(batch_size, speaker_ids), cache=cache)
        return stack_cache(cache)

    def example_inputs(self, batch_size: int = 3) -> dict[str, torch.Tensor]:
        """A step without text after two others: sizes of 0 and 1 would become constants."""
        config, weight = self.talker.config, self.talker.start
        thought = weight.new_zeros(batch_size, config.thinker_hidden_size)
        none = torch.full((batch_size, config.num_quantizers), config.codebook_size, device=weight.device)
        inputs = dict(
            codes=none,
            thinker_hidden_states=thought,
            thinker_embeds=thought.clone(),
            thinker_mask=torch.zeros_like(none[:, 0], dtype=torch.bool),
            past=weight.new_zeros(past_shape(self.talker.model, batch_size, 2)),
        )
        return inputs | dict(places=weight.new_zeros(batch_size, 2)) if config.learns_durations else inputs

    def dynamic_shapes(self) -> dict[str, dict[int, Dim]]:
        """The batch, and how many steps came before."""
        batch = Dim("batch", max=MAX_BATCH_SIZE)
        length = Dim("length", max=self.talker.config.max_position_embeddings - 1)
        names = ("codes", "thinker_hidden_states", "thinker_embeds", "thinker_mask")
        shapes = {name: {0: batch} for name in names} | dict(past={1: batch, 3: length})
        return shapes | dict(places={0: batch}) if self.talker.config.learns_durations else shapes

    def forward(
        self,
        codes: torch.Tensor,
        thinker_hidden_states: torch.Tensor,
        thinker_embeds: torch.Tensor,
        thinker_mask: torch.Tensor,
        past: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict quantizer 0 of the next frame.

        Args:
            codes (`torch.LongTensor`): `(batch, num_quantizers)`, of the frame before; `codebook_size` where there is
                none, as in the first `1 + speech_delay` steps.
            thinker_hidden_states, thinker_embeds (`torch.Tensor`): `(batch, thinker_hidden_size)`, of the step's token.
            thinker_mask (`torch.BoolTensor`): `(batch,)`, whether there is a token; the others may hold anything.
            past (`torch.Tensor`): `(2 * num_layers, batch, heads, length, head_dim)`, keys and values so far.
            places (`torch.Tensor`, *optional*): `(batch, 2)`, where in the token the step is, for Talkers that learn
                durations; `talker.durations` gives the durations of a text's tokens, and what each step reads.

        Returns:
            Logits `(batch, codebook_size (+ 1))`, the frame's state `(batch, hidden_size)`, and the next `past`. In the
            first `speech_delay` steps logits and state mean nothing.
        """
        talker, cache = self.talker, make_cache(past)
        text = talker.embed_step(
            thinker_hidden_states[:, None],
            thinker_embeds[:, None],
            thinker_mask[:, None],
            None if places is None else places[:, None],
        )
        embeds = text + talker.code_embedding(codes[:, :, None])
        states = talker.model(embeds, cache=cache).last_hidden_state[:, 0]
        return talker.head(states), states, stack_cache(cache)


class TalkerDepthLoop(ExportableStep):
    """All of a frame's quantizers but the first, chosen one after the other.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): The Talker.

    Raises:
        `ValueError`: It has one quantizer only.
    """

    def __init__(self, talker: JosieTalkerForConditionalGeneration):
        super().__init__()
        if talker.depth_decoder is None:
            raise ValueError("`num_quantizers` must be at least 2 for a loop over quantizers, got 1.")
        self.decoder = talker.depth_decoder
        self.config = talker.config

    def example_inputs(self, batch_size: int = 3) -> dict[str, torch.Tensor]:
        """States and codes of zeros, and no noise."""
        config, weight = self.config, next(self.parameters())
        return dict(
            frame_states=weight.new_zeros(batch_size, config.hidden_size),
            codes=torch.zeros(batch_size, dtype=torch.long, device=weight.device),
            noise=weight.new_zeros(batch_size, config.num_quantizers - 1, config.codebook_size),
        )

    def dynamic_shapes(self) -> dict[str, dict[int, Dim]]:
        """The batch."""
        batch = Dim("batch", max=MAX_BATCH_SIZE)
        return {name: {0: batch} for name in ("frame_states", "codes", "noise")}

    def forward(self, frame_states: torch.Tensor, codes: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Choose the codes with the highest sum of logit and noise.

        Args:
            frame_states (`torch.Tensor`): `(batch, hidden_size)`, from [`TalkerStep`].
            codes (`torch.LongTensor`): `(batch,)`, quantizer 0.
            noise (`torch.Tensor`): `(batch, num_quantizers - 1, codebook_size)`: zeros for the likeliest codes; a
                temperature times standard Gumbel noise, `-log(-log(uniform))`, to draw at that temperature.

        Returns:
            `(batch, num_quantizers)`, quantizer 0 included.
        """
        one_by_one = isinstance(self.decoder, JosieDepthDecoder)
        noises = iter(noise.unbind(1) if one_by_one else [noise.flatten(0, 1)])
        loop: Any = self.decoder.make_loop(codes.shape[0], frame_states)
        sampler: Any = lambda logits: (logits + next(noises)).argmax(dim=-1)  # noqa: E731
        return self.decoder.generate(frame_states, codes, sampler, loop)
