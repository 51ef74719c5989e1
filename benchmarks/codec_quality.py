r"""Quality of speech after a codec: PESQ-WB, STOI, the words that Whisper tiny.en still hears, kbit/s and time.

Every contestant gets the same clips and returns waveforms of the same length, which judges at 16 kHz compare with the
clips. Words are counted against what was said: of a folder's `name.wav` or `name.flac` that is `name.txt`, or where
there is none, what the judge hears in the clip itself.

    pip install '.[judge]'
    python benchmarks/codec_quality.py --flite 40          # speaks benchmarks/sentences.txt with the voice slt
    python benchmarks/codec_quality.py CLIPS --codec DIR   # a folder of clips; a trained codec
    python benchmarks/codec_quality.py runs/data/speech/test.jsonl --sources asterisk flite --num-clips 80 \\
        --codec DIR --peers                                # clips a recipe held out; Opus and Codec 2 beside it
    python benchmarks/codec_quality.py runs/data/speech/test.jsonl --speakers flite-rms@1.2 --codec DIR --codec DIR@6

`--peers` needs ffmpeg with libopus and libcodec2. What they return late is shifted back before it is compared.
"""

import argparse
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import AutoModel

from josie import load_audio
from josie.configuration_josie import JosieMelCodecConfig, audio_codec_geometry
from josie.evaluation import judge
from josie.evaluation.words import count_word_errors, split_words
from josie.modeling_josie.codecs.adapters import decode_audio, encode_audio
from josie.modeling_josie.codecs.mel_codec import JosieMelCodecModel
from josie.processing_josie import resample

SENTENCES = Path(__file__).with_name("sentences.txt")
# μOmni's own analysis for speech: windows of 1024 samples that begin 1280 samples apart.
MUOMNI = {
    "num_mel_bins": 128,
    "mel_power": 2.0,
    "log_mel": False,
    "pad_mode": "reflect",
    "mel_hop_length": 1280,
    "frames_per_code": 1,
}


@dataclass
class Clip:
    """A clip to be judged.

    Args:
        name (`str`): Of the file.
        waveform (`np.ndarray`): `(num_samples,)`, at 16 kHz.
        words (`list[str]`): What was said.
    """

    name: str
    waveform: np.ndarray
    words: list[str]


@dataclass
class Contestant:
    """A way to bring a waveform from one end to the other.

    Args:
        name (`str`): Its row in the table.
        transmit: Takes `(num_samples,)` at 16 kHz and returns the same shape.
        kbit_rate (`float`, *optional*): Kilobits a second in between; `None` where nothing is coded.
    """

    name: str
    transmit: Callable[[np.ndarray], np.ndarray]
    kbit_rate: float | None = None


