"""The front door of the command line: help, version, completion, names of models, and refusals that cost nothing."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import contents, fail, run
from typer.main import get_command

import josie
from josie.cli.app import app
from josie.cli.make import _MIN_VOCAB_SIZE, preset_names
from josie.nano import NANO_NAMES, find_model

DATA = Path(__file__).parent / "data"
HEAVY = ["torch", "transformers", "torchaudio", "datasets", "accelerate"]
GROUPS = [(), ("codec",), ("convert",)]
COMMANDS = [
    *("generate", "speak", "chat", "info", "init", "assemble", "train-tokenizer", "evaluate", "export"),
    *("codec encode", "codec decode", "codec roundtrip", "convert muomni"),
]
TASK = {"task": "t", "messages": [{"role": "user", "content": "Hi"}], "answer": "Hi", "scores": ["exact"]}
# Command lines with the argument that their message has to name.
WRONG = {
    "speek": "speek",
    "init tiny new": "`PRESET`",
    "init micro full": "`OUT`",
    "init micro note.txt": "`OUT`",
    "init micro .": "`OUT`",
    "init micro new --seed -1": "`--seed`",
    "generate nanoo --text hi": "`DIR`",
    "generate full --text hi": "`DIR`",
    "generate llama --text hi": "`DIR`",
    "generate nano/jodio --text hi": "`DIR`",
    "generate nano": "`--text`",
    "generate nano --text ''": "`--text`",
    "generate nano --text '  '": "`--text`",
    "generate nano --text hi --max-new-tokens 0": "`--max-new-tokens`",
    "generate nano --text hi --max-new-tokens -3": "`--max-new-tokens`",
    "generate nano --text hi --temperature 0": "`--temperature`",
    "generate nano --text hi --temperature nan": "`--temperature`",
    "generate nano --text hi --max-seconds inf": "`--max-seconds`",
    "generate nano --text hi --speaker eve": "`--speaker`",
    "generate nano --text hi --out reply.txt": "`--out`",
    "generate nano --text hi --out none/reply.wav": "`--out`",
    "generate nano --text hi --text-only --out a.wav": "`--out`",
    "generate nano --text hi --text-only --max-seconds 2": "`--max-seconds`",
    "generate nano --text hi --text-only --play": "`--play`",
    "generate nano --text hi --device gpu": "`--device`",
    "generate nano --text hi --dtype int8": "`--dtype`",
    "generate nano --text hi --threads 0": "`--threads`",
    "generate nano --image note.txt": "`--image`",
    "generate nano --audio note.txt": "`--audio`",
    "generate nano --video note.txt": "`--video`",
    "generate nano --video {data}/video.mp4": "`--video`",
    "speak nano ''": "`TEXT`",
    "speak nano hi --max-seconds -1": "`--max-seconds`",
    "speak nano/jovio hi": "`DIR`",
    "chat nano --temperature 0": "`--temperature`",
    "chat nano --out a.wav": "`--out`",
    "chat nano --max-seconds 2": "`--max-seconds`",
    "chat nano --image note.txt": "`--image`",
    "chat nano --seconds 2": "`--seconds`",
    "info nanoo": "`DIR`",
    "info nano/jodio": "`DIR`",
    "evaluate nanoo --data tasks.jsonl": "`DIR`",
    "evaluate nano --data note.txt": "`--data`",
    "evaluate nano --data tasks.jsonl --num 0": "`--num`",
    "evaluate nano --data tasks.jsonl --out scores.txt": "`--out`",
    "evaluate nano --data tasks.jsonl --max-seconds 2": "`--max-seconds`",
    "train-tokenizer none.txt --out new --vocab-size 300": "`FILES`",
    "train-tokenizer note.txt --out new --vocab-size 9": "`--vocab-size`",
    "train-tokenizer note.txt --out full --vocab-size 300": "`--out`",
    "export nanoo new": "`DIR`",
    "export llama new": "`DIR`",
    "export nano full": "`OUT`",
    "export nano new --max-shard-size big": "`--max-shard-size`",
    "convert muomni none new": "`SRC`",
    "convert muomni {data}/muomni full": "`OUT`",
    "convert muomni {data}/muomni new --config none": "`--config`",
    "convert muomni {data}/muomni new --tokenizer none": "`--tokenizer`",
    "assemble full --text llama": "`OUT`",
    "assemble new --text ./none": "`--text`",
    "assemble new --text full": "`--text`",
    "assemble new --text llama --talker big": "`--talker`",
    "assemble new --text llama --talker micro": "`--codec`",
    "assemble new --text llama --talker-layers 0": "`--talker-layers`",
    "codec encode none.wav --model nano/jodio --out a.safetensors": "`FILE`",
    "codec encode note.txt --model nano/jodio --out a.safetensors": "`FILE`",
    "codec encode note.txt --model nano/jovio --out a.safetensors": "`FILE`",
    "codec encode {data}/picture.png --model nano/jodio --out a.safetensors": "`FILE`",
    "codec encode {data}/speech.wav --model nano/jovio --out a.safetensors": "`FILE`",
    "codec encode {data}/speech.wav --model nano/jodia --out a.safetensors": "`--model`",
    "codec encode {data}/speech.wav --model nano/jodio --out a.wav": "`--out`",
    "codec encode {data}/speech.wav --model nano/jodio --out a.safetensors --num-quantizers 0": "`--num-quantizers`",
    "codec encode {data}/speech.wav --model nano/jodio --out a.safetensors --num-quantizers 99": "`--num-quantizers`",
    "codec encode {data}/speech.wav --model nano/jodio --out a.safetensors --seconds 2": "`--seconds`",
    "codec encode {data}/speech.wav --model josie_mel_codec --out a.safetensors --stream": "`--stream`",
    "codec encode {data}/picture.png --model nano/jovio --out a.safetensors --max-patches 0": "`--max-patches`",
    "codec encode --model nano/jodio --out a.safetensors": "`FILE`",
    "codec decode note.txt --model nano/jodio --out a.wav": "`CODES`",
    "codec roundtrip {data}/speech.wav --model nano/jodio --out a.png": "`--out`",
    "codec roundtrip {data}/picture.png --model nano/jovio --out a.wav": "`--out`",
}
RUN_ALL = """
import json, sys
from typer.testing import CliRunner
from josie.cli.app import app
answers = {}
for line, arguments in json.loads(sys.argv[1]).items():
    result = CliRunner().invoke(app, arguments)
    heavy = sorted(set(json.loads(sys.argv[2])) & sys.modules.keys())
    answers[line] = [result.exit_code, result.stdout, result.stderr, heavy]
    for name in list(sys.modules):  # the next one is judged by itself
        if name.partition(".")[0] in heavy:
            del sys.modules[name]
