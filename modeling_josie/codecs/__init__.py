"""Codecs: waveforms, images and videos to codes and back.

Read in this order: codebook, quantization; fast, convolution, seanet, mel_transform, spectral; streaming, inference;
jodio_directions, jodio; mel_codec; patches, jovio; discriminators; adapters.
"""
