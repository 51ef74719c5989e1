"""Tiny seeded models of every class, with odd sizes, and inputs for them: what the laws run over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

import josie

BACKBONE = dict(hidden_size=30, num_hidden_layers=2, num_attention_heads=3, intermediate_size=44)
SMALL = dict(hidden_size=18, num_hidden_layers=1, num_attention_heads=3, intermediate_size=26)
TEXT = dict(
    BACKBONE,
    model_type="josie_text",
    vocab_size=53,
    num_key_value_heads=1,
    max_position_embeddings=96,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
AUDIO_ENCODER = dict(SMALL, model_type="josie_audio_encoder", num_mel_bins=9, conv_channels=3, n_fft=128, win_length=99)
CAUSAL_AUDIO_ENCODER = dict(
    AUDIO_ENCODER,
    sampling_rate=1600,
    n_fft=32,
    win_length=17,
    mel_hop_length=6,
    log_mel=True,
    mel_mean=-4.0,
    mel_std=3.0,
    is_causal=True,
    sliding_window=4,
    mel_lookahead=2,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)
VISION_ENCODER = dict(SMALL, model_type="josie_vision_encoder", image_size=21, patch_size=7)
QUANTIZER = dict(codebook_size=11, codebook_dim=5, dead_code_threshold=0, kmeans_init=False)
JODIO = dict(
    QUANTIZER,
    model_type="jodio",
    sampling_rate=1600,
    num_quantizers=3,
    channels=[6, 8, 10],
    upsampling_ratios=[5, 4],
    num_residual_layers=2,
    encoder_config=dict(SMALL, sliding_window=6),
    decoder_config=dict(SMALL, sliding_window=6),
)
JODIO_MEL = dict(
    JODIO,
    domain="mel",
    n_fft=16,
    mel_hop_length=5,
    mel_lookahead=7,
    num_mel_bins=9,
    channels=[8, 10],
    upsampling_ratios=[4],
    waveform_weight=0,
    stft_weight=0,
)
MEL_CODEC = dict(
    QUANTIZER,
    model_type="josie_mel_codec",
    sampling_rate=1600,
    num_quantizers=3,
    num_mel_bins=13,
    n_fft=64,
    win_length=60,
    mel_hop_length=16,
    frames_per_code=3,
    hidden_size=10,
    num_encoder_layers=1,
    num_decoder_layers=1,
    griffin_lim_iterations=4,
)
JOVIO = dict(QUANTIZER, model_type="jovio", num_quantizers=3, patch_size=6, encoder_config=SMALL, decoder_config=SMALL)
PLACEHOLDERS = dict(image_token_id=6, video_token_id=7, audio_token_id=8)
THINKER = dict(text_config=TEXT, audio_config=AUDIO_ENCODER, vision_config=VISION_ENCODER, **PLACEHOLDERS)
TALKER = dict(
    BACKBONE,
    num_quantizers=3,
    codebook_size=11,
    thinker_hidden_size=30,
    max_position_embeddings=64,
    speakers=["ada", "bob"],
    speech_delay=1,
)
DEPTH = dict(SMALL, num_hidden_layers=2)


def josie_config(**overrides: Any) -> "josie.JosieConfig":
    """Return the configuration of a whole model: encoders in front, Talker with depth decoder, mel codec."""
    parts = dict(thinker_config=THINKER, talker_config=dict(TALKER, depth_decoder_config=DEPTH))
    return josie.JosieConfig(**(parts | dict(audio_codec_config=MEL_CODEC) | overrides))


def coded_josie_config() -> "josie.JosieConfig":
    """Return the configuration of a whole model that hears through JODIO and sees through JOVIO: the seed's way."""
    thinker = dict(text_config=TEXT, audio_config=JODIO, vision_config=JOVIO, **PLACEHOLDERS)
    return josie.JosieConfig(thinker_config=thinker, talker_config=TALKER)


