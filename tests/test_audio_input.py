"""Laws of audio going in: every form of a clip gives the same features, errors are named."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
import soundfile
import torch
import torchaudio
from safetensors.torch import load_file
from samples import DATA, SPEECH, short, tone
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
)

from josie.configuration_josie import (
    JodioConfig,
    JosieAudioEncoderConfig,
    JosieMelCodecConfig,
    JosieVisionEncoderConfig,
)
from josie.processing_josie import (
    JosieFeatureExtractor,
    load_audio,
    save_audio,
)


def test_mel_is_the_reference():
    expected = load_file(DATA / "muomni" / "expected.safetensors")
    extractor = JosieFeatureExtractor.from_config(JosieAudioEncoderConfig())
    features = extractor(expected["audio.waveform"], sampling_rate=16000)["input_features"]
    torch.testing.assert_close(features.transpose(1, 2), expected["audio.mel"], rtol=1e-6, atol=1e-4)


def test_scalars_of_pyarrow_are_what_they_hold():
    extractor = JosieFeatureExtractor("values")
    content = SPEECH.read_bytes()
    expected = extractor(content)["input_values"]
    values, rate = soundfile.read(SPEECH, dtype="float32")
    for form in (
        pyarrow.scalar(content),
        pyarrow.scalar({"bytes": content, "path": None}),
        pyarrow.scalar(str(SPEECH)),
        pyarrow.scalar({"array": values, "sampling_rate": rate}),
        {"bytes": pyarrow.scalar(content), "path": pyarrow.scalar(None)},
    ):
        torch.testing.assert_close(extractor([form])["input_values"], expected)


@pytest.mark.parametrize(("kind", "change"), [("meta", lambda x: x.to("meta")), ("sparse_coo", torch.Tensor.to_sparse)])
def test_tensors_that_do_not_store_their_values_are_refused(kind, change):
    with pytest.raises(ValueError, match=f"`audio` must be a tensor that stores each of its values, got a {kind} one"):
        JosieFeatureExtractor()(change(torch.zeros(4000)), sampling_rate=16000)


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
        (b"no audio at all", None, "readable audio file"),
        ("data:audio/wav;base64,???", None, "valid base64"),
        ({"rate": 3}, None, "as a dict must have"),
        ([], 16000, "at least one clip"),
        ([[np.zeros(9), np.zeros(8)]], 16000, "rows of different lengths"),
    ],
    ids=short,
)
def test_bad_audio_is_refused(audio, rate, match):
    with pytest.raises(ValueError, match=match):
        JosieFeatureExtractor()(audio, sampling_rate=rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("part", [0.1, 0.6])
def test_an_audio_file_that_is_cut_short_is_refused(suffix, part):
    content = SPEECH.with_suffix(suffix).read_bytes()
    with pytest.raises(ValueError, match="`audio` must be a (complete|readable) audio file"):
        load_audio(content[: int(part * len(content))])


def test_an_audio_file_with_three_channels_or_nothing_in_it_is_refused():
    for shape, match in (((100, 3), "1 or 2 channels, got 3"), ((0, 1), "at least one sample")):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(shape), 16000, format="WAV")
        with pytest.raises(ValueError, match=match):
            load_audio(file.getvalue())


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_saved_audio_is_read_again(tmp_path, name):
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


@pytest.mark.parametrize("seconds", [0.1, 0.39, 2.0])
def test_clips_are_brought_to_one_loudness(seconds):
    extractor = JosieFeatureExtractor("values", loudness=-23)
    clip = np.random.default_rng(0).standard_normal(round(seconds * 16000)).astype(np.float32) * 0.1
    values = [extractor(clip * gain, sampling_rate=16000)["input_values"] for gain in (1, 0.01)]
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-3)
    if seconds > 1:
        assert torchaudio.functional.loudness(values[0][0], 16000).item() == pytest.approx(-23, abs=0.05)
    else:  # as loud as a longer one
        long = np.resize(clip, 32000)
        ratio = extractor(long, sampling_rate=16000)["input_values"].std() / values[0].std()
        assert ratio == pytest.approx(1, abs=0.15)


def test_loudness_is_saved_and_silence_stays(tmp_path):
    assert JosieFeatureExtractor().loudness is None
    JosieFeatureExtractor("values", loudness=-20.5).save_pretrained(tmp_path)
    extractor = JosieFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.loudness == -20.5
    for silence in (np.zeros(800, np.float32), np.full(8000, 1e-5, np.float32)):
        np.testing.assert_array_equal(extractor(silence, sampling_rate=16000)["input_values"][0, 0], silence)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    del settings["loudness"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert JosieFeatureExtractor.from_pretrained(tmp_path).loudness is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loudness": 3}, r"`loudness` must be in \(-70, 0\], in LUFS, or None, got 3"),
        ({"loudness": "loud"}, r"`loudness` must be in \(-70, 0\], in LUFS, or None, got 'loud'"),
        ({"loudness": -23, "do_normalize": True}, "`loudness` must be None with `do_normalize`"),
    ],
)
def test_impossible_loudness_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        JosieFeatureExtractor("values", **options)


def test_a_stream_has_no_loudness_of_the_whole():
    JosieFeatureExtractor("values").require_streaming()
    for options, name in (({"loudness": -23}, "`loudness` must be None"), ({"do_normalize": True}, "`do_normalize`")):
        with pytest.raises(ValueError, match=f"{name}.* for audio that comes as a stream"):
            JosieFeatureExtractor("values", **options).require_streaming()
