"""Files and messages to tensors, and what a model makes back to text and waveforms.

In reading order: `sources` and `resampling`; `audio`, `images` and `video`, each from any form to one; their processors
`feature_extraction`, `image_processing` and `video_processing`; `messages`, `spoken_turns` and `batch_layout`; and what
the user calls, `processor` with `conversations` and `lengths`.
"""

from .audio import load_audio, save_audio
from .audio_writer import AudioWriter
from .feature_extraction import JosieFeatureExtractor
from .image_processing import JosieImageProcessor, JovioImageProcessor
from .processor import JosieProcessor
from .resampling import resample
from .video_processing import JosieVideoProcessor, JovioVideoProcessor

__all__ = [
    "AudioWriter",
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
