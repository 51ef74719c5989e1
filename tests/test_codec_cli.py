"""`josie codec` on real files: every codec, streams, images and videos, and the microphone."""

import os
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors import safe_open
from test_cli import contents, fail
from test_ecosystem import CODECS
from tiny import JODIO, JOVIO
from transformers import AutoModel
from typer.testing import CliRunner

from josie import load_audio
from josie.cli.app import app
from josie.cli.codec_files import Codes, encode_clip
from josie.cli.codec_streams import split_audio, stream_audio
from josie.processing_josie.resampling import StreamResampler, resample

DATA = Path(__file__).parent / "data"
SPEECH = DATA / "speech.wav"


@pytest.fixture
def jodio(codec_folder):
    return codec_folder("jodio")


def run(*arguments):
    """Run a command that must succeed; return what it printed on standard output and error."""
    result = CliRunner().invoke(app, ["codec", *map(str, arguments)])
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout, result.stderr


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize("model_type", ["jodio", "josie_mel_codec", *CODECS])
def test_every_audio_codec_goes_there_and_back(codec_folder, tmp_path, model_type):
    folder, codes, out = codec_folder(model_type), tmp_path / "codes.safetensors", tmp_path / "out.wav"
    printed, noted = run("encode", SPEECH, "--model", folder, "--out", codes)
    assert "2.24 s of audio" in printed
    assert "kbit/s" in printed
    assert "times as fast as real time" in noted
    assert "Resampled from 16000 to 1600 Hz." in noted
    run("decode", codes, "--model", folder, "--out", out)
    values, rate = soundfile.read(out)
    assert (len(values), rate) == (3584, 1600)
    run("roundtrip", SPEECH, "--model", folder, "--out", tmp_path / "again.wav")
    assert np.array_equal(soundfile.read(tmp_path / "again.wav")[0], values)
    with safe_open(codes, "pt") as file:
        assert file.metadata()["model_type"] == f'"{model_type}"'
        full = file.get_tensor("codes")
    run("encode", SPEECH, "--model", folder, "--out", codes, "--num-quantizers", 2)
    fewer = Codes.load(codes).codes
    assert fewer.shape[1] == 2
    common = min(full.shape[1], 2)
    assert torch.equal(fewer[:, :common], full[:, :common].long())
    run("decode", codes, "--model", folder, "--out", out)
    assert contents(tmp_path) == ["again.wav", "codes.safetensors", "out.wav"]


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_formats_channels_and_lengths(jodio, tmp_path, ending):
    source = tmp_path / f"clip.{ending}"
    soundfile.write(source, 0.1 * np.random.default_rng(0).standard_normal((44100, 2)), 44100)
    printed, _ = run("roundtrip", source, "--model", jodio, "--out", tmp_path / f"out.{ending}".replace("mp3", "flac"))
    assert "1.00 s of audio, 80 frames of 3 × 11 codes, 0.83 kbit/s" in printed


def test_a_stereo_codec_keeps_two_channels(codec_folder, tmp_path):
    folder = codec_folder("jodio", audio_channels=2)
    printed, _ = run("roundtrip", SPEECH, "--model", folder, "--out", tmp_path / "out.wav", "--stream")
    assert soundfile.info(tmp_path / "out.wav").channels == 2


@pytest.mark.parametrize("rate", [1600, 16000, 44100, 900])
def test_a_stream_writes_what_the_whole_writes(jodio, tmp_path, rate):
    source = tmp_path / "clip.wav"
    soundfile.write(source, resample(load_audio(SPEECH), 16000, rate)[: 2 * rate + 7], rate)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("whole", "stream")}
    run("encode", source, "--model", jodio, "--out", files["whole"])
    _, noted = run("encode", source, "--model", jodio, "--out", files["stream"], "--stream")
    assert noted.count("times as fast as real time\n") == 9  # chunks; the summary says it with a full stop
    assert "12.5 ms for the codec, 250.0 ms for the chunk" in noted
    whole, stream = (Codes.load(path) for path in files.values())
    assert torch.equal(whole.codes, stream.codes)
    assert whole.length == stream.length
    for name, codes, options in (("a", "whole", ()), ("b", "stream", ("--stream",))):
        run("decode", files[codes], "--model", jodio, "--out", tmp_path / f"{name}.wav", *options)
    run("roundtrip", source, "--model", jodio, "--out", tmp_path / "c.wav", "--stream")
    first, *others = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in "abc")
    for other in others:
        np.testing.assert_allclose(other, first, atol=2 / 2**15)


