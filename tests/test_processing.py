"""Laws of the processor and its parts: every form of input gives the same tensors, counts agree, errors are named."""

import base64
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.utils import logging as transformers_logging

from josie.configuration_josie import (
    JodioConfig,
    JosieAudioEncoderConfig,
    JosieConfig,
    JosieMelCodecConfig,
    JosieThinkerConfig,
    JosieVisionEncoderConfig,
    JovioConfig,
)
from josie.processing_josie import (
    JosieDataCollator,
    JosieFeatureExtractor,
    JosieImageProcessor,
    JosieProcessor,
    JosieVideoProcessor,
    load_audio,
    resample,
    save_audio,
)
from josie.processing_josie.video import choose_frames
from josie.processing_josie.vision import fit_size
from josie.tokenization import load_default_tokenizer

DATA = Path(__file__).parent / "data"
SPEECH, PICTURE, VIDEO = DATA / "speech.wav", DATA / "picture.png", DATA / "video.mp4"
IMAGE_ID, VIDEO_ID, AUDIO_ID = 6, 7, 8
CONTEXT = 256
AUDIO_ENCODER = {"model_type": "josie_audio_encoder"}
TOWER = {"model_type": "josie_vision_encoder", "image_size": 48}


def thinker_config(**kwargs) -> JosieThinkerConfig:
    text = {"model_type": "josie_text", "max_position_embeddings": CONTEXT, "hidden_size": 16, "num_attention_heads": 2}
    ids = {"image_token_id": IMAGE_ID, "video_token_id": VIDEO_ID, "audio_token_id": AUDIO_ID}
    return JosieThinkerConfig(text_config=text, **ids, **kwargs)


@pytest.fixture(scope="module")
def tokenizer():
    return load_default_tokenizer()


@pytest.fixture(scope="module")
def processor(tokenizer):
    return JosieProcessor.from_config(
        JosieConfig(
            thinker_config=thinker_config(audio_config=AUDIO_ENCODER, vision_config=TOWER),
            audio_codec_config={"model_type": "josie_mel_codec", "sampling_rate": 8000},
        ),
        tokenizer,
    )


@pytest.fixture(scope="module")
def codec_processor(tokenizer):
    return JosieProcessor.from_config(
        thinker_config(audio_config={"model_type": "jodio"}, vision_config={"model_type": "jovio", "patch_size": 8}),
        tokenizer,
    )


def tone(seconds: float, rate: int = 16000, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def short(value: object) -> str:
    """Return a readable name for a test's parameter."""
    shape = getattr(value, "shape", None)
    return f"{value.dtype}{tuple(shape)}" if shape is not None else str(value).replace(str(DATA), "")[:30]


def count(ids: torch.Tensor, token_id: int) -> list[int]:
    return (ids == token_id).sum(dim=-1).tolist()


# Sound


def test_mel_is_the_reference():
    expected = load_file(DATA / "muomni" / "expected.safetensors")
    extractor = JosieFeatureExtractor.from_config(JosieAudioEncoderConfig())
    features = extractor(expected["audio.waveform"], sampling_rate=16000)["input_features"]
    torch.testing.assert_close(features.transpose(1, 2), expected["audio.mel"], rtol=1e-6, atol=1e-4)


def test_every_form_of_a_clip_gives_the_same_waveform():
    extractor = JosieFeatureExtractor("values")
    values, rate = soundfile.read(SPEECH, dtype="float32")
    integers, _ = soundfile.read(SPEECH, dtype="int16")
    expected = extractor(values, sampling_rate=rate)["input_values"]
    assert expected.shape == (1, 1, len(values))
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(values)[None], sample_rate=rate)
    )
    forms = [str(SPEECH), SPEECH, SPEECH.read_bytes(), SPEECH.with_suffix(".flac"), (values, rate), [values], decoder]
    forms += [
        {"array": values, "sampling_rate": rate},
        {"path": str(SPEECH)},
        {"bytes": SPEECH.read_bytes(), "path": "x"},
    ]
    forms += [
        values.tolist(),
        torch.from_numpy(values),
        integers,
        np.stack([values, values]),
        np.stack([values] * 2, 1),
    ]
    for form in forms:
        torch.testing.assert_close(extractor(form, sampling_rate=rate)["input_values"], expected, rtol=0, atol=1e-6)
    with SPEECH.open("rb") as file:
        torch.testing.assert_close(extractor(file)["input_values"], expected, rtol=0, atol=1e-6)


def test_integers_are_scaled_to_one():
    extractor = JosieFeatureExtractor("values")
    for values in (
        np.array([-(2**15), 2**14], np.int16),
        np.array([-(2**31), 2**30], np.int32),
        np.array([0, 192], np.uint8),
    ):
        assert extractor(values, sampling_rate=16000)["input_values"].flatten().tolist() == [-1.0, 0.5]


def test_stereo_is_averaged_for_one_channel_and_mono_repeated_for_two():
    left, right = tone(0.1), tone(0.1, pitch=333)
    mono = JosieFeatureExtractor("values")((np.stack([left, right]), 16000))["input_values"][0]
    np.testing.assert_allclose(mono[0], (left + right) / 2, atol=1e-6)
    stereo = JosieFeatureExtractor("values", num_channels=2)
    assert stereo((np.stack([left, right]), 16000))["input_values"].shape == (1, 2, 1600)
    np.testing.assert_array_equal(stereo((left, 16000))["input_values"][0], np.stack([left, left]))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101])
