"""Laws of the front ends: what the Thinker hears and sees is what its encoders give, in the number promised."""

import pytest
import torch
from transformers import CLIPVisionConfig, SiglipVisionConfig, ViTConfig, Wav2Vec2Config, WhisperConfig

from josie.configuration_josie import (
    JodioConfig,
    JosieAudioEncoderConfig,
    JosieTextConfig,
    JosieThinkerConfig,
    JosieVisionEncoderConfig,
    JovioConfig,
    num_audio_tokens,
)
from josie.modeling_josie.thinker.audio_front_end import AudioFrontEnd
from josie.modeling_josie.thinker.vision_front_end import VisionFrontEnd

HIDDEN_SIZE = 14
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"image_size": 8, "patch_size": 4}
BACKBONE = TOWER | {"head_dim": 8}


def thinker_config(**kwargs) -> JosieThinkerConfig:
    text = JosieTextConfig(
        hidden_size=HIDDEN_SIZE,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=28,
    )
    return JosieThinkerConfig(text_config=text, audio_token_id=1, image_token_id=2, video_token_id=3, **kwargs)


def whisper_config() -> WhisperConfig:
    return WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        num_mel_bins=6,
        max_source_positions=9,
        vocab_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        begin_suppress_tokens=None,
    )


def audio_encoder_config() -> JosieAudioEncoderConfig:
    return JosieAudioEncoderConfig(**TOWER, num_mel_bins=6, conv_channels=3)


def jodio_config() -> JodioConfig:
    return JodioConfig(
        num_quantizers=3,
        codebook_size=7,
        codebook_dim=4,
        channels=[4, 4, 4],
        upsampling_ratios=[2, 3],
        encoder_config=BACKBONE,
        decoder_config=BACKBONE,
    )


def jovio_config() -> JovioConfig:
    return JovioConfig(
        num_quantizers=3,
        codebook_size=7,
        codebook_dim=4,
        patch_size=4,
        encoder_config=BACKBONE,
        decoder_config=BACKBONE,
    )


TOWERS = {
    "ours": JosieVisionEncoderConfig(**TOWER, **SQUARE),
    "clip": CLIPVisionConfig(**TOWER, **SQUARE),
    "siglip": SiglipVisionConfig(**TOWER, **SQUARE),
    "vit": ViTConfig(**TOWER, **SQUARE),
}
TOWERS_AND_SELECTIONS = pytest.mark.parametrize(
    ("tower", "select"),
    [(tower, select) for tower in TOWERS for select in ("cls", "patch") if (tower, select) != ("siglip", "cls")],
)


def vision_front_end(tower: str, select: str = "patch", **kwargs) -> VisionFrontEnd:
    return VisionFrontEnd(thinker_config(vision_config=TOWERS[tower], vision_feature_select=select, **kwargs)).eval()


def assert_gradients(module: torch.nn.Module):
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


# Hearing


@pytest.mark.parametrize("hidden_act", [None, "silu"])
def test_audio_features_are_those_of_each_clip_alone_and_as_many_as_promised(hidden_act):
    config = thinker_config(audio_config=audio_encoder_config(), projector_hidden_act=hidden_act)
    front_end = AudioFrontEnd(config).eval()
    lengths = [37, 5, 0, 18]  # the first is cut: 10 features where 7 are allowed
    features = torch.randn(4, 6, 37)
    mask = (torch.arange(37) < torch.tensor(lengths)[:, None]).long()
    rows, counts, _ = front_end(features, mask)
    assert counts.tolist() == [config.get_num_audio_tokens(length) for length in lengths] == [7, 2, 0, 5]
    assert rows.shape == (sum(counts), HIDDEN_SIZE)
    for row, (length, part) in enumerate(zip(lengths, rows.split(counts.tolist()), strict=True)):
        if length:
            alone = front_end.encoder(features[row : row + 1, :, :length]).last_hidden_state
            torch.testing.assert_close(part, front_end.projector(alone)[0, :7], atol=1e-5, rtol=1e-4)
    rows.square().sum().backward()
    assert_gradients(front_end)


