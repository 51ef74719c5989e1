"""Time to the first word and to the first audio of an answer: JOSIE that speaks while it writes, beside CSM.

JOSIE has a Thinker of width 256 with 6 layers, a Talker of `talker.py`'s sizes that reads embeddings and learns
durations, and a codec of 12.5 frames a second at 24 kHz: a JODIO, or a Mimi of the same widths. Weights are random, so
that only times mean anything; every answer has a given number of tokens, of about 3 frames each, and ends with its
text. `JOSIE, whole` is the same model when its answer is taken at once. CSM has the Talker's sizes and the same Mimi;
transformers writes no text with it and decodes its speech when all of it is there, so its first audio is its last. It
makes as many frames as JOSIE.

Underrun is how much later than its predecessors had been played a piece came, the largest of an answer; the real-time
factor is the time of an answer for each second of speech. Pieces are checked to be the whole, to the bit.
`--nano` measures the small model of the package on its own question about a scene, in pieces where its codec streams.

    python benchmarks/streaming.py [--rounds 7] [--threads N] [--nano] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from measure import find_processor
from talker import BACKBONE, CODEBOOK, DEPTH, QUANTIZERS, build_csm
from transformers.generation.streamers import BaseStreamer

import josie

WORDS = {3: 4, 30: 40}  # tokens of an answer with so many words
PROMPT = 64  # tokens
FRAMES_A_TOKEN = 3.0
TEXT = dict(
    model_type="josie_text",
    hidden_size=256,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=1024,
    vocab_size=4096,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
WIDTHS = [16, 32, 64, 128, 256]
RATIOS = [8, 6, 5, 4]
TRANSFORMER = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4)
JODIO = dict(
    model_type="jodio",
    sampling_rate=24000,
    channels=[*WIDTHS, 256],
    upsampling_ratios=[2, *RATIOS],
    num_residual_layers=1,
    encoder_config=dict(TRANSFORMER, sliding_window=250),
    decoder_config=dict(TRANSFORMER, sliding_window=250),
    num_quantizers=QUANTIZERS,
    num_semantic_quantizers=1,
    codebook_size=CODEBOOK,
    codebook_dim=64,
)
MIMI = dict(
    TRANSFORMER,
    model_type="mimi",
    num_filters=WIDTHS[0],
    upsampling_ratios=RATIOS,
    num_key_value_heads=4,
    head_dim=64,
    sliding_window=250,
    num_quantizers=QUANTIZERS,
    codebook_size=CODEBOOK,
    codebook_dim=64,
    vector_quantization_hidden_dimension=64,
    upsample_groups=256,
)


@dataclass
class Answer:
    """Times of one answer, in seconds from the question.

    Args:
        first_token, first_audio, total (`float`): When the first token and the first sample were there, and the last.
        duration (`float`): Seconds of speech.
        underrun (`float`): The longest silence that who plays the pieces as they come would hear.
    """

    first_token: float = float("nan")
    first_audio: float = float("nan")
    total: float = 0.0
    duration: float = 0.0
    underrun: float = 0.0


@dataclass
class _FirstToken(BaseStreamer):
    """Notes when the first token came; the first `put` is the prompt's."""

    times: list[float] = field(default_factory=list)

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def build_josie(codec: dict[str, Any]) -> Any:
    """Return a JOSIE with random weights."""
    thinker = dict(text_config=TEXT)
    talker = dict(
        BACKBONE,
        num_quantizers=QUANTIZERS,
        codebook_size=CODEBOOK,
        depth_decoder_config=DEPTH,
        end_of_speech=False,
        learns_durations=True,
        reads_thinker_states=False,
        thinker_hidden_size=256,
        frames_per_token=int(FRAMES_A_TOKEN),
        max_position_embeddings=512,
    )
    config = josie.JosieConfig(thinker_config=thinker, talker_config=talker, audio_codec_config=codec)
    model = josie.JosieForConditionalGeneration(config).eval()
    if codec["model_type"] == "jodio":
        model.audio_codec.prepare_for_inference()
    return model


