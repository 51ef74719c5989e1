"""Decoders that go on where they stopped: the same samples as all at once, however the frames came."""

import pytest
import torch
from speech_pieces import MIMI
from tiny import CASES
from transformers import MimiConfig, MimiModel

from josie.configuration_josie import decodes_in_stream
from josie.modeling_josie.codecs.decoder_stream import BLOCKS, RowDecoder, open_decoder


def mimi() -> MimiModel:
    torch.manual_seed(0)
    sizes = {name: value for name, value in MIMI.items() if name not in ("model_type", "sampling_rate")}
    config = MimiConfig(**sizes | dict(upsampling_ratios=[8, 6, 5, 4], frame_rate=12.5, num_quantizers=4))
    return MimiModel(config).eval()


CODECS = {"jodio": CASES["jodio"].build, "jodio, mel": CASES["jodio-mel"].build, "mimi": mimi}


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_blocks_give_what_the_whole_gives(name):
    codec = CODECS[name]()
    codes = torch.randint(0, codec.config.codebook_size, (1, 3, 61))
    whole = codec.decode(codes).audio_values[0]
    decoder, pieces = RowDecoder(codec), []
    for frame in codes[0].unbind(dim=1):
        pieces += decoder.push(frame)
    pieces += decoder.finish()
    samples = torch.cat(pieces, dim=1)
    assert samples.shape == whole.shape
    torch.testing.assert_close(samples, whole, rtol=1e-4, atol=1e-5)
    hop = whole.shape[1] // 61
    sizes = [piece.shape[1] // hop for piece in pieces]
    assert sizes == [*BLOCKS[:-1], *[BLOCKS[-1]] * 14, 1]


@torch.no_grad()
def test_mimi_is_right_for_blocks_of_any_size():
    codec = mimi()
    codes = torch.randint(0, 16, (4, 50))
    whole = codec.decode(codes[None]).audio_values[0]
    for sizes in ([50], [1] * 50, [7, 20, 1, 22]):
        stream = open_decoder(codec)
        samples = torch.cat([stream.push(piece) for piece in codes.split(sizes, dim=1)], dim=1)
        torch.testing.assert_close(samples, whole, rtol=1e-4, atol=1e-5)


def test_a_codec_of_whole_utterances_is_refused():
    codec = CASES["mel-codec"].build()
    assert not decodes_in_stream(codec.config)
    with pytest.raises(ValueError, match="`audio_codec` must be one of .* got 'josie_mel_codec', which decodes whole"):
        RowDecoder(codec)


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_a_codec_that_was_loaded_gives_the_same_to_the_bit(name, tmp_path):
    """Weights of a mapped file lie at odd addresses, where products with one row are rounded otherwise."""
    codec = CODECS[name]()
    codec.save_pretrained(tmp_path)
    loaded = type(codec).from_pretrained(tmp_path).eval()
    codes = torch.randint(0, codec.config.codebook_size, (3, 9))
    samples = []
    for model in (codec, loaded):
        decoder = RowDecoder(model)
        pieces = [piece for frame in codes.unbind(dim=1) for piece in decoder.push(frame)]
        samples.append(torch.cat([*pieces, *decoder.finish()], dim=1))
    assert torch.equal(*samples)
