"""Media in generation: encoded once, and right in every way of decoding that transformers offers."""

import copy
import logging

import pytest
import torch
from tiny import CASES, TEXT, THINKER, build, coded_josie_inputs, josie_inputs
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

import josie

NEW = dict(max_new_tokens=7, min_new_tokens=7)
ONLY_IN_TRAINING = ("labels", "speech_codes", "speaker_ids", "position_ids")
NAMES = ["thinker", "josie", "josie-codes"]


def batch(name: str) -> dict[str, torch.Tensor]:
    """Return two prompts with media, padded on the left."""
    inputs = coded_josie_inputs() if name == "josie-codes" else josie_inputs()
    return {key: inputs[key] for key in inputs if key not in ONLY_IN_TRAINING}


def row(name: str, index: int = 0) -> dict[str, torch.Tensor]:
    """Return one prompt without padding; its end is its beginning once more, so that a look-up finds candidates."""
    given = {key: value[index : index + 1] for key, value in batch(name).items()}
    ids = given["input_ids"][:, given.pop("attention_mask")[0].bool()]
    given["input_ids"] = torch.cat((ids, ids[:, -3:], ids[:, -3:]), dim=1)
    for mask, features in (("input_features_mask", "input_features"), ("padding_mask", "input_values")):
        if mask in given:
            real = given[mask][0].bool()
            given |= {key: given[key][..., real] for key in (mask, features)}
    return given


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return CASES[name].build()


class Counter:
    """Counts the calls of modules."""

    def __init__(self, *modules: torch.nn.Module):
        self.calls = 0
        self.hooks = [module.register_forward_hook(self.count) for module in modules]

    def count(self, *_):
        """Count a call."""
        self.calls += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def smaller_thinker(**sizes) -> josie.JosieThinkerForConditionalGeneration:
    config = josie.JosieThinkerConfig(**THINKER | dict(text_config=TEXT | dict(num_hidden_layers=1) | sizes))
    return build(josie.JosieThinkerForConditionalGeneration, config)


def confident(assistant):
    """Make an assistant guess as many tokens as it may, however unlikely."""
    assistant.generation_config.assistant_confidence_threshold = 0
    return assistant


@pytest.mark.parametrize("assistant", ["itself", "fewer layers", "another width", "words alone", "look-up"])
def test_assistants_change_nothing_but_the_time(model, name, assistant):
    inputs = row(name)
    options = {
        "itself": lambda: dict(assistant_model=confident(copy.deepcopy(model))),
        "fewer layers": lambda: dict(assistant_model=smaller_thinker()),
        "another width": lambda: dict(assistant_model=smaller_thinker(hidden_size=18, intermediate_size=20)),
        "words alone": lambda: dict(
            assistant_model=AutoModelForCausalLM.from_config(
                AutoConfig.for_model(
                    "llama", vocab_size=53, hidden_size=16, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                )
            ).eval()
        ),
        "look-up": lambda: dict(prompt_lookup_num_tokens=3),
    }[assistant]()  # fmt: skip
    expected = model.generate(**inputs, **NEW)
    thinker = getattr(model, "thinker", model)
    with Counter(thinker) as steps:
        assert torch.equal(model.generate(**inputs, **NEW, **options), expected)
    if assistant == "itself":  # it is given the media, too: all its guesses are right
        assert steps.calls == 1


def test_without_a_cache_nothing_changes(model, name):
    inputs = batch(name)
    expected = model.generate(**inputs, **NEW)
    cached = model.generate(**inputs, **NEW, use_cache=False, return_dict_in_generate=True)
    assert cached.cache is None
    assert torch.equal(cached.sequences, expected)
    beams = dict(NEW, num_beams=3)
    assert torch.equal(model.generate(**inputs, **beams, use_cache=False), model.generate(**inputs, **beams))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_media_may_be_read_in_chunks(model, name, size):
    inputs = batch(name)
    expected = model.generate(**inputs, **NEW)
    assert torch.equal(model.generate(**inputs, **NEW, prefill_chunk_size=size), expected)
    inputs = row(name)
    assisted = model.generate(**inputs, **NEW, prefill_chunk_size=size, assistant_model=copy.deepcopy(model))
    assert torch.equal(assisted, model.generate(**inputs, **NEW))


@pytest.mark.parametrize("again", [False, True], ids=["without", "again"])
def test_a_prompt_continues_from_a_cache_that_read_the_media(model, name, again):
    inputs = batch(name)
    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(**inputs, **NEW, cache=cache)
    ids = torch.cat((first, torch.tensor([[30, 31], [32, 33]])), dim=1)
    mask = torch.cat((inputs["attention_mask"], torch.ones(2, 9, dtype=torch.long)), dim=1)
    full = inputs | dict(input_ids=ids, attention_mask=mask)
    expected = model.generate(**full, **NEW)
    given = full if again else dict(input_ids=ids, attention_mask=mask)
    assert torch.equal(model.generate(**given, **NEW, cache=copy.deepcopy(cache)), expected)
    # and with new media behind
    token = 6
    more = torch.cat((ids, torch.tensor([[token, 40]] * 2)), dim=1)
    mask = torch.cat((mask, torch.ones(2, 2, dtype=torch.long)), dim=1)
    if name == "josie-codes":
        return  # an image is of several tokens there
    images = inputs["pixel_values"]
    both = torch.stack((images[0], images[1].flip(-1), images[1], images[0].flip(-1)))
    expected = model.generate(**full | dict(input_ids=more, attention_mask=mask, pixel_values=both), **NEW)
    given = full | dict(pixel_values=both) if again else dict(pixel_values=both[1::2])
    given |= dict(input_ids=more, attention_mask=mask)
    assert torch.equal(model.generate(**given, **NEW, cache=copy.deepcopy(cache)), expected)
    with pytest.raises(ValueError, match="must hold no image placeholders without image inputs, got 2"):
        model.generate(more, attention_mask=mask, cache=copy.deepcopy(cache))


