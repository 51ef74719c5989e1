"""Public names and their modules: type checkers read this, and `__init__.py` imports by it."""

from .configuration_josie import (
    JodioConfig as JodioConfig,
    JodioDiscriminatorConfig as JodioDiscriminatorConfig,
    JosieAudioEncoderConfig as JosieAudioEncoderConfig,
    JosieBackboneConfig as JosieBackboneConfig,
    JosieConfig as JosieConfig,
    JosieDepthDecoderConfig as JosieDepthDecoderConfig,
    JosieMelCodecConfig as JosieMelCodecConfig,
    JosieTalkerConfig as JosieTalkerConfig,
    JosieTextConfig as JosieTextConfig,
    JosieThinkerConfig as JosieThinkerConfig,
    JosieVisionEncoderConfig as JosieVisionEncoderConfig,
    JovioConfig as JovioConfig,
)
from .conversion.assemble.build import assemble as assemble
from .conversion.hub.export import (
    push_with_code as push_with_code,
    save_with_code as save_with_code,
)
from .conversion.muomni.convert import convert_muomni as convert_muomni
from .modeling_josie import (
    AudioStreamingState as AudioStreamingState,
    CodeEmbedding as CodeEmbedding,
    JodioDiscriminatorModel as JodioDiscriminatorModel,
    JodioModel as JodioModel,
    JodioStreamingState as JodioStreamingState,
    JosieAudioEncoder as JosieAudioEncoder,
    JosieBackbone as JosieBackbone,
    JosieForConditionalGeneration as JosieForConditionalGeneration,
    JosieForSpeechSeq2Seq as JosieForSpeechSeq2Seq,
    JosieForTextToWaveform as JosieForTextToWaveform,
    JosieMelCodecModel as JosieMelCodecModel,
    JosieTalkerForConditionalGeneration as JosieTalkerForConditionalGeneration,
    JosieTextModel as JosieTextModel,
    JosieThinkerForConditionalGeneration as JosieThinkerForConditionalGeneration,
    JosieThinkerModel as JosieThinkerModel,
    JosieVisionEncoder as JosieVisionEncoder,
    JovioModel as JovioModel,
    JovioStreamingState as JovioStreamingState,
    ResidualVectorQuantizer as ResidualVectorQuantizer,
    SplitResidualVectorQuantizer as SplitResidualVectorQuantizer,
    ThinkerStreamingState as ThinkerStreamingState,
    VectorQuantizer as VectorQuantizer,
)
from .modeling_josie.duplex.session import (
    JosieSession as JosieSession,
    SessionPiece as SessionPiece,
    SessionTurn as SessionTurn,
)
from .modeling_josie.duplex.state import (
    JosieSessionOutput as JosieSessionOutput,
    JosieSessionState as JosieSessionState,
)
from .modeling_josie.outputs import HeardToken as HeardToken, SpeechPiece as SpeechPiece, WordTime as WordTime
from .modeling_josie.speech.pieces import SpeechPieces as SpeechPieces
from .modeling_josie.speech.sentences import find_sentence_ends as find_sentence_ends
from .modeling_josie.speech.streamers import (
    AudioIteratorStreamer as AudioIteratorStreamer,
    StreamClosedError as StreamClosedError,
)
from .modeling_josie.torch_export import (
    JodioDecodeStep as JodioDecodeStep,
    JodioEncodeStep as JodioEncodeStep,
    TalkerDepthLoop as TalkerDepthLoop,
    TalkerStep as TalkerStep,
)
from .nano import example_path as example_path, nano_path as nano_path
from .processing_josie import (
    AudioWriter as AudioWriter,
    JosieFeatureExtractor as JosieFeatureExtractor,
    JosieImageProcessor as JosieImageProcessor,
    JosieProcessor as JosieProcessor,
    JosieVideoProcessor as JosieVideoProcessor,
    JovioImageProcessor as JovioImageProcessor,
    JovioVideoProcessor as JovioVideoProcessor,
    load_audio as load_audio,
    save_audio as save_audio,
)
from .tokenization import (
    load_default_tokenizer as load_default_tokenizer,
    train_tokenizer as train_tokenizer,
)
from .training.audio_crops import (
    AudioCrops as AudioCrops,
    AudioCropsCallback as AudioCropsCallback,
    AudioCropStream as AudioCropStream,
    CropSettings as CropSettings,
)
from .training.codec_trainer import (
    CodecTrainer as CodecTrainer,
    CodecTrainingArguments as CodecTrainingArguments,
)
from .training.collator import JosieDataCollator as JosieDataCollator
from .training.length_grouping import LengthGroupedStream as LengthGroupedStream
from .training.loss_parts import LossParts as LossParts
from .training.speech_codes import add_speech_codes as add_speech_codes
from .training.timed_sources import MoshiRows as MoshiRows, place_segments as place_segments
from .training.trainer import JosieTrainer as JosieTrainer
from .training.units import add_units as add_units

__version__: str
