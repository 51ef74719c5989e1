"""`josie chat` with piped lines: history, images, clips, speech, the microphone, and errors on the way."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cli import contents, fail
from test_codec_cli import FakeMicrophone
from typer.testing import CliRunner

from josie import JosieForConditionalGeneration, JosieProcessor, load_audio
from josie.cli.app import app
from josie.cli.lines import strip_lines

DATA = Path(__file__).parent / "data"
IMAGE, SPEECH = DATA / "picture.png", DATA / "speech.wav"


@pytest.fixture
def prompts(monkeypatch):
    """The conversations that reached the chat template, in order; with each, what the model reads."""
    seen = []
    template = JosieProcessor.apply_chat_template

    def watch(self, conversation, *args, **kwargs):
        seen.append(conversation)
        return template(self, conversation, *args, **kwargs)

    monkeypatch.setattr(JosieProcessor, "apply_chat_template", watch)
    return seen


def chat(folder, lines, *options):
    """Run a conversation; return standard output, and standard error without notes that answers are cut off."""
    arguments = ["chat", str(folder), "--max-new-tokens", "4", *map(str, options)]
    result = CliRunner().invoke(app, arguments, input="".join(f"{line}\n" for line in lines))
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout, result.stderr.replace("The answer is cut off at 4 tokens.\n", "")


def kinds(message):
    """Return the types of a message's parts."""
    return [part["type"] for part in message["content"]]


def test_every_turn_has_the_whole_history(tiny_folder, prompts):
    printed, errors = chat(tiny_folder, ["Hello.", "And?", "", "Why?"])
    assert errors == ""
    assert [len(conversation) for conversation in prompts] == [1, 3, 5]
    for before, after in zip(prompts, prompts[1:], strict=False):
        assert after[: len(before)] == before
    last = prompts[-1]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert [message["content"][0]["text"] for message in last[::2]] == ["Hello.", "And?", "Why?"]
    answers = "".join(message["content"] for message in last[1::2])
    assert "".join(printed.split()).startswith("".join(answers.split()))


def test_it_answers_as_generate_does(tiny_folder, prompts):
    printed, _ = chat(tiny_folder, ["Hello."])
    model, processor = JosieForConditionalGeneration.from_pretrained(tiny_folder), None
    processor = JosieProcessor.from_pretrained(tiny_folder)
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(prompts[0], **options)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    assert printed.split() == processor.decode(ids, skip_special_tokens=True).split()


def test_images_and_clips_go_with_the_next_turn(tiny_folder, prompts):
    lines = ["What is it?", f"/image {IMAGE}", f"/audio {SPEECH}", "Listen.", f"/audio {SPEECH}", "", "Well?"]
    chat(tiny_folder, lines, "--image", IMAGE, "--image", IMAGE)
    asked = [conversation[-1] for conversation in prompts]
    assert [kinds(message) for message in asked] == [
        ["image", "image", "text"],
        ["image", "audio", "text"],
        ["audio"],
        ["text"],
    ]


def test_reset_forgets_and_quit_ends(tiny_folder, prompts):
    lines = ["One.", f"/image {IMAGE}", "/reset", "Two.", "/quit", "Three."]
    _, errors = chat(tiny_folder, lines)
    assert errors == ""
    assert [[message["content"][0].get("text") for message in conversation] for conversation in prompts] == [
        ["One."],
        ["Two."],
    ]


def test_answers_are_spoken_into_numbered_files(tiny_folder, tmp_path):
    options = ("--speak", "--out", tmp_path / "said.flac", "--max-seconds", 0.3, "--speaker", "bob")
    _, errors = chat(tiny_folder, ["Hello.", "And?", "Why?"], *options)
    files = contents(tmp_path)
    silent = errors.count("This answer has no speech")
    assert len(files) == 3 - silent
    assert files
    for name in files:
        assert name in ("said-1.flac", "said-2.flac", "said-3.flac")
        assert 0 < soundfile.info(tmp_path / name).frames <= 10 * 48


