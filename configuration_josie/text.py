"""Configuration of JOSIE's own text backbone."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from .backbone import JosieBackboneConfig, require_positive


@strict
class JosieTextConfig(JosieBackboneConfig):
    r"""A decoder-only text transformer: a [`JosieBackboneConfig`] with a vocabulary.

    Args:
        vocab_size (`int`): Number of rows of the token embedding.
        tie_word_embeddings (`bool`): Share the token embedding with the output projection.
        pad_token_id, bos_token_id, eos_token_id (`int`, *optional*): Ids of the special tokens.
    """

    model_type = "josie_text"
    base_config_key = "text_config"

    vocab_size: int = 8192
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_vocabulary(self):
        """There is at least one token."""
        require_positive(self, "vocab_size")


AutoConfig.register(JosieTextConfig.model_type, JosieTextConfig, exist_ok=True)
