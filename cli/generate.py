"""`josie generate` and `josie speak`: one answer in text and speech, and one text said aloud."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..evaluation.answers import is_cut, prepare_inputs, sampling_options, talking_options, tokenize_speech
from .checkpoints import load_josie, load_processor, require_modality, require_speech, require_streamed_speech
from .devices import choose_device
from .media import audio_file, image_file, video_file
from .options import (
    Device,
    Dtype,
    Folder,
    MaxNewTokens,
    MaxSeconds,
    Out,
    Seed,
    Speaker,
    Temperature,
    Text,
    Threads,
    audio_file_to_write,
    check_out,
    checked,
    checked_text,
    refuse_given,
    words,
)
from .playback import Play, play, require_live_player, require_player
from .progress import waiting
from .shared import report, writing_out
from .streamed_speech import Stream, read_text, report_speech, take_speech

if TYPE_CHECKING:
    from ..processing_josie import JosieProcessor

DEFAULT_OUT = Path("reply.wav")


def files_option(what: str, requirement: Callable[[Path], str | None]) -> Any:
    """Return an option that names files and may be repeated."""
    return typer.Option(metavar="FILE", help=f"{what}; may be repeated.", callback=checked(requirement))


def generate_command(
    folder: Folder,
    text: Annotated[str | None, typer.Option(help="What to say to it.", callback=checked_text(words))] = None,
    image: Annotated[list[Path] | None, files_option("An image", image_file)] = None,
    audio: Annotated[list[Path] | None, files_option("A recording", audio_file)] = None,
    video: Annotated[list[Path] | None, files_option("A video", video_file)] = None,
    out: Out = None,
    play_it: Play = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Answer in text and write no audio.")] = False,
    stream_text: Annotated[bool, typer.Option("--stream-text", help="Print the text as it is made.")] = False,
    stream: Stream = False,
    max_new_tokens: MaxNewTokens = 64,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    speaker: Speaker = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = None,
) -> None:
    """Answer a message in text and speech.

    The text goes to standard output, the speech into an audio file.
    """
    files = {"image": image or [], "video": video or [], "audio": audio or []}
    content: list[Any] = [{"type": modality, "path": str(path)} for modality, paths in files.items() for path in paths]
    content += [] if text is None else [{"type": "text", "text": text}]
    if not content:
        raise ValueError("At least one of `--text`, `--image`, `--audio` and `--video` must be given, got none.")
    require_modality(folder, "image", "--image", image)
    require_modality(folder, "audio", "--audio", audio)
    require_modality(folder, "video", "--video", video)
    if text_only:
        refuse_speech_options("go without `--text-only`", out, max_seconds, speaker, play_it, {"--stream": stream})
    else:
        require_speech(folder, speaker, " without `--text-only`")
        require_way_to_play(folder, stream, play_it, out)
        check_out(out or DEFAULT_OUT, audio_file_to_write, (path for paths in files.values() for path in paths))

    with waiting(f"Loading {folder}"):
        chosen_device = choose_device(device, threads)
        processor = load_processor(folder)
        inputs = prepare_inputs(processor, [{"role": "user", "content": content}])
        model = load_josie(folder, chosen_device, dtype)

    import torch
    from transformers import TextStreamer, set_seed

    arguments: dict[str, Any] = {"max_new_tokens": max_new_tokens, **sampling_options(temperature)}
    if stream_text or stream:
        arguments["streamer"] = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    if not text_only:
        arguments |= speech_arguments(model, processor, speaker, max_seconds, temperature)
    set_seed(seed)
    if stream:
        begin = time.perf_counter()
        pieces = model.generate_stream(**inputs.to(model.device), **arguments)
        spoken = take_speech(pieces, out or DEFAULT_OUT, play_it, begin)
        _report_cut(model, torch.tensor(spoken.token_ids), max_new_tokens)
        report_speech(spoken, out or DEFAULT_OUT)
        return
    if stream_text:
        output = model.generate(**inputs.to(model.device), return_dict_in_generate=True, **arguments)
    else:
        with waiting("Answering"):
            output = model.generate(**inputs.to(model.device), return_dict_in_generate=True, **arguments)
    reply = output.sequences[0, inputs["input_ids"].shape[1] :]
    written = processor.decode(reply, skip_special_tokens=True)
    if not stream_text:
        typer.echo(written)
    _report_cut(model, reply, max_new_tokens)
    if text_only and not written.strip():
        report("The answer has no words.")
    if not text_only:
        save_speech(processor, output, written, out or DEFAULT_OUT, play_it)


def refuse_speech_options(
    required: str, out: Path | None, max_seconds: float | None, speaker: str | None, play_it: bool, others: dict
) -> None:
    """Raise a `ValueError` if an option of speech is given where nothing is spoken.

    Args:
        required (`str`): What it takes: `"go with `--speak`"`.
        out, max_seconds, speaker, play_it: As given.
        others (`dict`): Further options by name.
    """
    given = {"--out": out, "--max-seconds": max_seconds, "--speaker": speaker, "--play": play_it}
    refuse_given(required, given | others)


def speech_arguments(
    model: Any, processor: Any, speaker: str | None, max_seconds: float | None, temperature: float | None
) -> dict[str, Any]:
    """Return the arguments of `generate` for an answer that is spoken.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What answers.
        speaker (`str`, *optional*): Name of the voice; the first one when `None`.
        max_seconds (`float`, *optional*): Longest speech.
        temperature (`float`, *optional*): Of the speech, as in [`sampling_options`].
    """
    of_answer = {"generation_mode": "audio", "speaker": speaker, "tokenizer": processor.tokenizer}
    return of_answer | talking_options(model, max_seconds, temperature)


def _report_cut(model: Any, reply: Any, max_new_tokens: int) -> None:
    if is_cut(model, reply, max_new_tokens):
        report(f"The answer is cut off at {max_new_tokens} tokens, see `--max-new-tokens`.")


def require_way_to_play(folder: Path, stream: bool, play_it: bool, out: Path | None, option: str = "--stream") -> None:
    """Raise a `ValueError` where speech cannot be streamed or played.

    Args:
        folder (`Path`): The checkpoint.
        stream, play_it (`bool`): Whether speech is streamed, and played.
        out (`Path`, *optional*): The file that it goes to.
        option (`str`): The option that asks for the stream.
    """
    if stream:
        instead = "leave it out" if option == "--stream" else "`--whole` reads the text to its end and then says it"
        require_streamed_speech(folder, option, instead)
        require_live_player(play_it)
    else:
        require_player(play_it, out or DEFAULT_OUT)


def speak_command(
    folder: Folder,
    text: Text,
    out: Out = None,
    play_it: Play = False,
    stream: Stream = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Of standard input: read the text to its end before anything is said.")
    ] = False,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    speaker: Speaker = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = None,
) -> None:
    """Say a text aloud; of - the text on standard input, while it comes."""
    flows = text == "-"
    if whole:
        refuse_given("go with the text -", {"--whole": None if flows else whole})
        refuse_given("go without `--whole`", {"--stream": stream})
    is_streamed = stream or (flows and not whole)
    require_speech(folder, speaker)
    require_way_to_play(folder, is_streamed, play_it, out, "--stream" if stream or not flows else "-")
    check_out(out or DEFAULT_OUT, audio_file_to_write)
    if flows and whole:
        text = _require_words("".join(read_text()))

    with waiting(f"Loading {folder}"):
        chosen_device = choose_device(device, threads)
        processor = load_processor(folder)
        inputs = tokenize_speech(processor, [text])
        model = load_josie(folder, chosen_device, dtype)

    from transformers import set_seed

    set_seed(seed)
    options = talking_options(model, max_seconds, temperature)
    if is_streamed:
        begin = time.perf_counter()
        pieces = model.speak_stream(read_text() if flows else text, processor.tokenizer, speaker=speaker, **options)
        with nullcontext() if flows else waiting("Speaking"):  # where text is typed, it is what is seen
            spoken = take_speech(pieces, out or DEFAULT_OUT, play_it, begin)
        report_speech(spoken, out or DEFAULT_OUT)
        return
    with waiting("Speaking"):
        output = model.generate_speech(
            **inputs.to(model.device), speaker=speaker, tokenizer=processor.tokenizer, **options
        )
    save_speech(processor, output, text, out or DEFAULT_OUT, play_it)


def _require_words(text: str) -> str:
    if not text.strip():
        raise ValueError("The text on standard input must have at least one word to say, got none.")
    return text


def save_speech(processor: "JosieProcessor", output: Any, words: str, path: Path, play_it: bool) -> None:
    """Write the speech of the first row to a file, and play it if wanted.

    Args:
        processor ([`JosieProcessor`]): Of the model that spoke.
        output ([`JosieGenerateOutput`]): What it returned.
        words (`str`): What it said.
        path (`Path`): The file.
        play_it (`bool`): Whether to play it.

    Raises:
        `ValueError`: There is no speech.
    """
    length = int(output.audio_lengths[0])
    if not words.strip():
        raise ValueError("The answer has no words, so that there is nothing to say and no audio file is written.")
    if not length:
        raise ValueError("The answer has no speech: the Talker ended it before the first frame.")
    with writing_out(path):
        processor.save_audio(output.audio_values[0, :, :length].float().cpu(), path)
    report(f"{path}: {length / output.sampling_rate:.2f} s of speech")
    if play_it:
        play(path)