def test_any_rate_is_resampled(rate):
    waveform = resample(tone(0.5, rate), rate, 16000)
    assert abs(len(waveform) - 8000) <= 1
    middle = slice(1000, 7000)
    np.testing.assert_allclose(waveform[middle], tone(0.5)[: len(waveform)][middle], atol=0.02)


@pytest.mark.parametrize("num_samples", [1, 2, 159, 160, 161, 511, 512, 513, 5000])
@pytest.mark.parametrize("log_mel", [False, True])
def test_frames_are_as_the_configuration_counts_for_any_length(num_samples, log_mel):
    config = JosieAudioEncoderConfig(log_mel=log_mel)
    features = JosieFeatureExtractor.from_config(config)((tone(1)[:num_samples], 16000))["input_features"]
    assert features.shape == (1, 128, config.get_num_mel_frames(num_samples))
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("output", ["features", "values"])
def test_a_clip_in_a_batch_is_the_clip_alone(output):
    extractor = JosieFeatureExtractor(output)
    clips = [(tone(length), 16000) for length in (0.31, 0.01, 0.5)]
    batch, mask = extractor(clips).values()
    for row, clip in enumerate(clips):
        alone = extractor(clip)[extractor.model_input_names[0]][0]
        length = int(mask[row].sum())
        torch.testing.assert_close(batch[row, :, :length], alone, rtol=0, atol=0)
        assert not batch[row, :, length:].any()
        assert not mask[row, length:].any()


def test_feature_extractor_of_each_front_end():
    extractor = JosieFeatureExtractor.from_config(JodioConfig(audio_channels=2))
    assert (extractor.output, extractor.sampling_rate, extractor.num_channels) == ("values", 24000, 2)
    assert JosieFeatureExtractor.from_config(JosieMelCodecConfig()).model_input_names == [
        "input_values",
        "padding_mask",
    ]
    whisper = JosieFeatureExtractor.from_config(WhisperConfig(num_mel_bins=40, max_source_positions=100))
    assert isinstance(whisper, WhisperFeatureExtractor)
    assert whisper.n_samples == 2 * 16000
    with pytest.raises(ValueError, match="`audio_config` of type 'josie_vision_encoder'"):
        JosieFeatureExtractor.from_config(JosieVisionEncoderConfig())


@pytest.mark.parametrize(
    ("audio", "rate", "match"),
    [
        (np.zeros(9), None, "`sampling_rate` must be given"),
        (np.zeros(9), 0, "`sampling_rate` must be a positive integer in Hz, got 0"),
        (np.zeros(9), -8000, "got -8000"),
        (np.zeros(9), 16000.5, "got 16000.5"),
        ((np.zeros(9), 0), None, "got 0"),
        (np.zeros(0), 16000, "at least one sample"),
        (np.zeros((2, 0)), 16000, "at least one sample"),
        (np.array([0.0, np.nan]), 16000, "must be finite"),
        (torch.tensor([0.0, torch.inf]), 16000, "must be finite"),
        (np.zeros((3, 100)), 16000, r"1 or 2 channels, got \(3, 100\)"),
        (np.zeros((1, 2, 100)), 16000, r"1 or 2 channels, got \(1, 2, 100\)"),
        (np.zeros(9, np.int64), 16000, "got int64"),
        (np.zeros(9, bool), 16000, "got bool"),
        ("nowhere.wav", None, "`audio` must be an existing file, got 'nowhere.wav'"),
        ("https://example.com/a.wav", None, "offline mode.*got 'https://example.com/a.wav'"),
        (b"", None, "must not be empty"),
        (b"no sound at all", None, "readable sound file"),
        ("data:audio/wav;base64,???", None, "valid base64"),
        ({"rate": 3}, None, "as a dict must have"),
        ([], 16000, "at least one clip"),
        ([[np.zeros(9), np.zeros(8)]], 16000, "rows of different lengths"),
    ],
    ids=short,
)
def test_bad_sound_is_refused(audio, rate, match):
    with pytest.raises(ValueError, match=match):
        JosieFeatureExtractor()(audio, sampling_rate=rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("part", [0.1, 0.6])
def test_a_sound_file_that_is_cut_short_is_refused(suffix, part):
    content = SPEECH.with_suffix(suffix).read_bytes()
    with pytest.raises(ValueError, match="`audio` must be a (complete|readable) sound file"):
        load_audio(content[: int(part * len(content))])


def test_a_sound_file_with_three_channels_or_nothing_in_it_is_refused():
    for shape, match in (((100, 3), "1 or 2 channels, got 3"), ((0, 1), "at least one sample")):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(shape), 16000, format="WAV")
        with pytest.raises(ValueError, match=match):
            load_audio(file.getvalue())


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_saved_sound_is_read_again(tmp_path, name):
    save_audio(tmp_path / name, torch.from_numpy(tone(0.3, 24000))[None], 24000)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    np.testing.assert_allclose(load_audio(tmp_path / name, 24000), tone(0.3, 24000), atol=0.02)
    assert abs(len(load_audio(tmp_path / name, 16000)) - 4800) <= 1