def mel_round_trip(name: str, **changes) -> Contestant:
    """Return the mel codec's analysis and synthesis, with nothing quantized in between."""
    model = JosieMelCodecModel(JosieMelCodecConfig(**changes)).eval()

    def transmit(waveform: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(resample(waveform, judge.SAMPLING_RATE, model.config.sampling_rate))[None, None]
        values = model.mel_to_audio(model.extract_mel(values), torch.tensor([values.shape[-1]]))[0, 0].numpy()
        return resample(values, model.config.sampling_rate, judge.SAMPLING_RATE)

    return Contestant(name, transmit)


def run_ffmpeg(name: str, kbit_rate: float, arguments: list[str], suffix: str) -> Contestant:
    """Return a codec of ffmpeg's.

    Args:
        name (`str`): Of the codec, for the report.
        kbit_rate (`float`): In kbit/s.
        arguments (`list[str]`): Of ffmpeg, to encode.
        suffix (`str`): Of the coded file.
    """

    def transmit(waveform: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            source, coded, result = (str(Path(folder, file)) for file in ("in.wav", f"coded.{suffix}", "out.wav"))
            soundfile.write(source, waveform, judge.SAMPLING_RATE)
            for command in (
                ["-i", source, *arguments, coded],
                ["-i", coded, "-ar", str(judge.SAMPLING_RATE), "-c:a", "pcm_s16le", result],
            ):
                subprocess.run(["ffmpeg", "-v", "error", "-y", *command], check=True)
            return shift_back(soundfile.read(result, dtype="float32")[0], waveform)

    return Contestant(name, transmit, kbit_rate)


def shift_back(waveform: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Drop the start of `waveform`, up to 100 ms, that makes it most like `original`."""
    size = 1 << (len(waveform) + len(original)).bit_length()
    spectra = np.fft.rfft(waveform, size) * np.fft.rfft(original, size).conj()
    return waveform[int(np.argmax(np.fft.irfft(spectra, size)[: judge.SAMPLING_RATE // 10])) :]


def load_codec(name: str) -> Contestant:
    """Return the codec of a checkpoint: JODIO, the mel codec, or an audio tokenizer of transformers.

    Args:
        name (`str`): A folder, and where only the first of its codes are used `@` and their number.
    """
    folder, number = split_codec(name)
    codec = AutoModel.from_pretrained(folder).eval()
    geometry = audio_codec_geometry(codec.config)
    num_quantizers = min(number or geometry.num_quantizers, geometry.num_quantizers)
    bits = num_quantizers * math.log2(geometry.codebook_size)

    def transmit(waveform: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(resample(waveform, judge.SAMPLING_RATE, geometry.sampling_rate))[None, None]
        codes, mask = encode_audio(codec, values.expand(-1, getattr(codec.config, "audio_channels", 1), -1))
        values, _ = decode_audio(codec, codes[:, :num_quantizers], mask.sum(-1))
        return resample(values[0].float().mean(0).numpy(), geometry.sampling_rate, judge.SAMPLING_RATE)

    return Contestant(name, transmit, bits * geometry.frame_rate / 1000)


def split_codec(name: str) -> tuple[Path, int | None]:
    """Return the folder of `DIR` or `DIR@N`, and the number of codes; all of them when `None`."""
    folder, mark, number = name.rpartition("@")
    return (Path(folder), int(number)) if mark and number.isdecimal() and int(number) else (Path(name), None)


def load_clips(folder: Path) -> list[Clip]:
    """Return the audio files of a folder, by name."""
    clips = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".wav", ".flac")):
        waveform, text = load_audio(path, judge.SAMPLING_RATE), path.with_suffix(".txt")
        words = split_words(text.read_text("utf-8")) if text.exists() else judge.hear_words(waveform)
        clips.append(Clip(path.name, waveform, words))
    return clips


def list_clips(manifest: Path, sources: list[str], speakers: list[str], num_clips: int | None) -> list[Clip]:
    """Return clips of a recipe's manifest, as many of each source, the first by name; of at least a second.

    Args:
        manifest (`Path`): One JSON object a line.
        sources (`list[str]`): All when empty.
        speakers (`list[str]`): All when empty.
        num_clips (`int`, *optional*): Together; all when `None`.
    """
    entries = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    entries = [entry for entry in entries if not speakers or entry["speaker"] in speakers]
    groups = [[entry for entry in entries if entry["source"] == source] for source in sources] or [entries]
    chosen = []
    for group in groups:
        group = sorted((entry for entry in group if entry["seconds"] >= 1), key=lambda entry: entry["path"])
        chosen += group if num_clips is None else group[: num_clips // len(groups)]
    clips = []
    for entry in chosen:
        waveform = load_audio(manifest.parent / entry["path"], judge.SAMPLING_RATE)
        words = split_words(entry["text"]) if entry.get("text") else judge.hear_words(waveform)
        clips.append(Clip(entry["path"], waveform, words))
    return clips


def speak_clips(num_clips: int) -> list[Clip]:
    """Return the first of the sentences, spoken by flite's voice slt."""
    with tempfile.TemporaryDirectory() as folder:
        for index, sentence in enumerate(SENTENCES.read_text("utf-8").splitlines()[:num_clips]):
            path = Path(folder, f"{index:02}.wav")
            subprocess.run(["flite", "-voice", "slt", "-t", sentence, "-o", str(path)], check=True)
            path.with_suffix(".txt").write_text(sentence, "utf-8")
        return load_clips(Path(folder))


def judge_contestant(contestant: Contestant, clips: list[Clip]) -> dict[str, float | None]:
    """Return the row of one contestant.

    The mean of WER is over words, so that a long sentence counts more; its median is over clips, as that of the others.
    """
    scores: list[dict[str, float]] = []
    num_errors, seconds = 0, 0.0
    for clip in clips:
        start = time.perf_counter()
        waveform = contestant.transmit(clip.waveform)
        seconds += time.perf_counter() - start
        size = len(clip.waveform)  # codecs return whole frames
        waveform = np.pad(waveform[:size], (0, max(0, size - len(waveform))))
        errors = count_word_errors(judge.hear_words(waveform), clip.words)
        num_errors += errors
        scores.append(judge.rate_quality(clip.waveform, waveform) | {"wer": errors / len(clip.words)})
    row: dict[str, float | None] = {"kbit/s": contestant.kbit_rate}
    for name in ("pesq", "stoi", "wer"):
        values = [score[name] for score in scores]
        row |= {f"{name} mean": statistics.fmean(values), f"{name} median": statistics.median(values)}
    row["wer mean"] = num_errors / sum(len(clip.words) for clip in clips)
    row["s/s"] = seconds / (sum(len(clip.waveform) for clip in clips) / judge.SAMPLING_RATE)
    return row


def format_rows(rows: dict[str, dict[str, float | None]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    columns = list(next(iter(rows.values())))
    yield "| " + " | ".join(["codec", *columns]) + " |"
    yield "|" + " --- |" + " ---: |" * len(columns)
    for name, row in rows.items():
        cells = ("–" if row[column] is None else f"{row[column]:.3f}" for column in columns)
        yield "| " + " | ".join([name, *cells]) + " |"


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="?", help="folder of .wav or .flac and what they say, or manifest")
    parser.add_argument("--sources", nargs="+", default=[], help="of the manifest, all when none are given")
    parser.add_argument("--speakers", nargs="+", default=[], help="of the manifest, all when none are given")
    parser.add_argument("--num-clips", type=int, help="of the manifest, shared by its sources; all when not given")
    parser.add_argument("--flite", type=int, metavar="N", help="or let flite speak N sentences")
    codec_help = "a codec's checkpoint, and perhaps how many of its codes"
    parser.add_argument("--codec", action="append", default=[], metavar="DIR[@N]", help=codec_help)
    parser.add_argument("--peers", action="store_true", help="also judge Opus at 6 kbit/s and Codec 2 at 3.2 kbit/s")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    arguments = parser.parse_args()
    num_sentences = len(SENTENCES.read_text("utf-8").splitlines())
    if (arguments.clips is None) == (arguments.flite is None):
        parser.error("give clips or --flite, and not both.")
    if arguments.flite is not None and not 1 <= arguments.flite <= num_sentences:
        parser.error(f"`--flite` must be in [1, {num_sentences}], got {arguments.flite}.")
    for name in arguments.codec:
        if not split_codec(name)[0].is_dir():
            parser.error(f"`--codec` must be a folder, or a folder, `@` and a number, got {name!r}.")
    if arguments.clips is not None and not arguments.clips.exists():
        parser.error(f"`{arguments.clips}` must be a folder or a manifest.")
    try:
        judge.require_judge()
    except judge.MissingJudge as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    """Judge and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    contestants = [
        Contestant("the original, 16 bits", lambda waveform: waveform, 16 * judge.SAMPLING_RATE / 1000),
        mel_round_trip("mel round trip"),
        mel_round_trip("mel round trip, μOmni's hop of 1280", **MUOMNI),
        *map(load_codec, arguments.codec),
    ]
    if arguments.peers:
        opus = ["-c:a", "libopus", "-b:a", "6k", "-vbr", "off", "-application", "voip"]
        contestants.append(run_ffmpeg("Opus", 6.0, opus, "ogg"))
        contestants.append(run_ffmpeg("Codec 2", 3.2, ["-ar", "8000", "-c:a", "libcodec2", "-mode", "3200"], "c2"))
    if arguments.flite:
        clips = speak_clips(arguments.flite)
    elif arguments.clips.is_dir():
        clips = load_clips(arguments.clips)
    else:
        clips = list_clips(arguments.clips, arguments.sources, arguments.speakers, arguments.num_clips)
    clips = [clip for clip in clips if clip.words]
    if not clips:
        raise SystemExit(f"`clips` must have .wav or .flac files with speech, got {str(arguments.clips)!r}.")
    seconds = sum(len(clip.waveform) for clip in clips) / judge.SAMPLING_RATE
    rows = {contestant.name: judge_contestant(contestant, clips) for contestant in contestants}
    print(f"{len(clips)} clips, {seconds:.0f} s of speech, {arguments.threads} threads, {date.today()}\n")
    print("\n".join(format_rows(rows)))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
