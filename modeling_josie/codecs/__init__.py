"""Codecs: waveforms, images and videos to codes and back.

Reading order: `protocol` (what a codec is), `adapters`; `codebook`, `quantization`; `fast`, `convolution`, `seanet`,
`mel_transform`, `spectral`; `streaming`, `decoder_stream`, `inference`, `checks`; `jodio_directions`, `jodio`;
`mel_codec`; `patches`, `jovio`; `discriminators`.
"""
