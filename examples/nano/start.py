"""The nano JOSIE that training begins with.

Its parts are those of `model.json`; the codec is the trained one, the tokenizer is trained here on the train split,
and all other weights are random. Token embeddings stay as they are drawn: Thinker and Talker read the same rows, so
that both can be trained at the same time.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoModel, PreTrainedTokenizerFast, set_seed

from josie import JosieConfig, JosieForConditionalGeneration, JosieProcessor
from josie.tokenization import train_tokenizer
from nano.grammar import caption, chat, questions
from nano.scenes import draw_scene
from nano.sentences import sentences

HERE = Path(__file__).parent
EMBEDDING_STD = 0.3  # what projected features of the front ends have


def texts(packages: Path, num_scenes: int = 300) -> Iterator[str]:
    """Yield what the tokenizer learns from: the real sentences once, and the world's as often as scenes have them."""
    yield from sentences(packages, "train")
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
    """Return the model with random weights and a trained codec, and its processor."""
    values = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
    trained = AutoModel.from_pretrained(codec)
    config = JosieConfig.from_dict(values | {"audio_codec_config": trained.config.to_dict()})
    set_seed(seed)
    model = JosieForConditionalGeneration(config)
    model.audio_codec.load_state_dict(trained.state_dict())
    model.get_input_embeddings().weight.data.normal_(std=EMBEDDING_STD)
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(texts(packages), config.get_text_config().vocab_size)
    return model, JosieProcessor.from_config(config, tokenizer)
