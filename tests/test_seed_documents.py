"""The shapes of the two documents that JOSIE comes from, step by step, at their own sizes. Where one is wrong, the test
says what holds instead."""

import pytest
import torch

import josie


@pytest.fixture(scope="module")
def micro() -> "josie.JosieForConditionalGeneration":
    torch.manual_seed(0)
    return josie.JosieForConditionalGeneration(josie.JosieConfig.from_preset("micro")).eval()


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.usefixtures("without_gradients")
class TestMuomni:
    """The dry run of μOmni: 256 wide, 4 layers, vocabulary 5000."""

    def test_text(self, micro):
        ids = torch.randint(10, 5000, (1, 6))
        assert micro.get_input_embeddings()(ids).shape == (1, 6, 256)
        outputs = micro.thinker(ids, use_cache=True)
        assert outputs.last_hidden_state.shape == (1, 6, 256)
        assert outputs.logits.shape == (1, 6, 5000)
        assert outputs.cache.get_seq_length() == 6
        step = micro.thinker(torch.tensor([[789]]), cache=outputs.cache)
        assert step.cache.get_seq_length() == 7
        keys = step.cache.layers[0].keys
        assert keys.shape == (1, 4, 7, 64)
        assert micro.thinker.generate(ids, max_new_tokens=64, min_new_tokens=64).shape == (1, 70)

    def test_image_becomes_one_token(self, micro):
        image = torch.rand(1, 3, 224, 224)
        front_end = micro.thinker.model.vision_front_end
        assert front_end.encoder.patch_embed(image).shape == (1, 128, 14, 14)
        assert front_end.encoder(image).last_hidden_state.shape == (1, 197, 128)
        rows, counts, _ = front_end("image", image)
        assert rows.shape == (1, 256)
        assert counts.tolist() == [1]
        ids = torch.randint(10, 5000, (1, 9))
        ids[0, 0] = 6
        assert micro(input_ids=ids, pixel_values=image).logits.shape == (1, 9, 5000)

    def test_a_second_of_audio_becomes_25_tokens(self, micro):
        front_end = micro.thinker.model.audio_front_end
        mel = torch.rand(1, 128, 100)
        assert front_end.encoder(mel).last_hidden_state.shape == (1, 25, 192)
        rows = front_end(input_features=mel).rows
        assert rows.shape == (25, 256)
        # The document rounds: a centred transform of 16,000 samples at a hop of 160 has 101 frames, so 26 features.
        config = micro.config.thinker_config
        assert config.audio_config.get_num_mel_frames(16_000) == 101
        assert config.get_num_audio_tokens(101) == 26
        assert config.max_audio_tokens == 128

    def test_everything_together_is_35_positions(self, micro):
        ids = torch.tensor([[6] + [8] * 25 + list(range(20, 29))])
        inputs = dict(input_ids=ids, pixel_values=torch.rand(1, 3, 224, 224), input_features=torch.rand(1, 128, 100))
        outputs = micro(**inputs)
        assert outputs.last_hidden_state.shape == (1, 35, 256)
        assert outputs.logits.shape == (1, 35, 5000)

    def test_speech_has_two_codes_a_frame_at_twelve_and_a_half_hertz(self, micro):
        spoken = micro.generate_speech(
            torch.randint(10, 5000, (1, 10)), talker_max_new_frames=20, talker_min_new_frames=20
        )
        assert spoken.audio_codes.shape == (1, 2, 20)
        codec = micro.audio_codec
        assert codec.config.frame_rate == 12.5
        assert 300 / codec.config.frame_rate == 24.0
        assert spoken.audio_lengths.item() == 20 * 1280
        # One code stands for five mel frames here: the document's one frame has no overlap to reconstruct phases from.
        assert codec.decode_to_mel(spoken.audio_codes).shape == (1, 128, 100)

    def test_talker_training(self, micro):
        mel = torch.rand(2, 128, 50 * 5)
        codes = micro.audio_codec.encode_mel(mel)
        codes = codes.audio_codes if hasattr(codes, "audio_codes") else codes
        assert codes.shape == (2, 2, 50)
        outputs = micro.talker(codes)
        assert outputs.logits.shape == (2, 50, 129)  # 128 codes, and the end of speech that the document lacks
        assert outputs.depth_logits.shape == (2, 1, 50, 128)
        assert outputs.loss.ndim == 0


class TestJosieFour:
    """The analysis of JOSIE v4, whose sizes `base` has."""

    config = josie.JosieConfig.from_preset("base")

    def test_a_microphone_chunk_is_a_quarter_of_a_second(self):
        assert 16_000 // 4 == 4_000
        assert self.config.audio_codec_config.get_num_frames(4_000 * 24 // 16) == 4  # 3.125 frames at 12.5 Hz

    def test_any_length_and_not_five_seconds(self):
        codec = self.config.audio_codec_config
        assert codec.get_num_frames(24_000 * 3_600) == 45_000
        assert codec.encoder_config.sliding_window == codec.decoder_config.sliding_window == 64

    def test_all_quantizers_are_predicted(self):
        assert self.config.talker_config.num_quantizers == self.config.audio_codec_config.num_quantizers == 9

    def test_shapes_of_every_part_without_memory(self):
        with torch.device("meta"):
            model = josie.JosieForConditionalGeneration(self.config)
            hidden = model.thinker.model.language_model(inputs_embeds=torch.empty(2, 11, 1028), use_cache=False)[0]
            assert hidden.shape == (2, 11, 1028)
            assert model.thinker.lm_head(hidden).shape == (2, 11, 128256)
            codes = torch.zeros(2, 9, 11, dtype=torch.long)
            assert model.thinker.model.audio_front_end.code_embedding(codes).shape == (2, 11, 1028)
            patches = torch.zeros(2, 32, 196, dtype=torch.long)
            assert model.thinker.model.vision_front_end.code_embedding(patches).shape == (2, 196, 1028)
            states = model.talker.model(torch.empty(2, 11, 512), use_cache=False)[0]
            assert model.talker.head(states).shape == (2, 11, 2049)
            logits = model.talker.depth_decoder(states.flatten(0, 1), torch.zeros(22, 8, dtype=torch.long))
            assert [level.shape for level in logits] == [(22, 2048)] * 8
