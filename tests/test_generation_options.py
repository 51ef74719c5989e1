"""Values of options of `generate` that cannot be obeyed: each is refused in one sentence that names the option."""

import copy

import pytest
import torch
from speech_pieces import make_josie
from tiny import CASES
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from josie.modeling_josie.option_values import check_integers
from josie.modeling_josie.thinker.generation_options import check_options

IDS = torch.tensor([[20, 21, 22]])
NEGATIVE = torch.tensor([[20, 21]])
GUIDED = dict(guidance_scale=2.0, negative_prompt_ids=NEGATIVE)


@pytest.fixture(scope="module")
def model():
    return CASES["josie"].build()


@pytest.fixture(scope="module")
def size(model):
    return model.thinker.lm_head.out_features


def routes(model):
    """Return what takes options of transformers, by name."""
    speak = dict(generation_mode="audio", talker_max_new_frames=2)
    return {
        "text": lambda **options: model.generate(**dict(inputs=IDS, max_new_tokens=2) | options),
        "Thinker": lambda **options: model.thinker.generate(**dict(inputs=IDS, max_new_tokens=2) | options),
        "audio": lambda **options: model.generate(**dict(inputs=IDS, max_new_tokens=2) | speak | options),
    }


ROUTES = ["text", "Thinker", "audio"]
TOKENS = {
    "pad_token_id": [5000, -1, 2.0, True, [0]],
    "bos_token_id": [5000, [1]],
    "eos_token_id": [5000, -1, [2, 5000], torch.tensor([5000])],
    "forced_eos_token_id": [5000, [-1], 2.5, "2"],
    "suppress_tokens": [[5000], [-1], 5, ["a"], torch.tensor([5, 7])],
    "begin_suppress_tokens": [[5000], [-1], 5],
}
OTHERS = {
    "bad_words_ids": [[[5000]], [[-1]], ["three"], [], [[2.5]]],
    "do_sample": ["no", 1],
    "use_cache": ["no", 0],
    "output_logits": ["no"],
    "top_p": [2.0, -0.1, float("nan"), "x"],
    "top_k": [-1, 2.5],
    "no_repeat_ngram_size": [-1, "2", 1.5],
    "encoder_no_repeat_ngram_size": [-1],
    "num_return_sequences": [0, -1, 1.5],
    "max_new_tokens": [2.5, True, "3", 0],
    "min_new_tokens": [2.5, True, -1],
    "max_length": [9.5, 0],
    "min_length": [-1, 2.5],
    "max_time": [-1, 0, "x"],
    "num_beams": [0, 1.5, -2, "2"],
    "prefill_chunk_size": [0, -1, 1.5],
    "guidance_scale": ["x", float("nan"), True],
    "stop_strings": [3, [], [""], "", ["a", 3]],
    "prompt_lookup_num_tokens": [0, -1, 1.5],
    "sequence_bias": [{(5000,): -5.0}, [[[-1], 1.0]], 3, [[3, 1.0]]],
    "exponential_decay_length_penalty": [3, (1, "x"), (1.5, 2.0)],
    "repetition_penalty": [2, "x", 0.0, float("nan")],
    "encoder_repetition_penalty": ["x"],
    "length_penalty": ["x"],
    "temperature": ["1", float("nan")],
    "min_p": [2.0, "x"],
    "typical_p": [3.0, "x"],
    "top_h": [3.0],
    "epsilon_cutoff": [3.0, 1.0, "x"],
    "eta_cutoff": [-1.0],
    "watermarking_config": ["x", 3],
}
CASES_OF_VALUES = [
    pytest.param(name, value, id=f"{name}={value}") for name, values in OTHERS.items() for value in values
]
CASES_OF_TOKENS = [
    pytest.param(name, value, id=f"{name}={value}") for name, values in TOKENS.items() for value in values
]


def is_one_sentence(error) -> bool:
    """Whether a refusal says what is allowed and what came, once."""
    text = str(error.value)
    return text.endswith(".") and " must " in text and ", got " in text and "\n" not in text


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("name", "value"), CASES_OF_VALUES)
def test_values(model, name, value, route):
    with pytest.raises(ValueError, match=f"^`{name}` must ") as error:
        routes(model)[route](**{name: value})
    assert is_one_sentence(error)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("name", "value"), CASES_OF_TOKENS)