@pytest.mark.parametrize(
    ("name", "values", "rate", "match"),
    [
        ("a.xyz", tone(0.1), 16000, "`path` must end in"),
        ("none/a.wav", tone(0.1), 16000, "existing folder"),
        ("a.wav", np.array([np.nan]), 16000, "`values` must be finite"),
        ("a.wav", np.zeros(0), 16000, "`values` must have at least one sample"),
        ("a.wav", tone(0.1), 0, "`sampling_rate` must be a positive"),
        ("a.ogg", tone(0.1), 2_000_000, "`sampling_rate` must be at most 200000 Hz for OGG, got 2000000"),
        ("a.flac", tone(0.1), 2_000_000, "`path` must be writable as FLAC at 2000000 Hz"),
    ],
    ids=["format", "folder", "nan", "empty", "rate", "crash", "unwritable"],
)
def test_saving_leaves_nothing_half_written(tmp_path, name, values, rate, match):
    (tmp_path / "a.wav").write_bytes(b"what was here before")
    with pytest.raises(ValueError, match=match):
        save_audio(tmp_path / name, values, rate)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == b"what was here before"


# Sight


def test_every_form_of_a_picture_gives_the_same_pixels():
    image_processor = JosieImageProcessor()
    picture = Image.open(PICTURE).convert("RGB")
    array = np.array(picture)
    expected = image_processor(picture)["pixel_values"]
    assert expected.shape == (1, 3, 224, 224)
    assert expected.dtype == torch.float32
    assert expected.min() >= 0
    assert expected.max() <= 1
    forms = [str(PICTURE), PICTURE, PICTURE.read_bytes(), [picture], [[picture]], array, array[None], array / 255]
    forms += [array.transpose(2, 0, 1), torch.from_numpy(array).permute(2, 0, 1), picture.convert("RGBA")]
    for form in forms:
        torch.testing.assert_close(image_processor(form)["pixel_values"], expected, rtol=0, atol=1e-6)


def test_pixels_are_pillows_up_to_its_rounding():
    picture = Image.open(PICTURE).convert("RGB")
    for resample_filter in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        pillow = np.asarray(picture.resize((224, 224), resample_filter)).transpose(2, 0, 1) / 255
        pixels = JosieImageProcessor(resample=resample_filter)(picture)["pixel_values"][0]
        np.testing.assert_allclose(pixels, pillow, atol=2.5 / 255)


def test_grey_transparent_and_deep_pictures_become_colours():
    image_processor = JosieImageProcessor(size={"height": 2, "width": 2})
    for picture, value in (
        (Image.new("L", (2, 2), 51), 0.2),
        (Image.new("1", (2, 2), 1), 1.0),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), 1.0),
        (Image.fromarray(np.full((2, 2), 13107, np.uint16)), 0.2),
        (np.full((2, 2), 51, np.uint8), 0.2),
    ):
        pixels = image_processor(picture)["pixel_values"]
        torch.testing.assert_close(pixels, torch.full((1, 3, 2, 2), value))
    grey = JosieImageProcessor(size={"height": 2, "width": 2}, num_channels=1)
    assert grey(Image.new("RGB", (2, 2), (255, 0, 0)))["pixel_values"].flatten()[0] == pytest.approx(0.299)


def test_normalisation_and_scale():
    black = np.zeros((4, 4, 3), np.uint8)
    image_processor = JosieImageProcessor(do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.5, 0.1])
    assert image_processor(black)["pixel_values"][0, :, 0, 0].tolist() == pytest.approx([-1, -0.8, -3])
    assert JosieImageProcessor(do_rescale=False)(black + 255)["pixel_values"].max() == 255


def test_codec_pictures_keep_their_shape_and_are_padded():
    config = JovioConfig(patch_size=8)
    image_processor = JosieImageProcessor.from_config(config, max_patches=50)
    pixels, grid = image_processor(
        [np.zeros((33, 47, 3), np.uint8) + 255, np.zeros((300, 100, 3), np.uint8) + 255]
    ).values()
    assert grid[0].tolist() == [1, 4, 6]
    assert pixels.shape[2] == 8 * grid[:, 1].max()
    for picture, (_, rows, columns) in zip(pixels, grid.tolist(), strict=True):
        assert config.get_num_patches(1, 8 * rows, 8 * columns) <= 50
        assert picture.sum() == picture[:, : 8 * rows, : 8 * columns].sum() == 3 * 64 * rows * columns


def test_fitted_sizes_are_multiples_between_the_bounds():
    generator = np.random.default_rng(0)
    for height, width in np.exp(generator.uniform(0, 8.5, (300, 2))).astype(int):
        sides = fit_size(height, width, 14, 14 * 14 * 16, 14 * 14 * 100)
        assert all(side % 14 == 0 for side in sides)
        assert 16 <= sides[0] * sides[1] // 196 <= 100 or max(height, width) > 16 * min(height, width)
        assert sides[0] * sides[1] // 196 <= 100


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.full((4, 4, 3), np.nan), "must be finite"),
        (np.full((4, 4, 3), 7.0), r"in \[0, 1\], got values from 7 to 7"),
        (np.zeros((4, 4, 3), np.int64), "uint8 or floating point, got int64"),
        (np.zeros((5, 5, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros(4), "`images` must be pictures"),
        (3, "`images` must be pictures"),
        ([], "at least one picture"),
        ("nowhere.png", "existing file, got 'nowhere.png'"),
        ("http://example.com/a.png", "offline mode.*got 'http://example.com/a.png'"),
        (b"no picture", "which is none"),
        (SPEECH, "which is none"),
    ],
    ids=short,
)
def test_bad_pictures_are_refused(images, match):
    with pytest.raises(ValueError, match=match):
        JosieImageProcessor()(images)


