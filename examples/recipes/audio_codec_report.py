"""The report at the end of an audio codec's training: clips to hear, spectrograms to see, numbers to compare."""

import hashlib
import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel

from josie.configuration_josie import audio_codec_geometry
from josie.conversion.files import write_file
from josie.modeling_josie.codecs.adapters import decode_audio, encode_audio
from josie.processing_josie import JosieFeatureExtractor, resample, save_audio
from josie.processing_josie.audio import as_waveform
from recipes.debian import FetchError
from recipes.progress import progress

METRICS_FILE, IMAGE_FILE = "metrics.json", "spectrograms.png"
_NUM_MEL_BINS, _FLOOR_DB = 80, -100.0


@dataclass
class ReportArguments:
    """Size of the report.

    Args:
        num_clips (`int`): Clips of the test split that are measured: always the same, whatever else is in it.
        num_examples (`int`): How many of them are kept to hear and see.
        min_seconds, max_seconds (`float`): Shorter clips are left out, longer ones are cut.
    """

    num_clips: int = 50
    num_examples: int = 4
    min_seconds: float = 1.0
    max_seconds: float = 10.0

    def __post_init__(self):
        if self.num_clips < 1 or not 0 <= self.num_examples <= self.num_clips:
            raise ValueError(
                "`report.num_clips` must be positive and `report.num_examples` not more, "
                f"got {self.num_clips} and {self.num_examples}."
            )
        if not (0 <= self.min_seconds <= self.max_seconds and self.max_seconds > 0):
            raise ValueError(
                "`report.min_seconds` must be at least 0 and `report.max_seconds` above 0 and not less, "
                f"got {self.min_seconds} and {self.max_seconds}."
            )


def require_matplotlib() -> None:
    """Raise a [`FetchError`] if there is nothing to draw with: better before the training than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise FetchError("The report is drawn with matplotlib: pip install 'josie[recipes]'.")


def require_clips(config: PreTrainedConfig, dataset: Dataset, arguments: ReportArguments) -> None:
    """Raise a `ValueError` if no clip is long enough for a report: better before the training than after it.

    Args:
        config ([`PreTrainedConfig`]): Of the codec.
        dataset (`datasets.Dataset`): Has `audio`, not decoded.
        arguments ([`ReportArguments`]): What is reported.
    """
    rate, channels = audio_codec_geometry(config).sampling_rate, getattr(config, "audio_channels", 1)
    if next(iter(_choose_clips(dataset, rate, channels, arguments)), None) is None:
        raise ValueError(f"`report.min_seconds` must leave at least one clip, got {arguments.min_seconds}.")


def write_report(model: PreTrainedModel, dataset: Dataset, folder: Path, arguments: ReportArguments) -> dict[str, Any]:
    """Send clips through a codec, measure what comes out, and write audio, an image and `metrics.json`.

    Args:
        model ([`PreTrainedModel`]): JODIO, the mel codec or another audio tokenizer.
        dataset (`datasets.Dataset`): Has `audio`, not decoded.
        folder (`Path`): Made where it is missing.
        arguments ([`ReportArguments`]): What is reported.

    Returns:
        Medians over clips: `mel_distance` (mean absolute difference of log-mel spectrograms, in dB), `si_sdr` (in dB;
        Le Roux et al., 2019), and `pesq` and `stoi` where `josie[judge]` is installed; with `num_clips`, `kbit_rate`
        and `frame_rate` (in Hz).

    Raises:
        `ValueError`: There is no clip that is long enough.
    """
    require_clips(model.config, dataset, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    geometry = audio_codec_geometry(model.config)
    rate, channels = geometry.sampling_rate, getattr(model.config, "audio_channels", 1)
    was_training = model.training
    model.eval()
    scores, examples = [], []
    clips = _choose_clips(dataset, rate, channels, arguments)
    for original in progress(clips, "Clips of the report", min(arguments.num_clips, len(dataset)), "clips"):
        decoded = _round_trip(model, original)
        scores.append(_measure(original, decoded, rate))
        if len(examples) < arguments.num_examples:
            for name, waveform in (("original", original), ("reconstruction", decoded)):
                save_audio(folder / f"{len(examples)}_{name}.wav", waveform, rate)
            examples.append((original, decoded))
    model.train(was_training)
    if examples:
        _draw(examples, rate, folder / IMAGE_FILE)
    kbit_rate = geometry.num_quantizers * math.log2(geometry.codebook_size) * geometry.frame_rate / 1000
    measured = {"num_clips": len(scores), "kbit_rate": round(kbit_rate, 3), "frame_rate": geometry.frame_rate}
    medians = {name: round(float(np.median([score[name] for score in scores])), 4) for name in scores[0]}
    write_file(folder / METRICS_FILE, json.dumps({**medians, **measured, "clips": scores}, indent=2) + "\n")
    return medians | measured


def _choose_clips(dataset: Dataset, rate: int, channels: int, arguments: ReportArguments) -> Any:
    """Yield waveforms in an order that depends on the clips' names alone, so that new clips move no others far."""
    cells = dataset.select_columns(["audio"])
    names = [str(cell["path"] or index) for index, cell in enumerate(cells["audio"])]
    number = 0
    for index in sorted(range(len(names)), key=lambda index: _rank(names[index])):
        try:
            waveform = as_waveform(cells[index]["audio"], None, rate, channels)
        except ValueError:  # named and counted where the data was made
            continue
        if waveform.shape[-1] >= arguments.min_seconds * rate and np.abs(waveform).max() > 0:
            yield waveform[:, : int(arguments.max_seconds * rate)]
            number += 1
            if number == arguments.num_clips:
                return


