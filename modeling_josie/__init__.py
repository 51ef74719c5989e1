"""Models. Read in this order: layers, backbone; quantization, codecs (jodio, mel_codec, jovio); encoders, front_ends,
thinker; decoding, talker; generation, josie."""

from .backbone import JosieBackbone, JosiePreTrainedModel
from .discriminators import JodioDiscriminatorModel
from .encoders import JosieAudioEncoder, JosieVisionEncoder
from .front_ends import CodeEmbedding
from .jodio import JodioModel
from .josie import JosieForConditionalGeneration
from .jovio import JovioModel
from .mel_codec import JosieMelCodecModel
from .outputs import JosieGenerateOutput, JosieOutput
from .quantization import ResidualVectorQuantizer, SplitResidualVectorQuantizer, VectorQuantizer
from .streaming import JodioStreamingState, JovioStreamingState
from .talker import JosieTalkerForConditionalGeneration
from .text import JosieTextModel
from .thinker import JosieThinkerForConditionalGeneration, JosieThinkerModel

__all__ = [
    "CodeEmbedding",
    "JodioDiscriminatorModel",
    "JodioModel",
    "JodioStreamingState",
    "JosieAudioEncoder",
    "JosieBackbone",
    "JosieForConditionalGeneration",
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
    "VectorQuantizer",
]