def test_audio_features_without_a_mask_are_those_with_a_full_one():
    front_end = AudioFrontEnd(thinker_config(audio_config=audio_encoder_config())).eval()
    features = torch.randn(2, 6, 13)
    for one, other in zip(front_end(features)[:2], front_end(features, torch.ones(2, 13))[:2], strict=True):
        torch.testing.assert_close(one, other)


def test_whisper_gives_its_encoder_projected():
    config = thinker_config(audio_config=whisper_config(), audio_context_fraction=0.5)
    front_end = AudioFrontEnd(config).eval()
    features = torch.randn(3, 6, 18)
    lengths = [18, 7, 1]  # real mel frames
    rows, counts, _ = front_end(features, torch.arange(18) < torch.tensor(lengths)[:, None])
    expected = front_end.projector(front_end.encoder(features).last_hidden_state)
    assert counts.tolist() == [config.get_num_audio_tokens(length) for length in lengths] == [9, 4, 1]
    torch.testing.assert_close(rows, torch.cat([expected[0], expected[1, :4], expected[2, :1]]))
    assert front_end(features).counts.tolist() == [9, 9, 9]
    assert type(front_end.encoder).__name__ == "WhisperEncoder"
    rows.square().sum().backward()
    assert_gradients(front_end)


ENCODERS = {
    "ours": lambda: audio_encoder_config(),
    "whisper": lambda: whisper_config(),
    "wav2vec2": lambda: Wav2Vec2Config(
        **TOWER,
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[5, 8],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
        mask_time_prob=0.0,
    ),
}


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_stacked_features_are_those_of_each_clip_alone_and_as_many_as_promised(encoder, factor):
    config = thinker_config(audio_config=ENCODERS[encoder](), audio_stack_factor=factor, audio_context_fraction=0.2)
    front_end = AudioFrontEnd(config).eval()
    lengths = {"ours": [61, 9, 30], "whisper": [18, 7, 1], "wav2vec2": [900, 300, 77]}[encoder]
    size = (6, 18) if encoder == "whisper" else (6, max(lengths)) if encoder == "ours" else (1, max(lengths))
    clips = torch.randn(3, *size)
    mask = (torch.arange(size[1]) < torch.tensor(lengths)[:, None]).long()
    names = ("input_values", "padding_mask") if encoder == "wav2vec2" else ("input_features", "input_features_mask")
    rows, counts, encoded = front_end(**dict(zip(names, (clips, mask), strict=True)))
    assert counts.tolist() == [config.get_num_audio_tokens(length) for length in lengths]
    assert max(counts.tolist()) <= 5
    for index, (length, part) in enumerate(zip(lengths, rows.split(counts.tolist()), strict=True)):
        real = num_audio_tokens(config.audio_config, length)
        features = encoded.last_hidden_state[index, :real]
        stacked = [features[start : start + factor].flatten() for start in range(0, real, factor)]
        stacked = [torch.nn.functional.pad(one, (0, 16 * factor - len(one))) for one in stacked]
        torch.testing.assert_close(part, front_end.projector(torch.stack(stacked))[: len(part)], atol=1e-5, rtol=1e-4)
        if encoder != "whisper":  # which hears the silence behind, too
            alone = front_end(**{names[0]: clips[index : index + 1, :, :length]}).rows
            torch.testing.assert_close(part, alone, atol=1e-5, rtol=1e-4)
    rows.square().sum().backward()
    assert_gradients(front_end)


@pytest.mark.parametrize("changes", [dict(audio_config=None), dict(audio_config="codec")], ids=str)
def test_codes_are_not_stacked(changes):
    changes = {name: jodio_config() if value == "codec" else value for name, value in changes.items()}
    with pytest.raises(Exception, match="`audio_stack_factor` must be 1 without an audio encoder, .*got 2"):
        thinker_config(audio_stack_factor=2, **changes)


