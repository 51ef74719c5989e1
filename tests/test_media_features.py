"""`get_image_features`, `get_video_features`, `get_audio_features`: transformers' contract, on every class."""

import inspect

import pytest
import torch
from tiny import CASES, TEXT, THINKER, build, coded_josie_inputs
from transformers import AutoConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

import josie
from josie.modeling_josie.thinker.inputs import MODALITY_INPUTS

MEDIA = {
    "image": dict(pixel_values=torch.rand(2, 3, 21, 21)),
    "video": dict(pixel_values_videos=torch.rand(2, 3, 3, 21, 21), video_grid_thw=torch.tensor([[3, 3, 3], [1, 3, 3]])),
    "audio": dict(
        input_features=torch.rand(2, 9, 23), input_features_mask=(torch.arange(23) < torch.tensor([[23], [10]])).long()
    ),
}
AUDIO = ("input_features", "input_features_mask")
COUNTS = {"image": [1, 1], "video": [3, 1], "audio": [6, 3]}


@pytest.fixture(scope="module")
def whole():
    return CASES["josie"].build()


@pytest.fixture(params=["whole", "thinker", "body"])
def model(request, whole):
    return {"whole": whole, "thinker": whole.thinker, "body": whole.thinker.model}[request.param]


def features_of(model, modality: str, *args, **kwargs):
    return getattr(model, f"get_{modality}_features")(*args, **kwargs)


@pytest.mark.parametrize("modality", list(MEDIA))
def test_outputs_have_rows_for_each_item(model, modality):
    outputs = features_of(model, modality, **MEDIA[modality], output_hidden_states=True)
    assert isinstance(outputs, BaseModelOutputWithPooling)
    assert [tuple(rows.shape) for rows in outputs.pooler_output] == [(count, 30) for count in COUNTS[modality]]
    assert outputs.last_hidden_state.shape[-1] == 18
    assert len(outputs.hidden_states) > 1
    assert outputs.hidden_states[-1].shape == outputs.last_hidden_state.shape
    assert outputs.attentions is None
    values = features_of(model, modality, **MEDIA[modality], return_dict=False)
    assert isinstance(values, tuple)
    assert torch.equal(values[0], outputs.last_hidden_state)
    assert all(map(torch.equal, values[1], outputs.pooler_output))
    by_place = features_of(model, modality, *MEDIA[modality].values())
    assert all(map(torch.equal, by_place.pooler_output, outputs.pooler_output))


@pytest.mark.parametrize("modality", list(MEDIA))
def test_names_of_inputs_stand_in_the_signature(model, modality):
    names = list(inspect.signature(getattr(model, f"get_{modality}_features")).parameters)
    assert tuple(names[:-1]) == MODALITY_INPUTS[modality]
    spelled = set(inspect.signature(model.forward).parameters)
    assert spelled.issuperset(MODALITY_INPUTS[modality])


def test_bad_arguments_are_named(model):
    pixels = MEDIA["image"]["pixel_values"]
    with pytest.raises(ValueError, match="`grid` must be an argument"):
        model.get_image_features(pixels, grid=None)
    with pytest.raises(ValueError, match="`pixel_values` must be given once"):
        model.get_image_features(pixels, pixel_values=pixels)
    with pytest.raises(ValueError, match="`image_codes` must be the last image input, got 4"):
        model.get_image_features(pixels, None, None, None)
    with pytest.raises(ValueError, match="`pixel_values` must be given, got None"):
        model.get_image_features()


def test_what_cannot_be_read_is_refused():
    model = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(text_config=TEXT))
    with pytest.raises(ValueError, match="`pixel_values` cannot be seen: `config.vision_config` is None"):
        model.get_image_features(MEDIA["image"]["pixel_values"])
    with pytest.raises(ValueError, match="`input_features` cannot be heard: `config.audio_config` is None"):
        model.get_audio_features(**MEDIA["audio"])


