"""`josie chat`: a conversation on the terminal, or on whatever standard input is."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from .shared import (
    Folder,
    MaxNewTokens,
    MaxSeconds,
    Seconds,
    Seed,
    Speaker,
    Temperature,
    check_seconds,
    load,
    prepare,
    readable,
    report,
    sampling_options,
    talking_options,
    writable,
)

_COMMANDS = {
    "/image PATH": "show a picture with the next turn",
    "/audio PATH": "play a recording with the next turn",
    "/reset": "forget everything",
    "/quit": "end",
}
_HELP = "; ".join(f"{name}: {what}" for name, what in _COMMANDS.items())


@dataclass
class Chat:
    """A conversation so far.

    Args:
        model ([`JosieForConditionalGeneration`]), processor ([`JosieProcessor`]): What answers.
        options (`dict`): Of `generate`, besides the length.
        max_new_tokens (`int`): Longest answer.
        messages (`list[dict]`): All turns, as `apply_chat_template` takes them.
        waiting (`list[dict]`): Pictures and sounds that go with the next turn.
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

    def answer(self, text: str) -> Any:
        """Answer a turn, printing the text as it is made; a turn that cannot be answered leaves no trace.

        Args:
            text (`str`): What is said; may be empty where something is waiting.

        Returns:
            What `generate` returned.

        Raises:
            `ValueError`: A file that waited cannot be read, or the conversation does not fit into the context.
        """
        from transformers import TextStreamer

        parts = [*self.waiting, *([{"type": "text", "text": text}] if text else ())]
        self.waiting = []
        messages = [*self.messages, {"role": "user", "content": parts}]
        inputs = prepare(self.processor, messages)
        length = inputs["input_ids"].shape[1]
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = self.max_new_tokens if context is None else min(context - length, self.max_new_tokens)
        if room < 1:
            raise ValueError(
                f"The conversation must leave room for an answer in {context} tokens, got {length}; /reset forgets it."
            )
        streamer = TextStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        output = self.model.generate(
            **inputs, streamer=streamer, max_new_tokens=room, return_dict_in_generate=True, **self.options
        )
        written = self.processor.batch_decode(output.sequences[:, length:], skip_special_tokens=True)[0]
        self.messages = [*messages, {"role": "assistant", "content": written}]
        return output


def chat_command(
    folder: Folder,
    image: Annotated[list[Path] | None, typer.Option(help="A picture for the first turn; may be repeated.")] = None,
    speak: Annotated[bool, typer.Option("--speak", help="Speak each answer too, into a numbered sound file.")] = False,
    out: Annotated[Path, typer.Option(help="Name of the sound files: reply-1.wav, reply-2.wav, ...")] = Path(
        "reply.wav"
    ),
    mic: Annotated[bool, typer.Option("--mic", help="An empty line listens to the microphone (16 kHz, mono).")] = False,
    seconds: Seconds = None,
    max_new_tokens: MaxNewTokens = 64,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    speaker: Speaker = None,
) -> None:
    """Talk, line by line, until the end of input; /image PATH, /audio PATH, /reset and /quit on the way."""
    if max_new_tokens < 1:
        raise ValueError(f"`--max-new-tokens` must be at least 1, got {max_new_tokens}.")
    check_seconds(seconds, mic)
    waiting = [{"type": "image", "path": str(readable("--image", path))} for path in image or []]
    if speak:
        writable(out)
    elif speaker is not None:
        raise ValueError(f"`--speaker` must go with `--speak`, got {speaker!r}.")

    from transformers import set_seed

    model, processor = load(folder)
    options = sampling_options(temperature)
    if speak:
        options |= {"generation_mode": "audio", "speaker": speaker, **talking_options(model, max_seconds, temperature)}
        _require_speech(model, folder)
    chat = Chat(model, processor, options, max_new_tokens, waiting=waiting)
    set_seed(seed)
    if sys.stdin.isatty():
        report(f"{_HELP}.")
        report("An empty line sends what waits." if not mic else "An empty line listens.")
    num_spoken = 0
    for line in _read_lines():
        try:
            text = _take(line, chat, mic, seconds)
            output = None if text is None else chat.answer(text)
        except ValueError as error:
            report(f"Error: {error}")
            continue
        if speak and output is not None:
            num_spoken += 1
            _save(processor, output, out.with_stem(f"{out.stem}-{num_spoken}"))


def _read_lines() -> Iterator[str]:
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return


def _take(line: str, chat: Chat, mic: bool, seconds: float | None) -> str | None:
    """Do what a line asks for, and return the text of a turn if it is one."""
    command, _, argument = line.partition(" ")
    if command in ("/image", "/audio"):
        chat.waiting.append({"type": command[1:], "path": str(readable(f"{command} PATH", Path(argument.strip())))})
        return None
    if line == "/reset":
        chat.reset()
        return None
    if line == "/quit":
        raise typer.Exit
    if line.startswith("/"):
        raise ValueError(f"A line that begins with '/' must be one of {list(_COMMANDS)}, got {line!r}.")
    if not line and mic:
        chat.waiting.append(_listen(seconds))
    return line if line or chat.waiting else None


def _listen(seconds: float | None) -> dict[str, Any]:
    """Record a question, as a part of a turn."""
    import torch

    from .codec_streams import MICROPHONE_RATE, record_sound

    report("Listening ..." if seconds is not None else "Listening; Ctrl-C ends it ...")
    chunks = list(record_sound(seconds, 1))
    if not chunks:
        raise ValueError("There must be at least one sample of sound, got none.")
    return {"type": "audio", "audio": torch.cat(chunks, dim=-1)[0].numpy(), "sampling_rate": MICROPHONE_RATE}


def _require_speech(model: Any, folder: Path) -> None:
    if "audio" not in model.output_modalities:
        raise ValueError(f"`DIR` must hold a model that speaks for `--speak`, got {str(folder)!r}.")


def _save(processor: Any, output: Any, path: Path) -> None:
    length = int(output.audio_lengths[0])
    if not length:
        report("This answer has no speech: the Talker ended it before the first frame.")
        return
    processor.save_audio(output.audio_values[0, :, :length], path)
    report(f"{path}: {length / output.sampling_rate:.2f} s of speech")
