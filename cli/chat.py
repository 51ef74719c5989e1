"""`josie chat`: a conversation on the terminal, or on whatever standard input is."""

import re
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..evaluation.answers import is_cut, prepare_inputs, sampling_options
from .checkpoints import (
    load_josie,
    load_processor,
    require_modality,
    require_speech,
    require_units,
    speaks_in_stream,
)
from .devices import choose_device
from .duplex import SpeakBias
from .generate import (
    DEFAULT_OUT,
    files_option,
    refuse_speech_options,
    require_way_to_play,
    save_speech,
    speech_arguments,
)
from .lines import read_lines
from .live import Lines, LiveOptions, chat_live, require_live
from .media import audio_file, find_named_file, image_file, video_file
from .options import (
    Device,
    Dtype,
    Folder,
    MaxNewTokens,
    MaxSeconds,
    Seconds,
    Seed,
    Speaker,
    Temperature,
    Threads,
    audio_file_to_write,
    check_out,
    check_seconds,
    checked,
    decode_bytes,
    refuse_given,
    utf8,
)
from .output import require_output
from .playback import Play, can_play_live
from .progress import waiting
from .shared import is_terminal, report, require_input, stop_on_interrupt
from .streamed_speech import report_speech, take_speech

_MEDIA = {"image": image_file, "audio": audio_file, "video": video_file}
_COMMANDS = {
    "/image FILE": "show an image with the next turn",
    "/audio FILE": "play a recording with the next turn",
    "/video FILE": "show a video with the next turn",
    "/reset": "forget everything",
    "/help": "show these commands",
    "/quit": "end",
}
# Options of a chat by lines.
_NOT_LIVE = {"speak": "--speak", "stream": "--stream", "mic": "--mic", "history": "--history"}
_NOT_LIVE |= {"max_new_tokens": "--max-new-tokens", "max_seconds": "--max-seconds"}
_HELP = "\n".join(f"{name:12} {what}" for name, what in _COMMANDS.items())


@dataclass
class Chat:
    """A conversation so far.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What answers.
        options (`dict`): Of `generate`, besides the length.
        max_new_tokens (`int`): Longest answer.
        messages (`list[dict]`): All turns, as `apply_chat_template` takes them.
        waiting (`list[dict]`): Images and clips that go with the next turn.
    """

    model: Any
    processor: Any
    options: dict[str, Any]
    max_new_tokens: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)

    def reset(self) -> None:
        """Forget everything."""
        self.messages, self.waiting = [], []

    def answer(self, text: str, stream_to: Path | None = None, play_it: bool = False) -> tuple[str, Any]:
        """Answer a turn, printing the text as it is made; a turn that cannot be answered leaves no trace.

        Args:
            text (`str`): What is said; may be empty where something is waiting.
            stream_to (`Path`, *optional*): An audio file that grows while the text is written.
            play_it (`bool`): Whether to play what goes there too.

        Returns:
            The text, and the output of `generate`, or a [`SpokenStream`].

        Raises:
            `ValueError`: A file that waited cannot be read, or the conversation does not fit into the context.
        """
        import torch
        from transformers import TextStreamer

        parts = [*self.waiting, *([{"type": "text", "text": text}] if text else ())]
        self.waiting = []
        messages = [*self.messages, {"role": "user", "content": parts}]
        inputs = prepare_inputs(self.processor, messages).to(self.model.device)
        length = inputs["input_ids"].shape[1]
        context = self.model.config.thinker_config.max_sequence_length
        room = min(context - length, self.max_new_tokens)
        if room < 1:
            raise ValueError(
                f"The conversation must leave room for an answer in {context} tokens, got {length}; /reset forgets it."
            )
        streamer = TextStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = {"streamer": streamer, "max_new_tokens": room, **self.options}
        if stream_to is None:
            output = self.model.generate(**inputs, return_dict_in_generate=True, **options)
            reply = output.sequences[0, length:]
        else:
            begin = time.perf_counter()
            output = take_speech(self.model.generate_stream(**inputs, **options), stream_to, play_it, begin)
            reply = torch.tensor(output.token_ids)
        written = self.processor.decode(reply, skip_special_tokens=True)
        if is_cut(self.model, reply, room):
            report(f"The answer is cut off at {room} tokens.")
        self.messages = [*messages, {"role": "assistant", "content": written}]
        return written, output


