"""Parts of generation loops: steps over a preallocated cache, and the choice of codes from logits."""

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
from ..layers.transformer import get_attention_function


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
        shape = (2 * config.num_hidden_layers, batch_size, heads, max_length, head_dim)
        self.states = torch.empty(shape, device=device, dtype=dtype).unbind()
        self.window = config.sliding_window or max_length
        self.length = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        """Write `(batch, heads, steps, head_dim)` behind what is there; return all keys and values so far."""
        steps = key_states.shape[2]
        end = self.length + steps
        start = max(end - self.window, 0)
        keys, values = self.states[2 * layer_idx], self.states[2 * layer_idx + 1]
        keys.narrow(2, self.length, steps).copy_(key_states)
        values.narrow(2, self.length, steps).copy_(value_states)
        return keys.narrow(2, start, end - start), values.narrow(2, start, end - start)

    def advance(self, steps: int = 1):
        """Move on after every layer wrote; the loop calls this once a step."""
        self.length += steps

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

    def __init__(self, backbone: JosieBackbone, batch_size: int, max_length: int, like: torch.Tensor):
        self.backbone = backbone
        self.cache = LoopCache(backbone.config, batch_size, max_length, like.device, like.dtype)
        is_sdpa = backbone.config._attn_implementation == "sdpa"
        self.attend = step_attention if is_sdpa else get_attention_function(backbone.config)
        self.positions = None
        if backbone.rotary_emb is not None:
            self.positions = backbone.rotary_emb(like, torch.arange(max_length, device=like.device)[None])

    def restart(self):
        """Go back to the first step; the memory is kept."""
        self.cache.restart()

    def step(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Map the `(batch, 1, hidden_size)` inputs of the next step to outputs of the same shape."""
        position = None
        if self.positions is not None:
            index, (cos, sin) = self.cache.length, self.positions
            position = cos[:, :, index : index + 1], sin[:, :, index : index + 1]
        hidden_states = self.backbone.run_layers(
            inputs_embeds, position_embeddings=position, cache=self.cache, attend=self.attend
        )
        self.cache.advance()
        return hidden_states


class CodeSampler:
    """Chooses a code for each row from logits: the likeliest, or a draw after the usual processors.

    Args:
        do_sample (`bool`): Draw, with torch's global generator; otherwise take the likeliest.
        temperature (`float`): Divides the logits, above 0.
        top_k (`int`, *optional*): Keep so many of the likeliest; all when `None` or 0.
        top_p (`float`, *optional*): Keep the likeliest that together have this probability, in (0, 1].
        min_p (`float`, *optional*): Keep what has at least this fraction of the likeliest one's probability.

    Raises:
        `ValueError`: A value is out of its range.
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
        self.processors = LogitsProcessorList()
        if not do_sample:
            return
        if temperature <= 0:
            raise ValueError(f"`talker_temperature` must be above 0, got {temperature}.")
        if temperature != 1.0:
            self.processors.append(TemperatureLogitsWarper(float(temperature)))
        if top_k is not None and top_k < 0:
            raise ValueError(f"`talker_top_k` must be at least 0, got {top_k}.")
        if top_k:
            self.processors.append(TopKLogitsWarper(top_k))
        for name, value, warper in (("top_p", top_p, TopPLogitsWarper), ("min_p", min_p, MinPLogitsWarper)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"`talker_{name}` must be in (0, 1], got {value}.")
            if value is not None and value < 1:
                self.processors.append(warper(value))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Map logits `(batch, num_classes)` to codes `(batch,)`."""
        if not self.do_sample:
            return logits.argmax(dim=-1)
        scores = self.processors(None, logits.float())  # type: ignore[arg-type]  (none of them reads the ids)
        return torch.multinomial(scores.softmax(dim=-1), num_samples=1)[:, 0]