def test_audio_codes_are_embedded_and_cut():
    config = thinker_config(audio_config=jodio_config())
    front_end = AudioFrontEnd(config)
    codes = torch.randint(7, (3, 3, 9))
    lengths = [9, 4, 0]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    garbage = codes.masked_fill(~mask[:, None], -100)
    rows, counts, _ = front_end(audio_codes=garbage, audio_codes_mask=mask)
    hop = config.audio_config.hop_length
    assert counts.tolist() == [config.get_num_audio_tokens(length * hop) for length in lengths] == [7, 4, 0]
    expected = front_end.code_embedding(codes)
    torch.testing.assert_close(rows, torch.cat((expected[0, :7], expected[1, :4])))
    rows, counts, _ = front_end(audio_codes=codes)
    assert counts.tolist() == [7, 7, 7]
    torch.testing.assert_close(rows, expected[:, :7].flatten(0, 1))


@pytest.mark.parametrize(
    ("is_codec", "given", "message"),
    [
        (True, {"input_features": torch.rand(1, 6, 9)}, "pass `audio_codes`, or use `JosieForConditionalGeneration`"),
        (True, {}, "`audio_codes` must be given"),
        (True, {"audio_codes": torch.full((1, 3, 2), 7)}, r"`audio_codes` must be in \[0, 6\]"),
        (True, {"audio_codes": torch.full((1, 3, 2), -1)}, r"`audio_codes` must be in \[0, 6\]"),
        (True, {"audio_codes": torch.zeros(1, 4, 2, dtype=torch.long)}, "`audio_codes` must have shape"),
        (True, {"audio_codes": torch.zeros(1, 3, 2)}, "`audio_codes` must be integers"),
        (
            True,
            {"audio_codes": torch.zeros(1, 3, 2, dtype=torch.long), "audio_codes_mask": torch.ones(1, 3)},
            "The mask of `audio_codes` must be of shape",
        ),
        (
            False,
            {"audio_codes": torch.zeros(1, 3, 2, dtype=torch.long)},
            "`audio_codes` cannot be read by a contin",
        ),
        (False, {}, "`input_features` must be given"),
        (False, {"input_features": torch.rand(1, 5, 9)}, "`input_features` must be of shape"),
    ],
)
def test_what_cannot_be_heard_is_refused(is_codec, given, message):
    front_end = AudioFrontEnd(thinker_config(audio_config=jodio_config() if is_codec else audio_encoder_config()))
    with pytest.raises(ValueError, match=message):
        front_end(**given)


def test_an_audio_encoder_of_unknown_geometry_is_refused():
    with pytest.raises(ValueError, match="has no known number of features per clip"):
        AudioFrontEnd(thinker_config(audio_config=ViTConfig(**TOWER, **SQUARE)))


# Seeing


@TOWERS_AND_SELECTIONS
def test_image_features_are_the_towers_projected_and_as_many_as_promised(tower, select):
    front_end = vision_front_end(tower, select, projector_hidden_act="gelu")
    images = torch.rand(3, 3, 8, 8)
    rows, counts, _ = front_end("image", images, torch.tensor([[1, 2, 2]] * 3))
    whole = front_end.encoder(pixel_values=images).last_hidden_state
    chosen = whole[:, :1] if select == "cls" else whole[:, -4:]
    assert counts.tolist() == [front_end.config.get_num_image_tokens(8, 8)] * 3
    torch.testing.assert_close(rows, front_end.projector(chosen).flatten(0, 1))
    rows.square().sum().backward()
    assert_gradients(front_end)


