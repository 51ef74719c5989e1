"""The speech codec that ships with trained weights: it is as small as its card says, and what comes back is speech."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioTokenization

import josie
from josie.modeling_josie.losses.audio import spectral_losses

SPEECH = Path(__file__).parent / "data" / "judged.flac"


@pytest.fixture(scope="module")
def codec():
    return AutoModelForAudioTokenization.from_pretrained(josie.nano_path("jodio")).eval()


@pytest.fixture(scope="module")
def speech(codec):
    return torch.from_numpy(josie.load_audio(SPEECH, codec.config.sampling_rate))[None, None]


def distance(codec, speech, num_quantizers=None):
    """Return the mean difference of log-mel spectrograms, in nepers."""
    codes = codec.encode(speech, num_quantizers=num_quantizers).audio_codes
    decoded = codec.decode(codes).audio_values[..., : speech.shape[-1]]
    lengths = torch.tensor([speech.shape[-1]])
    return float(spectral_losses(decoded, speech, lengths, codec.config.sampling_rate, names=("mel",))["mel"])


def test_it_is_small(codec):
    config = codec.config
    assert config.sampling_rate == 16000
    assert config.frame_rate <= 25
    assert config.num_quantizers * math.log2(config.codebook_size) * config.frame_rate <= 3000
    assert codec.num_parameters() <= 5_000_000
    assert codec.dtype == torch.float32
    assert (Path(josie.nano_path("jodio")) / "model.safetensors").stat().st_size <= 20_000_000


@torch.no_grad()
def test_speech_comes_back_and_more_quantizers_make_it_better(codec, speech):
    distances = [distance(codec, speech, number) for number in (1, 4, codec.config.num_quantizers)]
    assert distances == sorted(distances, reverse=True)
    silence = torch.zeros_like(speech)
    lengths = torch.tensor([speech.shape[-1]])
    of_silence = spectral_losses(silence, speech, lengths, codec.config.sampling_rate, names=("mel",))["mel"]
    assert distances[-1] < 0.15 * float(of_silence)


@torch.no_grad()
def test_it_streams(codec, speech):
    whole = codec.encode(speech).audio_codes
    state, parts = None, []
    chunks = speech[..., :24000].split(4000, dim=-1)
    for index, chunk in enumerate(chunks):
        output = codec.encode(chunk, streaming_state=state, use_streaming=True, is_final=index == len(chunks) - 1)
        state = output.streaming_state
        parts.append(output.audio_codes)
    streamed = torch.cat(parts, dim=-1)
    num_whole = 24000 // codec.config.frame_size  # the frame after them is cut short by the end of the stream
    assert num_whole == 18
    assert streamed[..., :num_whole].equal(whole[..., :num_whole])
    state, parts = None, []
    for codes in whole[..., :25].split([1, 2, 15, 7], dim=-1):
        output = codec.decode(codes, streaming_state=state, use_streaming=True)
        state = output.streaming_state
        parts.append(output.audio_values)
    assert torch.cat(parts, dim=-1).equal(codec.decode(whole[..., :25]).audio_values)
    assert codec.config.algorithmic_delay == codec.config.frame_size == 1280


def test_its_extractor_makes_what_it_reads(codec, speech):
    extractor = AutoFeatureExtractor.from_pretrained(josie.nano_path("jodio"))
    inputs = extractor(speech[0, 0].numpy(), sampling_rate=codec.config.sampling_rate, return_tensors="pt")
    assert codec.encode(**inputs).audio_codes.shape[1] == codec.config.num_quantizers


def test_there_is_no_other_part():
    with pytest.raises(ValueError, match="`part` must be one of .'josie', 'jodio', 'jovio'., got 'talker'."):
        josie.nano_path("talker")