def test_the_whole_model_reads_through_its_codecs():
    model = CASES["josie-codes"].build()
    inputs = coded_josie_inputs()
    ids = inputs["input_ids"]
    for modality, token in (("audio", 8), ("image", 6), ("video", 7)):
        given = {name: inputs[name] for name in MODALITY_INPUTS[modality] if name in inputs}
        rows = features_of(model, modality, **given).pooler_output
        assert sum(map(len, rows)) == (ids == token).sum() > 0


def test_encoders_of_waveforms_return_states_of_every_clip():
    sizes = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, conv_dim=[8, 8],
        conv_kernel=[10, 8], conv_stride=[5, 8], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, layerdrop=0.0, mask_time_prob=0.0,
    )  # fmt: skip
    encoder = AutoConfig.for_model("wav2vec2", **sizes)
    config = josie.JosieThinkerConfig(**THINKER | dict(audio_config=encoder))
    model = build(josie.JosieThinkerForConditionalGeneration, config)
    model.set_attn_implementation("eager")
    clips, mask = torch.randn(2, 1, 900), (torch.arange(900) < torch.tensor([[900], [500]])).long()
    options = dict(output_hidden_states=True, output_attentions=True)
    outputs = model.get_audio_features(input_values=clips, padding_mask=mask, **options)
    counts = [config.get_num_audio_tokens(length) for length in (900, 500)]
    assert [len(rows) for rows in outputs.pooler_output] == counts
    for index, length in enumerate((900, 500)):
        alone = model.get_audio_features(input_values=clips[index : index + 1, :, :length], **options)
        frames = alone.last_hidden_state.shape[1]
        for ours, theirs in zip(outputs.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(ours[index, :frames], theirs[0])
            assert not ours[index, frames:].any()
        for ours, theirs in zip(outputs.attentions, alone.attentions, strict=True):
            torch.testing.assert_close(ours[index, :, :frames, :frames], theirs[0])


@pytest.mark.parametrize("name", ["josie", "josie-codes"])
def test_a_pass_returns_the_outputs_of_its_encoders(name):
    model, inputs = CASES[name].build(), CASES[name].inputs()
    asked = dict(output_hidden_states=True, output_attentions=True)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**inputs, **asked)
    modalities = ["image", "audio"] + ["video"] * ("pixel_values_videos" in inputs)
    for modality in modalities:
        found = getattr(outputs, f"{modality}_outputs")
        given = {key: inputs[key] for key in MODALITY_INPUTS[modality] if key in inputs}
        expected = features_of(model, modality, **given, **asked)
        assert len(found.pooler_output) == 2
        assert all(map(torch.equal, found.pooler_output, expected.pooler_output))
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
        if name == "josie":
            assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
            assert len(found.attentions) == 1
    assert (outputs.video_outputs is None) == ("video" not in modalities)
    again = {key: value for key, value in inputs.items() if key not in sum(MODALITY_INPUTS.values(), ())}
    media = {modality: getattr(outputs, f"{modality}_outputs") for modality in modalities}
    with torch.no_grad():
        torch.testing.assert_close(model(**again, mm_encoder_outputs=media).logits, outputs.logits)


@pytest.mark.parametrize("name", ["josie", "thinker", "talker-depth"])
def test_configurations_may_ask_for_tuples(name):
    model, inputs = CASES[name].build(), CASES[name].inputs()
    with torch.no_grad():
        expected = model(**inputs).to_tuple()
    for part, module in model.named_modules():
        if hasattr(module, "config") and not part.startswith("audio_codec"):
            module.config.return_dict = False
    with torch.no_grad():
        values = model(**inputs)
    assert isinstance(values, tuple)
    assert torch.equal(values[0], expected[0])
    if name == "josie":
        assert isinstance(features_of(model, "image", **MEDIA["image"]), tuple)
        prompt = {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values", *AUDIO)}
        assert model.generate(
            **prompt, max_new_tokens=2, generation_mode="audio", talker_max_new_frames=2
        ).sampling_rate