def test_a_picture_that_is_cut_short_or_empty_is_refused():
    content = PICTURE.read_bytes()
    with pytest.raises(ValueError, match="`images` must be readable pictures, got 600 bytes"):
        JosieImageProcessor()(content[:600])
    with pytest.raises(ValueError, match="at least one pixel, got 0 x 5"):
        JosieImageProcessor()(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"size": {"height": 0, "width": 4}}, "`size` must have positive"),
        ({"size": {"shortest_edge": 4}}, "`size` must have 'height'"),
        ({"size": {"min_pixels": 9, "max_pixels": 4}}, "in order"),
        ({"resample": 0}, "`resample` must be"),
        ({"num_channels": 4}, "`num_channels` must be 1 or 3, got 4"),
        ({"patch_size": 0}, "`patch_size` must be at least 1"),
    ],
    ids=short,
)
def test_bad_picture_settings_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        JosieImageProcessor(**kwargs)
    with pytest.raises(ValueError, match=match):
        JosieImageProcessor()(PICTURE, **kwargs)


def test_unresized_pictures_must_fit_the_patches():
    with pytest.raises(ValueError, match=r"multiples of `patch_size` \(16\)"):
        JosieImageProcessor(do_resize=False)(np.zeros((17, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="must be one of .*'colour'"):
        JosieImageProcessor()(PICTURE, colour=3)


def test_frames_are_chosen_evenly():
    assert choose_frames(24, 12, 2.0, None, 32) == [3, 9, 15, 21]
    assert choose_frames(24, 12, None, 3, 32) == [4, 12, 20]
    assert choose_frames(24, None, 2.0, None, 32) == list(range(24))
    assert choose_frames(24, None, None, None, 5) == [2, 7, 12, 16, 21]
    assert choose_frames(3, 30, 1.0, None, 32) == [1]
    assert choose_frames(2, None, None, 9, 32) == [0, 1]


def test_every_form_of_a_video_gives_the_same_frames():
    video_processor = JosieVideoProcessor(size={"height": 64, "width": 96}, fps=None)
    with av.open(str(VIDEO)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    expected, grid = video_processor(frames).values()
    assert expected.shape == (1, 24, 3, 64, 96)
    assert grid.tolist() == [[24, 4, 6]]
    np.testing.assert_allclose(expected[0], frames.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    forms = [str(VIDEO), VIDEO, VIDEO.read_bytes(), [VIDEO], frames[None], frames.transpose(0, 3, 1, 2)]
    forms += [torch.from_numpy(frames), [Image.fromarray(frame) for frame in frames], list(frames), frames / 255]
    for form in forms:
        torch.testing.assert_close(video_processor(form)["pixel_values_videos"], expected, rtol=0, atol=1e-6)


def test_animations_need_no_decoder(tmp_path):
    frames = [Image.new("RGB", (16, 16), (20 * index, 0, 0)) for index in range(10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    video_processor = JosieVideoProcessor(size={"height": 16, "width": 16}, fps=5)
    pixels = video_processor(tmp_path / "a.gif")["pixel_values_videos"][0, :, 0, 0, 0]
    np.testing.assert_allclose(255 * pixels, [20, 60, 100, 140, 180], atol=4)


def test_codec_videos_fill_their_last_patch_with_their_last_frame():
    video_processor = JosieVideoProcessor.from_config(JovioConfig(patch_size=8, temporal_patch_size=4), 16)
    short, long = torch.rand(5, 3, 32, 32), torch.rand(9, 3, 16, 32)
    pixels, grid = video_processor([short, long]).values()
    assert grid.tolist() == [[2, 4, 4], [3, 2, 4]]
    assert pixels.shape == (2, 12, 3, 32, 32)
    assert (pixels[0, 4:8] == short[4]).all()
    assert not pixels[0, 8:].any()


def test_frames_can_be_chosen_at_the_call():
    video_processor = JosieVideoProcessor()
    assert video_processor(VIDEO)["video_grid_thw"][0, 0] == 4
    assert video_processor(VIDEO, fps=1)["video_grid_thw"][0, 0] == 2
    assert video_processor(VIDEO, num_frames=7)["video_grid_thw"][0, 0] == 7
    assert video_processor(VIDEO, do_sample_frames=False)["video_grid_thw"][0, 0] == 24
    with pytest.raises(ValueError, match="`num_frames` and `fps` must not both be given"):
        video_processor(VIDEO, num_frames=3, fps=2)


@pytest.mark.parametrize(
    ("videos", "match"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one frame, got 0"),
        (np.zeros((2, 0, 4, 3), np.uint8), "at least one pixel"),
        (np.full((2, 4, 4, 3), np.nan), "must be finite"),
        ([np.zeros((4, 4, 3)), np.zeros((5, 4, 3))], "frames of one size"),
        (np.zeros((4, 4, 3)), "`videos` must be lists of pictures"),
        ([], "at least one video"),
        ("nowhere.mp4", "existing file"),
        ("https://example.com/a.mp4", "offline mode"),
        (b"", "must not be empty"),
        (b"no video at all", "`videos` must be readable, got 15 bytes"),
        (SPEECH, "`videos` must have a picture track"),
        (VIDEO.read_bytes()[:1500], "`videos` must be (readable|complete), got 1500 bytes"),
    ],
    ids=short,
)
def test_bad_videos_are_refused(videos, match):
    with pytest.raises(ValueError, match=match):
        JosieVideoProcessor()(videos)


def test_a_missing_decoder_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"josie\[video\]"):
        JosieVideoProcessor()(VIDEO)


def test_towers_of_transformers_are_normalised():
    from transformers import SiglipVisionConfig

    options = JosieImageProcessor.from_config(SiglipVisionConfig(image_size=32, patch_size=8))
    assert (dict(options.size), options.patch_size, options.do_normalize) == ({"height": 32, "width": 32}, 8, True)
    assert options(np.zeros((4, 4, 3), np.uint8))["pixel_values"].max() == -1


# The processor


def test_text_alone(processor, tokenizer):
    output = processor(text=["Hello", "Hello there, you"])
    assert sorted(output) == ["attention_mask", "input_ids"]
    assert output["attention_mask"][0].tolist() == [0] * int((1 - output["attention_mask"][0]).sum()) + [1, 1]
    assert processor.batch_decode(output["input_ids"], skip_special_tokens=True) == ["Hello", "Hello there, you"]
    assert output["input_ids"][1].tolist() == tokenizer("Hello there, you")["input_ids"]
    assert processor(text="Hi", add_special_tokens=False)["input_ids"][0, 0] != tokenizer.bos_token_id


def test_inputs_of_plain_text_go_in_front_of_it_in_order(processor, tokenizer):
    output = processor(text="Hi", images=PICTURE, videos=VIDEO, audio=SPEECH)
    frames = processor.thinker_config.get_num_video_tokens(4, 48, 48)
    clip = processor.thinker_config.get_num_audio_tokens(int(output["input_features_mask"].sum()))
    expected = [IMAGE_ID] + [VIDEO_ID] * frames + [AUDIO_ID] * clip + tokenizer("Hi")["input_ids"]
    assert output["input_ids"][0].tolist() == expected
    assert set(output) <= set(processor.model_input_names)
    assert set(processor.model_input_names) == set(output)


def test_placeholders_are_expanded_where_they_stand(processor, tokenizer):
    output = processor(text="See <|image|>, hear <|audio|>!", images=PICTURE, audio=(tone(0.1), 16000))
    clip = processor.thinker_config.get_num_audio_tokens(11)
    text = f"See <|image|>, hear {'<|audio|>' * clip}!"
    assert output["input_ids"][0].tolist() == tokenizer(text)["input_ids"]


def test_placeholder_counts_agree_with_what_codecs_give(codec_processor):
    config, rate = codec_processor.thinker_config, 24000
    clips = [(tone(seconds, rate), rate) for seconds in (0.3, 0.7, 0.01)]
    pictures = [np.zeros((20, 30, 3), np.uint8), np.zeros((64, 16, 3), np.uint8)]
    output = codec_processor(
        text=["<|audio|><|image|>a<|audio|>", "<|image|><|video|>", "b <|audio|>"],
        audio=clips,
        images=pictures,
        videos=[np.zeros((3, 16, 24, 3), np.uint8)],
    )
    frames = [config.audio_config.get_num_frames(int(mask.sum())) for mask in output["padding_mask"]]
    assert count(output["input_ids"], AUDIO_ID) == [frames[0] + frames[1], 0, frames[2]]
    assert count(output["input_ids"], IMAGE_ID) == [*output["image_grid_thw"].prod(dim=-1).tolist(), 0]
    assert count(output["input_ids"], VIDEO_ID) == [0, int(output["video_grid_thw"].prod()), 0]
    assert output["input_values"].shape == (3, 1, round(0.7 * rate))


def test_rows_of_a_batch_are_the_rows_alone(processor):
    texts = ["One <|image|> and <|image|>", "none", "two"]
    pictures = [[PICTURE, np.zeros((9, 9, 3))], [], [PICTURE]]
    clips = [[], [(tone(0.4), 16000)], [(tone(0.1), 8000)]]
    batch = processor(text=texts, images=pictures, audio=clips)
    for row in range(3):
        alone = processor(text=texts[row], images=pictures[row] or None, audio=clips[row] or None)
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert ids.tolist() == alone["input_ids"][0].tolist()
    assert len(batch["pixel_values"]) == 3
    assert len(batch["input_features"]) == 2


def test_one_input_for_each_text(processor):
    output = processor(text=["a", "b"], images=[PICTURE, PICTURE], audio=[SPEECH, (tone(0.1, 44100), 44100)])
    assert count(output["input_ids"], IMAGE_ID) == [1, 1]
    assert len(set(count(output["input_ids"], AUDIO_ID))) == 2
    assert processor(images=PICTURE)["input_ids"].tolist() == [[IMAGE_ID, 1]]
    assert processor(images=[[PICTURE], [PICTURE, PICTURE]])["input_ids"].tolist() == [[0, 6, 1], [6, 6, 1]]


def test_padding_can_be_chosen(processor):
    texts = ["a", "b c d e f"]
    output = processor(text=texts, padding_side="right", pad_to_multiple_of=8)
    assert output["input_ids"].shape == (2, 8)
    assert output["attention_mask"][0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert processor(text=texts, padding="max_length", max_length=11)["input_ids"].shape == (2, 11)
    rows = processor(text=texts, padding=False, return_tensors=None)["input_ids"]
    assert [len(row) for row in rows] == [2, 6]


def test_truncated_rows_have_max_length(processor):
    cut = processor(text=["a b c d e f", "a"], truncation=True, max_length=4)
    assert cut["attention_mask"].sum(dim=1).tolist() == [4, 2]
    assert cut["input_ids"][0].tolist() == processor(text="a b c d e f")["input_ids"][0, :4].tolist()
    seen = processor(text="a b c d e f", images=PICTURE, truncation=True, max_length=4)["input_ids"][0].tolist()
    assert len(seen) == 4
    assert seen[:2] == [IMAGE_ID, 1]


def test_a_long_clip_is_cut_to_its_share_and_said_so(processor):
    record, handler = [], logging.Handler()
    handler.emit = lambda entry: record.append(entry.getMessage())
    named = transformers_logging.get_logger("josie.processing_josie.processor")
    named.addHandler(handler)
    try:
        output = processor(text="What?", audio=(tone(4), 16000))
    finally:
        named.removeHandler(handler)
    assert count(output["input_ids"], AUDIO_ID) == [CONTEXT // 4]
    assert record == [
        "`audio` clip 0 is too long for its share of the context: kept 64 of 101 features (2.53 of 4.00 s)."
    ]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, "must be given, got none"),
        ({"text": 3}, "`text` must be a string or a list"),
        ({"text": []}, "`text` must be a string or a list"),
        ({"text": "<|image|><|image|>", "images": PICTURE}, r"`images` must be as many as .*\(2\), got 1 in row 0"),
        ({"text": "<|image|>"}, r"\(1\), got 0"),
        ({"text": "<|audio|>", "images": PICTURE, "audio": SPEECH}, r"\(0\), got 1"),
        ({"text": ["a", "b"], "images": PICTURE}, "`images` must be 2, one for each text, or a list for each, got 1"),
        ({"text": ["a", "b<|image|>"], "images": [PICTURE] * 2}, r"as many as their placeholders \(1\), got 2"),
        ({"text": ["a", "b"], "images": [[PICTURE]]}, "`images` must be a list of 2, one for each text, got 1"),
        ({"text": "a", "audio": np.zeros(900)}, "`sampling_rate` must be given"),
        ({"text": "a", "audio": np.zeros(900), "sampling_rate": 0}, "`sampling_rate` must be a positive integer"),
        ({"text": "word " * 300}, f"at most {CONTEXT} tokens long, the context, got"),
        (
            {"text": "a b c d <|image|>", "images": PICTURE, "truncation": True, "max_length": 2},
            r"`max_length` must leave all 1 <\|image\|>",
        ),
        (
            {"text": "a", "images": [PICTURE, PICTURE], "truncation": True, "max_length": 2},
            "`max_length` must be at least 3, for what goes in front of row 0, got 2",
        ),
        ({"text": "a", "images": 3}, "`images` must be files, arrays"),
        ({"text": "a", "padding": "max_length"}, "`max_length` must be given"),
    ],
    ids=short,
)
def test_bad_calls_are_refused(processor, kwargs, match):
    with pytest.raises(ValueError, match=match):
        processor(**kwargs)


def test_a_model_that_is_deaf_or_blind_takes_no_such_input(tokenizer, tmp_path):
    blind = JosieProcessor.from_config(thinker_config(audio_config=AUDIO_ENCODER), tokenizer)
    with pytest.raises(ValueError, match="`images` must be None, as this model takes no image"):
        blind(text="a", images=PICTURE)
    deaf = JosieProcessor.from_config(thinker_config(), tokenizer)
    with pytest.raises(ValueError, match="`audio` must be None"):
        deaf(text="a", audio=SPEECH)
    for each, name in ((blind, "blind"), (deaf, "deaf")):
        each.save_pretrained(tmp_path / name)
        loaded = AutoProcessor.from_pretrained(tmp_path / name)
        assert loaded.get_attributes() == each.get_attributes()
        assert loaded.to_dict() == each.to_dict()
        assert repr(loaded)


def test_parts_that_must_be_there(tokenizer):
    with pytest.raises(ValueError, match="`tokenizer` must be given"):
        JosieProcessor(thinker_config=thinker_config())
    with pytest.raises(ValueError, match="`thinker_config` must be given"):
        JosieProcessor(tokenizer=tokenizer)
    config = thinker_config(audio_config=AUDIO_ENCODER)
    config.audio_token_id = 10**6
    with pytest.raises(ValueError, match=r"`audio_token_id` must be in the vocabulary, \[0, 8192\), got 1000000"):
        JosieProcessor.from_config(config, tokenizer)


def test_ids_that_the_model_does_not_have_are_refused(tokenizer):
    config = thinker_config()
    config.text_config.vocab_size = 80
    with pytest.raises(ValueError, match=r"below the model's `vocab_size` \(80\), got 80"):
        JosieProcessor.from_config(config, tokenizer)(text="h")


@pytest.mark.parametrize("fixture", ["processor", "codec_processor"])
def test_saved_processor_loads_equal_whole_and_in_parts(fixture, request, tmp_path):
    processor = request.getfixturevalue(fixture)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, JosieProcessor)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.output_sampling_rate == processor.output_sampling_rate
    inputs = {"text": "Hi", "images": PICTURE, "videos": VIDEO, "audio": (tone(0.2), 16000)}
    for name, expected in processor(**inputs).items():
        torch.testing.assert_close(loaded(**inputs)[name], expected, rtol=0, atol=0)
    for auto, name in (
        (AutoFeatureExtractor, "feature_extractor"),
        (AutoImageProcessor, "image_processor"),
        (AutoVideoProcessor, "video_processor"),
        (AutoTokenizer, "tokenizer"),
    ):
        part = getattr(processor, name)
        assert type(auto.from_pretrained(tmp_path)).__name__ == type(part).__name__
        part.save_pretrained(tmp_path / name)
        again = auto.from_pretrained(tmp_path / name)
        if name != "tokenizer":
            assert again.to_dict() == part.to_dict()


def test_whisper_as_the_ear(tokenizer, tmp_path):
    whisper = {"model_type": "whisper", "num_mel_bins": 20, "max_source_positions": 50}
    processor = JosieProcessor.from_config(thinker_config(audio_config=whisper), tokenizer)
    processor.save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    output = processor(text="Hi", audio=[(tone(0.5), 16000)])
    assert output["input_features"].shape == (1, 20, 100)
    assert output["input_features_mask"].shape == (1, 100)
    assert count(output["input_ids"], AUDIO_ID) == [50]
    assert output["attention_mask"].shape == output["input_ids"].shape


def chat(image: dict, video: dict, audio: dict) -> list[dict]:
    parts = [{"type": "image", **image}, {"type": "video", **video}, {"type": "audio", **audio}]
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]},
    ]


