"""Fields of the quantizer that every codec configuration shares, and the check of their geometry."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .backbone import require_positive


@strict
class JosieCodecConfig(PreTrainedConfig):
    r"""Fields of the residual vector quantizer inside a codec.

    A loss called `name` weighs `name_weight`, here as in the configurations that derive from this one.

    Args:
        num_quantizers (`int`): Codes a frame (or patch) has in all, semantic ones included.
        num_semantic_quantizers (`int`): How many of them form the semantic quantizer, which reads the same latent as
            the acoustic rest; 0 for one plain residual quantizer.
        codebook_size (`int`): Number of vectors in each codebook.
        codebook_dim (`int`): Width of the codebook vectors; latents are projected to it and back.
        quantizer_bias (`bool`): Biases in those projections.
        codebook_update (`"ema"`, `"gradient"` or `"none"`): Move the codebooks by exponential moving averages, or by a
            loss; or leave trained ones as they are.
        ema_decay (`float`): Decay of the moving averages.
        kmeans_init (`bool`): Start each codebook from k-means over the first training batch.
        kmeans_iterations (`int`): Iterations of that k-means.
        dead_code_threshold (`float`): Codes whose average use in a batch falls below this are put back on random
            latents; 0 never.
        commitment_weight (`float`): Weight of the commitment loss.
        codebook_weight (`float`): Weight of the codebook loss when `codebook_update="gradient"`.
        quantizer_dropout (`float`): Probability that a training row uses only a random prefix of the quantizers.
        quantizer_bypass (`float`): Probability that a training row is decoded from its latents as they are, while the
            codebooks learn from it all the same (Mimi, Défossez et al., 2024). Without it a new codec can settle on
            latents of few dimensions, which is all that young codebooks pass on.
        initializer_range (`float`): Standard deviation of the initial weights.
    """

    # `Trainer` keeps the rest of an output as predictions: what was decoded, and codes.
    keys_to_ignore_at_inference = ["losses", "perplexity", "usage"]

    num_quantizers: int = 8
    num_semantic_quantizers: int = 0
    codebook_size: int = 2048
    codebook_dim: int = 256
    quantizer_bias: bool = False
    codebook_update: Literal["ema", "gradient", "none"] = "ema"
    ema_decay: float = 0.99
    kmeans_init: bool = True
    kmeans_iterations: int = 10
    dead_code_threshold: float | int = 2.0
    commitment_weight: float | int = 0.25
    codebook_weight: float | int = 1.0
    quantizer_dropout: float | int = 0.0
    quantizer_bypass: float | int = 0.0
    initializer_range: float = 0.02

    def validate_quantizers(self):
        """Counts are positive and the semantic quantizers are among the quantizers."""
        require_positive(self, "num_quantizers", "codebook_size", "codebook_dim")
        if not 0 <= self.num_semantic_quantizers <= self.num_quantizers:
            raise ValueError(
                f"`num_semantic_quantizers` must be in [0, {self.num_quantizers}], got {self.num_semantic_quantizers}."
            )
        for name in ("ema_decay", "quantizer_dropout", "quantizer_bypass"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")

    def validate_weights(self):
        """Loss weights are not negative."""
        for name, value in vars(self).items():
            if name.endswith("_weight") and value < 0:
                raise ValueError(f"`{name}` must be at least 0, got {value}.")
