"""Everything between files and tensors: sounds, pictures, videos and text in, texts and waveforms out."""

from .audio import JosieFeatureExtractor, load_audio, resample, save_audio
from .collator import JosieDataCollator
from .crops import AudioCrops, AudioCropsCallback, AudioCropStream, CropSettings
from .grouping import LengthGroupedStream
from .processor import JosieProcessor
from .vision import JosieImageProcessor, JosieVideoProcessor, JovioImageProcessor, JovioVideoProcessor

__all__ = [
    "AudioCropStream",
    "AudioCrops",
    "AudioCropsCallback",
    "CropSettings",
    "JosieDataCollator",
    "JosieFeatureExtractor",
    "JosieImageProcessor",
    "JosieProcessor",
    "JosieVideoProcessor",
    "JovioImageProcessor",
    "JovioVideoProcessor",
    "LengthGroupedStream",
    "load_audio",
    "resample",
    "save_audio",
]
