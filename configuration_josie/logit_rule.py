"""Scale and cap of a text backbone's logits, which families put between head and softmax."""

from dataclasses import dataclass
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

_SCALES = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2 and on; RecurrentGemma


@dataclass(frozen=True)
class LogitRule:
    """`cap * tanh(scale * logits / cap)`; without a cap, `scale * logits`.

    Args:
        scale (`float`): Multiplies the head's output.
        cap (`float`, *optional*): Bound of the scaled logits.
    """

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, text_config: PreTrainedConfig) -> "LogitRule":
        """Return the rule that the fields of a text backbone's configuration describe."""
        values = [getattr(text_config, name, None) for name in _SCALES]
        scale = next((float(value) for value in values if isinstance(value, (int, float))), 1.0)
        divisor = getattr(text_config, "logits_scaling", None)
        if divisor is not None:  # Granite divides by it, HyperCLOVA X multiplies
            scale = float(divisor) if text_config.model_type == "hyperclovax" else 1 / divisor
        caps = [getattr(text_config, name, None) for name in _CAPS]
        return cls(scale, next((float(cap) for cap in caps if cap is not None), None))

    def apply(self, logits: Any) -> Any:
        """Return the logits, a tensor of any shape, scaled and capped."""
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap
