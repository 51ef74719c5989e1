"""Assembly refuses parts that are missing, wrong or do not fit, each in one sentence; and sizes of Talkers."""

import json
import shutil

import pytest
import transformers
from assembly_parts import FAMILIES
from tiny import build
from transformers import AutoTokenizer

import josie
from josie import assemble
from josie.configuration_josie import CodecGeometry
from josie.configuration_josie.logit_rule import LogitRule
from josie.conversion.assemble.talker import size_talker

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")


class TestTalkerSizes:
    def test_fit(self, parts):
        model, _ = assemble(parts("text", "llama"), codec=parts("codec", "mimi"))
        talker = model.config.talker_config
        assert (talker.hidden_size, talker.num_hidden_layers, talker.num_attention_heads) == (64, 2, 1)
        assert talker.depth_decoder_config.num_hidden_layers == 4
        assert talker.thinker_hidden_size == 32

    def test_fit_takes_all_codes_of_a_small_codec(self, parts):
        thinker = assemble(parts("text", "llama"))[0].config.thinker_config
        for available, taken in ((1, 1), (8, 8), (15, 15), (16, 16), (32, 16)):
            assert size_talker(thinker, CodecGeometry(16000, 640, available, 256)).num_quantizers == taken

    def test_preset(self, parts):
        model, _ = assemble(parts("text", "llama"), codec=parts("codec", "mimi"), talker="micro")
        preset = josie.JosieConfig.from_preset("micro").talker_config
        assert model.config.talker_config.hidden_size == preset.hidden_size
        assert model.config.talker_config.num_quantizers == 3

    def test_none(self, parts):
        model, _ = assemble(parts("text", "llama"), codec=parts("codec", "mimi"), talker=None)
        assert model.talker is None
        assert model.audio_codec is not None

    @pytest.mark.parametrize(
        ("talker", "message"),
        [
            ("huge", r"`talker` must be one of \['fit', .*'micro'\], or fields of a Talker, got 'huge'"),
            ({"width": 3}, "`talker` must hold fields of a Talker's configuration, got 'width'"),
            ({"num_quantizers": 9}, r"`talker_config.num_quantizers` must be at most the codec's \(3\), got 9"),
            ({"thinker_hidden_size": 9}, r"`talker` must have the Thinker's width \(32\)"),
            (3, "`talker` must be a name, a dict of fields or None, got int"),
        ],
    )
    def test_impossible(self, parts, talker, message):
        with pytest.raises(ValueError, match=message):
            assemble(parts("text", "llama"), codec=parts("codec", "mimi"), talker=talker)

    def test_without_a_codec(self, parts):
        with pytest.raises(ValueError, match="`codec` must be given for a Talker to speak through, got None"):
            assemble(parts("text", "llama"), talker="micro")