def _rank(name: str) -> bytes:
    return hashlib.blake2b("/".join(Path(name).parts[-3:]).encode()).digest()


@torch.no_grad()
def _round_trip(model: PreTrainedModel, waveform: np.ndarray) -> np.ndarray:
    values = torch.from_numpy(waveform)[None].to(model.device)
    codes, mask = encode_audio(model, values)
    decoded, _ = decode_audio(model, codes, mask.sum(-1))
    decoded = decoded[0].float().cpu().numpy()[:, : waveform.shape[-1]]
    return np.pad(decoded, ((0, 0), (0, waveform.shape[-1] - decoded.shape[-1])))


def _log_mel(waveform: np.ndarray, rate: int) -> torch.Tensor:
    """Return the log-mel spectrogram in dB, `(num_mel_bins, num_frames)`, of windows of 64 ms that begin every 16."""
    n_fft = int(0.064 * rate)
    extractor = JosieFeatureExtractor(
        "features", rate, 1, _NUM_MEL_BINS, n_fft=n_fft, win_length=n_fft, mel_hop_length=n_fft // 4, mel_power=2.0
    )
    power = extractor(waveform.mean(0), rate)["input_features"][0]
    return 10 * power.clamp(min=10 ** (_FLOOR_DB / 10)).log10()


def _measure(original: np.ndarray, decoded: np.ndarray, rate: int) -> dict[str, float]:
    target, estimate = original.mean(0), decoded.mean(0)
    aligned = target * (np.dot(estimate, target) / max(np.dot(target, target), 1e-12))
    noise = np.sum((estimate - aligned) ** 2)
    scores = {
        "mel_distance": float((_log_mel(original, rate) - _log_mel(decoded, rate)).abs().mean()),
        "si_sdr": float(10 * np.log10(max(np.sum(aligned**2), 1e-12) / max(noise, 1e-12))),
    }
    if importlib.util.find_spec("pesq") is not None and importlib.util.find_spec("pystoi") is not None:
        from josie.evaluation.judge import SAMPLING_RATE, rate_quality

        scores |= rate_quality(resample(target, rate, SAMPLING_RATE), resample(estimate, rate, SAMPLING_RATE))
    return {name: round(value, 4) for name, value in scores.items()}


def _draw(examples: list[tuple[np.ndarray, np.ndarray]], rate: int, path: Path) -> None:
    """Draw a row for each example: the spectrogram of the original, and of what the codec made of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.4 * len(examples)), layout="constrained")
    axes = figure.subplots(len(examples), 2, squeeze=False, sharey=True)
    for row, pair in zip(axes, examples, strict=True):
        spectrograms = [_log_mel(waveform, rate) for waveform in pair]
        top = float(spectrograms[0].max())
        for axis, spectrogram, name in zip(row, spectrograms, ("original", "reconstruction"), strict=True):
            extent = (0.0, pair[0].shape[-1] / rate, 0.0, float(_NUM_MEL_BINS))
            axis.imshow(
                spectrogram.numpy(), origin="lower", aspect="auto", extent=extent, vmin=top - 80, vmax=top, cmap="magma"
            )
            axis.set_title(name)
            axis.set_xlabel("seconds")
        row[0].set_ylabel("mel band")
    partial = path.with_name(f".{path.name}.partial.png")
    figure.savefig(partial, dpi=100)
    partial.replace(path)
