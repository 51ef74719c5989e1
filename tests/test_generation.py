"""Generation of the whole model: batches, beams, modes, options, and what bad input gets."""

import pytest
import torch
from tiny import CASES, TALKER, build, coded_josie_inputs, josie_config, josie_inputs
from transformers import DynamicCache, GenerationConfig, StaticCache

import josie
from josie.modeling_josie.generation import TALKER_OPTIONS
from josie.modeling_josie.talker.speech_stream import SpeechStream

OPTIONS = dict(max_new_tokens=6, talker_max_new_frames=7)


def model_and_prompt(name: str = "josie"):
    """Return a model and two prompts, left-padded, without what only training reads."""
    model = CASES[name].build()
    inputs = josie_inputs() if name == "josie" else coded_josie_inputs()
    for key in ("labels", "speech_codes", "speaker_ids", "position_ids"):
        inputs.pop(key, None)
    return model, inputs


def alone(inputs: dict, index: int) -> dict:
    """Return one row, without padding."""
    row = {name: value[index : index + 1] for name, value in inputs.items()}
    real = row["attention_mask"][0].bool()
    row |= {name: row[name][:, real] for name in ("input_ids", "attention_mask")}
    if "input_features" in row:
        heard = row["input_features_mask"][0].bool()
        row |= dict(
            input_features=row["input_features"][..., heard], input_features_mask=row["input_features_mask"][:, heard]
        )
    if "input_values" in row:
        heard = row["padding_mask"][0].bool()
        row |= dict(input_values=row["input_values"][..., heard], padding_mask=row["padding_mask"][:, heard])
    return row


@pytest.mark.parametrize("name", ["josie", "josie-codes"])
def test_every_row_equals_the_row_alone(name):
    model, inputs = model_and_prompt(name)
    together = model.generate(**inputs, **OPTIONS, generation_mode="audio")
    length = inputs["input_ids"].shape[1]
    for index in range(2):
        row = alone(inputs, index)
        single = model.generate(**row, **OPTIONS, generation_mode="audio")
        answer = single.sequences[0, row["input_ids"].shape[1] :]
        assert torch.equal(together.sequences[index, length : length + len(answer)], answer)
        frames = single.audio_codes.shape[2]
        assert torch.equal(together.audio_codes[index, :, :frames], single.audio_codes[0])
        assert together.audio_lengths[index] == single.audio_lengths[0]


def test_greedy_text_equals_naive_decoding():
    model, inputs = model_and_prompt()
    sequences = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
    for index in range(2):
        row = alone(inputs, index)
        ids = row.pop("input_ids")
        row.pop("attention_mask")
        start = ids.shape[1]
        for _ in range(5):
            logits = model(input_ids=ids, **row).logits[0, -1]
            logits[[2, 6, 7, 8]] = -torch.inf  # the end, and placeholders, which are never written
            ids = torch.cat((ids, logits.argmax()[None, None]), dim=1)
        assert torch.equal(sequences[index, -5:], ids[0, start:])


@pytest.mark.parametrize(
    "make_cache",
    [
        lambda config: DynamicCache(config=config),
        lambda config: StaticCache(config=config, max_cache_len=40),
    ],
    ids=["dynamic", "static"],
)
def test_any_cache_writes_the_same(make_cache):
    model, inputs = model_and_prompt()
    expected = model.generate(**inputs, max_new_tokens=6)
    cache = make_cache(model.config.get_text_config())
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, cache=cache, disable_compile=True), expected)


