"""Parts of generation loops: steps over a preallocated cache, and the choice of codes from logits."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ...configuration_josie import JosieBackboneConfig
from ..layers.backbone import JosieBackbone
from ..layers.fast import step_attention
from ..layers.fast_steps import StepLayer, fast_step, list_step_layers
from ..layers.row_caches import RowCaches, attend_by_rows, join_positions
from ..layers.transformer import attend_with_mask, get_attention_function
from ..option_values import check_factor, check_integer, check_number


class LoopCache(Cache):
    """Keys and values of a loop whose length is known: written in place, read as views, never reallocated.

    All rows have the same length, so no mask is needed for single steps.

    Args:
        config ([`JosieBackboneConfig`]): Gives the number of layers, heads and the sliding window.
        batch_size (`int`): Rows.
        max_length (`int`): Steps that fit.
        device, dtype: Of keys and values.
    """

    def __init__(
        self, config: JosieBackboneConfig, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype
    ):
        super().__init__(layers=[])
        heads: int = config.num_key_value_heads or config.num_attention_heads
        head_dim: int = config.head_dim or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, batch_size, 2 * heads, max_length, head_dim)
        self.states = torch.empty(shape, device=device, dtype=dtype).unbind()  # keys, then values
        self.num_heads = heads
        self.window = config.sliding_window or max_length
        self.length = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        """Write steps behind what is there.

        Args:
            key_states, value_states (`torch.Tensor`): `(batch, heads, steps, head_dim)`.
            layer_idx (`int`): The layer.
        """
        return self.write(torch.cat((key_states, value_states), dim=1), layer_idx)

    def write(self, states: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Write steps behind what is there, and return the keys and values of all that are seen.

        Args:
            states (`torch.Tensor`): `(batch, 2 * heads, steps, head_dim)`, keys before values.
            layer_idx (`int`): The layer.
        """
        steps, kept = states.shape[2], self.states[layer_idx]
        kept.narrow(2, self.length, steps).copy_(states)
        end = self.length + steps
        start = max(end - self.window, 0)
        keys, values = kept.narrow(2, start, end - start).split(self.num_heads, dim=1)
        return keys, values

    @property
    def batch_size(self) -> int:
        """Rows."""
        return self.states[0].shape[0]

    @property
    def max_length(self) -> int:
        """Steps that fit."""
        return self.states[0].shape[2]

    def advance(self, steps: int = 1):
        """Move on after every layer wrote; the loop calls this once a step."""
        self.length += steps

    def drop(self, steps: int):
        """Forget the first `steps` steps, and keep twice the memory from then on, so that this is seldom needed."""
        kept = [states.narrow(2, steps, self.length - steps) for states in self.states]
        self.length -= steps
        size = (*self.states[0].shape[:2], max(self.max_length, 2 * self.length), self.states[0].shape[3])
        states = kept[0].new_empty(len(kept), *size).unbind()
        for new, old in zip(states, kept, strict=True):
            new.narrow(2, 0, self.length).copy_(old)
        self.states = states

    def restart(self):
        """Forget everything and keep the memory."""
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many steps are stored."""
        return self.length


class StepLoop:
    """Runs a causal backbone one step at a time; cache and rotary positions are made once.

    Args:
        backbone ([`JosieBackbone`]): What runs.
        batch_size (`int`): Rows.
        max_length (`int`): Most steps.
        like (`torch.Tensor`): Gives device and dtype.
    """

    layers: list[StepLayer] | None = None  # what `list_layers` found

    def __init__(self, backbone: JosieBackbone, batch_size: int, max_length: int, like: torch.Tensor):
        self.backbone = backbone
        self.cache = LoopCache(backbone.config, batch_size, max_length, like.device, like.dtype)
        is_sdpa = backbone.config._attn_implementation == "sdpa"
        self.attend = step_attention if is_sdpa else get_attention_function(backbone.config)
        self.num_dropped = self.first_position = 0
        self.positions = None
        if backbone.rotary_emb is not None:
            self.positions = backbone.rotary_emb(like, torch.arange(max_length, device=like.device)[None])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "layers"}  # these follow from the rest

    @property
    def length(self) -> int:
        """Steps that are remembered."""
        return self.cache.length

    def restart(self):
        """Go back to the first step; the memory is kept."""
        self.cache.restart()
        self.num_dropped = 0

    def make_room(self, oldest: int) -> int:
        """Forget steps before `oldest` where there is no room for another; return how many were forgotten."""
        if self.length < self.cache.max_length or not oldest:
            return 0
        self.cache.drop(oldest)
        self.num_dropped += oldest
        return oldest

    def step(self, inputs_embeds: torch.Tensor, starts: list[int] | None = None) -> torch.Tensor:
        """Run the next step.

        Args:
            inputs_embeds (`torch.Tensor`): `(batch, 1, hidden_size)`.
            starts (`list[int]`, *optional*): For each row the first of the remembered steps that it sees; all of them
                when `None`.

        Returns:
            `(batch, 1, hidden_size)`.
        """
        return step_together([self], [inputs_embeds], [starts])[0]

    def list_layers(self, like: torch.Tensor) -> list[StepLayer]:
        """Return the layers for [`fast_step`]; none where it is not what a step computes.

        Args:
            like (`torch.Tensor`): Gives the device.
        """
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(like.device.type):
            return []
        if self.layers is None:
            self.layers = list_step_layers(self.backbone) or []
        return self.layers

    def _position(self) -> Any:
        """Return cosines and sines of the next step; positions are only ever compared, so they may grow for ever."""
        if self.positions is None:
            return None
        size, index = self.positions[0].shape[2], self.length + self.num_dropped - self.first_position
        if not 0 <= index < size:
            rotary: Any = self.backbone.rotary_emb
            self.first_position, index = self.first_position + index, 0
            places = torch.arange(size, device=self.positions[0].device)[None] + self.first_position
            self.positions = rotary(self.positions[0], places)
        cos, sin = self.positions
        return cos[:, :, index : index + 1], sin[:, :, index : index + 1]

    def _mask(self, starts: list[int], like: torch.Tensor) -> torch.Tensor:
        """Return `(batch, 1, 1, keys)`, true where a row sees a remembered step or the new one."""
        end = self.length + 1
        steps = torch.arange(max(end - self.cache.window, 0), end, device=like.device)
        return (steps >= torch.tensor(starts, device=like.device)[:, None])[:, None, None]


def step_together(
    loops: Sequence[StepLoop], inputs_embeds: Sequence[torch.Tensor], starts: Sequence[list[int] | None]
) -> list[torch.Tensor]:
    """Run the next step of several loops of one backbone, each of a length of its own.

    Args:
        loops (`Sequence[StepLoop]`): The loops.
        inputs_embeds, starts (`Sequence`): Of each, as of [`StepLoop.step`].

    Returns:
        What each loop's step gives.
    """
    first = loops[0]
    is_alone = len(loops) == 1
    embeds = inputs_embeds[0] if is_alone else torch.cat(list(inputs_embeds))
    sizes = [] if is_alone else [len(part) for part in inputs_embeds]  # exported programs have any number of rows
    positions: Any = [loop._position() for loop in loops]
    positions = positions[0] if is_alone or positions[0] is None else join_positions(positions, sizes)
    masks = [
        None if seen is None else loop._mask(seen, part)
        for loop, part, seen in zip(loops, inputs_embeds, starts, strict=True)
    ]
    layers = first.list_layers(embeds)
    if layers:
        caches = [loop.cache for loop in loops]
        hidden_states = fast_step(first.backbone, layers, embeds, caches, positions, masks)
    elif is_alone:
        attend = first.attend if masks[0] is None else attend_with_mask
        hidden_states = first.backbone.run_layers(embeds, masks[0], positions, first.cache, attend)
    else:
        others: Any = dict(cache=RowCaches([loop.cache for loop in loops], sizes), attention_mask=masks)
        hidden_states = first.backbone.run_layers(
            embeds, position_embeddings=positions, attend=attend_by_rows, **others
        )
    for loop in loops:
        loop.cache.advance()
    return [hidden_states] if is_alone else list(hidden_states.split(sizes))


class CodeSampler:
    """Chooses a code for each row from logits: the likeliest, or a draw after the usual processors.

    Args:
        do_sample (`bool`): Draw, from torch's global generator or, once seeded, from one of each row; otherwise take
            the likeliest.
        temperature (`float`): Divides the logits, above 0.
        top_k (`int`, *optional*): Keep so many of the likeliest; all when `None` or 0.
        top_p (`float`, *optional*): Keep the likeliest that together have this probability, in (0, 1].
        min_p (`float`, *optional*): Keep what has at least this fraction of the likeliest one's probability.

    Raises:
        `ValueError`: A value is of another type or out of its range, also of one that is not read as nothing is drawn.
    """

    def __init__(
        self,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
    ):
        self.do_sample = do_sample
        self.generators: list[torch.Generator] = []
        self._rows: set[int] = set()
        self.processors = LogitsProcessorList()
        if not isinstance(do_sample, bool):
            raise ValueError(f"`talker_do_sample` must be True or False, got {do_sample!r}.")
        if top_k is not None:
            check_integer("talker_top_k", top_k)
        for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
            if value is not None:
                check_number(f"talker_{name}", value)
        if not temperature > 0:
            raise ValueError(f"`talker_temperature` must be above 0, got {temperature}.")
        check_factor("talker_temperature", temperature)
        if top_k is not None and top_k < 0:
            raise ValueError(f"`talker_top_k` must be at least 0, got {top_k}.")
        for name, value in (("top_p", top_p), ("min_p", min_p)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"`talker_{name}` must be in (0, 1], got {value}.")
        if not do_sample:
            return
        if temperature != 1.0:
            self.processors.append(TemperatureLogitsWarper(float(temperature)))
        if top_k:
            self.processors.append(TopKLogitsWarper(top_k))
        for value, warper in ((top_p, TopPLogitsWarper), (min_p, MinPLogitsWarper)):
            if value is not None and value < 1:
                self.processors.append(warper(value))

    @property
    def options(self) -> tuple[Any, ...]:
        """Its options, to tell samplers apart."""
        return self.do_sample, *((type(processor), *vars(processor).values()) for processor in self.processors)

    def seed(self, seeds: list[int], device: torch.device) -> None:
        """Give each row a random stream of its own, so that what it draws does not depend on the other rows."""
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.select_rows(range(len(seeds)))

    def select_rows(self, rows: Iterable[int]) -> None:
        """Say which rows the next codes are for; the others draw nothing, and what they are given is no choice."""
        self._rows = set(rows)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Map logits `(batch * n, num_classes)`, the `n` of each row side by side, to codes `(batch * n,)`."""
        if not self.do_sample:
            return logits.argmax(dim=-1)
        scores = self.processors(None, logits.float())  # type: ignore[arg-type]  (none of them reads the ids)
        if not self.generators:
            return torch.multinomial(scores.softmax(dim=-1), num_samples=1)[:, 0]
        # The likeliest after division by exponential noise: a draw, as `multinomial` makes it.
        shape = len(scores) // len(self.generators), scores.shape[1]
        noise = scores.new_ones(len(self.generators), *shape)
        for number in self._rows:
            noise[number].exponential_(generator=self.generators[number])
        return (scores.softmax(dim=-1) / noise.flatten(0, 1)).argmax(dim=-1)


def join_samplers(samplers: Sequence[CodeSampler]) -> CodeSampler:
    """Return one sampler for the rows of several that have the same options and, where they draw, are seeded."""
    if len(samplers) == 1:
        return samplers[0]
    joint = copy.copy(samplers[0])
    joint.generators = [generator for sampler in samplers for generator in sampler.generators]
    return joint
