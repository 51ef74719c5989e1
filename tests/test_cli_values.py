"""Every option of every command: a value that it cannot have is refused in a line that names it, before torch comes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from transformers.activations import ACT2CLS

from josie.cli.app import app
from josie.cli.assemble import ACTIVATIONS

DATA = Path(__file__).parent / "data"
# Arguments of each command that are right, and values of its options that are not.
MODEL = {"--device": ("gpu", "cuda:x"), "--threads": (0, "x")}
SPEECH = {"--out": ("a.xyz", "a.raw", "missing/a.wav"), "--max-seconds": (0, "inf", "x"), "--speaker": ("nobody",)}
SAMPLING = {"--seed": (-1, 2**32, "x"), "--temperature": (0, -1, "nan", 1e-45, 1e39)}
TEXT = {"--max-new-tokens": (0, "x"), "--dtype": ("int8",)}
MEDIA = dict.fromkeys(("--image", "--audio", "--video"), ("missing", "words.txt"))
CODEC = {"--model": ("missing", "nano/none"), "--dtype": ("int8",), **MODEL}
CODEC_INPUT = {"--num-quantizers": (0, 99), "--seconds": (0, 1), "--max-patches": (0,)}
COUNTS = dict.fromkeys(("--talker-hidden-size", "--talker-layers", "--talker-quantizers", "--projector-size"), (0,))
CASES = {
    "generate nano --text Hi": {"--text": (" ", "caf\udce9"), **MEDIA, **SPEECH, **SAMPLING, **TEXT, **MODEL},
    "speak nano Hi": {**SPEECH, **SAMPLING, "--dtype": ("int8",), **MODEL},
    "chat nano --speak": {
        "--image": ("missing",),
        "--seconds": (0, 1),
        "--in": ("missing", "words.txt"),
        "--speak-bias": ("nan", "x"),
        **SPEECH,
        **SAMPLING,
        **TEXT,
        **MODEL,
    },
    "codec encode speech.wav --model nano/jodio --out a.safetensors": {"--out": ("a.wav",), **CODEC, **CODEC_INPUT},
    "codec decode codes.safetensors --model nano/jodio --out a.wav": {"--out": ("a.png",), **CODEC},
    "codec roundtrip speech.wav --model nano/jodio --out a.wav": {"--out": ("a.png",), **CODEC, **CODEC_INPUT},
    "duplex nano speech.wav": {
        "--image": ("missing",),
        "--out": ("a.png",),
        "--tail": (-1, "nan"),
        "--speak-bias": ("nan", "x"),
        **SAMPLING,
        "--speaker": ("nobody",),
        "--dtype": ("int8",),
        **MODEL,
    },
    "info nano": {"--freeze": ("nobody", "")},
    "init nano new": {"--seed": (-1,)},
    "assemble new --text nano": {
        **dict.fromkeys(("--text", "--audio", "--vision", "--codec"), ("a/b/c", "words.txt")),
        "--talker": ("large", "missing.json"),
        **COUNTS,
        "--speaker": (" ",),
        "--projector-hidden-act": ("gulu",),
        "--vision-feature-select": ("all",),
        "--audio-context-fraction": (0, 1.5),
        "--audio-stack-factor": (3,),
        "--gguf-file": ("a.bin",),
        "--context": (0,),
        "--dtype": ("int8",),
        "--seed": (-1,),
    },
    "convert muomni source new": {"--config": ("missing",), "--tokenizer": ("missing",)},
    "train-tokenizer words.txt --out new --vocab-size 300": {"--out": ("source",), "--vocab-size": (5, "x")},
    "encode words.txt --model nano --out new": {
        "--model": ("a/b/c",),
        "--out": ("words.txt",),
        "--split": (" ",),
        "--num-quantizers": (0,),
        "--num-proc": (0,),
        "--shard-rows": (0,),
        **MODEL,
    },
    "evaluate nano --data words.txt": {
        "--data": ("missing",),
        "--num": (0,),
        "--batch-size": (0,),
        "--out": ("a.txt",),
        "--max-seconds": (0,),
        **TEXT,
        **MODEL,
    },
    "serve nano": {
        "--host": ("0.0.0.0",),
        "--port": (-1, 65536),
        "--api-key": ("a b", ""),
        "--max-sessions": (0,),
        "--dtype": ("int8",),
        **MODEL,
    },
    "export nano new": {"--license": (" ",), "--language": ("",), "--max-shard-size": ("5", "0GB")},
}
NEEDS_TORCH = {("info nano", "--freeze")}  # names of parts, which the model on the meta device has
RUN = """
import json, sys
from josie.cli import app as commands
results = []
for arguments in json.load(sys.stdin):
    import io, contextlib
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            commands.app(arguments, prog_name="josie")
        except SystemExit as exit:
            code = exit.code
    results.append([code, error.getvalue(), "torch" in sys.modules])