def test_beams_and_repeated_sequences():
    model, inputs = model_and_prompt()
    beams = model.generate(**inputs, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    assert beams.shape[0] == 4
    best = model.generate(**inputs, max_new_tokens=6, num_beams=3)
    assert torch.equal(best, beams[::2, : best.shape[1]])
    spoken = model.generate(
        **inputs, **OPTIONS, num_beams=3, num_return_sequences=2, generation_mode="audio", speaker=["bob", "ada"]
    )
    assert spoken.sequences.shape[0] == spoken.audio_values.shape[0] == 4
    first = model.generate(**inputs, **OPTIONS, num_beams=3, generation_mode="audio", speaker=["bob", "ada"])
    frames = first.audio_codes.shape[2]
    assert torch.equal(spoken.audio_codes[::2, :, :frames], first.audio_codes)


def test_seeds_reproduce_text_and_speech():
    model, inputs = model_and_prompt()
    options = dict(do_sample=True, talker_do_sample=True, talker_temperature=1.3, talker_top_k=9, talker_top_p=0.97)

    def sample(seed: int):
        torch.manual_seed(seed)
        return model.generate(**inputs, **OPTIONS, **options, generation_mode="audio")

    assert torch.equal(sample(1).sequences, sample(1).sequences)
    assert torch.equal(sample(1).audio_codes, sample(1).audio_codes)
    assert not torch.equal(sample(1).sequences, sample(2).sequences)


def test_generation_config_holds_talker_options(tmp_path):
    model, inputs = model_and_prompt()
    model.generation_config.talker_max_new_frames = 4
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    spoken = loaded.generate(**inputs, generation_mode="audio", talker_min_new_frames=4)
    assert spoken.audio_codes.shape[2] == 4
    assert spoken.sequences.shape[1] <= inputs["input_ids"].shape[1] + 3
    given = GenerationConfig(max_new_tokens=2, talker_max_new_frames=3, eos_token_id=2, pad_token_id=0)
    spoken = loaded.generate(**inputs, generation_config=given, generation_mode="audio", talker_min_new_frames=3)
    assert spoken.audio_codes.shape[2] == 3


def test_speech_follows_the_spoken_text():
    model, _ = model_and_prompt()
    said = [
        model.generate_speech(torch.tensor([ids]), talker_max_new_frames=8).audio_codes for ids in ([20, 21], [40, 9])
    ]
    assert said[0].shape != said[1].shape or not torch.equal(*said)


def test_generate_speech_ignores_padding_and_special_tokens():
    model, _ = model_and_prompt()
    text = torch.tensor([[1, 20, 21, 22, 2], [1, 30, 2, 0, 0]])
    mask = (text != 0).long()
    together = model.generate_speech(text, mask, talker_max_new_frames=9, speaker="bob")
    assert model.get_speech_mask(text, mask).sum(dim=1).tolist() == [3, 1]
    single = model.generate_speech(text[1:, :3], talker_max_new_frames=9, speaker="bob")
    frames = single.audio_codes.shape[2]
    assert torch.equal(together.audio_codes[1, :, :frames], single.audio_codes[0])


def heard_by_talker(model, *args, **kwargs):
    """Return what `model.generate` gives the Talker: states, embeddings, and which of them are real."""
    heard = []
    put = SpeechStream.put
    SpeechStream.put = lambda stream, *given: heard.append(given[:3]) or put(stream, *given)
    try:
        model.generate(*args, **kwargs, **OPTIONS, generation_mode="audio")
    finally:
        SpeechStream.put = put
    return [torch.cat(given, dim=1) for given in zip(*heard, strict=True)]


@pytest.mark.parametrize("as_given", [int, lambda end: [end, 51], torch.tensor], ids=["int", "list", "tensor"])
def test_speech_stops_at_the_end_token_of_the_call(as_given):
    model, _ = model_and_prompt()
    text = torch.tensor([[20, 21, 22, 23]])
    written = model.generate(text, max_new_tokens=6, min_new_tokens=6)[0, 4:].tolist()
    end = max(written, key=written.index)  # the token that is first met last
    *_, mask = heard_by_talker(model, text, eos_token_id=as_given(end))
    assert mask.sum() == len(written[: written.index(end)]) > 0


def test_padding_without_a_mask_is_seen_as_padding():
    model, _ = model_and_prompt()
    text = torch.tensor([[0, 0, 0, 20, 21, 22], [10, 11, 12, 13, 14, 15]])
    with_mask = heard_by_talker(model, text, attention_mask=(text != 0).long(), min_new_tokens=4)
    without = heard_by_talker(model, text, min_new_tokens=4)
    for one, other in zip(with_mask, without, strict=True):
        torch.testing.assert_close(one, other)


def test_text_needs_no_talker():
    model = build(josie.JosieForConditionalGeneration, josie_config(talker_config=None, audio_codec_config=None))
    _, inputs = model_and_prompt()
    assert model.output_modalities == ("text",)
    assert model.generate(**inputs, max_new_tokens=3).shape[0] == 2
    with pytest.raises(ValueError, match=r"`generation_mode` must be one of \('text',\).*got 'audio'"):
        model.generate(**inputs, generation_mode="audio")
    with pytest.raises(ValueError, match="a Talker and an audio codec"):
        model.generate_speech(inputs["input_ids"])
    with pytest.raises(ValueError, match="`speech_codes` must be None for a model without a Talker"):
        model(**inputs, speech_codes=torch.zeros(2, 3, 4, dtype=torch.long))


def test_placeholders_need_their_inputs_and_are_never_written():
    model, inputs = model_and_prompt()
    inputs.pop("pixel_values")
    for call in (model, model.generate, model.thinker, model.thinker.generate, model.thinker.model):
        with pytest.raises(ValueError, match="must hold no image placeholders without image inputs, got 2"):
            call(**inputs)
    with pytest.raises(ValueError, match="must hold no audio placeholders without audio inputs, got 1"):
        model.generate(torch.tensor([[1, 8, 20]]))
    with torch.no_grad():
        model.thinker.lm_head.weight[6:9] = 10 * model.thinker.lm_head.weight[6:9]
    answer = model.generate(torch.tensor([[1, 20, 21]]), max_new_tokens=20)[:, 3:]
    assert not torch.isin(answer, torch.tensor([6, 7, 8])).any()


def test_nothing_to_say_is_named():
    model, _ = model_and_prompt()
    with pytest.raises(ValueError, match=r"at least one word to say in every row, got none in rows \[1\]"):
        model.generate_speech(torch.tensor([[20, 21], [1, 2]]))
    with pytest.raises(ValueError, match=r"must have one shape \(batch, length\)"):
        model.generate_speech(torch.tensor([[20, 21]]), speech_mask=torch.ones(1, 3))


def test_codecs_stay_in_evaluation_mode():
    model, _ = model_and_prompt("josie-codes")
    model.train()
    assert model.thinker.training
    assert not any(module.training for codec in (model.audio_codec, model.vision_codec) for module in codec.modules())


def test_prompt_must_leave_room():
    model, _ = model_and_prompt()
    full = torch.full((1, 96), 20)
    with pytest.raises(ValueError, match="must have fewer than 96 positions.*got 96"):
        model.generate(input_ids=full)
    with pytest.raises(ValueError, match="must have at most 96 positions.*got 97"):
        model(input_ids=torch.full((1, 97), 20))
    assert model.generate(input_ids=full[:, :90], max_new_tokens=50, min_new_tokens=6).shape[1] == 96
    assert model.generate(input_ids=full[:, :90], max_length=150, min_new_tokens=6).shape[1] == 96
    long = GenerationConfig(max_new_tokens=50, min_new_tokens=6, eos_token_id=2, pad_token_id=0)
    assert model.generate(input_ids=full[:, :90], generation_config=long).shape[1] == 96
    with pytest.raises(ValueError, match="must have at most 96 positions.*got 97"):
        model.thinker(input_ids=torch.full((1, 97), 20), cache=DynamicCache())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(generation_mode="smell"), r"`generation_mode` must be one of \('text', 'audio'\).*got 'smell'"),
        (dict(speaker="eve"), r"`speaker` must be one of \['ada', 'bob'\], got 'eve'"),
        (dict(speaker=["ada"]), "one voice for each of 2 rows, got 1"),
        (dict(speaker=5), "`speaker` must be the name of a voice or a list with one for each row, got 5"),
        (dict(talker_volume=3), "`talker_volume` must be one of"),
        (dict(talker_max_new_frames=0), "`talker_max_new_frames` must be at least 1, got 0"),
        (dict(pixel_values=torch.rand(1, 3, 21, 21)), r"image placeholders as there are image features \(1\), got 2"),
        (dict(input_values=torch.rand(1, 1, 90)), "`input_values` must be `input_features`"),
        (dict(pixel_values_videos=torch.rand(1, 2, 3, 21, 21)), r"video placeholders.*features \(2\), got 0"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_bad_input_is_named(change, message):
    model, inputs = model_and_prompt()
    with pytest.raises(ValueError, match=message):
        model.generate(**(inputs | OPTIONS | dict(generation_mode="audio") | change))


SPEECH = dict.fromkeys(TALKER_OPTIONS, 1) | dict(speaker="ada", talker_seed=0, talker_sentence_end_ids=[20])
DRAWS = dict(talker_temperature=0.7, talker_top_k=3, talker_top_p=0.5, talker_min_p=0.5, talker_seed=0)


@pytest.mark.parametrize("name", SPEECH)
def test_text_alone_takes_no_option_of_speech(name):
    model, inputs = model_and_prompt()
    with pytest.raises(ValueError, match=f'`{name}` must be None with `generation_mode="text"`, got'):
        model.generate(**inputs, max_new_tokens=2, **{name: SPEECH[name]})


@pytest.mark.parametrize("name", DRAWS)
def test_arguments_of_draws_need_draws(name):
    model, text = CASES["josie"].build(), torch.tensor([[20, 21, 22]])
    message = f"`{name}` must be None without `talker_do_sample`, as nothing is drawn, got {DRAWS[name]}"
    for options in ({name: DRAWS[name]}, {name: DRAWS[name], "talker_do_sample": False}):
        with pytest.raises(ValueError, match=message):
            model.generate(text, **OPTIONS, **options, generation_mode="audio")
        with pytest.raises(ValueError, match=message):
            model.generate_speech(text, **options)
    model.generation_config.talker_do_sample = True
    model.generate_speech(text, talker_max_new_frames=3, **{name: DRAWS[name]})


def test_a_configuration_may_hold_options_of_draws_for_later():
    model, text = CASES["josie"].build(), torch.tensor([[20, 21, 22]])
    frames = dict(talker_max_new_frames=5, talker_min_new_frames=5)
    plain, drawn = (
        model.generate_speech(text, **frames, **options).audio_codes
        for options in ({}, DRAWS | dict(talker_do_sample=True))
    )
    for name, value in DRAWS.items():
        setattr(model.generation_config, name, value)
    assert model.generate(text, max_new_tokens=2).shape[0] == 1
    assert torch.equal(model.generate_speech(text, **frames).audio_codes, plain)
    assert torch.equal(model.generate_speech(text, **frames, talker_do_sample=True).audio_codes, drawn)


def test_unspoken_parts_are_named():
    with pytest.raises(
        Exception, match=r"`talker_config.thinker_hidden_size` must be the Thinker's width \(30\), got 12"
    ):
        josie_config(talker_config=dict(TALKER, thinker_hidden_size=12))
    with pytest.raises(Exception, match=r"`talker_config.codebook_size` must be the codec's \(11\), got 13"):
        josie_config(talker_config=dict(TALKER, codebook_size=13))
    with pytest.raises(Exception, match=r"`talker_config.num_quantizers` must be at most the codec's \(3\), got 4"):
        josie_config(talker_config=dict(TALKER, num_quantizers=4))


def test_the_former_name_of_the_cache_is_heard_as_in_transformers():
    """`past_key_values` until 5.24; what is said with either name is the same."""
    ids = torch.randint(10, 53, (2, 5))
    for name in ("backbone", "text", "thinker", "josie"):
        model = CASES[name].build()
        inputs = dict(inputs_embeds=torch.randn(2, 5, 30)) if name == "backbone" else dict(input_ids=ids)
        caches = DynamicCache(), DynamicCache()
        with torch.no_grad():
            ours = model(**inputs, cache=caches[0])
            with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
                theirs = model(**inputs, past_key_values=caches[1])
        assert torch.equal(ours[0], theirs[0])
        assert caches[0].get_seq_length() == caches[1].get_seq_length() == 5
        assert theirs.past_key_values is theirs.cache