def test_a_stream_is_never_later_than_it_says(jodio):
    codec, rate = AutoModel.from_pretrained(jodio).eval(), 16000
    values = torch.randn(1, 2 * rate)
    allowed = StreamResampler(rate, 1600).look_ahead / rate + 10 / 1600 + codec.config.algorithmic_delay / 1600
    heard = made = 0.0
    for part in stream_audio(codec, split_audio(values, rate), rate):
        heard, made = heard + part.audio_seconds, made + part.num_samples / 1600
        assert heard - made <= allowed
    assert made == 2.0


class TestWholeCheckpoint:
    def test_its_audio_codec(self, tiny_folder, tmp_path):
        run("roundtrip", SPEECH, "--model", tiny_folder, "--out", tmp_path / "out.wav")
        assert soundfile.info(tmp_path / "out.wav").samplerate == 1600

    def test_the_file_chooses_the_codec(self, save_checkpoint, tmp_path):
        folder = save_checkpoint(
            tmp_path / "both", audio_codec_config=JODIO, vision_codec_config=JOVIO, talker_config=None
        )
        run("encode", DATA / "picture.png", "--model", folder, "--out", tmp_path / "a.safetensors", "--max-patches", 30)
        run("encode", SPEECH, "--model", folder, "--out", tmp_path / "b.safetensors")
        modalities = [Codes.load(tmp_path / name).modality for name in ("a.safetensors", "b.safetensors")]
        assert modalities == ["image", "audio"]
        run("decode", tmp_path / "a.safetensors", "--model", folder, "--out", tmp_path / "a.png")

    def test_it_has_none(self, save_checkpoint, tmp_path):
        folder = save_checkpoint(tmp_path / "none", audio_codec_config=None, talker_config=None)
        message = fail("codec", "encode", SPEECH, "--model", folder, "--out", tmp_path / "a.safetensors")
        assert message.startswith("`--model` must have a codec, got ")


