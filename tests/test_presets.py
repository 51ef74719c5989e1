"""The presets have the numbers of the two documents they come from."""

import pytest
import torch

from josie import (
    JosieConfig,
    JosieForConditionalGeneration,
    JosieMelCodecConfig,
    load_default_tokenizer,
    train_tokenizer,
)
from josie.configuration_josie import audio_codec_geometry
from josie.tokenization import SPECIAL_TOKENS, shrink_tokenizer

PRESETS = ["base", "micro"]


def shape(config):
    """Return width, layers, heads, width of a head and width inside the MLP."""
    return (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.head_dim,
        config.intermediate_size,
    )


def count_parameters(preset):
    """Return the parameters of each part of a preset, and of the whole, whose shared tensors count once."""
    with torch.device("meta"):
        model = JosieForConditionalGeneration(JosieConfig.from_preset(preset))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {name: size for name, size in parts.items() if size} | {"all": model.num_parameters()}


def test_these_are_the_presets():
    assert JosieConfig.preset_names() == PRESETS


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"`name` must be one of \['base', 'micro'\], got 'mega'\."):
        JosieConfig.from_preset("mega")


def test_fields_can_be_set_on_top():
    assert JosieConfig.from_preset("micro", depth_loss_weight=0.5).depth_loss_weight == 0.5


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip(preset, tmp_path):
    config = JosieConfig.from_preset(preset)
    config.save_pretrained(tmp_path)
    assert JosieConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert JosieConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("preset", PRESETS)
def test_placeholders_are_the_tokenizers(preset):
    thinker = JosieConfig.from_preset(preset).thinker_config
    text = thinker.text_config
    ids = [text.pad_token_id, text.bos_token_id, text.eos_token_id]
    ids += [thinker.image_token_id, thinker.video_token_id, thinker.audio_token_id]
    names = ["<|pad|>", "<|begin|>", "<|end|>", "<|image|>", "<|video|>", "<|audio|>"]
    assert [SPECIAL_TOKENS[index] for index in ids] == names


def test_the_default_tokenizer_fits_micro():
    tokenizer = load_default_tokenizer(TestMicro.thinker.text_config.vocab_size)
    text = "Say it in 27 words — naïve, 日本語!"
    ids = tokenizer(text)["input_ids"]
    assert len(tokenizer) == 5000
    assert max(ids) < 5000
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(ids) < len(text)


def test_a_smaller_tokenizer_is_what_training_a_smaller_one_gives():
    texts = ["the cat sat on the mat and that was that", "a rat and a hat, and the cat in the hat"] * 3
    larger, smaller = (train_tokenizer(texts, vocab_size=size) for size in (300, 280))
    assert len(smaller) == 280 < len(larger)
    shrunk = shrink_tokenizer(larger, 280)
    assert shrunk.backend_tokenizer.to_str() == smaller.backend_tokenizer.to_str()
    with pytest.raises(ValueError, match=r"`vocab_size` must be at least 265 .* got 9\."):
        shrink_tokenizer(larger, 9)


class TestMicro:
    config = JosieConfig.from_preset("micro")
    thinker = config.thinker_config

    def test_thinker(self):
        text = self.thinker.text_config
        assert shape(text) == (256, 4, 4, 64, 1024)
        assert (text.vocab_size, text.max_position_embeddings, text.rope_parameters["rope_theta"]) == (5000, 512, 10000)
        assert not text.tie_word_embeddings

    def test_sees_one_token_an_image(self):
        vision = self.thinker.vision_config
        assert shape(vision) == (128, 4, 2, 64, 512)
        assert vision.num_patches == 196
        assert self.thinker.get_num_image_tokens(224, 224) == 1

    def test_hears_25_tokens_a_second_and_at_most_a_quarter_of_the_context(self):
        audio = self.thinker.audio_config
        assert shape(audio) == (192, 4, 3, 64, 768)
        assert self.thinker.get_num_audio_tokens(100) == 25
        assert self.thinker.get_num_audio_tokens(10_000) == 128

    def test_speaks_two_codes_at_12_5_hz(self):
        talker, codec = self.config.talker_config, self.config.audio_codec_config
        assert shape(talker) == (192, 4, 3, 64, 768)
        assert talker.depth_decoder_config is None
        assert isinstance(codec, JosieMelCodecConfig)
        geometry = audio_codec_geometry(codec)
        assert (geometry.num_quantizers, geometry.codebook_size, geometry.frame_rate) == (2, 128, 12.5)
        assert (talker.num_quantizers, talker.codebook_size) == (2, 128)
        assert (codec.codebook_dim, codec.num_mel_bins, codec.hop_length) == (64, 128, 1280)

    def test_neighbouring_windows_of_the_codec_overlap(self):
        assert self.config.audio_codec_config.mel_hop_length * 4 == self.config.audio_codec_config.win_length

    def test_parameters(self):
        # the document's 12.3 M, a Talker that hears the Thinker, and five mel frames stacked into one code
        assert count_parameters("micro") == {
            "thinker": 9_965_120,
            "talker": 2_534_081,
            "audio_codec": 82_624,
            "all": 12_581_825,
        }


class TestBase:
    config = JosieConfig.from_preset("base")
    thinker = config.thinker_config

    def test_thinker(self):
        text = self.thinker.text_config
        assert shape(text) == (1028, 12, 12, 86, 4112)  # the document's 85 is odd and cannot rotate
        assert (text.vocab_size, text.max_position_embeddings, text.tie_word_embeddings) == (128256, 4096, True)

    def test_jodio(self):
        codec = self.config.audio_codec_config
        assert shape(codec.encoder_config) == (512, 12, 16, 32, 2048)
        assert shape(codec.decoder_config) == (512, 12, 12, 42, 2048)
        assert (codec.sampling_rate, codec.hop_length, codec.frame_rate) == (24000, 1920, 12.5)
        assert (codec.num_quantizers, codec.num_semantic_quantizers, codec.codebook_size) == (9, 1, 2048)
        assert codec.channels == [512] * 6
        assert codec.encoder_config.attention_dropout == codec.encoder_config.hidden_dropout == 0.1

    def test_jovio(self):
        codec = self.config.vision_codec_config
        for config in (codec.encoder_config, codec.decoder_config):
            assert shape(config) == (512, 8, 16, 32, 2048)
            assert config.rope_parameters["rope_theta"] == 500000
            assert not config.is_causal
        assert (codec.num_quantizers, codec.codebook_size) == (32, 2048)
        assert codec.get_grid(codec.max_frames, 224, 224) == (12, 14, 14)
        assert codec.get_num_patches(1, 224, 224) == 196

    def test_the_thinker_reads_the_codecs_codes(self):
        assert self.thinker.audio_config.to_dict() == self.config.audio_codec_config.to_dict()
        assert self.thinker.vision_config.to_dict() == self.config.vision_codec_config.to_dict()
        assert self.thinker.get_num_audio_tokens(48_001) == 26
        assert self.thinker.get_num_image_tokens(224, 224) == 196

    def test_talker(self):
        talker = self.config.talker_config
        assert shape(talker) == shape(talker.depth_decoder_config) == (512, 6, 4, 128, 2048)
        assert (talker.num_quantizers, talker.codebook_size, talker.thinker_hidden_size) == (9, 2048, 1028)

    def test_parameters(self):
        # the document: 345, 102, 180 and 60 million; its depth transformer also had the projection to text, here tied
        assert count_parameters("base") == {
            "thinker": 370_566_244,
            "talker": 66_345_984,
            "audio_codec": 125_707_266,
            "vision_codec": 52_186_112,
            "all": 614_805_606,
        }