def test_errors_are_told_and_leave_no_trace(tiny_folder, prompts, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(IMAGE.read_bytes()[:200])  # which is seen only when it is decoded
    lines = ["One.", "/image none.png", "/sing", f"/image {broken}", "Two.", "words " * 300, "Three."]
    _, errors = chat(tiny_folder, [*lines, f"/image {'a' * 300}"])
    told = errors.splitlines()
    assert len(told) == 5
    assert told[4].startswith("Error: `/image FILE` must be a name that can be looked up (File name too long), got 'a")
    assert told[0] == "Error: `/image FILE` must be an existing file, got 'none.png'."
    assert told[1].startswith("Error: A line that begins with '/' must be one of [")
    assert "broken.png" in told[2]
    assert "256" in told[3]
    assert [kinds(message) for message in prompts[-1][::2]] == [["text"], ["text"]]
    assert [message["content"][0]["text"] for message in prompts[-1][::2]] == ["One.", "Three."]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(encoding):
    given = b"\xef\xbb\xbf/help \r\n\n \xef\xbb\xbfHello.\n"
    lines = list(strip_lines(io.TextIOWrapper(io.BytesIO(given), encoding)))
    assert lines == ["/help", "", b"\xef\xbb\xbfHello.".decode(encoding)]


def test_a_command_behind_a_byte_order_mark_is_one(tiny_folder):
    result = CliRunner().invoke(app, ["chat", str(tiny_folder)], input=b"\xef\xbb\xbf/help\n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "/image FILE" in result.stderr


def test_a_line_that_is_not_utf8_is_told_and_the_chat_goes_on(tiny_folder, prompts, tmp_path):
    image = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copyfile(IMAGE, image)  # whose name is one all the same
    given = b"Hello.\ncaf\xe9\n/image " + image + b"\nWhat is your name?\n"
    result = CliRunner().invoke(app, ["chat", str(tiny_folder), "--max-new-tokens", "2"], input=given)
    assert result.exit_code == 0, result.exception
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert errors == [r"Error: A line must be valid UTF-8, got 'caf\udce9'."]
    assert [kinds(conversation[-1]) for conversation in prompts] == [["text"], ["image", "text"]]


class TestMicrophone:
    def test_an_empty_line_listens(self, tiny_folder, prompts, monkeypatch):
        microphone = FakeMicrophone()
        monkeypatch.setitem(sys.modules, "sounddevice", microphone)
        chat(tiny_folder, ["", "Hello."], "--mic", "--seconds", 0.6, "--image", IMAGE)
        assert microphone.sizes == [4000, 4000, 1600]
        assert [kinds(conversation[-1]) for conversation in prompts] == [["image", "audio"], ["text"]]
        part = prompts[0][-1]["content"][1]
        assert part["sampling_rate"] == 16000
        assert np.array_equal(part["audio"], load_audio(SPEECH)[:9600])

    def test_no_sounddevice(self, tiny_folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", None)
        result = CliRunner().invoke(app, ["chat", str(tiny_folder), "--mic", "--seconds", "1"], input="\n")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == "Error: `--mic` needs sounddevice: `pip install josie[mic]`."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image", "none.png"), "`--image` must be an existing file, got 'none.png'."),
        (("--seconds", 2), "`--seconds` must go with `--mic`, got 2.0."),
        (("--mic", "--seconds", 0), "`--seconds` must be a finite number above 0, got 0.0."),
        (("--speaker", "bob"), "`--speaker` must go with `--speak`, got 'bob'."),
        (("--speak", "--out", "reply.txt"), "`--out` must end in .wav, .flac, .ogg, .mp3, "),
        (("--speak", "--max-seconds", -1), "`--max-seconds` must be a finite number above 0, got -1.0."),
        (("--max-new-tokens", 0), "`--max-new-tokens` must be at least 1, got 0."),
    ],
)
def test_wrong_options(tiny_folder, options, message):
    assert fail("chat", tiny_folder, *options).startswith(message)


def test_a_mute_model_is_not_asked_to_speak(save_checkpoint, tmp_path):
    folder = save_checkpoint(tmp_path / "mute", talker_config=None)
    assert fail("chat", folder, "--speak").startswith("`DIR` must hold a model that speaks for `--speak`, got ")


class TestNanoByName:
    """`nano` is the model that comes with the package, unless the working directory has a checkpoint of this name."""

    def test_a_checkpoint_of_this_name_comes_first(self, tiny_folder, tmp_path, monkeypatch):
        (tmp_path / "nano").symlink_to(tiny_folder)
        monkeypatch.chdir(tmp_path)
        chat("nano", ["Hello."])

    def test_a_folder_that_is_no_checkpoint_is_not_meant(self, tiny_folder, tmp_path, monkeypatch):
        from josie import nano

        (tmp_path / "nano").mkdir()
        (tmp_path / "installed").mkdir()
        (tmp_path / "installed" / "josie").symlink_to(tiny_folder)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(nano, "_FOLDER", tmp_path / "installed")
        chat("nano", ["Hello."])
        assert nano.nano_path() == str(tmp_path / "installed" / "josie")

    def test_it_is_not_installed(self, tmp_path, monkeypatch):
        from josie import nano

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(nano, "_FOLDER", tmp_path)
        message = fail("info", "nano")
        assert message.startswith("`part` must be a model that came with this installation, got 'josie': no ")
