"""Configuration of JOSIE: Thinker, Talker and codecs, and the presets."""

import copy
import json
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .auto_map import NoAutoMap
from .backbone import SubConfig
from .constants import STREAMING_CODECS
from .geometry import audio_codec_geometry, decodes_in_stream, is_codec, same_codec
from .talker import JosieTalkerConfig
from .thinker import JosieThinkerConfig
from .units import speech_frames, token_samples

_PRESETS = Path(__file__).parent / "presets"


def _of_thinker(name: str, doc: str) -> Any:
    """Return a property that is a field of the Thinker's configuration, which holds and saves it."""

    def read(self: "JosieConfig") -> Any:
        return getattr(self.thinker_config, name)

    def write(self: "JosieConfig", value: Any) -> None:
        setattr(self.thinker_config, name, value)

    return property(read, write, doc=doc)


@strict
class JosieConfig(PreTrainedConfig):
    r"""The whole model.

    Args:
        thinker_config ([`JosieThinkerConfig`]): What reads every modality and writes text.
        talker_config ([`JosieTalkerConfig`], *optional*): What speaks; text only when `None`.
        audio_codec_config (*optional*): [`JodioConfig`], [`JosieMelCodecConfig`] or another audio tokenizer of
            transformers; the Thinker's `audio_config` when that is a codec and this is `None`.
        vision_codec_config ([`JovioConfig`], *optional*): The Thinker's `vision_config` when that is a codec and this
            is `None`.
        text_loss_weight, talker_loss_weight, depth_loss_weight, duration_loss_weight (`float`): Weights of the parts
            of the loss.
    """

    model_type = "josie"
    auto_map = NoAutoMap()
    # `Trainer` keeps the rest of an output as predictions: the logits of text.
    keys_to_ignore_at_inference = [
        *("text_loss", "talker_loss", "depth_loss", "duration_loss", "talker_logits", "depth_logits"),
        *JosieThinkerConfig.keys_to_ignore_at_inference,
    ]
    sub_configs_defaults = {
        "thinker_config": SubConfigSpec(JosieThinkerConfig),
        "talker_config": SubConfigSpec(JosieTalkerConfig, optional=True),
        "audio_codec_config": SubConfigSpec(AutoConfig, model_type="jodio", optional=True),
        "vision_codec_config": SubConfigSpec(AutoConfig, model_type="jovio", optional=True),
    }

    thinker_config: SubConfig = None
    talker_config: SubConfig = None
    audio_codec_config: SubConfig = None
    vision_codec_config: SubConfig = None
    text_loss_weight: float | int = 1.0
    talker_loss_weight: float | int = 1.0
    depth_loss_weight: float | int = 1.0
    duration_loss_weight: float | int = 1.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        thinker = self.thinker_config
        if self.audio_codec_config is None and is_codec(thinker.audio_config):
            self.audio_codec_config = copy.deepcopy(thinker.audio_config)  # a model part with settings of its own
        if self.vision_codec_config is None and is_codec(thinker.vision_config):
            self.vision_codec_config = copy.deepcopy(thinker.vision_config)

    @property
    def max_position_embeddings(self) -> int:
        """Longest sequence, placeholders included; the text backbone's."""
        return self.thinker_config.max_position_embeddings

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int):
        self.thinker_config.max_position_embeddings = value

    image_token_id = _of_thinker("image_token_id", "Id of the placeholder of images; the Thinker's.")
    video_token_id = _of_thinker("video_token_id", "Id of the placeholder of videos; the Thinker's.")
    audio_token_id = _of_thinker("audio_token_id", "Id of the placeholder of audio; the Thinker's.")

    @property
    def sampling_rate(self) -> int | None:
        """Samples a second of the speech that the model makes, in Hz; `None` without an audio codec."""
        codec = self.audio_codec_config
        return None if codec is None else audio_codec_geometry(codec).sampling_rate

    @property
    def unit_speech_frames(self) -> int:
        """Frames of speech in a unit; of a model with units."""
        thinker = self.thinker_config
        samples, rate = token_samples(thinker.audio_config, thinker.audio_stack_factor)
        return speech_frames(thinker.unit_frames, samples, rate, self.audio_codec_config)

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the head shares the token embedding; the text backbone's."""
        return self.thinker_config.tie_word_embeddings

    @tie_word_embeddings.setter
    def tie_word_embeddings(self, value: bool):
        self.thinker_config.tie_word_embeddings = value

    @classmethod
    def from_preset(cls, name: str, **kwargs) -> "JosieConfig":
        """Return a preset.

        Args:
            name (`str`): One of [`JosieConfig.preset_names`].
            kwargs: Fields to set on top of it.

        Raises:
            `ValueError`: There is no such preset.
        """
        if name not in cls.preset_names():
            raise ValueError(f"`name` must be one of {cls.preset_names()}, got {name!r}.")
        return cls.from_dict(json.loads((_PRESETS / f"{name}.json").read_text()) | kwargs)

    @classmethod
    def preset_names(cls) -> list[str]:
        """Return the names that [`JosieConfig.from_preset`] takes."""
        return sorted(path.stem for path in _PRESETS.glob("*.json"))

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """Return the configuration of the text backbone."""
        return self.thinker_config.get_text_config(decoder=decoder, encoder=encoder)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what a file has of this configuration: without where its parts were loaded from, as of the whole."""
        content = super().to_diff_dict()
        for name in self.sub_configs:
            if isinstance(content.get(name), dict):
                content[name].pop("_name_or_path", None)
        return content

    def validate_parts(self):
        """The parts fit together: widths, codes, and the codecs that the Thinker listens and looks through."""
        thinker, talker = self.thinker_config, self.talker_config
        for modality in ("audio", "vision"):
            front_end, codec = getattr(thinker, f"{modality}_config"), getattr(self, f"{modality}_codec_config")
            if is_codec(front_end) and not same_codec(front_end, codec):
                raise ValueError(
                    f"`{modality}_codec_config` must equal `thinker_config.{modality}_config`, whose codes the Thinker "
                    f"reads, got a {codec.model_type!r} with other values."
                )
        if talker is None:
            return
        if talker.thinker_hidden_size != thinker.hidden_size:
            raise ValueError(
                f"`talker_config.thinker_hidden_size` must be the Thinker's width ({thinker.hidden_size}), "
                f"got {talker.thinker_hidden_size}."
            )
        if self.audio_codec_config is None:
            return
        codec = audio_codec_geometry(self.audio_codec_config)
        if talker.codebook_size != codec.codebook_size:
            raise ValueError(
                f"`talker_config.codebook_size` must be the codec's ({codec.codebook_size}), "
                f"got {talker.codebook_size}."
            )
        if talker.num_quantizers > codec.num_quantizers:
            raise ValueError(
                f"`talker_config.num_quantizers` must be at most the codec's ({codec.num_quantizers}), "
                f"got {talker.num_quantizers}."
            )

    def validate_units(self):
        """A model with units speaks, and its codec goes on where it stopped."""
        if self.thinker_config.unit_frames is None:
            return
        codec = self.audio_codec_config
        if self.talker_config is None or codec is None:
            raise ValueError(
                "`thinker_config.unit_frames` must be None without a Talker and an audio codec, got "
                f"{self.thinker_config.unit_frames}."
            )
        if not decodes_in_stream(codec):
            raise ValueError(
                f"`audio_codec_config` must be one of {list(STREAMING_CODECS)} with `thinker_config.unit_frames`, got "
                f"{codec.model_type!r}, which decodes whole utterances."
            )
        _ = self.unit_speech_frames  # or an error that says why not


AutoConfig.register(JosieConfig.model_type, JosieConfig, exist_ok=True)