print(json.dumps(results))
"""


def list_commands(group, path=()):
    """Return the commands of a group by their names."""
    found = {}
    for name, command in group.commands.items():
        found |= list_commands(command, (*path, name)) if hasattr(command, "commands") else {(*path, name): command}
    return found


COMMANDS = list_commands(typer.main.get_command(app))


def command_of(line):
    words = line.split()
    return next(words[:length] for length in (2, 1) if tuple(words[:length]) in COMMANDS)


def options_with_values(command):
    for option in command.params:
        if option.param_type_name == "option" and not option.is_flag and option.name != "help":
            yield max(option.opts, key=len), option


def replace(line, name, value):
    """Return the words of a line in which an option has another value."""
    words = line.split()
    if name in words:
        place = words.index(name)
        del words[place : place + 2]
    return [*words, name, str(value)]


def flatten():
    for line, options in CASES.items():
        for name, values in options.items():
            for value in values:
                yield line, name, value, replace(line, name, value)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("values")
    (folder / "words.txt").write_text("Hi\n")
    (folder / "source").mkdir()
    (folder / "source" / "a.pt").write_bytes(b"0")
    os.symlink(DATA / "speech.wav", folder / "speech.wav")
    metadata = {"format": "josie codes", "modality": '"audio"', "model_type": '"jodio"', "codebook_size": "1024"}
    metadata |= {"sampling_rate": "16000", "hop_length": "640", "length": "100"}
    header = {"__metadata__": metadata}
    text = json.dumps(header).encode()
    (folder / "codes.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    lines = sorted(flatten(), key=lambda case: case[:2] in NEEDS_TORCH)  # those with torch last
    given = json.dumps([words for *_, words in lines])
    done = subprocess.run([sys.executable, "-c", RUN], input=given, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {
        (line, name, str(value)): got
        for (line, name, value, _), got in zip(lines, json.loads(done.stdout), strict=True)
    }


@pytest.mark.parametrize(("line", "name", "value"), [case[:3] for case in flatten()])
def test_a_wrong_value_is_refused(results, line, name, value):
    code, message, has_torch = results[line, name, str(value)]
    assert code == 2, message
    assert message.startswith("Error: ")
    assert name in message
    assert len(message.splitlines()) == 1
    assert "Input should be" not in message
    assert not has_torch or (line, name) in NEEDS_TORCH


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_is_in_the_table(path):
    (line,) = (line for line in CASES if tuple(command_of(line)) == path)
    assert set(CASES[line]) == {name for name, _ in options_with_values(COMMANDS[path])}


@pytest.mark.parametrize("path", COMMANDS)
def test_options_are_given_once(path):
    command = COMMANDS[path]
    for name, option in options_with_values(command):
        with command.make_context("josie", [], resilient_parsing=True) as context:
            arguments = [name, "1", name, "2"]
            if option.multiple:
                continue
            with pytest.raises(ValueError, match=f"`{name}` must be given once, got 2 times."):
                command.parse_args(typer.Context(command, parent=context), arguments)


def test_activations_are_those_of_transformers():
    assert sorted(ACTIVATIONS) == sorted(ACT2CLS)
