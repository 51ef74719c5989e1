"""JOSIE: a trainable omni model for the Hugging Face ecosystem. Text, images, video and audio in; text and speech out.

Importing the package is cheap: every public name is imported from its module on first use. It makes transformers' Auto
classes and pipelines know JOSIE's types all the same, see `auto_registration`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .auto_registration import AutoRegistration

if TYPE_CHECKING:
    from .configuration_josie import JodioConfig as JodioConfig
    from .configuration_josie import JodioDiscriminatorConfig as JodioDiscriminatorConfig
    from .configuration_josie import JosieAudioEncoderConfig as JosieAudioEncoderConfig
    from .configuration_josie import JosieBackboneConfig as JosieBackboneConfig
    from .configuration_josie import JosieConfig as JosieConfig
    from .configuration_josie import JosieDepthDecoderConfig as JosieDepthDecoderConfig
    from .configuration_josie import JosieMelCodecConfig as JosieMelCodecConfig
    from .configuration_josie import JosieTalkerConfig as JosieTalkerConfig
    from .configuration_josie import JosieTextConfig as JosieTextConfig
    from .configuration_josie import JosieThinkerConfig as JosieThinkerConfig
    from .configuration_josie import JosieVisionEncoderConfig as JosieVisionEncoderConfig
    from .configuration_josie import JovioConfig as JovioConfig
    from .configuration_josie import nano_path as nano_path
    from .conversion.speech_codes import add_speech_codes as add_speech_codes
    from .modeling_josie import CodeEmbedding as CodeEmbedding
    from .modeling_josie import JodioDiscriminatorModel as JodioDiscriminatorModel
    from .modeling_josie import JodioModel as JodioModel
    from .modeling_josie import JodioStreamingState as JodioStreamingState
    from .modeling_josie import JosieAudioEncoder as JosieAudioEncoder
    from .modeling_josie import JosieBackbone as JosieBackbone
    from .modeling_josie import JosieForConditionalGeneration as JosieForConditionalGeneration
    from .modeling_josie import JosieMelCodecModel as JosieMelCodecModel
    from .modeling_josie import JosieTalkerForConditionalGeneration as JosieTalkerForConditionalGeneration
    from .modeling_josie import JosieTextModel as JosieTextModel
    from .modeling_josie import JosieThinkerForConditionalGeneration as JosieThinkerForConditionalGeneration
    from .modeling_josie import JosieThinkerModel as JosieThinkerModel
    from .modeling_josie import JosieVisionEncoder as JosieVisionEncoder
    from .modeling_josie import JovioModel as JovioModel
    from .modeling_josie import JovioStreamingState as JovioStreamingState
    from .modeling_josie import ResidualVectorQuantizer as ResidualVectorQuantizer
    from .modeling_josie import SplitResidualVectorQuantizer as SplitResidualVectorQuantizer
    from .modeling_josie import VectorQuantizer as VectorQuantizer
    from .modeling_josie.codec_trainer import CodecTrainer as CodecTrainer
    from .modeling_josie.codec_trainer import CodecTrainingArguments as CodecTrainingArguments
    from .modeling_josie.export import JodioDecodeStep as JodioDecodeStep
    from .modeling_josie.export import JodioEncodeStep as JodioEncodeStep
    from .modeling_josie.export import TalkerDepthLoop as TalkerDepthLoop
    from .modeling_josie.export import TalkerStep as TalkerStep
    from .modeling_josie.loss_parts import LossParts as LossParts
    from .processing_josie import AudioCrops as AudioCrops
    from .processing_josie import AudioCropsCallback as AudioCropsCallback
    from .processing_josie import AudioCropStream as AudioCropStream
    from .processing_josie import CropSettings as CropSettings
    from .processing_josie import JosieDataCollator as JosieDataCollator
    from .processing_josie import JosieFeatureExtractor as JosieFeatureExtractor
    from .processing_josie import JosieImageProcessor as JosieImageProcessor
    from .processing_josie import JosieProcessor as JosieProcessor
    from .processing_josie import JosieVideoProcessor as JosieVideoProcessor
    from .processing_josie import JovioImageProcessor as JovioImageProcessor
    from .processing_josie import JovioVideoProcessor as JovioVideoProcessor
    from .processing_josie import LengthGroupedStream as LengthGroupedStream
    from .processing_josie import load_audio as load_audio
    from .processing_josie import save_audio as save_audio
    from .tokenization import load_default_tokenizer as load_default_tokenizer
    from .tokenization import train_tokenizer as train_tokenizer

__version__ = "0.1.0"

_SUBMODULE_OF = {
    "JodioConfig": "configuration_josie",
    "JodioDiscriminatorConfig": "configuration_josie",
    "JosieAudioEncoderConfig": "configuration_josie",
    "JosieBackboneConfig": "configuration_josie",
    "JosieConfig": "configuration_josie",
    "JosieDepthDecoderConfig": "configuration_josie",
    "JosieMelCodecConfig": "configuration_josie",
    "JosieTalkerConfig": "configuration_josie",
    "JosieTextConfig": "configuration_josie",
    "JosieThinkerConfig": "configuration_josie",
    "JosieVisionEncoderConfig": "configuration_josie",
    "JovioConfig": "configuration_josie",
    "nano_path": "configuration_josie",
    "add_speech_codes": "conversion.speech_codes",
    "CodeEmbedding": "modeling_josie",
    "JodioDiscriminatorModel": "modeling_josie",
    "JodioModel": "modeling_josie",
    "JodioStreamingState": "modeling_josie",
    "JosieAudioEncoder": "modeling_josie",
    "JosieBackbone": "modeling_josie",
    "JosieForConditionalGeneration": "modeling_josie",
    "JosieMelCodecModel": "modeling_josie",
    "JosieTalkerForConditionalGeneration": "modeling_josie",
    "JosieTextModel": "modeling_josie",
    "JosieThinkerForConditionalGeneration": "modeling_josie",
    "JosieThinkerModel": "modeling_josie",
    "JosieVisionEncoder": "modeling_josie",
    "JovioModel": "modeling_josie",
    "JovioStreamingState": "modeling_josie",
    "ResidualVectorQuantizer": "modeling_josie",
    "SplitResidualVectorQuantizer": "modeling_josie",
    "VectorQuantizer": "modeling_josie",
    "CodecTrainer": "modeling_josie.codec_trainer",
    "CodecTrainingArguments": "modeling_josie.codec_trainer",
    "LossParts": "modeling_josie.loss_parts",
    "JodioDecodeStep": "modeling_josie.export",
    "JodioEncodeStep": "modeling_josie.export",
    "TalkerDepthLoop": "modeling_josie.export",
    "TalkerStep": "modeling_josie.export",
    "AudioCropStream": "processing_josie",
    "AudioCrops": "processing_josie",
    "AudioCropsCallback": "processing_josie",
    "CropSettings": "processing_josie",
    "JosieDataCollator": "processing_josie",
    "JosieFeatureExtractor": "processing_josie",
    "JosieImageProcessor": "processing_josie",
    "JosieProcessor": "processing_josie",
    "JosieVideoProcessor": "processing_josie",
    "JovioImageProcessor": "processing_josie",
    "JovioVideoProcessor": "processing_josie",
    "LengthGroupedStream": "processing_josie",
    "load_audio": "processing_josie",
    "save_audio": "processing_josie",
    "load_default_tokenizer": "tokenization",
    "train_tokenizer": "tokenization",
}

__all__ = list(_SUBMODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _SUBMODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_SUBMODULE_OF[name]}", __name__), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


AutoRegistration().install()
