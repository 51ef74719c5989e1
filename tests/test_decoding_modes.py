"""Ways of decoding that transformers offers, on every kind of input: static caches, assistants, streams, beams."""

import pytest
import torch
from tiny import CASES, TEXT, build, josie_inputs, text_inputs
from transformers import TextStreamer

import josie

NEW = dict(max_new_tokens=7, min_new_tokens=7)


@pytest.fixture(scope="module")
def thinker():
    return CASES["thinker"].build()


@pytest.fixture(scope="module")
def model():
    return CASES["josie"].build()


def prompt() -> dict[str, torch.Tensor]:
    """Return two prompts with an image and a clip each, padded on the left."""
    inputs = josie_inputs()
    only_in_training = ("labels", "speech_codes", "speaker_ids", "position_ids")
    return {name: inputs[name] for name in inputs if name not in only_in_training}


@pytest.fixture(params=["text", "images and clips"])
def inputs(request):
    return text_inputs() if request.param == "text" else prompt()


def row(inputs: dict, index: int) -> dict:
    """Return one row without its padding."""
    given = {name: value[index : index + 1] for name, value in inputs.items()}
    for mask_name, names in (("attention_mask", ("input_ids",)), ("input_features_mask", ("input_features",))):
        if mask_name in given:
            real = given[mask_name][0].bool()
            given |= {name: given[name][..., real] for name in (*names, mask_name)}
    return given


def test_a_static_cache_writes_what_a_growing_one_writes(model, inputs):
    expected = model.generate(**inputs, **NEW)
    static = model.generate(**inputs, **NEW, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, expected)
    for index in range(2):
        alone = row(inputs, index)
        alone = model.generate(**alone, **NEW, cache_implementation="static", disable_compile=True)
        assert torch.equal(static[index, -7:], alone[0, -7:])


def test_text_may_be_read_in_chunks(model):
    text = text_inputs()
    assert torch.equal(model.generate(**text, **NEW, prefill_chunk_size=4), model.generate(**text, **NEW))


@pytest.mark.parametrize("words", [[20, 21, 22, 23], [30, 31, 30, 31, 30, 31]], ids=["new", "repeating"])
def test_a_smaller_assistant_changes_nothing_but_the_time(thinker, words):
    small = dict(TEXT, num_hidden_layers=1)
    assistant = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(text_config=small))
    text = torch.tensor([words])
    expected = thinker.generate(text, **NEW)
    assert torch.equal(thinker.generate(text, **NEW, assistant_model=assistant), expected)
    assert torch.equal(thinker.generate(text, **NEW, assistant_model=thinker), expected)  # all its guesses are right
    assert torch.equal(thinker.generate(text, **NEW, prompt_lookup_num_tokens=3), expected)


def test_an_assistant_serves_the_whole_model_too(model):
    text = torch.tensor([[20, 21, 22, 23]])
    expected = model.generate(text, **NEW)
    assert torch.equal(model.generate(text, **NEW, assistant_model=model.thinker), expected)
    assert torch.equal(model.generate(text, **NEW, prompt_lookup_num_tokens=2), expected)


def test_a_streamer_gets_the_words_as_they_are_written(model, capsys):
    tokenizer = josie.load_default_tokenizer(301)
    text = torch.tensor([[20, 21, 22, 23]])
    written = model.generate(text, **NEW, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(written[0, 4:]).rstrip("\n")


def score(model, inputs: dict, answer: torch.Tensor) -> torch.Tensor:
    """Return the log probability of `answer` `(length,)` after a prompt of one row, by one pass over both."""
    ids = torch.cat((inputs["input_ids"], answer[None]), dim=1)
    mask = torch.ones_like(ids)
    logits = model(**(inputs | dict(input_ids=ids, attention_mask=mask))).logits[0, -len(answer) - 1 : -1]
    return logits.log_softmax(-1).gather(1, answer[:, None]).sum()


@torch.no_grad()
def test_beams_keep_to_their_own_images_and_clips(model, inputs):
    options = dict(num_beams=4, num_return_sequences=2, return_dict_in_generate=True, output_scores=True)
    # Without `min_new_tokens`, which would change the scores that are compared.
    model_end = dict(max_new_tokens=5, eos_token_id=None, length_penalty=0.0)
    found = model.generate(**inputs, **model_end, **options)
    assert found.sequences.shape[0] == 4
    for index in range(4):
        expected = score(model, row(inputs, index // 2), found.sequences[index, -5:])
        torch.testing.assert_close(found.sequences_scores[index], expected, rtol=1e-3, atol=1e-3)
    greedy = model.generate(**inputs, max_new_tokens=5, eos_token_id=None)
    for index in range(2):
        worst = score(model, row(inputs, index), greedy[index, -5:])
        assert found.sequences_scores[2 * index] >= worst - 1e-3


@torch.no_grad()
def test_samples_of_one_prompt_keep_to_its_images_and_clips(model, inputs):
    options = dict(do_sample=True, num_return_sequences=3, top_k=0, return_dict_in_generate=True, output_logits=True)
    found = model.generate(**inputs, max_new_tokens=4, eos_token_id=None, **options)
    assert found.sequences.shape[0] == 6
    assert len({tuple(answer) for answer in found.sequences[:3, -4:].tolist()}) > 1
    for index in range(6):
        given = row(inputs, index // 3)
        ids = torch.cat((given["input_ids"], found.sequences[index : index + 1, -4:-1]), dim=1)
        expected = model(**(given | dict(input_ids=ids, attention_mask=torch.ones_like(ids)))).logits[0, -4:]
        actual = torch.stack([step[index] for step in found.logits])
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