def test_tokens(model, size, name, value, route):
    with pytest.raises(ValueError, match=rf"^`{name}` must be a .* in \[0, {size - 1}\], got ") as error:
        routes(model)[route](**{name: value})
    assert is_one_sentence(error)


@pytest.mark.parametrize(("name", "value"), CASES_OF_VALUES + CASES_OF_TOKENS)
def test_a_configuration_is_read_like_arguments(model, name, value):
    config = GenerationConfig(max_new_tokens=2)
    setattr(config, name, value)  # some values are refused by the constructor
    for part in (model, model.thinker):
        with pytest.raises(ValueError, match=f"^`{name}` must "):
            part.generate(IDS, generation_config=config)


@pytest.mark.parametrize("is_copy", [False, True], ids=["own", "copy"])
def test_odd_values_of_a_checkpoint_go_on(is_copy):
    model = CASES["josie"].build()
    own = model.generation_config
    own.pad_token_id, own.suppress_tokens, own.no_repeat_ngram_size, own.top_p = 5000, [5000, -1], -1, 2.0
    options = {} if not is_copy else dict(generation_config=copy.deepcopy(own))
    assert model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=2, **options).shape[1] <= 5
    with pytest.raises(ValueError, match="`suppress_tokens` must be a list .* got 6000 among them"):
        model.generate(IDS, suppress_tokens=[6000])


