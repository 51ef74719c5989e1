"""Trials of an assembled model: its logits, and every front end on an input of its own."""

from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel

from ...modeling_josie import JosieForConditionalGeneration
from ...processing_josie import JosieProcessor
from .reading import Source

_NUM_TOKENS = 8
_SIDE = 48


@torch.no_grad()
def try_logits(
    model: JosieForConditionalGeneration, original: PreTrainedModel, known_ids: list[int], source: Source
) -> None:
    """Compare the logits of some tokens with the language model's, and refuse one that is not causal.

    Families that scale or cap their logits after the head, or mix their embeddings in ways of their own, are found out
    here and need no list.

    Args:
        model ([`JosieForConditionalGeneration`]): The assembled model.
        original (`PreTrainedModel`): The language model, whose modules it shares.
        known_ids (`list[int]`): Ids that the language model has learned.
        source (`str` or `Path`): Its source, for messages.

    Raises:
        `ValueError`: The logits differ, or depend on later tokens.
    """
    step = max(len(known_ids) // _NUM_TOKENS, 1)
    ids = torch.tensor([known_ids[::step][:_NUM_TOKENS]])
    mask = torch.ones_like(ids)
    expected = original(input_ids=ids, attention_mask=mask, use_cache=False).logits
    actual = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    if not torch.equal(actual, expected.to(actual.dtype)):
        difference = (actual.float() - expected.float()).abs().max().item()
        raise ValueError(
            "`text` must be a language model whose logits are its transformer's states through its head, got "
            f"{str(source)!r}, of the model type {original.config.model_type!r}, which is off by {difference:.3g}."
        )
    changed = ids.clone()
    changed[:, -1] = ids[:, 0]
    other = model(input_ids=changed, attention_mask=mask, use_cache=False).logits
    scale = expected[:, :-1].float().std().item()
    if not torch.allclose(other[:, :-1].float(), actual[:, :-1].float(), rtol=0.0, atol=0.05 * scale + 1e-6):
        raise ValueError(
            f"`text` must be a causal language model, got {str(source)!r}, of the model type "
            f"{original.config.model_type!r}, in which earlier tokens depend on later ones."
        )


@torch.no_grad()
def try_front_ends(model: JosieForConditionalGeneration, processor: JosieProcessor) -> None:
    """Send a second of noise, an image and a video through processor and model.

    Raises:
        `ValueError`: A front end gives other numbers of features than were counted, or they do not fit the context.
    """
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    trials: dict[str, dict[str, Any]] = {
        "audio": {"audio": random.normal(0, 0.1, 16000).astype(np.float32), "sampling_rate": 16000},
        "image": {"images": [image]},
        "video": {"videos": [np.stack([image, image])]},
    }
    for modality, inputs in trials.items():
        if modality not in model.input_modalities:
            continue
        try:
            batch = dict(processor(text="", **inputs))
            ids, _ = batch.pop("input_ids"), batch.pop("attention_mask")
            model.thinker.model.embed_inputs(ids, **model.encode_inputs(**batch))
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            argument = "audio" if modality == "audio" else "vision"
            raise ValueError(f"`{argument}` must be a front end that JOSIE can use, got one with: {error}") from error
