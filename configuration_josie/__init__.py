"""Configurations: every size of the system, and all geometry that follows. No torch in here.

Reading order: `backbone`, `text`, `encoders`, `units`, `thinker`, `talker`; `codec`, `jodio`, `mel`, `mel_codec`,
`jovio`, `discriminator`; `josie`; `geometry`, `logit_rule`, `auto_map`, `constants`, `renamed`;
`unicode_text`, `whole_files`.
"""

from .backbone import JosieBackboneConfig
from .codec import JosieCodecConfig
from .discriminator import JodioDiscriminatorConfig
from .encoders import JosieAudioEncoderConfig, JosieVisionEncoderConfig
from .geometry import (
    CodecGeometry,
    audio_codec_geometry,
    decodes_in_stream,
    encodes_in_stream,
    has_cls_row,
    is_codec,
    num_audio_tokens,
    reads_waveforms,
    takes_patches,
    tower_image_size,
)
from .jodio import JodioConfig
from .josie import JosieConfig
from .jovio import JovioConfig
from .mel import JosieMelConfig
from .mel_codec import JosieMelCodecConfig
from .talker import JosieDepthDecoderConfig, JosieTalkerConfig
from .text import JosieTextConfig
from .thinker import JosieThinkerConfig
from .units import SpeechTiming, hears_in_units, split_into_units

__all__ = [
    "CodecGeometry",
    "JodioConfig",
    "JodioDiscriminatorConfig",
    "JosieAudioEncoderConfig",
    "JosieBackboneConfig",
    "JosieCodecConfig",
    "JosieConfig",
    "JosieDepthDecoderConfig",
    "JosieMelCodecConfig",
    "JosieMelConfig",
    "JosieTalkerConfig",
    "JosieTextConfig",
    "JosieThinkerConfig",
    "JosieVisionEncoderConfig",
    "JovioConfig",
    "SpeechTiming",
    "audio_codec_geometry",
    "decodes_in_stream",
    "encodes_in_stream",
    "has_cls_row",
    "hears_in_units",
    "is_codec",
    "num_audio_tokens",
    "reads_waveforms",
    "takes_patches",
    "tower_image_size",
    "split_into_units",
]
