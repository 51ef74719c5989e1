"""The nano JOSIE that training begins with.

Its parts are those of `model.json`; the codec is the trained one, the tokenizer is trained here on the train split,
and all other weights are random. Token embeddings stay as they are drawn: Thinker and Talker read the same rows, so
that both can be trained at the same time. What the Talker makes of them begins as how the tokens are spelled. Or
tokenizer and all weights that fit are those of a model that was trained before, and what was changed in `model.json`
begins anew. Two tokens more are the decisions of full duplex, to listen and to speak.
"""

import json
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from recipes import talker_start
from recipes.talker_start import NUM_LETTERS
from transformers import (
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from josie import JosieConfig, JosieForConditionalGeneration, JosieProcessor, add_units
from josie.configuration_josie.units import hears_in_units
from josie.tokenization import train_tokenizer
from josie.tokenization.special_tokens import LISTEN_TOKEN, SPEAK_TOKEN
from nano_world.grammar import caption, questions
from nano_world.open_text import KINDS, open_texts
from nano_world.scenes import draw_scene
from nano_world.sentences import sentences
from nano_world.small_talk import chat

HERE = Path(__file__).parent
EMBEDDING_STD = 0.3  # what projected features of the front ends have
UNIT_FRAMES = 3  # tokens of audio in a unit of full duplex, .24 seconds
START_BIAS = -2.0  # chosen on conversations of `validation`: fewer answers in the middle of a question
UNIT_WINDOW = 60  # units that are remembered with their audio, as long as training's conversations are


def texts(packages: Path, num_scenes: int = 300, num_open_texts: int = 4000) -> Iterator[str]:
    """Yield what the tokenizer learns from: sentences and open texts once, the world's as often as scenes have them.

    Args:
        packages (`Path`): Keeps Debian packages.
        num_scenes (`int`): Scenes that are drawn.
        num_open_texts (`int`): Most open texts of each kind.
    """
    yield from sentences(packages, "train")
    for kind in KINDS:
        yield from open_texts(packages, "train", kind)[:num_open_texts]
    draw = random.Random(0)
    for _ in range(num_scenes):
        scene = draw_scene(draw, "train")
        for question in questions(scene):
            yield question.text
            yield question.answer
        if len(scene.things) < 3:
            yield caption(scene)
        yield from chat(draw)


def build(codec: Path, packages: Path, seed: int = 0) -> tuple[JosieForConditionalGeneration, JosieProcessor]:
    """Return the model with random weights and a trained codec, and its processor.

    Args:
        codec (`Path`): Checkpoint of the codec.
        packages (`Path`): Keeps Debian packages.
        seed (`int`): Of the weights.
    """
    model = _build(AutoModel.from_pretrained(codec), seed)
    model.get_input_embeddings().weight.data.normal_(std=EMBEDDING_STD)
    size = model.config.get_text_config().vocab_size
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(texts(packages), size)
    teach_spelling(model, tokenizer)
    return model, _add_units(model, tokenizer)


def build_from(
    folder: Path, codec: Path | None = None, new: Collection[str] = (), seed: int = 0
) -> tuple[JosieForConditionalGeneration, JosieProcessor, list[str]]:
    """Return the model with the weights of another one, wherever name and shape agree; the rest is random.

    Args:
        folder (`Path`): A JOSIE; its tokenizer is taken as it is.
        codec (`Path`, *optional*): A trained codec in place of its own.
        new (`Collection[str]`): Parts that begin anew all the same, of the model's `get_groups()`.
        seed (`int`): Of the random weights.

    Returns:
        The model, its processor, and what is random: names of parts, or of single weights.

    Raises:
        `ValueError`: The models have different token embeddings, or there is no such part.
    """
    given, tokenizer = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder).tokenizer
    known = len({LISTEN_TOKEN, SPEAK_TOKEN} & tokenizer.get_vocab().keys())
    model = _build(given.audio_codec if codec is None else AutoModel.from_pretrained(codec), seed, known)
    ours, theirs = (tuple(one.get_input_embeddings().weight.shape) for one in (model, given))
    if ours != theirs:
        raise ValueError(f"`--from` must have token embeddings of shape {ours}, got {theirs}.")
    random_ones = _weights_of(model, new)
    weights = given.state_dict()
    if codec is not None:
        random_ones |= _weights_of(model, ["audio_codec"])
    taken = {
        name: weights[name]
        for name, value in model.state_dict(keep_vars=True).items()
        if name in weights and value.shape == weights[name].shape and id(value) not in random_ones
    }
    model.load_state_dict(taken, strict=False)
    if not any(name.startswith("talker.text_layer.") for name in taken):
        teach_spelling(model, tokenizer)
    others = _name_others(model, taken)
    return model, _add_units(model, tokenizer), others


def _add_units(model: JosieForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> JosieProcessor:
    """Add units to a model that hears in a stream; return its processor."""
    size, processor = len(tokenizer), JosieProcessor.from_config(model.config, tokenizer)
    if not hears_in_units(model.config.thinker_config.audio_config):
        return processor
    add_units(model, processor, UNIT_FRAMES, UNIT_WINDOW)
    model.config.thinker_config.start_bias = START_BIAS
    model.get_input_embeddings().weight.data[size:].normal_(std=EMBEDDING_STD)
    return processor


def _build(codec: PreTrainedModel, seed: int, num_decisions: int = 0) -> JosieForConditionalGeneration:
    values = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
    values["thinker_config"]["text_config"]["vocab_size"] += num_decisions
    config = JosieConfig.from_dict(values | {"audio_codec_config": codec.config.to_dict()})
    set_seed(seed)
    model = JosieForConditionalGeneration(config)
    model.audio_codec.load_state_dict(codec.state_dict())
    if model.talker.text_layer is not None:
        talker_start.spread_reader(model.talker, EMBEDDING_STD)
    return model


def teach_spelling(model: JosieForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make the Talker's nonlinear layer read of each token its letters, see [`recipes.talker_start`]."""
    talker, embeddings = model.talker, model.get_input_embeddings().weight
    if talker.text_layer is not None and not talker.config.reads_thinker_states:
        spellings = [tokenizer.decode([index]) for index in range(len(embeddings))]
        talker_start.teach_spelling(talker, embeddings, spellings, NUM_LETTERS)


def _weights_of(model: JosieForConditionalGeneration, parts: Collection[str]) -> set[int]:
    """Return the `id` of each weight of some parts, codebooks and other buffers included."""
    groups = model.get_groups()
    for name in parts:
        if name not in groups:
            raise ValueError(f"`--new` must be among {list(groups)}, got {name!r}.")
    return {id(value) for name in parts for module in groups[name] for value in _tensors(module)}


def _tensors(module: Any) -> Iterator[Any]:
    yield from ((*module.parameters(), *module.buffers()) if hasattr(module, "parameters") else [module])


def _name_others(model: JosieForConditionalGeneration, taken: Collection[str]) -> list[str]:
    """Return what was not taken, in as few names as possible."""
    names = list(model.state_dict())
    others = [name for name in names if name not in taken]
    shortest = dict.fromkeys(_shortest_prefix(name, [name for name in names if name in taken]) for name in others)
    return list(shortest)


def _shortest_prefix(name: str, others: list[str]) -> str:
    parts = name.split(".")
    prefixes = (".".join(parts[: count + 1]) for count in range(len(parts)))
    return next(prefix for prefix in prefixes if not any(f"{other}.".startswith(f"{prefix}.") for other in others))
