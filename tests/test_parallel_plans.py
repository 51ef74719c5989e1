"""Demands of transformers on every model beside its `forward`: embeddings by name, and plans that match its weights."""

import re

import pytest
import torch
from tiny import AUDIO_ENCODER, BACKBONE, CASES, TALKER, TEXT, THINKER, build

import josie

WITH_PLANS = ["backbone", "text", "audio-encoder", "vision-encoder", "thinker", "talker-depth", "josie", "josie-codes"]


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("name", WITH_PLANS)
def test_every_entry_of_a_tensor_parallel_plan_names_a_module(name, gated):
    config = CASES[name].config()
    text = config if config.sub_configs == {} else config.get_text_config()
    text.gated_mlp = gated
    text.__post_init__()
    model = getattr(josie, CASES[name].model_class)(config)
    modules = [module for module, _ in model.named_modules()]
    patterns = [re.escape(entry).replace(r"\*", r"\d+") for entry in model.tp_plan]
    assert patterns
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, module) for module in modules)] == []
    sharded = {module.rpartition(".")[2] for module in modules if any(re.fullmatch(p, module) for p in patterns)}
    assert {"qkv_proj", "o_proj", "down_proj"} < sharded


def test_a_plan_is_not_saved(tmp_path):
    config = josie.JosieTextConfig(**{name: value for name, value in TEXT.items() if name != "model_type"})
    config.save_pretrained(tmp_path)
    assert "tp_plan" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", ["audio-encoder", "vision-encoder", "vision-encoder-stem"])
def test_gradients_enter_an_encoder_at_its_first_convolution(name):
    model, inputs = CASES[name].build(), CASES[name].inputs()
    first = model.get_input_embeddings()
    assert isinstance(first, torch.nn.Conv2d)
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    called = []
    first.register_forward_pre_hook(lambda module, args: called.append(args[0].shape[1]))
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(**inputs).last_hidden_state.requires_grad
    assert called == [first.in_channels] == [3 if "vision" in name else 1]
    other = torch.nn.Conv2d(first.in_channels, first.out_channels, first.kernel_size, first.stride, first.padding)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other
    with torch.no_grad():
        assert not torch.equal(model(**inputs).last_hidden_state, expected)


class TestRotaryPositions:
    @staticmethod
    def thinker(**rope):
        text = TEXT | dict(max_position_embeddings=16, rope_parameters=dict(rope_theta=100.0) | rope)
        config = josie.JosieThinkerConfig(**THINKER | dict(text_config=text))
        return build(josie.JosieThinkerForConditionalGeneration, config)

    def test_dynamic_ones_stretch_the_positions_of_a_thinker(self):
        plain, dynamic = self.thinker(rope_type="default"), self.thinker(rope_type="dynamic", factor=2.5)
        assert plain.config.max_sequence_length == 16
        assert dynamic.config.max_sequence_length == 40
        ids = torch.randint(10, 53, (1, 41))
        with torch.no_grad():
            torch.testing.assert_close(dynamic(ids[:, :16]).logits, plain(ids[:, :16]).logits)
            # By hand, after Llama: the base grows with the length.
            base = 100.0 * (2.5 * 40 / 16 - 1.5) ** (10 / 8)
            stretched = self.thinker(rope_type="default", rope_theta=base)
            stretched.config.text_config.max_position_embeddings = 40
            torch.testing.assert_close(dynamic(ids[:, :40]).logits, stretched(ids[:, :40]).logits, rtol=1e-3, atol=1e-4)
        with pytest.raises(ValueError, match="must have at most 40 positions, placeholders included, got 41"):
            dynamic(ids)
        with pytest.raises(ValueError, match="must have at most 16 positions"):
            plain(ids)
        assert dynamic.generate(ids[:, :30], max_new_tokens=50, min_new_tokens=10).shape == (1, 40)

    def test_a_processor_lets_pass_what_the_thinker_takes(self):
        text = TEXT | dict(vocab_size=301, max_position_embeddings=8)
        prompt = "a b c d e f g h i j"
        config = josie.JosieThinkerConfig(text_config=text)
        with pytest.raises(ValueError, match="must be at most 8 tokens long"):
            josie.JosieProcessor.from_config(config, josie.load_default_tokenizer(301))(text=prompt)
        text["rope_parameters"] = dict(rope_type="dynamic", factor=4.0, rope_theta=100.0)
        config = josie.JosieThinkerConfig(text_config=text)
        length = josie.JosieProcessor.from_config(config, josie.load_default_tokenizer(301))(text=prompt)["input_ids"]
        assert 8 < length.shape[1] <= 32

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("JosieTalkerConfig", TALKER),
            ("JosieDepthDecoderConfig", BACKBONE),
            ("JosieAudioEncoderConfig", AUDIO_ENCODER),
            ("JosieVisionEncoderConfig", BACKBONE),
        ],
    )
    def test_rotations_that_depend_on_the_length_are_refused_beside_text(self, name, values):
        values = {key: value for key, value in values.items() if key != "model_type"}
        for rope in (
            dict(rope_type="dynamic", factor=2.0),
            dict(rope_type="longrope", factor=2.0, short_factor=[1.0] * 5, long_factor=[2.0] * 5),
        ):
            with pytest.raises(
                Exception, match=rf"`rope_parameters` must have a `rope_type` other than .*'{rope['rope_type']}'"
            ):
                getattr(josie, name)(**values, rope_parameters=rope)
        getattr(josie, name)(**values, rope_parameters=dict(rope_type="linear", factor=2.0))

    @pytest.mark.parametrize("name", ["jodio", "jovio"])
    def test_codecs_refuse_them_too(self, name):
        values = {key: value for key, value in CASES[name].config().to_dict().items() if key != "model_type"}
        values["decoder_config"] = values["decoder_config"] | dict(
            rope_parameters=dict(rope_type="dynamic", factor=2.0)
        )
        with pytest.raises(Exception, match="`decoder_config.rope_parameters` must have a `rope_type` other than"):
            type(CASES[name].config())(**values)

    @pytest.mark.parametrize(
        ("rope", "message"),
        [
            (dict(rope_type="spiral"), "must have a `rope_type` of .*, got 'spiral'"),
            (dict(partial_rotary_factor=0.5), "must have a `partial_rotary_factor` of 1 unless .*, got 0.5"),
            (dict(mrope_section=[1, 2, 2]), r"must have no `mrope_section`, which is `rope_sections` here, got \[1"),
        ],
        ids=["unknown", "partial", "sections"],
    )
    def test_what_has_no_effect_is_refused(self, rope, message):
        with pytest.raises(Exception, match=message):
            josie.JosieTextConfig(**BACKBONE, rope_parameters=rope)

    def test_a_part_of_the_planes_may_turn_where_that_is_known(self):
        rope = dict(rope_type="proportional", partial_rotary_factor=0.5)
        model = build(josie.JosieTextModel, josie.JosieTextConfig(**BACKBONE, vocab_size=53, rope_parameters=rope))
        assert (model.rotary_emb.inv_freq > 0).sum() == 2
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).last_hidden_state).all()