def build(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Return a seeded model in eval mode, its weights large enough that everything matters."""
    torch.manual_seed(1)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "codebook" not in name:
                parameter.normal_(std=0.3)
    return model


def lengths_to_mask(lengths: list[int], longest: int) -> torch.Tensor:
    """Return the `(batch, longest)` mask of rows that are padded on the right."""
    return (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()


def embeds_inputs() -> dict[str, torch.Tensor]:
    """Return embeddings, padded on the left."""
    return dict(inputs_embeds=torch.randn(2, 7, 30), attention_mask=lengths_to_mask([7, 4], 7).flip(1))


def text_inputs() -> dict[str, torch.Tensor]:
    """Return token ids, padded on the left."""
    mask = lengths_to_mask([9, 5], 9).flip(1)
    return dict(input_ids=torch.randint(10, 53, (2, 9)) * mask, attention_mask=mask)


def audio_encoder_inputs() -> dict[str, torch.Tensor]:
    """Return mel features of two lengths."""
    mask = lengths_to_mask([19, 11], 19)
    return dict(input_features=torch.rand(2, 9, 19) * mask[:, None], attention_mask=mask)


def waveform_inputs() -> dict[str, torch.Tensor]:
    """Return waveforms of two lengths."""
    mask = lengths_to_mask([203, 117], 203)
    return dict(input_values=torch.randn(2, 1, 203).mul(0.3) * mask[:, None], padding_mask=mask)


def video_inputs() -> dict[str, torch.Tensor]:
    """Return two videos of one size."""
    return dict(pixel_values=torch.rand(2, 3, 3, 12, 18))


def talker_inputs() -> dict[str, torch.Tensor]:
    """Return states of spoken tokens, and codes that end."""
    codes = torch.randint(0, 11, (2, 3, 8))
    codes[1, :, 5:] = -100
    codes[0, 1:, 7], codes[1, 1:, 4] = -100, -100
    codes[0, 0, 7], codes[1, 0, 4] = 11, 11
    return dict(
        speech_codes=codes,
        thinker_hidden_states=torch.randn(2, 5, 30),
        thinker_embeds=torch.randn(2, 5, 30),
        thinker_mask=lengths_to_mask([5, 3], 5),
        speaker_ids=torch.tensor([1, 0]),
    )


def thinker_inputs() -> dict[str, torch.Tensor]:
    """Return two rows with an image, a clip and words each, padded on the left, and labels on the words."""
    first = [6] + [8] * 5 + [20, 21, 22, 2]
    second = [6] + [8] * 3 + [30, 2]
    ids = torch.tensor([first, [0] * 4 + second])
    mask = lengths_to_mask([10, 6], 10).flip(1)
    labels = torch.where((ids > 19) | (ids == 2), ids, -100)
    audio = audio_encoder_inputs()
    return dict(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        labels=labels,
        input_features=audio["input_features"],
        input_features_mask=audio["attention_mask"],
        pixel_values=torch.rand(2, 3, 21, 21),
    )


def causal_thinker_inputs() -> dict[str, torch.Tensor]:
    """Return two rows with an image, a waveform and words each, padded on the left, and labels on the words."""
    inputs = {name: value for name, value in thinker_inputs().items() if not name.startswith("input_features")}
    mask = lengths_to_mask([110, 70], 110)  # five and three features
    return inputs | dict(input_values=torch.randn(2, 1, 110).mul(0.3) * mask[:, None], padding_mask=mask)


def josie_inputs() -> dict[str, torch.Tensor]:
    """Return the Thinker's inputs and speech for its words."""
    return thinker_inputs() | {key: value for key, value in talker_inputs().items() if not key.startswith("thinker")}


def coded_josie_inputs() -> dict[str, torch.Tensor]:
    """Return two rows with an image (6 patches), a video (12) and a clip (11 and 6 code frames) each."""
    rows = [[6] * 6 + [7] * 12 + [8] * frames + [20, 21, 2] for frames in (11, 6)]
    longest = len(rows[0])
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    speech = {key: value for key, value in talker_inputs().items() if not key.startswith("thinker")}
    return (
        dict(
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            labels=torch.where((ids > 19) | (ids == 2), ids, -100),
            pixel_values=torch.rand(2, 3, 12, 18),
            pixel_values_videos=torch.rand(2, 3, 3, 12, 18),
        )
        | waveform_inputs()
        | speech
    )


@dataclass
class Case:
    """One model class under the laws.

    Args:
        model_class: The class.
        config: Makes its configuration.
        inputs: Makes a batch of two rows of different lengths where the model takes masks.
        output (`str`): The output that the laws compare, float.
        trains (`bool`): Whether `forward` returns a loss on this batch in training mode.
    """

    model_class: str
    config: Callable[[], PreTrainedConfig]
    inputs: Callable[[], dict[str, torch.Tensor]]
    output: str = "last_hidden_state"
    trains: bool = False

    def build(self) -> PreTrainedModel:
        """Return the seeded model."""
        return build(getattr(josie, self.model_class), self.config())


CASES = {
    "backbone": Case("JosieBackbone", lambda: josie.JosieBackboneConfig(**BACKBONE, layer_scale=0.1), embeds_inputs),
    "backbone-window": Case(
        "JosieBackbone", lambda: josie.JosieBackboneConfig(**BACKBONE, sliding_window=3), embeds_inputs
    ),
    "text": Case("JosieTextModel", lambda: josie.JosieTextConfig(**TEXT), text_inputs),
    "audio-encoder": Case(
        "JosieAudioEncoder", lambda: josie.JosieAudioEncoderConfig(**AUDIO_ENCODER), audio_encoder_inputs
    ),
    "audio-encoder-causal": Case(
        "JosieAudioEncoder", lambda: josie.JosieAudioEncoderConfig(**CAUSAL_AUDIO_ENCODER), waveform_inputs
    ),
    "vision-encoder": Case(
        "JosieVisionEncoder",
        lambda: josie.JosieVisionEncoderConfig(**VISION_ENCODER),
        lambda: dict(pixel_values=torch.rand(2, 3, 21, 21)),
    ),
    "vision-encoder-stem": Case(
        "JosieVisionEncoder",
        lambda: josie.JosieVisionEncoderConfig(**VISION_ENCODER | dict(image_size=18, patch_size=6, stem_channels=[5])),
        lambda: dict(pixel_values=torch.rand(2, 3, 18, 18)),
    ),
    "jodio": Case("JodioModel", lambda: josie.JodioConfig(**JODIO), waveform_inputs, "audio_values", True),
    "jodio-mel": Case("JodioModel", lambda: josie.JodioConfig(**JODIO_MEL), waveform_inputs, "audio_values", True),
    "mel-codec": Case(
        "JosieMelCodecModel", lambda: josie.JosieMelCodecConfig(**MEL_CODEC), waveform_inputs, "audio_values", True
    ),
    "jovio": Case("JovioModel", lambda: josie.JovioConfig(**JOVIO), video_inputs, "pixel_values", True),
    "jovio-causal": Case(
        "JovioModel",
        lambda: josie.JovioConfig(**JOVIO, causal_time=True, patch_overlap=2, num_semantic_quantizers=1),
        video_inputs,
        "pixel_values",
        True,
    ),
    "thinker": Case(
        "JosieThinkerForConditionalGeneration",
        lambda: josie.JosieThinkerConfig(**THINKER),
        thinker_inputs,
        "logits",
        True,
    ),
    "thinker-causal": Case(
        "JosieThinkerForConditionalGeneration",
        lambda: josie.JosieThinkerConfig(**THINKER | dict(audio_config=CAUSAL_AUDIO_ENCODER)),
        causal_thinker_inputs,
        "logits",
        True,
    ),
    "talker-parallel": Case(
        "JosieTalkerForConditionalGeneration", lambda: josie.JosieTalkerConfig(**TALKER), talker_inputs, "logits", True
    ),
    "talker-depth": Case(
        "JosieTalkerForConditionalGeneration",
        lambda: josie.JosieTalkerConfig(**TALKER, depth_decoder_config=DEPTH),
        talker_inputs,
        "depth_logits",
        True,
    ),
    "talker-durations": Case(
        "JosieTalkerForConditionalGeneration",
        lambda: josie.JosieTalkerConfig(
            **TALKER,
            depth_decoder_config=DEPTH,
            learns_durations=True,
            duration_left_context=1,
            duration_right_context=1,
            frames_per_token=2,
            text_intermediate_size=20,
        ),
        talker_inputs,
        "depth_logits",
        True,
    ),
    "josie": Case("JosieForConditionalGeneration", josie_config, josie_inputs, "logits", True),
    "josie-codes": Case("JosieForConditionalGeneration", coded_josie_config, coded_josie_inputs, "logits", True),
}