def test_chat_with_every_kind_of_part(processor, tokenizer):
    files = chat({"path": str(PICTURE)}, {"url": str(VIDEO)}, {"path": str(SPEECH)})
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    output = processor.apply_chat_template(files, **options)
    text = processor.apply_chat_template(files, add_generation_prompt=True)
    expected = processor(text=text, images=PICTURE, videos=VIDEO, audio=SPEECH)
    assert sorted(output) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, rtol=0, atol=0)
    assert count(output["input_ids"], tokenizer.bos_token_id) == [1]
    values, rate = soundfile.read(SPEECH, dtype="float32")
    encoded = {"base64": base64.b64encode(PICTURE.read_bytes()).decode()}
    arrays = chat(encoded, {"video": str(VIDEO)}, {"audio": values, "sampling_rate": rate})
    torch.testing.assert_close(processor.apply_chat_template(arrays, **options)["input_ids"], output["input_ids"])
    batch = processor.apply_chat_template([files, arrays[:1]], **options)
    assert count(batch["input_ids"], IMAGE_ID) == [1, 0]


def test_chat_masks_what_the_assistant_says_past_expanded_placeholders(processor, tokenizer):
    answered = [*chat({"path": str(PICTURE)}, {"path": str(VIDEO)}, {"path": str(SPEECH)})]
    answered += [{"role": "assistant", "content": "A red ball."}]
    short = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    output = processor.apply_chat_template(
        [answered, short], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [ids[mask.bool()] for ids, mask in zip(output["input_ids"], output["assistant_masks"], strict=True)]
    assert tokenizer.batch_decode(said) == ["A red ball.<|end|>", "Ho<|end|>"]
    continued = processor.apply_chat_template(answered, tokenize=True, return_dict=True, continue_final_message=True)
    assert tokenizer.decode(continued["input_ids"][0]).endswith("<|assistant|>A red ball.")


def test_chat_refuses_sounds_without_a_rate_and_parts_without_an_input(processor):
    options = {"tokenize": True, "return_dict": True}
    with pytest.raises(ValueError, match="`sampling_rate` must be given"):
        processor.apply_chat_template(chat({"path": PICTURE}, {"path": VIDEO}, {"audio": tone(0.1)}), **options)
    with pytest.raises(ValueError, match="A content part of type 'image' must have 'image'"):
        processor.apply_chat_template(chat({}, {"path": VIDEO}, {"audio": SPEECH}), **options)
    with pytest.raises(ValueError, match="`load_audio_from_video` must be False"):
        processor.apply_chat_template([{"role": "user", "content": "a"}], load_audio_from_video=True, **options)


def test_words_that_look_like_placeholders_can_be_kept_as_words(processor):
    message = [{"role": "user", "content": [{"type": "text", "text": "What does <|image|> mean?"}]}]
    output = processor.apply_chat_template(message, tokenize=True, return_dict=True, sanitize_control_tokens=True)
    assert count(output["input_ids"], IMAGE_ID) == [0]


def test_fetched_files_keep_their_rate(processor):
    clips = processor.feature_extractor.fetch_audio([str(SPEECH), [(tone(0.1, 8000), 8000)]])
    assert clips[0]["sampling_rate"] == 16000
    assert clips[1][0][1] == 8000
    direct = processor(text="a", audio=SPEECH)["input_features"]
    torch.testing.assert_close(processor(text="a", audio=clips[:1])["input_features"], direct, rtol=0, atol=0)


def test_outputs_become_text_or_waveforms(processor, tokenizer, tmp_path):
    ids = tokenizer(["A red ball", "Yes"], padding=True, return_tensors="pt")["input_ids"]
    assert processor.post_process_multimodal_output(ids) == ["A red ball", "Yes"]
    assert processor.post_process_multimodal_output(ids[0], skip_special_tokens=False) == ["<|begin|>A red ball"]
    output = SimpleNamespace(sequences=ids, audio_values=torch.rand(2, 1, 900), audio_lengths=torch.tensor([900, 0]))
    assert processor.post_process_multimodal_output(output, generation_mode="text") == ["A red ball", "Yes"]
    clips = processor.post_process_multimodal_output(output, generation_mode="audio")
    assert [clip.shape for clip in clips] == [(900,), (0,)]
    np.testing.assert_array_equal(clips[0], output.audio_values[0, 0])
    processor.save_audio(clips[0], tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").samplerate == 8000
    processor.save_audio([clips[0]] * 2, [tmp_path / "b.wav", tmp_path / "c.wav"], sampling_rate=16000)
    assert soundfile.info(tmp_path / "c.wav").samplerate == 16000


def test_bad_outputs_are_refused(processor, codec_processor, tokenizer, tmp_path):
    ids = tokenizer(["Yes"], return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="`generation_mode` must be 'text' or 'audio', got 'image'"):
        processor.post_process_multimodal_output(ids, generation_mode="image")
    with pytest.raises(ValueError, match="`generated_outputs` must have `audio_values`"):
        processor.post_process_multimodal_output(ids, generation_mode="audio")
    with pytest.raises(ValueError, match=r"`path` must be as many as `audio` \(2\), got 1"):
        processor.save_audio([tone(0.1)] * 2, tmp_path / "a.wav")
    with pytest.raises(ValueError, match="`sampling_rate` must be given"):
        codec_processor.save_audio(tone(0.1), tmp_path / "a.wav")


def test_everything_works_where_torchvision_is_missing(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import josie.processing_josie\n"
        "from transformers import AutoProcessor\n"
        f"processor = AutoProcessor.from_pretrained({str(tmp_path)!r})\n"
        f"output = processor(text='Hi', images={str(PICTURE)!r}, videos={str(VIDEO)!r})\n"
        "print(type(processor).__name__, output['pixel_values'].shape[1], output['pixel_values_videos'].shape[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.split() == ["JosieProcessor", "3", "4"], ran.stderr


# Batches for training


def test_collator_joins_examples_of_all_kinds(processor):
    clip = processor(text="Hear", audio=(tone(0.3), 16000))
    pictures = processor(text="See this here", images=[PICTURE, PICTURE])
    clip |= {"labels": clip["input_ids"].clone(), "speech_codes": torch.ones(3, 4, dtype=torch.long)}
    pictures = {name: value[0] if name == "input_ids" else value for name, value in pictures.items()}
    longer = dict(processor(text="Hear", audio=(tone(0.5), 16000))) | {
        "speech_codes": torch.zeros(1, 3, 6, dtype=torch.long)
    }
    batch = JosieDataCollator(processor)([dict(clip), pictures, longer])
    length = max(clip["input_ids"].shape[1], len(pictures["input_ids"]), longer["input_ids"].shape[1])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (3, length)
    assert (batch["labels"][0] == -100).sum() == length - clip["input_ids"].shape[1]
    assert (batch["labels"][1:] == -100).all()
    assert batch["attention_mask"].sum(dim=-1).tolist() == [
        clip["input_ids"].shape[1],
        len(pictures["input_ids"]),
        longer["input_ids"].shape[1],
    ]
    assert batch["input_features"].shape == (2, 128, 51)
    assert batch["input_features_mask"].sum(dim=-1).tolist() == [31, 51]
    torch.testing.assert_close(batch["input_features"][0, :, :31], clip["input_features"][0])
    assert batch["pixel_values"].shape == (2, 3, 48, 48)
    assert batch["speech_codes"].shape == (3, 3, 6)
    assert (batch["speech_codes"] == -100).sum(dim=(1, 2)).tolist() == [6, 18, 0]
    right = JosieDataCollator(processor, padding_side="right")([dict(clip), pictures])
    assert right["attention_mask"][1].tolist() == sorted(right["attention_mask"][1].tolist(), reverse=True)


def test_collator_joins_what_the_talker_reads(processor):
    features = [
        {"input_ids": [1, 2], "speech_mask": [0, 1], "speaker_ids": 1},
        {"input_ids": [1, 2, 3], "speech_mask": [0, 1, 1], "speaker_ids": [0]},
    ]
    batch = JosieDataCollator(processor)(features)
    assert batch["speech_mask"].tolist() == [[0, 0, 1], [0, 1, 1]]
    assert batch["speaker_ids"].tolist() == [1, 0]


def test_collator_refuses_examples_that_do_not_fit(processor):
    collator = JosieDataCollator(processor)
    ids = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="`features` must be examples with `input_ids`"):
        collator([])
    with pytest.raises(ValueError, match=r"`labels` must be as long as its `input_ids` \(2\), got 1"):
        collator([{"input_ids": ids, "labels": ids[:1]}])
    codes = [torch.zeros(2, 5), torch.zeros(3, 5)]
    with pytest.raises(ValueError, match=r"`speech_codes` must have one number of quantizers, got \[2, 3\]"):
        collator([{"input_ids": ids, "speech_codes": code} for code in codes])
