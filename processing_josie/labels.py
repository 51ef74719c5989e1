"""Which tokens are whose: the assistant's turns in a tokenized conversation, and what is learned of them."""

from bisect import bisect_right
from typing import Any

import numpy as np
import torch

from .speech import IGNORED


def number_turns(
    offsets: list[tuple[int, int]], spans: list[tuple[int, int]], replacements: list[dict[str, Any]]
) -> np.ndarray:
    """Return for each token which of the assistant's turns it is in, from the end: 1 for the last; 0 for none.

    Args:
        offsets (`list[tuple[int, int]]`): First and last character of each token, in the text with expanded
            placeholders; equal where a token has no characters.
        spans (`list[tuple[int, int]]`): First and last character of each turn, in the text as it was.
        replacements (`list[dict]`): Where placeholders were expanded, in order: `span` before and `new_span` after.
    """
    starts, ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    turns = np.zeros(len(offsets), dtype=np.int64)
    expanded = [replacement["span"][1] for replacement in replacements]
    shifts = [0, *(replacement["new_span"][1] - replacement["span"][1] for replacement in replacements)]
    for index, span in enumerate(spans):
        first, last = (character + shifts[bisect_right(expanded, character)] for character in span)
        turns[(starts < last) & (ends > first)] = len(spans) - index
    return turns


def make_labels(input_ids: Any, is_learned: Any, ignored_ids: set[int]) -> Any:
    """Return ids where something is learned, -100 elsewhere and at `ignored_ids`.

    Args:
        input_ids, is_learned: Rows of one length as a tensor or an array, or a list of rows; alike.
        ignored_ids (`set[int]`): Tokens that are never learned, such as placeholders.

    Returns:
        Labels in the form of `input_ids`.
    """
    ignored = list(ignored_ids)
    rows = [
        np.where(np.asarray(learned).astype(bool) & ~np.isin(ids, ignored), ids, IGNORED)
        for ids, learned in zip(map(np.asarray, input_ids), is_learned, strict=True)
    ]
    return in_form_of(input_ids, rows)


def in_form_of(input_ids: Any, rows: list[np.ndarray]) -> Any:
    """Return rows as a tensor, an array or lists, as `input_ids` are."""
    if isinstance(input_ids, torch.Tensor):
        return torch.from_numpy(np.stack(rows))
    return np.stack(rows) if isinstance(input_ids, np.ndarray) else [row.tolist() for row in rows]
