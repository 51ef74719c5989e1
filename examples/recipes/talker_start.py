"""The start of a Talker: weights of another one, and the spelling of the tokens that it reads."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedTokenizerBase

from josie.configuration_josie import JosieConfig
from recipes.named_models import load_named, load_part

logger = logging.getLogger("josie.examples.talker_start")
SPELLING_STD = 0.15  # what the Talker reads of a token, beside codes of .06 and more as they learn
NUM_LETTERS = 8  # that are told apart in a token, from its beginning


@dataclass
class TalkerStartArguments:
    """The start of a Talker.

    Args:
        weights (`str`, *optional*): Folder or Hub name of a JOSIE, or `nano`: its Talker's weights are taken wherever
            name and shape agree. Of the same codec, or they know other speech.
        spelled_tokens (`int`): Of the vocabulary's first tokens that are words or parts of words in Latin letters, so
            many are read by their letters at first; 0 for none. Embeddings of text models say little of pronunciation.
    """

    weights: str | None = None
    spelled_tokens: int = 0

    def __post_init__(self):
        if self.spelled_tokens < 0:
            raise ValueError(f"`start.spelled_tokens` must be at least 0, got {self.spelled_tokens}.")


def start_talker(model: Any, tokenizer: PreTrainedTokenizerBase, arguments: TalkerStartArguments) -> list[str]:
    """Give a model's Talker what it begins with.

    Args:
        model ([`JosieForConditionalGeneration`]): The model, with a Talker.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        arguments ([`TalkerStartArguments`]): Where it begins.

    Returns:
        Names of the weights that are those of the other Talker.

    Raises:
        `ValueError`: The other model has no Talker, or one of which nothing fits, or this Talker cannot be taught to
            spell.
    """
    taken: dict[str, torch.Tensor] = {}
    if arguments.weights is not None:
        own, given = model.talker.state_dict(), load_talker(arguments.weights).state_dict()
        taken = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
        if not taken:
            raise ValueError(
                "`start.weights` must be a model whose Talker has weights of the same names and shapes, got "
                f"{arguments.weights!r}, of whose {len(given)} none fits."
            )
        model.talker.load_state_dict(taken, strict=False)
        logger.info(f"{len(taken)} of the {len(own)} weights of the Talker are those of {arguments.weights}.")
    if arguments.spelled_tokens:
        talker = model.talker
        if talker.text_layer is None or talker.config.reads_thinker_states:
            raise ValueError(
                "`start.spelled_tokens` must be 0 for a Talker without `text_intermediate_size`, or that reads the "
                f"Thinker's states, got {arguments.spelled_tokens}."
            )
        ids = _find_words(tokenizer, arguments.spelled_tokens)
        with torch.no_grad():
            embeddings = model.get_input_embeddings()(torch.tensor(ids))
        spread_reader(talker, float(embeddings.float().square().mean().sqrt()))
        teach_spelling(talker, embeddings, [tokenizer.decode([index]).strip() for index in ids])
        taken = {name: value for name, value in taken.items() if not name.startswith(("text_layer", "thinker_proj"))}
    return list(taken)


def load_talker(name: str) -> Any:
    """Return the Talker of a model in float32.

    Raises:
        `ValueError`: There is no such model, or it is damaged or has none.
    """
    argument = "start.weights"
    config = load_part(name, AutoConfig, argument)
    if not isinstance(config, JosieConfig) or config.talker_config is None:
        raise ValueError(f"`{argument}` must be a model with a Talker, got {name!r}, without one.")
    return load_named(name, AutoModelForMultimodalLM, argument, dtype=torch.float32).talker


def _find_words(tokenizer: PreTrainedTokenizerBase, count: int) -> list[int]:
    """Return the first tokens of the vocabulary that are Latin letters, with or without the space before a word."""
    found = []
    for index in range(len(tokenizer)):
        text = tokenizer.decode([index]).strip()
        if text.isascii() and text.isalpha():
            found.append(index)
            if len(found) == count:
                break
    return found


def spread_reader(talker: Any, embedding_std: float) -> None:
    """Make the layer that tells embeddings apart nonlinear for embeddings of this size."""
    reader: nn.Linear = talker.text_layer[0]
    reader.weight.data.normal_(std=1 / (embedding_std * reader.in_features**0.5))


@torch.no_grad()
def teach_spelling(talker: Any, embeddings: torch.Tensor, spellings: list[str], num_letters: int = NUM_LETTERS) -> None:
    """Make the Talker's nonlinear layer read of each token its letters, one after the other.

    Embeddings say little of how a word sounds; its letters do, and tokens that are rare share them with others. The
    last weights are the least squares fit; nothing is left of the linear projection.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): With a `text_layer`.
        embeddings (`torch.Tensor`): `(num_tokens, thinker_hidden_size)`, what it reads of the tokens.
        spellings (`list[str]`): Of the same tokens.
        num_letters (`int`): Letters that are told apart in a token, from its beginning.
    """
    letters = {letter: place for place, letter in enumerate(sorted(set("".join(spellings).lower())))}
    size = talker.config.hidden_size // num_letters
    codes = torch.randn(len(letters), size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.zeros(len(embeddings), num_letters, size, dtype=torch.float64)
    for row, spelling in enumerate(spellings):
        for place, letter in enumerate(spelling.lower()[:num_letters]):
            wanted[row, place] = codes[letters[letter]]
    dtype = talker.text_layer[0].weight.dtype
    reader, activation, writer = talker.text_layer.double()
    read = activation(reader(embeddings.double()))
    square = read.T @ read
    ridge = 1e-4 * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    fitted = torch.linalg.solve(square + ridge, read.T @ (SPELLING_STD * wanted.flatten(1)))
    writer.weight[: fitted.shape[1]] = fitted.T
    talker.text_layer.to(dtype)
    talker.thinker_projection.weight.zero_()
