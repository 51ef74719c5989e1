"""Trials of an assembled model: its text against the language model's, every front end, and a model loaded anew."""

import tempfile
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel

from ...configuration_josie.logit_rule import LogitRule
from ...modeling_josie import JosieForConditionalGeneration
from ...processing_josie import JosieProcessor
from .reading import Source

_NUM_TOKENS, _NUM_NEW_TOKENS = 8, 3
_SIDE = 48


@torch.no_grad()
def try_text(
    model: JosieForConditionalGeneration, original: PreTrainedModel, known_ids: list[int], source: Source
) -> torch.Tensor:
    """Compare logits and greedy tokens with the language model's, and refuse one that is not causal.

    Families that make their logits or mix their embeddings in ways of their own are found out here and need no list.

    Args:
        model ([`JosieForConditionalGeneration`]): The assembled model.
        original (`PreTrainedModel`): The language model, whose modules it shares.
        known_ids (`list[int]`): Ids that the language model has learned.
        source (`str` or `Path`): Its source, for messages.

    Returns:
        The ids that were tried, `(1, length)`.

    Raises:
        `ValueError`: It does not run as a part of JOSIE, or logits or tokens differ, or depend on later tokens.
    """
    step = max(len(known_ids) // _NUM_TOKENS, 1)
    ids = torch.tensor([known_ids[::step][:_NUM_TOKENS]])
    mask = torch.ones_like(ids)
    got = f"got {str(source)!r}, of the model type {original.config.model_type!r}"
    greedy: dict[str, Any] = {
        "max_new_tokens": _NUM_NEW_TOKENS,
        "min_new_tokens": _NUM_NEW_TOKENS,
        "do_sample": False,
        "temperature": None,
        "top_k": None,
        "top_p": None,
        "eos_token_id": model.generation_config.eos_token_id,  # neither may be written so early, by either
    }
    if getattr(original(input_ids=ids, use_cache=True), "cache", None) is None:
        raise ValueError(f"`text` must be a language model that returns a cache to go on from, {got}, which does not.")
    expected = original(input_ids=ids, attention_mask=mask, use_cache=False).logits
    written = original.generate(ids, attention_mask=mask, **greedy)  # type: ignore[operator]
    try:
        actual = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        changed = ids.clone()
        changed[:, -1] = ids[:, 0]
        other = model(input_ids=changed, attention_mask=mask, use_cache=False).logits
        rewritten = model.generate(ids, attention_mask=mask, **greedy)
    except Exception as error:  # whatever a family raises that wants other inputs, or gives other outputs
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`text` must be a language model that reads embeddings and goes on from a cache, {got}, which fails with: "
            f"{reason}"
        ) from error
    # Scaling and capping in another order than the family's own may round otherwise; a head alone may not.
    is_plain = model.thinker.logit_rule == LogitRule()
    precision = 0.0 if is_plain else 4 * torch.finfo(actual.dtype).eps * expected.abs().max().item()
    if not torch.allclose(actual, expected.to(actual.dtype), rtol=0.0, atol=precision):
        difference = (actual.float() - expected.float()).abs().max().item()
        raise ValueError(
            f"`text` must be a language model whose logits are its transformer's states through its head, scaled and "
            f"capped in a known way, {got}, "
            f"which is off by {difference:.3g}."
        )
    scale = expected[:, :-1].float().std().item()
    if not torch.allclose(other[:, :-1].float(), actual[:, :-1].float(), rtol=0.0, atol=0.05 * scale + 1e-6):
        raise ValueError(
            f"`text` must be a causal language model, {got}, in which earlier tokens depend on later ones."
        )
    if not torch.equal(rewritten, written):
        raise ValueError(f"`text` must write the same tokens inside JOSIE as alone, {got}, which does not.")
    return ids


def try_front_ends(model: JosieForConditionalGeneration, processor: JosieProcessor) -> dict[str, torch.Tensor]:
    """Send a second of noise, an image and a video through processor and model.

    Returns:
        The embeddings of each, `(1, length, hidden_size)`, by modality.

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
    embedded = {}
    for modality, inputs in trials.items():
        if modality not in model.input_modalities:
            continue
        try:
            embedded[modality] = _embed(model, processor, inputs)
        except Exception as error:  # whatever a family raises that wants other inputs
            argument = "audio" if modality == "audio" else "vision"
            reason = " ".join(str(error).split())
            raise ValueError(f"`{argument}` must be a front end that JOSIE can use, got one with: {reason}") from error
    return embedded


@torch.no_grad()
def _embed(model: JosieForConditionalGeneration, processor: JosieProcessor, inputs: dict[str, Any]) -> torch.Tensor:
    batch = dict(processor(text="", **inputs))
    ids, _ = batch.pop("input_ids"), batch.pop("attention_mask")
    return model.thinker.model.embed_inputs(ids, **model.encode_inputs(**batch))


@torch.no_grad()
def try_reload(
    model: JosieForConditionalGeneration,
    processor: JosieProcessor,
    ids: torch.Tensor,
    embedded: dict[str, torch.Tensor],
) -> None:
    """Load the model anew, as from a folder, and compare every tensor, its logits and its front ends.

    Configuration and processor go through files; weights are handed over, so that nothing large is written.

    Args:
        model ([`JosieForConditionalGeneration`]): The assembled model.
        processor ([`JosieProcessor`]): Its processor.
        ids (`torch.LongTensor`): Tokens to read, `(1, length)`.
        embedded (`dict[str, torch.Tensor]`): Result of [`try_front_ends`].

    Raises:
        `ValueError`: Something differs, such as a buffer that is not saved and not made again.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.config.dtype = model.dtype
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        config = type(model.config).from_pretrained(folder)
        loaded_processor = type(processor).from_pretrained(folder)
    tied = set(model.all_tied_weights_keys)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    loaded: Any = type(model).from_pretrained(None, config=config, state_dict=weights)
    theirs = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        other = theirs.get(name)
        if other is None or other.dtype != tensor.dtype or not torch.equal(other.nan_to_num(), tensor.nan_to_num()):
            raise ValueError(f"The model must be the same after it was saved and loaded, got another `{name}`.")
    mask = torch.ones_like(ids)
    outputs = {"logits": (model(ids, mask).logits, loaded(ids, mask).logits)}
    for modality, other in try_front_ends(loaded, loaded_processor).items():
        outputs[f"{modality} features"] = (embedded[modality], other)
    for name, (ours, other) in outputs.items():
        if not torch.equal(ours, other):
            raise ValueError(f"The model must be the same after it was saved and loaded, got other {name}.")
