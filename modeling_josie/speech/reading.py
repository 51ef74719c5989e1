"""Reading of long texts: where the Thinker begins anew, so that no text needs more positions than it has."""

from collections.abc import Iterable


class ReadingCuts:
    """Says before which tokens of a text the Thinker forgets what it has read.

    A cut depends on the tokens before it alone: behind the end of a sentence once half of the positions are used, and
    anywhere when they are.

    Args:
        num_positions (`int`): Of the Thinker.
        sentence_end_ids (`Iterable[int]`): Tokens that end a sentence.
    """

    def __init__(self, num_positions: int, sentence_end_ids: Iterable[int]):
        self.num_positions, self.sentence_end_ids = num_positions, frozenset(sentence_end_ids)
        self._num_read, self._is_full = 0, False

    def add(self, token: int) -> bool:
        """Take the next token; return whether it is the first of a new part."""
        is_first = self._is_full or not self._num_read
        self._num_read = 1 if is_first else self._num_read + 1
        is_end = token in self.sentence_end_ids and 2 * self._num_read > self.num_positions
        self._is_full = is_end or self._num_read == self.num_positions
        return is_first

    def cut(self, tokens: list[int]) -> list[range]:
        """Return the parts of a whole text, ranges of its tokens."""
        starts = [index for index, token in enumerate(tokens) if self.add(token)]
        return [range(*bounds) for bounds in zip(starts, [*starts[1:], len(tokens)], strict=True)]
