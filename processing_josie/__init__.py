"""Everything between files and tensors: sounds, pictures, videos and text in, texts and waveforms out."""

from .audio import JosieFeatureExtractor, load_audio, resample, save_audio
from .collator import JosieDataCollator
from .processor import JosieProcessor
from .vision import JosieImageProcessor, JosieVideoProcessor

__all__ = [
    "JosieDataCollator",
    "JosieFeatureExtractor",
    "JosieImageProcessor",
    "JosieProcessor",
    "JosieVideoProcessor",
    "load_audio",
    "resample",
    "save_audio",
]
