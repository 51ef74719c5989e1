"""Models.

Reading order: `josie` (the whole model), `generation`; the rooms `layers`, `thinker`, `talker`, `speech`, `duplex`,
`codecs`, `losses`; and `outputs`, `pretrained`, `wrapped_parts`, `freezing`, `mel`, `option_values`,
`peft_wrappers`, `torch_export`, `speech_tasks`.
"""

from .codecs.discriminators import JodioDiscriminatorModel
from .codecs.jodio import JodioModel
from .codecs.jovio import JovioModel
from .codecs.mel_codec import JosieMelCodecModel
from .codecs.quantization import ResidualVectorQuantizer, SplitResidualVectorQuantizer, VectorQuantizer
from .codecs.streaming import AudioStreamingState, JodioStreamingState, JovioStreamingState, ThinkerStreamingState
from .josie import JosieForConditionalGeneration
from .layers.backbone import JosieBackbone
from .layers.embeddings import CodeEmbedding
from .outputs import JosieGenerateOutput, JosieOutput
from .pretrained import JosiePreTrainedModel
from .speech_tasks import JosieForSpeechSeq2Seq, JosieForTextToWaveform
from .talker.model import JosieTalkerForConditionalGeneration
from .thinker.audio_encoder import JosieAudioEncoder
from .thinker.model import JosieThinkerForConditionalGeneration, JosieThinkerModel
from .thinker.text import JosieTextModel
from .thinker.vision_encoder import JosieVisionEncoder

__all__ = [
    "AudioStreamingState",
    "CodeEmbedding",
    "JodioDiscriminatorModel",
    "JodioModel",
    "JodioStreamingState",
    "JosieAudioEncoder",
    "JosieBackbone",
    "JosieForConditionalGeneration",
    "JosieForSpeechSeq2Seq",
    "JosieForTextToWaveform",
    "JosieGenerateOutput",
    "JosieMelCodecModel",
    "JosieOutput",
    "JosiePreTrainedModel",
    "JosieTalkerForConditionalGeneration",
    "JosieTextModel",
    "JosieThinkerForConditionalGeneration",
    "JosieThinkerModel",
    "JosieVisionEncoder",
    "JovioModel",
    "JovioStreamingState",
    "ResidualVectorQuantizer",
    "SplitResidualVectorQuantizer",
    "ThinkerStreamingState",
    "VectorQuantizer",
]