class TestImages:
    def test_there_and_back(self, codec_folder, tmp_path):
        folder, codes = codec_folder("jovio"), tmp_path / "codes.safetensors"
        source = tmp_path / "source.jpg"
        Image.open(DATA / "picture.png").resize((50, 34)).save(source)
        printed, noted = run("encode", source, "--model", folder, "--out", codes)
        assert "image, 1×6×8 patches of 3 × 11 codes, 62 bytes" in printed
        assert "Resized from 50×34 to 48×36 pixels." in noted
        run("decode", codes, "--model", folder, "--out", tmp_path / "out.png")
        image = Image.open(tmp_path / "out.png")
        assert (image.size, image.mode) == ((48, 36), "RGB")
        run("roundtrip", source, "--model", folder, "--out", tmp_path / "again.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), np.asarray(image))
        run("roundtrip", source, "--model", folder, "--out", tmp_path / "fewer.png", "--num-quantizers", 1)
        assert not np.array_equal(np.asarray(Image.open(tmp_path / "fewer.png")), np.asarray(image))
        _, noted = run("roundtrip", source, "--model", folder, "--out", tmp_path / "small.png", "--max-patches", 12)
        assert "Resized from 50×34 to 24×12 pixels." in noted

    @pytest.mark.parametrize("patch_size", [6, 9])
    def test_videos_there_and_back(self, codec_folder, tmp_path, patch_size):
        av = pytest.importorskip("av", reason="video files need PyAV")
        folder, codes = codec_folder("jovio", patch_size=patch_size, max_frames=17), tmp_path / "codes.safetensors"
        _, noted = run("encode", DATA / "video.mp4", "--model", folder, "--out", codes, "--max-patches", 30)
        assert "Took 17 of 24 frames." in noted
        stored = Codes.load(codes)
        assert (stored.num_frames, stored.grid[0], stored.fps) == (17, 9, 8.5)
        printed, _ = run("decode", codes, "--model", folder, "--out", tmp_path / "out.mp4")
        with av.open(str(tmp_path / "out.mp4")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert float(container.streams.video[0].average_rate) == 8.5
        assert len(frames) == 17
        assert f"{frames[0].shape[1]}×{frames[0].shape[0]} pixels" in printed

    def test_animations_are_videos(self, codec_folder, tmp_path):
        pytest.importorskip("av", reason="video files need PyAV")
        frames = [Image.new("RGB", (12, 12), (20 * index, 0, 90)) for index in range(5)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200)
        printed, _ = run("roundtrip", tmp_path / "a.gif", "--model", codec_folder("jovio"), "--out", tmp_path / "a.mp4")
        assert "video, 3×2×2 patches" in printed

    def test_no_pyav(self, codec_folder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        arguments = ("--model", codec_folder("jovio"), "--out", tmp_path / "out.mp4")
        message = fail("codec", "roundtrip", DATA / "video.mp4", *arguments)
        assert message == "Video files need PyAV: `pip install josie[video]`."
        assert contents(tmp_path) == []


class FakeMicrophone(types.ModuleType):
    """A stand-in for sounddevice, with the speech of a file in place of a room."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, interrupt_after=None, broken=False):
        super().__init__("sounddevice")
        microphone, self.sizes = self, []
        values = load_audio(SPEECH)

        class InputStream:
            def __init__(self, samplerate, channels, dtype, blocksize):
                assert (samplerate, channels, dtype, blocksize) == (16000, 1, "float32", 4000)
                if broken:
                    raise microphone.PortAudioError("Error querying device -1")

            def __enter__(self):
                return self

            def __exit__(self, *_):
                microphone.closed = True

            def read(self, size):
                start = sum(microphone.sizes)
                microphone.sizes.append(size)
                if len(microphone.sizes) == interrupt_after:
                    os.kill(os.getpid(), signal.SIGINT)
                return values[start : start + size, None], False

        self.InputStream = InputStream


class TestMicrophone:
    @pytest.mark.parametrize("options", [(), ("--stream",)], ids=["whole", "stream"])
    def test_it_hears_for_some_seconds(self, jodio, tmp_path, monkeypatch, options):
        microphone = FakeMicrophone()
        monkeypatch.setitem(sys.modules, "sounddevice", microphone)
        out = tmp_path / "a.safetensors"
        run("encode", "--mic", "--seconds", 0.6, "--model", jodio, "--out", out, *options)
        assert (microphone.sizes, microphone.closed) == ([4000, 4000, 1600], True)
        stored, codec = Codes.load(out), AutoModel.from_pretrained(jodio).eval()
        expected = encode_clip(codec, torch.from_numpy(load_audio(SPEECH)[None, :9600]), 16000)
        assert torch.equal(stored.codes, expected.codes)
        assert stored.length == 960

    def test_ctrl_c_ends_it_and_keeps_what_was_heard(self, jodio, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophone(interrupt_after=3))
        handler = signal.getsignal(signal.SIGINT)
        printed, _ = run("roundtrip", "--mic", "--model", jodio, "--out", tmp_path / "a.wav", "--stream")
        assert "0.75 s of audio" in printed
        assert soundfile.info(tmp_path / "a.wav").frames == 1200
        assert signal.getsignal(signal.SIGINT) is handler

    def test_no_sounddevice(self, jodio, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", None)
        message = fail("codec", "encode", "--mic", "--model", jodio, "--out", tmp_path / "a.safetensors")
        assert message == "`--mic` needs sounddevice: `pip install josie[mic]`."

    def test_no_microphone(self, jodio, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophone(broken=True))
        message = fail("codec", "encode", "--mic", "--model", jodio, "--out", tmp_path / "a.safetensors")
        assert message == "`--mic` must have a microphone to listen to: Error querying device -1."
