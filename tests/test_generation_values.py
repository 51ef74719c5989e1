"""Values that `generate` and its like cannot take: each is named in one sentence, as are lengths that win."""

import numpy as np
import pytest
import torch
from speech_pieces import make_josie
from tiny import CASES, build, josie_config
from transformers import BatchFeature, GenerationConfig

import josie

IDS = torch.tensor([[20, 21, 22]])


@pytest.fixture(scope="module")
def model():
    return CASES["josie"].build()


def routes(model):
    """Return all that takes ids of tokens, by name."""
    speak = dict(generation_mode="audio", max_new_tokens=2, talker_max_new_frames=2)
    return {
        "text": lambda ids, **options: model.generate(ids, **dict(max_new_tokens=2) | options),
        "Thinker": lambda ids, **options: model.thinker.generate(ids, **dict(max_new_tokens=2) | options),
        "audio": lambda ids, **options: model.generate(ids, **speak | options),
        "speech": model.generate_speech,
    }


NO_IDS = {
    "BatchFeature": (BatchFeature({"input_ids": IDS}), r"must be a tensor .* a BatchFeature: give it as `\*\*inputs`"),
    "dict": ({"input_ids": IDS}, r"must be a tensor of token ids, got a dict: give it as `\*\*inputs`"),
    "list": (IDS.tolist(), "must be a tensor of token ids, got a list"),
    "NumPy": (np.array([[20]]), "must be a tensor of token ids, got a ndarray"),
    "text": ("Hello.", "must be a tensor of token ids, got a str"),
    "floats": (IDS.float(), "must be integers of 32 or 64 bits, got torch.float32"),
    "short": (IDS.short(), "must be integers of 32 or 64 bits, got torch.int16"),
    "too high": (torch.tensor([[20, 5000]]), r"must be in \[0, \d+\], got values from 20 to 5000"),
    "too low": (torch.tensor([[-1, 20]]), r"must be in \[0, \d+\], got values from -1 to 20"),
}


@pytest.mark.parametrize("route", ["text", "Thinker", "audio", "speech"])
@pytest.mark.parametrize("kind", NO_IDS)
def test_ids_that_are_none(model, kind, route):
    given, message = NO_IDS[kind]
    with pytest.raises(ValueError, match=f"`input_ids` {message}"):
        routes(model)[route](given)


@pytest.mark.parametrize("route", ["text", "Thinker", "audio"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(attention_mask=[[1, 1, 1]]), "`attention_mask` must be a tensor, got a list"),
        (dict(logits_processor=print), "`logits_processor` must be a list, got a builtin"),
        (dict(stopping_criteria=print), "`stopping_criteria` must be a list, got a builtin"),
        (dict(generation_config={"do_sample": True}), "`generation_config` must be a GenerationConfig, got a dict"),
    ],
    ids=["mask", "processor", "criteria", "configuration"],
)
def test_arguments_of_other_types(model, options, message, route):
    with pytest.raises(ValueError, match=message):
        routes(model)[route](IDS, **options)


def test_arguments_by_their_place(model):
    with pytest.raises(ValueError, match="`logits_processor` must be a list, got a builtin"):
        model.thinker.generate(IDS, None, print)


def test_masks_of_speech(model):
    with pytest.raises(ValueError, match="`speech_mask` must be a tensor, got a list"):
        model.generate_speech(IDS, speech_mask=[[1, 1, 1]])


@pytest.mark.parametrize("route", ["audio", "speech"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(talker_max_new_frames=2.5), "`talker_max_new_frames` must be an integer, got 2.5"),
        (dict(talker_sentence_end_ids=5), "`talker_sentence_end_ids` must be a list of integers, got 5"),
        (dict(talker_sentence_end_ids=["a"]), r"`talker_sentence_end_ids` must be a list of integers, got \['a'\]"),
        (dict(talker_seed=1.5, talker_do_sample=True), "`talker_seed` must be an integer or one for each row, got 1.5"),
        (dict(talker_do_sample="yes"), "`talker_do_sample` must be True or False, got 'yes'"),
    ],
    ids=["frames", "ids", "list of ids", "seed", "flag"],
)
def test_options_of_the_talker(model, options, message, route):
    with pytest.raises(ValueError, match=message):
        routes(model)[route](IDS, **options)


def test_a_model_of_one_voice_has_no_names():
    nameless = josie_config()
    nameless.talker_config.speakers = []
    with pytest.raises(ValueError, match="`speaker` must be None for a model with one voice, .* got 'ada'"):
        build(josie.JosieForConditionalGeneration, nameless).generate_speech(IDS, speaker="ada")


class TestLengths:
    """A length that a call says wins over new tokens that a configuration behind it says."""

    @pytest.fixture
    def own(self):
        """Return a model whose own configuration says how many tokens are new."""
        model = CASES["josie"].build()
        model.generation_config.max_new_tokens = model.generation_config.min_new_tokens = 9
        return model

    @pytest.mark.parametrize("options", [{}, dict(num_beams=2)], ids=["greedy", "beams"])
    @pytest.mark.parametrize("route", ["text", "Thinker", "audio"])
    def test_of_arguments(self, own, route, options):
        written = routes(own)[route](IDS, max_new_tokens=None, max_length=5, min_length=5, **options)
        assert getattr(written, "sequences", written).shape[1] == 5

    def test_of_a_configuration(self, own):
        config = GenerationConfig(max_length=5, min_length=5, eos_token_id=2, pad_token_id=0)
        assert own.generate(IDS, generation_config=config).shape[1] == 5
        config.max_new_tokens = config.min_new_tokens = 4
        assert own.generate(IDS, generation_config=config).shape[1] == 7
        assert own.generate(IDS, generation_config=config, max_length=6, min_length=6).shape[1] == 6

    def test_of_a_stream(self):
        own = make_josie().eval()
        own.generation_config.max_new_tokens = own.generation_config.min_new_tokens = 9
        pieces = list(own.generate_stream(IDS, max_length=5, min_length=5, talker_max_new_frames=2))
        assert sum(piece.sequences.shape[1] for piece in pieces) == 2

    def test_new_tokens_that_a_call_says_win(self, own):
        assert own.generate(IDS, max_length=5, max_new_tokens=4, min_new_tokens=4).shape[1] == 7
