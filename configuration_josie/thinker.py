"""Configuration of the Thinker, the multimodal language model."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from . import encoders, jodio, jovio, mel_codec, text  # noqa: F401  (registers what the sub-configs name)
from .auto_map import NoAutoMap
from .backbone import SubConfig, require_positive
from .geometry import has_cls_row, is_codec, longest_sequence, num_audio_tokens, num_image_tokens
from .units import require_stream, token_samples


@strict
class JosieThinkerConfig(PreTrainedConfig):
    r"""A causal text backbone with a front end for each modality.

    Args:
        text_config: Our [`JosieTextConfig`] or any decoder of transformers (Llama, Qwen3, Gemma...).
        audio_config (*optional*): How it hears: [`JosieAudioEncoderConfig`] or another encoder (Whisper...), whose
            features are projected; or a codec (JODIO, Mimi...), whose codes are embedded. No audio input when `None`.
        vision_config (*optional*): How it sees: [`JosieVisionEncoderConfig`] or another tower (SigLIP, CLIP, ViT...);
            or [`JovioConfig`], whose codes are embedded. No vision input when `None`.
        vision_feature_select (`"cls"` or `"patch"`): Which rows of a continuous tower become tokens.
        projector_hidden_act (`str`, *optional*): Activation of a two-layer projector; one linear layer when `None`.
        projector_intermediate_size (`int`, *optional*): Width between its two layers; the text backbone's when `None`.
        audio_stack_factor (`1`, `2`, `4` or `8`): Features of an encoder that are stacked into one token of audio,
            before the projector; the last is filled up with zeros. Whisper gives 50 features a second, wav2vec 2.0 49.
        audio_context_fraction (`float`): Largest part of the context that one clip may take; tokens beyond are cut.
        image_token_id, video_token_id, audio_token_id (`int`, *optional*): Ids of the placeholder tokens.
        lm_head_bias (`bool`): Whether the projection to the vocabulary adds a bias, as Phi's and GPT-J's do.
        unit_frames (`int`, *optional*): Tokens of audio (frames of a codec, features of an encoder) in a unit of full
            duplex: after each unit the model decides to listen or to speak. None for turns alone.
        unit_window (`int`, *optional*): Units that a session remembers with their audio before it forgets that of the
            older half, and keeps what was said as text; as many as the positions allow when `None`.
        start_bias (`float`): What is added to the logit of speaking in units after one that was listened to. Below 0 a
            turn begins only where the model is surer.
        listen_token_id, speak_token_id (`int`, *optional*): Ids of the tokens that it decides by.
        initializer_range (`float`): Standard deviation of the initial weights of projectors and code embeddings.
    """

    model_type = "josie_thinker"
    base_config_key = "thinker_config"
    auto_map = NoAutoMap()
    # `Trainer` keeps the rest of an output as predictions: the logits.
    keys_to_ignore_at_inference = [
        *("cache", "last_hidden_state", "inputs_embeds", "hidden_states", "attentions"),
        *("image_outputs", "video_outputs", "audio_outputs"),
    ]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(AutoConfig, model_type="josie_text"),
        "audio_config": SubConfigSpec(AutoConfig, model_type="josie_audio_encoder", optional=True),
        "vision_config": SubConfigSpec(AutoConfig, model_type="josie_vision_encoder", optional=True),
    }

    text_config: SubConfig = None
    audio_config: SubConfig = None
    vision_config: SubConfig = None
    vision_feature_select: Literal["cls", "patch"] = "cls"
    projector_hidden_act: str | None = None
    projector_intermediate_size: int | None = None
    audio_stack_factor: Literal[1, 2, 4, 8] = 1
    audio_context_fraction: float | int = 0.25
    image_token_id: int | None = None
    video_token_id: int | None = None
    audio_token_id: int | None = None
    lm_head_bias: bool = False
    unit_frames: int | None = None
    unit_window: int | None = None
    start_bias: float | int = 0.0
    listen_token_id: int | None = None
    speak_token_id: int | None = None
    initializer_range: float = 0.02

    @property
    def hidden_size(self) -> int:
        """Width of the text backbone, to which every front end projects."""
        return self.text_config.hidden_size

    @property
    def max_position_embeddings(self) -> int:
        """Positions, placeholders included; the text backbone's."""
        return self.text_config.max_position_embeddings

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int):
        self.text_config.max_position_embeddings = value

    @property
    def max_sequence_length(self) -> int:
        """Longest sequence, placeholders included: the positions, and more of them where they stretch (dynamic NTK)."""
        return longest_sequence(self.text_config)

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the head shares the token embedding; the text backbone's."""
        return self.text_config.tie_word_embeddings

    @tie_word_embeddings.setter
    def tie_word_embeddings(self, value: bool):
        self.text_config.tie_word_embeddings = value

    @property
    def input_modalities(self) -> tuple[str, ...]:
        """Modalities that can be read: `"text"`; `"image"`, `"video"`, `"audio"` with front end and placeholder."""
        front_ends = {"image": self.vision_config, "video": self.vision_config, "audio": self.audio_config}
        return (
            "text",
            *(
                modality
                for modality, front_end in front_ends.items()
                if front_end is not None and getattr(self, f"{modality}_token_id") is not None
            ),
        )

    @property
    def max_audio_tokens(self) -> int:
        """Most tokens one clip may take of the context."""
        return max(int(self.audio_context_fraction * self.max_position_embeddings), 1)

    @property
    def unit_samples(self) -> int:
        """Samples of audio input in a unit; of a model with units."""
        return self.unit_frames * token_samples(self.audio_config, self.audio_stack_factor)[0]  # type: ignore[operator]

    @property
    def unit_sampling_rate(self) -> int:
        """Rate of these samples, in Hz."""
        return token_samples(self.audio_config, self.audio_stack_factor)[1]

    @property
    def unit_seconds(self) -> float:
        """Length of a unit."""
        return self.unit_samples / self.unit_sampling_rate

    def get_num_units(self, num_samples: int) -> int:
        """Return in how many units audio of so many samples is heard, the last one filled up with silence."""
        return -(-num_samples // self.unit_samples)

    def get_num_audio_tokens(self, num_inputs: int, cut: bool = True) -> int:
        """Return the placeholders of one clip.

        Args:
            num_inputs (`int`): Its real length in samples (codecs, encoders of waveforms) or mel frames.
            cut (`bool`): Whether the clip is cut to its part of the context.
        """
        num_tokens = -(-num_audio_tokens(self.audio_config, num_inputs) // self.audio_stack_factor)
        return min(num_tokens, self.max_audio_tokens) if cut else num_tokens

    def get_num_image_tokens(self, height: int, width: int) -> int:
        """Return the placeholders of one image of `height` by `width` pixels."""
        return num_image_tokens(self.vision_config, self.vision_feature_select, height, width)

    def get_num_video_tokens(self, num_frames: int, height: int, width: int) -> int:
        """Return the placeholders of one video of `num_frames` frames.

        Args:
            num_frames (`int`): Frames that are looked at.
            height, width (`int`): Their size in pixels.
        """
        return num_image_tokens(self.vision_config, self.vision_feature_select, height, width, num_frames)

    def validate_front_ends(self):
        """Placeholders exist for what can be heard and seen, and the chosen rows exist."""
        if not 0 < self.audio_context_fraction <= 1:
            raise ValueError(f"`audio_context_fraction` must be in (0, 1], got {self.audio_context_fraction}.")
        if self.projector_intermediate_size is not None:
            require_positive(self, "projector_intermediate_size")
            if self.projector_hidden_act is None:
                raise ValueError(
                    "`projector_intermediate_size` must be None without a `projector_hidden_act`, which makes a "
                    f"projector of two layers, got {self.projector_intermediate_size}."
                )
        if self.audio_stack_factor > 1 and (self.audio_config is None or is_codec(self.audio_config)):
            raise ValueError(
                "`audio_stack_factor` must be 1 without an audio encoder, as codes are not stacked, "
                f"got {self.audio_stack_factor}."
            )
        if self.audio_config is not None and self.audio_token_id is None:
            raise ValueError("`audio_token_id` must be an id when `audio_config` is given, got None.")
        if self.vision_config is not None and self.image_token_id is None and self.video_token_id is None:
            raise ValueError(
                "`image_token_id` or `video_token_id` must be an id when `vision_config` is given, got None."
            )
        if self.vision_config is None or is_codec(self.vision_config):
            return
        if self.vision_feature_select == "cls" and not has_cls_row(self.vision_config):
            raise ValueError(
                f"`vision_feature_select` must be 'patch' for a {self.vision_config.model_type!r} tower, got 'cls'."
            )

    def validate_units(self):
        """Units have a length, tokens to decide by, and audio that can be heard in them."""
        decisions = {"listen_token_id": self.listen_token_id, "speak_token_id": self.speak_token_id}
        if self.unit_frames is None:
            for name, value in (decisions | {"unit_window": self.unit_window}).items():
                if value is not None:
                    raise ValueError(f"`{name}` must be None without `unit_frames`, got {value}.")
            if self.start_bias:
                raise ValueError(f"`start_bias` must be 0 without `unit_frames`, got {self.start_bias}.")
            return
        require_positive(self, "unit_frames")
        if not math.isfinite(self.start_bias):
            raise ValueError(f"`start_bias` must be a finite number, got {self.start_bias}.")
        if self.unit_window is not None and self.unit_window < 2:
            raise ValueError(f"`unit_window` must be at least 2, got {self.unit_window}.")
        require_stream(self.audio_config)
        others = [self.image_token_id, self.video_token_id, self.audio_token_id]
        for name, value in decisions.items():
            if value is None or not 0 <= value < self.text_config.vocab_size or value in others:
                raise ValueError(
                    f"`{name}` must be an id in [0, {self.text_config.vocab_size}) of its own with `unit_frames`, "
                    f"got {value}."
                )
            others.append(value)
        if self.audio_context_fraction != 1:
            raise ValueError(
                "`audio_context_fraction` must be 1 with `unit_frames`, as a session is one clip that is not cut, "
                f"got {self.audio_context_fraction}."
            )


AutoConfig.register(JosieThinkerConfig.model_type, JosieThinkerConfig, exist_ok=True)