print(json.dumps(answers))
"""


def run_in_process(lines, folder):
    """Run command lines in one new process; return exit code, both outputs and the heavy modules of each."""
    arguments = {line: shlex.split(line.format(data=DATA)) for line in lines}
    command = [sys.executable, "-c", RUN_ALL, json.dumps(arguments), json.dumps(HEAVY)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """The answers to all wrong command lines, and the folder that they ran in."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "full").mkdir()
    (folder / "full" / "note").write_text("mine")
    (folder / "note.txt").write_text("hello\n")
    (folder / "tasks.jsonl").write_text(json.dumps(TASK))
    for name in ("llama", "josie_mel_codec"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": name}))
    before = sorted(folder.rglob("*"))
    answers = run_in_process(WRONG, folder)
    assert sorted(folder.rglob("*")) == before  # none of them leaves anything behind
    return answers


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_refused_before_anything_heavy_is_imported(refusals, line):
    code, printed, error, heavy = refusals[line]
    assert (code, printed, error.count("\n")) == (2, "", 1), error
    assert error.startswith("Error: ")
    assert WRONG[line] in error
    assert heavy == []


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """The answers to `--help` of every command, to `josie` alone and to `--version`."""
    lines = [f"{command} --help" for command in ("", "codec", "convert", *COMMANDS)]
    return run_in_process([*lines, "", "codec", "convert", "--version"], tmp_path_factory.mktemp("help"))


def test_help_and_version_import_nothing_heavy(helps):
    for line, (code, printed, error, heavy) in helps.items():
        assert (code, error, heavy) == (0, "", []), line
        assert printed, line


def test_josie_alone_shows_its_help(helps):
    for group in ("", "codec", "convert"):
        assert helps[group][1].split() == helps[f"{group} --help"][1].split()
    assert "Usage:" in helps[""][1]


def test_version(helps):
    assert helps["--version"][1] == f"josie {josie.__version__}\n"


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_no_sentence_of_the_help_is_cut(helps, group):
    shown = helps[f"{' '.join(group)} --help"][1]
    listed = " ".join(shown.replace("│", " ").split())
    commands = get_command(app)
    for name in group:
        commands = commands.commands[name]
    for name, command in commands.commands.items():
        sentences = " ".join(command.help.split("\n\n")[0].split())
        assert f"{name} {sentences}" in listed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("josie gen", ["generate"]),
        ("josie codec ", ["encode", "decode", "roundtrip"]),
        ("josie generate nan", ["nano", "nano/jodio", "nano/jovio", "nano-of-mine/"]),
        ("josie init ", ["base", "micro"]),
        ("josie speak --dev", ["--device"]),
        ("josie speak --dtype b", ["bfloat16"]),
    ],
)
def test_completion(tmp_path, words, expected):
    (tmp_path / "nano-of-mine").mkdir()
    environment = os.environ | {
        "_JOSIE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code = "from josie.cli.app import app; app(prog_name='josie')"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert result.stdout.split() == expected, result.stderr


def test_the_completion_script_can_be_shown():
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "josie", "--show-completion", "bash"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "COMPREPLY" in result.stdout


def test_constants_that_are_known_without_imports():
    from josie.tokenization.train import MIN_VOCAB_SIZE

    assert preset_names() == josie.JosieConfig.preset_names()
    assert _MIN_VOCAB_SIZE == MIN_VOCAB_SIZE


class TestNames:
    @pytest.mark.parametrize("name", NANO_NAMES)
    def test_they_mean_the_models_of_the_package_in_any_folder(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert find_model(name) == Path(josie.nano_path(NANO_NAMES[name]))
        (tmp_path / name).mkdir(parents=True)
        assert find_model(name) == Path(josie.nano_path(NANO_NAMES[name]))  # an empty folder is not meant
        (tmp_path / name / "config.json").write_text("{}")
        assert find_model(name) == Path(name)

    def test_a_codec_by_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run("codec", "encode", DATA / "picture.png", "--model", "nano/jovio", "--out", "a.safetensors")
        assert contents(tmp_path) == ["a.safetensors"]

    @pytest.mark.parametrize(("wrong", "right"), [("nanoo", "nano"), ("nano/jodia", "nano/jodio")])
    def test_a_slip_is_recognised(self, tmp_path, monkeypatch, wrong, right):
        monkeypatch.chdir(tmp_path)
        assert fail("info", wrong).endswith(f"got {wrong!r}, without a config.json. Did you mean {right!r}?")
