"""Feature extraction: waveforms to what an audio tower or an audio codec reads."""

import inspect
import math
import warnings
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
import torch
import torchaudio
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from ..configuration_josie import (
    JodioConfig,
    JosieAudioEncoderConfig,
    JosieConfig,
    JosieMelCodecConfig,
    JosieThinkerConfig,
    audio_codec_geometry,
    is_codec,
    reads_waveforms,
)
from ..configuration_josie.constants import LOG_FLOOR
from .audio import AudioInput, as_waveform, is_clip, load_audio
from .resampling import require_rate
from .sources import is_source

_LOUDNESS_BLOCK = 0.4  # seconds
_SILENCE = -70.0  # LUFS
# Names in saved settings that say whose they are, or what others say.
_BOOKKEEPING = ("feature_extractor_type", "processor_class", "auto_map", "_name_or_path", "feature_size")
# Settings of other extractors, with what is done here anyway.
_ALWAYS = (("padding_side", "right"), ("return_attention_mask", True))

# Pipelines give them to all that they load.
_OPTIONS_OF_MODELS = (
    "dtype",
    "torch_dtype",
    "device_map",
    "attn_implementation",
    "low_cpu_mem_usage",
    "offload_folder",
)


class JosieFeatureExtractor(SequenceFeatureExtractor):
    """Feature extractor of the Thinker: mel spectrograms for an audio tower, waveforms for a codec.

    Clips of a batch are padded behind. `padding_side` is `None`: that of pipelines is about text.

    Args:
        output (`"features"` or `"values"`): Mel spectrograms, or waveforms as they are.
        sampling_rate (`int`): Rate that everything is brought to, in Hz.
        num_channels (`1` or `2`): Channels of waveforms; spectrograms are of one.
        num_mel_bins (`int`): Mel bands.
        n_fft, win_length, mel_hop_length (`int`): Short-time Fourier transform, in samples.
        mel_power (`float`): 1 for magnitudes, 2 for power.
        log_mel (`bool`): Take the logarithm of the spectrogram.
        do_normalize (`bool`): Bring each waveform to mean 0 and variance 1.
        loudness (`float`, *optional*): Bring each clip to this loudness, in LUFS (ITU-R BS.1770-4), -23 for instance,
            so that a quiet microphone is heard as a loud one. Silence (below -70) stays as it is. Clips stay as loud as
            they are when `None`.
        padding_value (`float`): What follows a clip that is shorter than others of its batch.

    Raises:
        `ValueError`: A number out of range, or another setting.
    """

    def __init__(
        self,
        output: Literal["features", "values"] = "features",
        sampling_rate: int = 16000,
        num_channels: int = 1,
        num_mel_bins: int = 128,
        n_fft: int = 1024,
        win_length: int = 400,
        mel_hop_length: int = 160,
        mel_power: float = 2.0,
        log_mel: bool = False,
        do_normalize: bool = False,
        loudness: float | None = None,
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        for name, value in kwargs.items():
            if name not in _BOOKKEEPING and value is not None and (name, value) not in _ALWAYS:
                names = sorted(inspect.signature(JosieFeatureExtractor.__init__).parameters.keys() - {"self", "kwargs"})
                raise ValueError(f"`{name}` must be one of {names}, got {name!r} of {value!r}.")
        if output not in ("features", "values"):
            raise ValueError(f"`output` must be 'features' or 'values', got {output!r}.")
        if num_channels not in ((1,) if output == "features" else (1, 2)):
            raise ValueError(f"`num_channels` must be 1, or 2 for waveforms, got {num_channels}.")
        feature_size = num_mel_bins if output == "features" else num_channels
        if kwargs.get("feature_size") not in (None, feature_size):
            raise ValueError(f"`feature_size` must be None or {feature_size}, got {kwargs['feature_size']!r}.")
        for name in ("feature_size", "padding_side", "return_attention_mask"):
            kwargs.pop(name, None)
        super().__init__(feature_size, require_rate(sampling_rate), padding_value, padding_side=None, **kwargs)
        self.output = output
        self.num_channels = num_channels
        self.num_mel_bins = num_mel_bins
        self.n_fft = n_fft
        self.win_length = win_length
        self.mel_hop_length = mel_hop_length
        self.mel_power = mel_power
        self.log_mel = log_mel
        self.do_normalize = do_normalize
        self.loudness = loudness
        if loudness is not None:
            is_number = isinstance(loudness, (int, float)) and not isinstance(loudness, bool)
            if not is_number or not -70 < loudness <= 0:
                raise ValueError(f"`loudness` must be in (-70, 0], in LUFS, or None, got {loudness!r}.")
            if do_normalize:
                raise ValueError(f"`loudness` must be None with `do_normalize`, which undoes it, got {loudness}.")

    def require_streaming(self) -> None:
        """Raise a `ValueError` if clips are changed by what only their end tells, as audio that comes cannot be."""
        if self.loudness is not None or self.do_normalize:
            name, value = ("loudness", self.loudness) if self.loudness is not None else ("do_normalize", True)
            other = "None" if name == "loudness" else "False"
            raise ValueError(
                f"`{name}` must be {other} for audio that comes as a stream, of which nobody knows the whole, got "
                f"{value}; an audio encoder with a `level_half_life` follows the loudness as it comes."
            )

    @property
    def model_input_names(self) -> list[str]:
        """Names of what [`JosieFeatureExtractor.__call__`] returns."""
        if self.output == "features":
            return ["input_features", "input_features_mask"]
        return ["input_values", "padding_mask"]

    @classmethod
    def from_config(cls, audio_config: PreTrainedConfig) -> SequenceFeatureExtractor:
        """Return the feature extractor for a Thinker's `audio_config`: ours, or Whisper's own.

        Raises:
            `ValueError`: An encoder of this type has no known feature extractor.
        """
        if isinstance(audio_config, JosieAudioEncoderConfig) and reads_waveforms(audio_config):
            return cls("values", sampling_rate=audio_config.sampling_rate)
        if isinstance(audio_config, JosieAudioEncoderConfig):
            names = ("sampling_rate", "num_mel_bins", "n_fft", "win_length", "mel_hop_length", "mel_power", "log_mel")
            return cls("features", **{name: getattr(audio_config, name) for name in names})
        if is_codec(audio_config):
            rate = audio_codec_geometry(audio_config).sampling_rate
            return cls("values", sampling_rate=rate, num_channels=getattr(audio_config, "audio_channels", 1))
        if reads_waveforms(audio_config):  # wav2vec 2.0 and its kin, all of them at 16 kHz
            return cls("values", sampling_rate=16000, do_normalize=True)
        if audio_config.model_type == "whisper":
            seconds, rest = divmod(audio_config.max_source_positions, 50)
            if rest:
                raise ValueError(
                    "`audio_config.max_source_positions` must be a multiple of 50 (whole seconds), "
                    f"got {audio_config.max_source_positions}."
                )
            return WhisperFeatureExtractor(feature_size=audio_config.num_mel_bins, chunk_length=seconds)
        raise ValueError(f"`audio_config` of type {audio_config.model_type!r} has no known feature extractor.")

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the extractor of saved settings, with others in their place; arguments as in transformers.

        Raises:
            `ValueError`: A setting that there is not.
        """
        if kwargs.get("return_unused_kwargs", False):
            return super().from_dict(feature_extractor_dict, **kwargs)
        given = {
            name: value
            for name, value in kwargs.items()
            if name[0] != "_" and name not in ("return_unused_kwargs", *_OPTIONS_OF_MODELS)
        }
        saved = {name: value for name, value in feature_extractor_dict.items() if name != "feature_size"}
        return cls(**(saved | given))

    def __call__(
        self,
        audio: AudioInput,
        sampling_rate: int | None = None,
        return_tensors: Literal["pt", "np"] | None = "pt",
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """Turn clips into model inputs.

        Args:
            audio: A clip in any form that [`as_waveform`] takes, or a list of clips.
            sampling_rate (`int`, *optional*): Rate of clips that come without one, in Hz.
            return_tensors (`"pt"` or `"np"`, *optional*): Form of the result; NumPy when `None`.
            return_attention_mask (`bool`, *optional*): For pipelines, which pad the second axis: give each clip as one
                row of numbers, frame by frame, and call the mask `attention_mask`.

        Returns:
            [`BatchFeature`] with `input_features` of shape `(num_clips, num_mel_bins, num_frames)` and
            `input_features_mask` of shape `(num_clips, num_frames)`; or with `input_values` of shape
            `(num_clips, num_channels, num_samples)` and `padding_mask` of shape `(num_clips, num_samples)`. For
            pipelines `(num_clips, num_frames * num_mel_bins)` or `(num_clips, num_samples * num_channels)`.

        Raises:
            `ValueError`: As [`as_waveform`], or there is no clip.
        """
        clips = [audio] if is_clip(audio) else list(audio)
        if not clips:
            raise ValueError("`audio` must hold at least one clip, got none.")
        waveforms = [as_waveform(clip, sampling_rate, self.sampling_rate, self.num_channels) for clip in clips]
        features = self.extract(waveforms, return_tensors)
        if return_attention_mask:
            name, mask_name = self.model_input_names
            features["attention_mask"] = features.data.pop(mask_name)
            features[name] = features[name].swapaxes(1, 2).reshape(len(clips), -1)
        return features

    def extract(self, waveforms: list[np.ndarray], return_tensors: Literal["pt", "np"] | None = "pt") -> BatchFeature:
        """Turn waveforms into model inputs.

        Args:
            waveforms (`list[np.ndarray]`): Each float32 `(num_channels, num_samples)` at this extractor's rate, as
                [`as_waveform`] returns it.
            return_tensors (`"pt"` or `"np"`, *optional*): Form of the result; NumPy when `None`.

        Returns:
            [`BatchFeature`] as of [`JosieFeatureExtractor.__call__`].
        """
        if self.loudness is not None:
            waveforms = [waveform * self._find_gain(waveform) for waveform in waveforms]
        if self.do_normalize:
            # As transformers' Wav2Vec2FeatureExtractor does; in a quiet clip it matters where the small number stands.
            waveforms = [(waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7) for waveform in waveforms]
        if self.output == "features":
            waveforms = [self._mel(waveform[0]) for waveform in waveforms]
        length = max(waveform.shape[1] for waveform in waveforms)
        batch = np.full((len(waveforms), self.feature_size, length), self.padding_value, dtype=np.float32)
        mask = np.zeros((len(waveforms), length), dtype=np.int64)
        for row, waveform in enumerate(waveforms):
            batch[row, :, : waveform.shape[1]] = waveform
            mask[row, : waveform.shape[1]] = 1
        return BatchFeature(
            dict(zip(self.model_input_names, (batch, mask), strict=True)), tensor_type=return_tensors or "np"
        )

    def fetch_audio(self, audio: AudioInput, sampling_rate: int | None = None) -> Any:
        """Read the clips that are files.

        Args:
            audio: A clip or a list of clips, nested or not.
            sampling_rate (`int`, *optional*): Rate to bring files to, in Hz; this extractor's when `None`.

        Returns:
            `audio` with `{"array": (num_samples,), "sampling_rate": int}` in place of each file; other clips are
            returned as they are.
        """
        rate = require_rate(sampling_rate or self.sampling_rate)
        if is_source(audio):
            return {"array": load_audio(audio, rate), "sampling_rate": rate}
        return audio if is_clip(audio) else [self.fetch_audio(clip, rate) for clip in audio]

    def _find_gain(self, waveform: np.ndarray) -> np.float32:
        """Return what brings a waveform, `(num_channels, num_samples)`, to the wanted loudness."""
        shortest = math.ceil(_LOUDNESS_BLOCK * self.sampling_rate)
        length = max(waveform.shape[1], 1)
        values = torch.from_numpy(waveform)
        if length < shortest:  # the measure averages over blocks
            values = torch.nn.functional.pad(values, (0, shortest - length))
        measured = float(torchaudio.functional.loudness(values, self.sampling_rate))
        measured += 10 * math.log10(max(shortest / length, 1))
        if not measured > _SILENCE:  # NaN too
            return np.float32(1)
        return np.float32(10 ** ((self.loudness - measured) / 20))  # type: ignore[operator]

    def _mel(self, waveform: np.ndarray) -> np.ndarray:
        """Return the mel spectrogram, `(num_mel_bins, num_samples // mel_hop_length + 1)`, of `(num_samples,)`."""
        num_frames = len(waveform) // self.mel_hop_length + 1
        # Reflection at the edges needs more than half a window of signal: a shorter clip is followed by silence.
        missing = max(self.n_fft // 2 + 1 - len(waveform), 0)
        transform = _mel_transform(
            self.sampling_rate, self.n_fft, self.win_length, self.mel_hop_length, self.num_mel_bins, self.mel_power
        )
        power = transform.spectrogram(torch.from_numpy(np.pad(waveform, (0, missing))))[:, :num_frames]
        # As a pointwise convolution, which oneDNN computes, the bands are summed with fused multiply-adds whatever the
        # matrix library does, so that only the Fourier transform decides about the last digit.
        filters = cast(torch.Tensor, transform.mel_scale.fb)
        mel = torch.nn.functional.conv1d(power[None], filters.T[..., None])[0]
        return (mel.clamp(min=LOG_FLOOR).log() if self.log_mel else mel).numpy()


@lru_cache(maxsize=8)
def _mel_transform(
    sampling_rate: int, n_fft: int, win_length: int, hop_length: int, num_mel_bins: int, power: float
) -> torchaudio.transforms.MelSpectrogram:
    from transformers.modeling_utils import local_torch_dtype  # takes long to import

    with local_torch_dtype(torch.float32), warnings.catch_warnings():
        # With many bands the lowest lie between two bins and stay empty; the models were trained with them.
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.transforms.MelSpectrogram(
            sampling_rate, n_fft, win_length, hop_length, n_mels=num_mel_bins, power=power
        )


for _config in (JosieConfig, JosieThinkerConfig, JosieAudioEncoderConfig, JodioConfig, JosieMelCodecConfig):
    AutoFeatureExtractor.register(_config, JosieFeatureExtractor, exist_ok=True)