def chat_command(
    context: typer.Context,
    folder: Folder,
    image: Annotated[
        list[Path] | None,
        files_option("An image for the first turn", image_file),
    ] = None,
    speak: Annotated[bool, typer.Option("--speak", help="Speak each answer too, into a numbered audio file.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Name of the audio files, reply.wav if not given: reply-1.wav, reply-2.wav, and on after those that "
            "are there already. With `--live`, a file of all of it, the user on the left and JOSIE on the right, and a "
            "transcript beside it; none if not given.",
            callback=checked(audio_file_to_write),
        ),
    ] = None,
    play_it: Play = False,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Speak while the text is written, or when it is finished; while, if not given and the codec can.",
        ),
    ] = None,
    mic: Annotated[bool, typer.Option("--mic", help="An empty line listens to the microphone (16 kHz, mono).")] = False,
    seconds: Seconds = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Talk by microphone and loudspeaker with a model that listens while it speaks; lines on standard "
            "input show images meanwhile.",
        ),
    ] = False,
    recording: Annotated[
        Path | None,
        typer.Option(
            "--in",
            help="With `--live`: a recording in place of the microphone, with five seconds of silence behind it; "
            "loudspeakers are silent without `--play`.",
            callback=checked(audio_file),
        ),
    ] = None,
    speak_bias: SpeakBias = 0.0,
    history: Annotated[
        bool, typer.Option(help="Keep the lines in ~/.cache/josie/chat_history, for the arrow keys of the next chat.")
    ] = True,
    max_new_tokens: MaxNewTokens = 64,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    speaker: Speaker = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = None,
) -> None:
    """Talk, line by line, until the end of input.

    On the way: /image FILE, /audio FILE, /video FILE, /reset, /help and /quit. Ctrl-C stops an answer.
    """
    require_modality(folder, "image", "--image", image)
    if live:
        _refuse_beside_live(context)
        require_speech(folder, speaker, " for `--live`")
        require_units(folder)
        play_it = play_it or recording is None
        options = LiveOptions(recording, out, play_it, seconds, image or [], seed, temperature, speaker, speak_bias)
        require_live(options)
        lines = Lines()
        with waiting(f"Loading {folder}"):
            chosen_device = choose_device(device, threads)
            processor = load_processor(folder)
            model = load_josie(folder, chosen_device, dtype)
        with stop_on_interrupt() as stopped:
            chat_live(model, processor, options, lines, stopped)
        return
    refuse_given("go with `--live`", {"--in": recording, "--speak-bias": speak_bias or None})
    check_seconds(seconds, mic)
    require_modality(folder, "audio", "--mic", mic)
    out_path = out or DEFAULT_OUT
    if speak:
        require_speech(folder, speaker, " for `--speak`")
        if stream is None:
            stream = speaks_in_stream(folder) and (not play_it or can_play_live())
        require_way_to_play(folder, stream, play_it, out)
        check_out(out_path, audio_file_to_write)
        check_out(next_file(out_path), audio_file_to_write)
    else:
        of_stream = {"--stream" if stream else "--no-stream": None if stream is None else "it"}
        refuse_speech_options("go with `--speak`", out, max_seconds, speaker, play_it, of_stream)

    require_input("the lines of a conversation")
    with waiting(f"Loading {folder}"):
        chosen_device = choose_device(device, threads)
        processor = load_processor(folder)
        model = load_josie(folder, chosen_device, dtype)

    from transformers import set_seed

    options = sampling_options(temperature)
    if speak:
        options |= speech_arguments(model, processor, speaker, max_seconds, temperature)
    images = [{"type": "image", "path": str(path)} for path in image or []]
    chat = Chat(model, processor, options, max_new_tokens, waiting=images)
    set_seed(seed)
    if is_terminal(sys.stdin):
        report(_HELP)
        report("An empty line sends what waits." if not mic else "An empty line listens.")
    with closing(read_lines(history)) as lines:
        for line in lines:
            try:
                text = _take(line, chat, mic, seconds)
                if text is None:
                    continue
                path = next_file(out_path) if speak else out_path
                written, output = chat.answer(text, path if speak and stream else None, play_it)
                if speak and stream:
                    report_speech(output, path)
                elif speak:
                    save_speech(processor, output, written, path, play_it)
            except ValueError as error:
                report(f"Error: {error}")
            except KeyboardInterrupt:
                report("\nStopped.")
            require_output()


def _refuse_beside_live(context: typer.Context) -> None:
    """Raise a `ValueError` for an option that is given and means nothing in a live conversation."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in _NOT_LIVE and source is not None and source.name != "DEFAULT":
            raise ValueError(f"`{_NOT_LIVE[name]}` must go without `--live`, got {context.params[name]!r}.")


def next_file(path: Path) -> Path:
    """Return the name with the number after the highest one there is: reply-3.wav where there is a reply-2.wav."""
    numbered = re.compile(rf"{re.escape(path.stem)}-([0-9]+){re.escape(path.suffix)}")
    found = [numbered.fullmatch(other.name) for other in path.absolute().parent.iterdir()]
    return path.with_stem(f"{path.stem}-{max((int(match[1]) for match in found if match), default=0) + 1}")


def _take(line: str, chat: Chat, mic: bool, seconds: float | None) -> str | None:
    """Do what a line asks for, and return the text of a turn if it is one."""
    command, _, argument = line.partition(" ")
    if command.removeprefix("/") in _MEDIA and command.startswith("/"):
        chat.waiting.append({"type": command[1:], "path": str(find_named_file(command, argument, _MEDIA[command[1:]]))})
        return None
    if line == "/reset":
        chat.reset()
        return None
    if line == "/help":
        report(_HELP)
        return None
    if line == "/quit":
        raise typer.Exit
    if line.startswith("/"):
        raise ValueError(f"A line that begins with '/' must be one of {list(_COMMANDS)}, got {line!r}.")
    line = decode_bytes(line)
    required = utf8(line)
    if required:
        raise ValueError(f"A line must {required}, got {line!r}.")
    if not line and mic:
        chat.waiting.append(_listen(seconds))
    return line if line or chat.waiting else None


def _listen(seconds: float | None) -> dict[str, Any]:
    """Record a question, as a part of a turn."""
    import torch

    from .codec_streams import MICROPHONE_RATE, record_audio

    report("Listening ..." if seconds is not None else "Listening; Ctrl-C ends it ...")
    chunks = list(record_audio(seconds, 1))
    if not chunks:
        raise ValueError("There must be at least one sample of audio, got none.")
    return {"type": "audio", "audio": torch.cat(chunks, dim=-1)[0].numpy(), "sampling_rate": MICROPHONE_RATE}