@TOWERS_AND_SELECTIONS
def test_videos_are_seen_frame_by_frame_without_their_padding(tower, select):
    front_end = vision_front_end(tower, select)
    videos = torch.rand(2, 3, 3, 8, 8)
    videos[1, 2:] = torch.nan
    rows, counts, _ = front_end("video", videos, torch.tensor([[3, 2, 2], [2, 2, 2]]))
    assert counts.tolist() == [front_end.config.get_num_video_tokens(frames, 8, 8) for frames in (3, 2)]
    expected = [front_end("image", video[:frames]).rows for video, frames in zip(videos, (3, 2), strict=True)]
    torch.testing.assert_close(rows, torch.cat(expected), atol=1e-5, rtol=1e-4)
    rows, counts, _ = front_end("video", videos[:1])
    assert counts.tolist() == [front_end.config.get_num_video_tokens(3, 8, 8)]
    torch.testing.assert_close(rows, expected[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("modality", ["image", "video"])
def test_vision_codes_are_embedded_without_their_padding(modality):
    front_end = VisionFrontEnd(thinker_config(vision_config=jovio_config()))
    codes = torch.randint(7, (2, 3, 6))
    expected = front_end.code_embedding(codes)
    garbage = codes.clone()
    garbage[1, :, 2:] = -100
    rows, counts, _ = front_end(modality, grid_thw=torch.tensor([[1, 2, 3], [2, 1, 1]]), codes=garbage)
    sizes = [front_end.config.get_num_image_tokens(8, 12), front_end.config.get_num_video_tokens(3, 4, 4)]
    assert counts.tolist() == sizes == [6, 2]
    torch.testing.assert_close(rows, torch.cat((expected[0], expected[1, :2])))
    rows, counts, _ = front_end(modality, codes=codes[:, :2])
    assert counts.tolist() == [6, 6]
    torch.testing.assert_close(rows, front_end.code_embedding(codes[:, :2]).flatten(0, 1))


@pytest.mark.parametrize(
    ("is_codec", "modality", "given", "message"),
    [
        (True, "image", {"pixel_values": torch.rand(1, 3, 8, 8)}, "pass `image_codes`, or use `JosieForConditionalGen"),
        (
            True,
            "video",
            {"pixel_values": torch.rand(1, 2, 3, 8, 8)},
            "`pixel_values_videos`.*pass `video_codes`",
        ),
        (True, "image", {}, "`image_codes` must be given"),
        (True, "video", {"codes": torch.full((1, 3, 2), 7)}, r"`video_codes` must be in \[0, 6\]"),
        (
            True,
            "image",
            {"codes": torch.zeros(1, 3, 2, dtype=torch.long), "grid_thw": torch.tensor([1, 1, 2])},
            "`image_grid_thw` must be of shape \\(num_items, 3\\)",
        ),
        (
            True,
            "image",
            {"codes": torch.zeros(1, 3, 2, dtype=torch.long), "grid_thw": torch.tensor([[1, 1, 2]] * 2)},
            "The mask of `image_codes` must be of shape",
        ),
        (False, "image", {"codes": torch.zeros(1, 3, 2, dtype=torch.long)}, "`image_codes` cannot be read by a contin"),
        (False, "video", {}, "`pixel_values_videos` must be given"),
        (False, "image", {"pixel_values": torch.rand(3, 8, 8)}, "`pixel_values` must be of shape"),
        (False, "image", {"pixel_values": torch.rand(1, 3, 8, 12)}, "`pixel_values` must be of shape"),
        (False, "video", {"pixel_values": torch.rand(1, 3, 8, 8)}, "`pixel_values_videos` must be of shape"),
    ],
)
def test_what_cannot_be_seen_is_refused(is_codec, modality, given, message):
    front_end = VisionFrontEnd(thinker_config(vision_config=jovio_config() if is_codec else TOWERS["ours"]))
    with pytest.raises(ValueError, match=message):
        front_end(modality, **given)


def test_bfloat16_front_ends_take_float32_inputs():
    heard = AudioFrontEnd(thinker_config(audio_config=audio_encoder_config())).to(torch.bfloat16)
    rows, *_ = heard(torch.rand(2, 6, 9), torch.ones(2, 9))
    assert rows.dtype == torch.bfloat16
    assert rows.isfinite().all()
    for tower in TOWERS:
        rows, *_ = vision_front_end(tower).to(torch.bfloat16)("image", torch.rand(2, 3, 8, 8))
        assert rows.dtype == torch.bfloat16
        assert rows.isfinite().all()
