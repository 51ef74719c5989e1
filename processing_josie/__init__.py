"""Files and messages to tensors, and what a model makes back to text and waveforms.

Reading order: `sources`, `nested_values` and `resampling`; `audio` (with `waveforms`, `audio_files`, `audio_streams`,
`audio_sizes` and `containers`; `audio_writer` the other way), `images`, `video` (with `video_files`), each from any
form to one; their processors `feature_extraction`, `image_processing` and `video_processing` (with
`vision_settings`); `messages` (with `message_forms` and `part_forms`), `spoken_turns`, `text_inputs`,
`clip_inputs` and `encoded_clips`, `batch_layout` and `lengths`; and what the user calls, `processor` with
`conversations`, `units` and `loading_options`.
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