@pytest.mark.parametrize(
    "options",
    [
        dict(eos_token_id=[]),
        dict(eos_token_id=None, pad_token_id=None, suppress_tokens=None, forced_eos_token_id=None, bad_words_ids=None),
        dict(eos_token_id=torch.tensor([2, 3]), pad_token_id=torch.tensor(0)),
        dict(eos_token_id=(2, 3), suppress_tokens=(5,), begin_suppress_tokens=[5], bad_words_ids=[[5, 7], [8]]),
        dict(top_p=0.0, do_sample=True, top_k=0),
        dict(top_p=1, no_repeat_ngram_size=0, num_beams=1, num_return_sequences=1, min_new_tokens=0, min_length=0),
        dict(num_beams=2, num_return_sequences=2, prompt_lookup_num_tokens=None, assistant_model=None),
        dict(guidance_scale=2, negative_prompt_ids=NEGATIVE, negative_prompt_attention_mask=torch.ones(1, 2).long()),
        dict(guidance_scale=2.0, num_beams=2, negative_prompt_ids=NEGATIVE.repeat(2, 1)),
        dict(streamer=BaseStreamer()),
    ],
    ids=lambda options: " ".join(options),
)
def test_values_that_are_obeyed(model, options, monkeypatch):
    for name in ("put", "end"):
        monkeypatch.setattr(BaseStreamer, name, lambda *_: None)
    for route in ("text", "Thinker"):
        assert routes(model)[route](**options).shape[1] >= 4


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(assistant_model="x"), "`assistant_model` must be a model that generates, got a str."),
        (dict(assistant_model=torch.nn.Linear(2, 2)), "`assistant_model` must be a model that generates, got a Linear"),
        (dict(prompt_lookup_num_tokens=2, num_beams=2), "`num_beams` must be 1 with `prompt_lookup_num_tokens`, .* 2"),
        (dict(cache_implementation="static", cache_config={"nbits": 4}), "`cache_config` must be None .* 'static'"),
        (dict(cache_implementation="dynamic", max_cache_len=70), "`max_cache_len` must be None .* 70 with 'dynamic'"),
        (dict(forced_eos_token_id=[]), r"`forced_eos_token_id` must be a token id or a list of at least one, got \[\]"),
        (dict(custom_generate=3), "`custom_generate` must be a function or a name of the Hub, got 3"),
        (dict(prefix_allowed_tokens_fn=[3]), "`prefix_allowed_tokens_fn` must have the methods `__call__`, got a list"),
        (dict(guidance_scale=2, negative_prompt_ids=[[3, 4]]), "`negative_prompt_ids` must be a tensor .* got a list"),
        (GUIDED | dict(negative_prompt_ids=torch.tensor([[5000]])), r"`negative_prompt_ids` must be in \[0, "),
        (GUIDED | dict(negative_prompt_ids=torch.tensor([3])), r"`negative_prompt_ids` must be \(batch, length\)"),
        (GUIDED | dict(negative_prompt_ids=torch.tensor([[3], [4]])), "`negative_prompt_ids` must have 1 rows, .* 2"),
        (
            GUIDED | dict(negative_prompt_attention_mask=torch.ones(1, 1)),
            r"`negative_prompt_attention_mask` must have the shape \(1, 2\) of `negative_prompt_ids`, got \(1, 1\)",
        ),
        (GUIDED | dict(negative_prompt_attention_mask=[[1, 1]]), "`negative_prompt_attention_mask` must be a tensor"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_options_beside_others(model, options, message, route):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        routes(model)[route](**options)
    assert is_one_sentence(error)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("streamer", [object(), [BaseStreamer()]], ids=["object", "list"])
def test_streamers_that_are_none(model, streamer, route):
    with pytest.raises(ValueError, match="^`streamer` must have the methods `put` and `end`, got a "):
        routes(model)[route](streamer=streamer)


@pytest.mark.parametrize("route", ROUTES)
def test_one_thing_guesses(model, route):
    with pytest.raises(ValueError, match="^`num_beams` must be 1 with `assistant_model`, .* got 2"):
        routes(model)[route](assistant_model=model.thinker, num_beams=2)
    with pytest.raises(ValueError, match="^`prompt_lookup_num_tokens` must be None with `assistant_model`, .* got 2"):
        routes(model)[route](assistant_model=model.thinker, prompt_lookup_num_tokens=2)


def test_beams_win_over_guesses_of_the_own_configuration():
    model = CASES["josie"].build()
    expected = model.generate(IDS, num_beams=2, max_new_tokens=3)
    model.generation_config.prompt_lookup_num_tokens = 2
    assert torch.equal(model.generate(IDS, num_beams=2, max_new_tokens=3), expected)
    del model.generation_config.prompt_lookup_num_tokens
    model.generation_config.num_beams = 2
    with pytest.raises(ValueError, match="^`num_beams` must be 1 with `prompt_lookup_num_tokens`"):
        model.generate(IDS, prompt_lookup_num_tokens=2)
    assert model.generate(IDS, prompt_lookup_num_tokens=2, num_beams=1, max_new_tokens=3).shape[1] <= 6


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_offloaded_caches_need_an_accelerator(model, kind, route, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^`cache_implementation` must be .* without an accelerator, .* got '{kind}'"):
        routes(model)[route](cache_implementation=kind)


def test_a_negative_prompt_has_no_placeholders(model, size):
    media = torch.tensor([[20, model.config.thinker_config.image_token_id]])
    with pytest.raises(ValueError, match="^`negative_prompt_ids` must be text"):
        model.generate(IDS, **GUIDED | {"negative_prompt_ids": media})
    arguments = dict(input_ids=IDS, **GUIDED)
    check_options(arguments, None, model.generation_config, size, placeholder_ids=[6, 7])
    with pytest.raises(ValueError, match=r"^`negative_prompt_ids` must be text, .* got \[21\] among them"):
        check_options(arguments, None, model.generation_config, size, placeholder_ids=[6, 21])


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_beams", 0), ("max_new_tokens", 2.5), ("eos_token_id", 5000), ("suppress_tokens", [-1]), ("max_time", -1)],
)
def test_streams_of_speech(name, value):
    with pytest.raises(ValueError, match=f"^`{name}` must "):
        list(make_josie().eval().generate_stream(IDS, **{name: value}))


def test_ends_of_sentences(model):
    for call in (routes(model)["audio"], lambda **options: model.generate_speech(IDS, **options)):
        with pytest.raises(ValueError, match="^`talker_sentence_end_ids` must be a list of integers .* got -1 among"):
            call(talker_sentence_end_ids=[5, -1])
        with pytest.raises(
            ValueError, match="^`talker_sentence_end_ids` must be a list of integers in .* got 9999 among"
        ):
            call(talker_sentence_end_ids=[9999])
    with pytest.raises(ValueError, match=r"^`ends` must be a list of integers in \[0, 9\], got 10 among them"):
        check_integers("ends", [3, 10], 10)
