"""Every audio codec has one surface: that of the protocol, by itself or in an adapter of its family."""

import pytest
import torch
from test_ecosystem import CODECS
from tiny import CASES
from transformers import AutoConfig, AutoModel

from josie.configuration_josie import audio_codec_geometry
from josie.modeling_josie.codecs.adapters import adapt_codec, decode_audio, encode_audio
from josie.modeling_josie.codecs.protocol import AudioCodec

OURS = ["jodio", "jodio-mel", "mel-codec"]
# EnCodec's own default is one quantizer; its two bandwidths give one and three.
SIZES = CODECS | {"encodec": CODECS["encodec"] | {"target_bandwidths": [0.8, 2.4]}}


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return (
        CASES[name].build() if name in OURS else AutoModel.from_config(AutoConfig.for_model(name, **SIZES[name])).eval()
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize("name", [*OURS, *SIZES])
@torch.no_grad()
def test_every_codec_has_the_surface_of_the_protocol(name):
    model = build(name)
    codec, geometry = adapt_codec(model), audio_codec_geometry(model.config)
    assert isinstance(codec, AudioCodec)
    assert (codec is model) == (name in ("jodio", "jodio-mel"))
    for field in ("sampling_rate", "hop_length", "frame_rate", "num_quantizers", "codebook_size"):
        assert getattr(codec, field) == getattr(geometry, field), field
    num_samples = 3 * codec.hop_length
    audio = 0.3 * torch.randn(2, 1, num_samples)
    output = codec.encode(audio, num_quantizers=2)
    assert output.audio_codes.shape == (2, 2, codec.get_num_frames(num_samples))
    assert output.audio_lengths.tolist() == [num_samples] * 2
    lengths = torch.tensor([2, 1]) * codec.hop_length
    values = codec.decode(output.audio_codes, audio_lengths=lengths).audio_values
    assert values.ndim == 3
    assert values[1, :, codec.hop_length :].abs().sum() == 0
    codes, real = encode_audio(model, audio, num_quantizers=2)
    assert torch.equal(codes, output.audio_codes)
    assert real.all()
    decoded, decoded_lengths = decode_audio(model, codes, torch.tensor([2, 1]))
    assert torch.equal(decoded_lengths, lengths)
    assert torch.equal(decoded[0, :, : int(lengths[0])], values[0, :, : int(lengths[0])])
    with pytest.raises(ValueError, match="`num_quantizers` must be in"):
        codec.encode(audio, num_quantizers=99)


@pytest.mark.parametrize("name", OURS)
def test_our_models_state_the_metadata_themselves(name):
    assert isinstance(build(name), AudioCodec)


def test_what_is_no_codec_has_another_surface():
    assert not isinstance(CASES["talker-depth"].build(), AudioCodec)
