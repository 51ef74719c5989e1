"""Effects on waveforms, which make recordings as unlike each other as those that a model will hear.

Each maps float32 samples, `(num_samples,)`, to others. All that is drawn comes from one generator.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torchaudio import functional

from ..processing_josie.audio import load_audio
from ..processing_josie.resampling import resample

# Formats of libsndfile by the name of an effect: format, subtype, and the rate that it is for, in Hz.
CODECS: dict[str, tuple[str, str, int | None]] = {
    "mp3": ("MP3", "MPEG_LAYER_III", None),
    "vorbis": ("OGG", "VORBIS", None),
    "opus": ("OGG", "OPUS", 48000),
    "gsm": ("WAV", "GSM610", 8000),
    "ulaw": ("WAV", "ULAW", 8000),
}
NOISES = {"white": 0.0, "pink": 1.0, "brown": 2.0}  # exponents of the power's fall over frequency
_TELEPHONE_BAND, _TELEPHONE_RATE = (300.0, 3400.0), 8000
_WAVE_SPEED = 343.0  # in air, m/s
_FRAME = 512  # of the phase vocoder


def scale(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Make a waveform louder or softer."""
    return samples * np.float32(10 ** (decibels / 20))


def make_noise(num_samples: int, color: str, rng: np.random.Generator) -> np.ndarray:
    """Return noise of a colour of `NOISES`, with a power of about 1.

    Args:
        num_samples (`int`): How many.
        color (`str`): A key of `NOISES`.
        rng (`np.random.Generator`): Draws it.
    """
    spectrum = rng.standard_normal((2, num_samples // 2 + 1))
    frequencies = np.maximum(np.arange(num_samples // 2 + 1), 1)
    shaped = (spectrum[0] + 1j * spectrum[1]) * frequencies ** (-NOISES[color] / 2)
    noise = np.fft.irfft(shaped, num_samples)
    return (noise / max(float(noise.std()), 1e-12)).astype(np.float32)


def list_noises(folder: Path) -> list[Path]:
    """Return the recordings in a folder, in order; of files that are none, nothing."""
    endings = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".oga"}
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)


def cut_noise(path: Path, num_samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return so many samples of a recording from anywhere in it; a shorter one is repeated.

    Args:
        path (`Path`): The recording.
        num_samples (`int`): How many.
        sampling_rate (`int`): That of the result, in Hz.
        rng (`np.random.Generator`): Draws where it begins.
    """
    noise = load_audio(path, sampling_rate)
    if not len(noise):
        return np.zeros(num_samples, dtype=np.float32)
    start = int(rng.integers(len(noise)))
    return np.resize(np.roll(noise, -start), num_samples)


def add_noise(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add noise. Silence, on either side, adds nothing.

    Args:
        samples, noise (`np.ndarray`): `(num_samples,)`.
        snr (`float`): Power of the clip over that of the noise, in dB.
    """
    if not samples.any() or not noise.any():
        return samples
    ratio = torch.tensor(snr, dtype=torch.float32)
    return functional.add_noise(torch.from_numpy(samples), torch.from_numpy(noise), ratio).numpy()


def limit_band(samples: np.ndarray, sampling_rate: int, low: float, high: float) -> np.ndarray:
    """Keep what is between two frequencies: Butterworth filters of second order, of which each runs twice.

    Args:
        samples (`np.ndarray`): `(num_samples,)`.
        sampling_rate (`int`): In Hz.
        low, high (`float`): The frequencies, in Hz; from 0, or from half the rate on, there is no filter.
    """
    values = torch.from_numpy(samples)
    for _ in range(2):
        if low > 0:
            values = functional.highpass_biquad(values, sampling_rate, low)
        if high < sampling_rate / 2:
            values = functional.lowpass_biquad(values, sampling_rate, high)
    return values.numpy()


def through_telephone(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Return what a telephone line leaves: 300 to 3400 Hz, 8000 samples a second of 8 bits (G.711)."""
    narrow = limit_band(samples, sampling_rate, *_TELEPHONE_BAND)
    return round_trip(narrow, sampling_rate, "ulaw")


def change_speed(samples: np.ndarray, sampling_rate: int, factor: float) -> np.ndarray:
    """Play faster, which also makes the pitch higher, or slower (Ko et al., 2015).

    Args:
        samples (`np.ndarray`): `(num_samples,)`.
        sampling_rate (`int`): In Hz.
        factor (`float`): How much faster; below 1 slower.
    """
    return resample(samples, round(sampling_rate * factor), sampling_rate)


def change_tempo(samples: np.ndarray, factor: float) -> np.ndarray:
    """Say faster or slower at the same pitch, by a phase vocoder."""
    hop, window = _FRAME // 4, torch.hann_window(_FRAME, dtype=torch.float32)
    length = round(len(samples) / factor)
    padded = torch.nn.functional.pad(torch.from_numpy(samples), (0, max(_FRAME - len(samples), 0)))
    spectrum = torch.stft(padded, _FRAME, hop, window=window, return_complex=True)
    advance = torch.linspace(0, torch.pi * hop, _FRAME // 2 + 1, dtype=torch.float32)[:, None]
    stretched = functional.phase_vocoder(spectrum, factor, advance)
    whole = round(len(padded) / factor)
    return torch.istft(stretched, _FRAME, hop, window=window, length=whole)[:length].numpy()


def change_pitch(samples: np.ndarray, sampling_rate: int, semitones: float) -> np.ndarray:
    """Make the pitch higher or lower at the same length.

    Args:
        samples (`np.ndarray`): `(num_samples,)`.
        sampling_rate (`int`): In Hz.
        semitones (`float`): How much higher; below 0 lower.
    """
    factor = 2 ** (semitones / 12)
    changed = change_speed(change_tempo(samples, 1 / factor), sampling_rate, factor)
    return fit_length(changed, len(samples))


def reverberate(samples: np.ndarray, sampling_rate: int, seconds: float, distance: float, rng: Any) -> np.ndarray:
    """Put a voice into a room: its impulse response is noise that falls by 60 dB in so many seconds (Moorer, 1979).

    Args:
        samples (`np.ndarray`): The waveform.
        sampling_rate (`int`): Its rate, in Hz.
        seconds (`float`): Reverberation time.
        distance (`float`): From the microphone, as a share of that where the echoes are as loud as the voice.
        rng (`np.random.Generator`): Draws the room.
    """
    length = max(round(seconds * sampling_rate), 1)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[: round(sampling_rate * distance / _WAVE_SPEED)] = 0  # the first echo has a longer way
    tail *= distance / max(float(np.linalg.norm(tail)), 1e-12)
    tail[0] = 1.0
    room = torch.from_numpy(tail.astype(np.float32))
    return functional.fftconvolve(torch.from_numpy(samples), room)[: len(samples)].numpy()


def clip_peaks(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Cut what is louder than so many dB below the peak, as a microphone that is too close."""
    limit = float(np.abs(samples).max(initial=0)) * 10 ** (-decibels / 20)
    return np.clip(samples, -limit, limit)


def round_trip(samples: np.ndarray, sampling_rate: int, codec: str) -> np.ndarray:
    """Encode and decode with a codec of `CODECS`; the length stays.

    Args:
        samples (`np.ndarray`): `(num_samples,)`.
        sampling_rate (`int`): In Hz.
        codec (`str`): A key of `CODECS`.
    """
    file_format, subtype, rate = CODECS[codec]
    rate = sampling_rate if rate is None else rate
    peak = max(float(np.abs(samples).max(initial=0)), 1.0)  # or what is beyond full scale would be cut
    file = io.BytesIO()
    soundfile.write(file, resample(samples, sampling_rate, rate) / peak, rate, format=file_format, subtype=subtype)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return fit_length(resample(decoded * np.float32(peak), rate, sampling_rate), len(samples))


def fit_length(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut a waveform, or fill it up with silence."""
    return np.pad(samples[:num_samples], (0, max(num_samples - len(samples), 0))).astype(np.float32)