@pytest.mark.parametrize("options", [dict(), dict(num_beams=2), dict(do_sample=True, num_return_sequences=3)], ids=str)
def test_media_are_encoded_once(model, name, options):
    thinker = getattr(model, "thinker", model).model
    with Counter(thinker.audio_front_end, thinker.vision_front_end) as encoders:
        model.generate(**batch(name), **NEW, **options)
    assert encoders.calls == (3 if name == "josie-codes" else 2)  # which has a video too
    if name != "thinker":
        with Counter(thinker.audio_front_end, thinker.vision_front_end) as spoken:
            model.generate(**batch(name), **NEW, generation_mode="audio", talker_max_new_frames=3)
        assert spoken.calls == encoders.calls


def test_outputs_may_be_given_in_place_of_media(model, name):
    inputs = batch(name)
    expected = model.generate(**inputs, **NEW)
    media = {key: inputs.pop(key) for key in list(inputs) if key not in ("input_ids", "attention_mask")}
    video = {key: value for key, value in media.items() if "video" in key}
    images = {key: value for key, value in media.items() if key.startswith(("pixel", "image")) and key not in video}
    audio = {key: value for key, value in media.items() if key not in images | video}
    outputs = dict(audio=model.get_audio_features(**audio), image=model.get_image_features(**images))
    if video:
        outputs["video"] = model.get_video_features(**video)
    rows = [tensor.clone() for tensor in outputs["image"].pooler_output]
    assert torch.equal(model.generate(**inputs, **NEW, mm_encoder_outputs=outputs), expected)
    beams = model.generate(**inputs, **NEW, mm_encoder_outputs=outputs, num_beams=2)
    assert torch.equal(beams, model.generate(**inputs, **media, **NEW, num_beams=2))
    assert all(map(torch.equal, rows, outputs["image"].pooler_output))  # what is the caller's stays as it is
    with torch.no_grad():
        logits = model(**inputs, mm_encoder_outputs=outputs).logits
        torch.testing.assert_close(logits, model(**inputs, **media).logits)
    with pytest.raises(ValueError, match=r"must be None with `mm_encoder_outputs\['image'\]`, got both"):
        model.generate(**inputs, **images, mm_encoder_outputs=outputs)
    with pytest.raises(ValueError, match="`mm_encoder_outputs` must have keys among .*, got 'smell'"):
        model.generate(**inputs, mm_encoder_outputs=dict(smell=outputs["image"]))


def test_embeddings_take_media_where_they_equal_the_placeholder(model, name):
    inputs = batch(name)
    ids = inputs.pop("input_ids")
    with torch.no_grad():
        expected = model(input_ids=ids, **inputs).logits
        embeds = model.get_input_embeddings()(ids)
        assert torch.equal(model(inputs_embeds=embeds, **inputs).logits, expected)
        silent = {key: value for key, value in inputs.items() if key == "attention_mask"}
        assert not torch.allclose(model(inputs_embeds=embeds, **silent).logits, expected)
    written = model.generate(input_ids=ids, **inputs, **NEW)
    assert torch.equal(model.generate(inputs_embeds=embeds, **inputs, **NEW), written[:, ids.shape[1] :])
    assert torch.equal(model.generate(input_ids=ids, inputs_embeds=embeds, **inputs, **NEW), written)
    changed = embeds.clone()
    changed[:, -1] = embeds[:, -2]
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids, inputs_embeds=changed, **inputs).logits, expected)
    with pytest.raises(ValueError, match=r"as many audio placeholders as there are audio features \(\d+\), got 0"):
        model(inputs_embeds=torch.zeros_like(embeds), **inputs)


def test_embeddings_have_no_assistant(model, name):
    embeds = model.get_input_embeddings()(torch.tensor([[20, 21, 22]]))
    for options in (dict(prompt_lookup_num_tokens=2), dict(assistant_model=copy.deepcopy(model))):
        with pytest.raises(ValueError, match="`inputs_embeds` must be None with `assistant_model` and"):
            model.generate(inputs_embeds=embeds, **NEW, **options)


def test_the_first_argument_has_two_names(model):
    ids = torch.tensor([[20, 21, 22]])
    expected = model.generate(ids, **NEW)
    assert torch.equal(model.generate(inputs=ids, **NEW), expected)
    assert torch.equal(model.generate(input_ids=ids, **NEW), expected)
    with pytest.raises(ValueError, match="`inputs`"):
        model.generate(ids, input_ids=ids)


def test_padding_on_the_right_is_warned_of(model, name, caplog, monkeypatch):
    inputs = batch(name)
    for key in ("input_ids", "attention_mask"):
        inputs[key] = inputs[key].flip(1)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model.generate(**inputs, **NEW)
    assert any("right-padding was detected" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("part", ["josie", "thinker", "body"])
def test_unknown_arguments_are_refused(part):
    model = CASES["josie"].build()
    model = {"josie": model, "thinker": model.thinker, "body": model.thinker.model}[part]
    with pytest.raises(ValueError, match="`pixel_value` must be an argument of the model's `forward`"):
        model(torch.tensor([[20, 21]]), pixel_value=torch.zeros(1))
    if part != "body":
        with pytest.raises(ValueError, match="pixel_value"):
            model.generate(torch.tensor([[20, 21]]), pixel_value=torch.zeros(1))
