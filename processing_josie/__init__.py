"""Everything between files and tensors: sounds, pictures, videos and text in, texts and waveforms out."""

from .audio import JosieFeatureExtractor, load_audio, resample, save_audio
from .processor import JosieProcessor
from .vision import JosieImageProcessor, JosieVideoProcessor, JovioImageProcessor, JovioVideoProcessor

__all__ = [
    "JosieFeatureExtractor",
    "JosieImageProcessor",
    "JosieProcessor",
    "JosieVideoProcessor",
    "JovioImageProcessor",
    "JovioVideoProcessor",
    "load_audio",
    "resample",
    "save_audio",
]