def answer_in_pieces(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> tuple[Answer, torch.Tensor]:
    """Take an answer in pieces; return its times and its samples.

    Args:
        model, inputs, options: As of [`answer_at_once`].
    """
    streamer, answer, samples, latest = _FirstToken(), Answer(), [], 0.0
    begin = time.perf_counter()
    for piece in model.generate_stream(**inputs, streamer=streamer, **options):
        now, length = time.perf_counter() - begin, int(piece.audio_lengths[0])
        if not length:
            continue
        if not samples:
            answer.first_audio = now
        latest = max(latest, now - answer.first_audio - answer.duration)
        samples.append(piece.audio_values[0, :, :length])
        answer.duration += length / piece.sampling_rate
        answer.total = now
    answer.underrun, answer.first_token = latest, streamer.times[1] - begin
    return answer, torch.cat(samples, dim=-1)


def answer_at_once(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> tuple[Answer, torch.Tensor]:
    """Take an answer when all of it is there; return its times and its samples.

    Args:
        model ([`JosieForConditionalGeneration`]): The model.
        inputs (`dict`): The prompt.
        options (`dict`): Of `generate`.
    """
    streamer, begin = _FirstToken(), time.perf_counter()
    output = model.generate(**inputs, generation_mode="audio", streamer=streamer, **options)
    total, length = time.perf_counter() - begin, int(output.audio_lengths[0])
    answer = Answer(streamer.times[1] - begin, total, total, length / output.sampling_rate)
    return answer, output.audio_values[0, :, :length]


def build_csm_speech(codec: dict[str, Any]) -> Callable[[int], Answer]:
    """Return a function that lets CSM say so many frames of a prompt, and decode them."""
    csm = build_csm()
    csm.codec_model = transformers.MimiModel(transformers.MimiConfig(**codec)).eval()
    prompt = torch.randint(10, 5000, (1, PROMPT))

    def speak(num_frames: int) -> Answer:
        begin = time.perf_counter()
        options = dict(do_sample=False, depth_decoder_do_sample=False, output_audio=False)
        codes = csm.generate(prompt, max_new_tokens=num_frames, **options)
        with torch.no_grad():
            values = csm.codec_model.decode(codes.transpose(1, 2).clamp(max=CODEBOOK - 1)).audio_values
        total = time.perf_counter() - begin
        return Answer(first_audio=total, total=total, duration=values.shape[-1] / csm.codec_model.config.sampling_rate)

    return speak


def measure_answers(contestants: dict[str, Callable[[], Answer]], rounds: int) -> dict[str, list[Answer]]:
    """Have the contestants answer in turns, so that drift of the machine hits all alike."""
    answers: dict[str, list[Answer]] = {name: [] for name in contestants}
    for index in range(1 + rounds):
        for name, run in contestants.items():
            answer = run()
            if index:
                answers[name].append(answer)
    return answers


def summarise(answers: list[Answer]) -> dict[str, float]:
    """Return the figures of a table's row, in seconds."""

    def share(values: list[float], percent: int) -> float:
        return sorted(values)[min(len(values) - 1, round(percent / 100 * (len(values) - 1)))]

    factors = [answer.total / answer.duration for answer in answers]
    first = [answer.first_audio for answer in answers]
    return {
        "first token p50": statistics.median(answer.first_token for answer in answers),
        "first audio p50": statistics.median(first),
        "first audio p95": share(first, 95),
        "underrun": max(answer.underrun for answer in answers),
        "real-time p95": share(factors, 95),
        "speech": statistics.median(answer.duration for answer in answers),
    }


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}")
    print(f"{'':18}" + "".join(f"{name:>17}" for name in columns))
    for name, row in rows.items():
        print(f"{name:18}" + "".join(f"{row[column]:17.3f}" for column in columns))


def measure_random(num_words: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the rows of models with random weights, for answers of so many words."""
    options = dict(max_new_tokens=WORDS[num_words], min_new_tokens=WORDS[num_words], do_sample=False)
    inputs = dict(input_ids=torch.randint(10, 4096, (1, PROMPT)))
    contestants: dict[str, Callable[[], Answer]] = {}
    num_frames = 0
    for name, codec in {"JODIO": JODIO, "Mimi": MIMI}.items():
        torch.manual_seed(0)
        model = build_josie(codec)
        whole = answer_at_once(model, inputs, options)[1]
        pieces = answer_in_pieces(model, inputs, options)[1]
        assert torch.equal(pieces, whole), "pieces must be the whole"
        num_frames = whole.shape[-1] // 1920
        contestants[f"JOSIE, {name}"] = lambda model=model: answer_in_pieces(model, inputs, options)[0]
        contestants[f"  whole, {name}"] = lambda model=model: answer_at_once(model, inputs, options)[0]
    speak = build_csm_speech(MIMI)
    contestants["CSM, Mimi"] = lambda: speak(num_frames)
    return {name: summarise(answers) for name, answers in measure_answers(contestants, rounds).items()}


def measure_nano(rounds: int) -> dict[str, dict[str, float]]:
    """Return the rows of the small model, on its spoken question about its scene."""
    model: Any = transformers.AutoModelForMultimodalLM.from_pretrained(josie.nano_path()).eval()
    processor: Any = transformers.AutoProcessor.from_pretrained(josie.nano_path())
    files = {"image": "scene.png", "audio": "question.flac"}
    content = [{"type": kind, "path": josie.example_path(name)} for kind, name in files.items()]
    inputs = dict(
        processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    )
    options: dict[str, Any] = dict(max_new_tokens=32)
    contestants = {"nano, whole": lambda: answer_at_once(model, inputs, options)[0]}
    if model.audio_codec.config.model_type in ("jodio", "mimi"):
        model.audio_codec.prepare_for_inference()
        contestants = {"nano": lambda: answer_in_pieces(model, inputs, options)[0], **contestants}
    return {name: summarise(answers) for name, answers in measure_answers(contestants, rounds).items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="answers of each contestant and length")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--words", type=int, nargs="+", choices=list(WORDS), default=list(WORDS), help="of an answer")
    parser.add_argument("--nano", action="store_true", help="also measure the small model of the package")
    parser.add_argument("--json", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.rounds} answers each, {arguments.threads} threads, torch {torch.__version__},")
    print(f"transformers {transformers.__version__}, {find_processor()}, {date.today()}; in seconds")
    tables = {}
    for num_words in arguments.words:
        title = f"An answer of {num_words} words ({WORDS[num_words]} tokens)"
        tables[title] = measure_random(num_words, arguments.rounds)
        print_table(title, tables[title])
    if arguments.nano:
        title = "A spoken question about a scene"
        tables[title] = measure_nano(arguments.rounds)
        print_table(title, tables[title])
    if arguments.json:
        arguments.json.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