class TestWrongParts:
    def test_missing_folder(self, parts, tmp_path):
        for argument in ("text", "audio", "vision", "codec"):
            given = {"text": parts("text", "llama")} | {argument: tmp_path / "nothing"}
            with pytest.raises(ValueError, match=f"`{argument}` must be a folder, or a name on the Hub, with "):
                assemble(**given)

    @pytest.mark.parametrize(
        ("argument", "kind", "family", "wanted"),
        [
            ("text", "vision", "vit", "a causal language model"),
            ("text", "audio", "wav2vec2", "a causal language model"),
            ("text", "audio", "whisper", "a causal language model"),
            ("text", "codec", "mimi", "a causal language model"),
            ("audio", "vision", "vit", "an audio encoder"),
            ("audio", "text", "llama", "an audio encoder"),
            ("vision", "audio", "whisper", "a vision tower"),
            ("vision", "codec", "mimi", "a vision tower"),
            ("vision", "text", "llama", "a vision tower"),
            ("codec", "text", "llama", "an audio codec"),
            ("codec", "vision", "jovio", "an audio codec"),
            ("codec", "audio", "hubert", "an audio codec"),
        ],
    )
    def test_another_kind(self, parts, argument, kind, family, wanted):
        given = {"text": parts("text", "llama")} | {argument: parts(kind, family)}
        with pytest.raises(ValueError, match=rf"`{argument}` must be {wanted}.*, of the model type "):
            assemble(**given)

    def test_two_codecs(self, parts):
        with pytest.raises(ValueError, match="`codec` must be left out or be `audio` itself .*, got '.*dac'"):
            assemble(parts("text", "llama"), audio=parts("codec", "mimi"), codec=parts("codec", "dac"))

    def test_a_larger_tokenizer(self, parts, tmp_path):
        folder = shutil.copytree(parts("text", "llama"), tmp_path / "text")
        _, _, _, sizes = FAMILIES["llama"]
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | dict(vocab_size=100))).save_pretrained(folder)
        with pytest.raises(ValueError, match="`text` must have a tokenizer whose ids are below the 100 rows"):
            assemble(folder)

    def test_no_tokenizer(self, parts, tmp_path):
        folder = shutil.copytree(parts("text", "llama"), tmp_path / "text")
        for path in folder.glob("token*"):
            path.unlink()
        with pytest.raises(ValueError, match="`text` must .*tokenizer of its model"):
            assemble(folder)

    def test_a_model_that_is_not_causal(self, parts, tmp_path):
        config = transformers.BertConfig(
            vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20
        )
        build(transformers.BertLMHeadModel, config).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(parts("text", "llama")).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="`text` must be a"):
            assemble(tmp_path)

    def test_logits_that_are_scaled_behind_the_head_in_an_unknown_way(self, parts, tmp_path, monkeypatch):
        monkeypatch.setattr(LogitRule, "of", lambda config: LogitRule())
        config = transformers.GraniteConfig(**FAMILIES["llama"][3], logits_scaling=4.0)
        transformers.GraniteForCausalLM(config).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(parts("text", "llama")).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="`text` must be a language model whose logits .* 'granite'"):
            assemble(tmp_path)

    def test_weights_that_are_missing(self, parts, tmp_path):
        folder = shutil.copytree(parts("audio", "wav2vec2"), tmp_path / "audio")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
        with pytest.raises(ValueError, match="`audio` must hold all weights of a Wav2Vec2Model, got .*, which lacks"):
            assemble(parts("text", "llama"), audio=folder)

    def test_a_feature_extractor_of_another_size(self, parts, tmp_path):
        folder = shutil.copytree(parts("audio", "whisper"), tmp_path / "audio")
        transformers.WhisperFeatureExtractor(feature_size=13, chunk_length=1).save_pretrained(folder)
        with pytest.raises(ValueError, match="`audio` must have a feature extractor that gives 11 mel bins"):
            assemble(parts("text", "llama"), audio=folder)

    def test_an_image_larger_than_the_context(self, parts, tmp_path):
        tower = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=20,
            image_size=96,
            patch_size=8,
        )
        transformers.ViTModel(tower).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="`vision` must be a front end that JOSIE can use, .* at most 128 tokens"):
            assemble(parts("text", "llama"), vision=tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(projector_intermediate_size=64), "`projector_intermediate_size` must be left out without an encoder"),
        (dict(projector_hidden_act=None), "`projector_hidden_act` must be left out without an encoder"),
        (dict(vision_feature_select="cls"), "`vision_feature_select` must be left out without a vision tower"),
        (dict(audio_context_fraction=0.5), "`audio_context_fraction` must be left out without audio"),
        (dict(audio_stack_factor=2), "`audio_stack_factor` must be 1 without an audio encoder"),
    ],
    ids=str,
)
def test_options_of_parts_that_are_not_there(options, match, parts):
    with pytest.raises(ValueError, match=match):
        assemble(parts("text", "llama"), **options)


def test_one_layer_has_no_width_inside(parts):
    with pytest.raises(ValueError, match="`projector_intermediate_size` must be None for projectors of one layer"):
        assemble(
            parts("text", "llama"),
            audio=parts("audio", "whisper"),
            projector_hidden_act=None,
            projector_intermediate_size=64,
        )
