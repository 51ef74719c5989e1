"""A wheel of this tree, unpacked elsewhere, works where the tree is not; and the tests find the tree where it is."""

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from this_tree import ROOT

pytestmark = pytest.mark.slow

# What a wheel is made of besides the packages; a copy has no other files that a build could pick up.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "LICENSES", "py.typed", "__init__.pyi")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
# Files that are no modules, and that something would miss.
DATA = (
    "__init__.pyi",
    "configuration_josie/presets/base.json",
    "configuration_josie/presets/micro.json",
    "nano/examples/question.flac",
    "nano/examples/scene.png",
    "nano/jodio/model.safetensors",
    "nano/josie/chat_template.jinja",
    "nano/josie/model.safetensors",
    "nano/jovio/model.safetensors",
    "py.typed",
    "tokenization/default/tokenizer.json",
)
TRY = """
import sys
import josie
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor

assert josie.__file__.startswith(sys.argv[1]), josie.__file__
model = AutoModelForMultimodalLM.from_pretrained(josie.nano_path())
processor = AutoProcessor.from_pretrained(josie.nano_path())
parts = [{"type": "image", "path": josie.example_path("scene.png")}]
parts.append({"type": "audio", "path": josie.example_path("question.flac")})
messages = [{"role": "user", "content": parts}]
inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
reply = model.generate(**inputs, generation_mode="audio", max_new_tokens=16)
print(processor.batch_decode(reply.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
processor.save_audio(reply.audio_values[0], "reply.wav")
for part in ("jodio", "jovio"):
    AutoModel.from_pretrained(josie.nano_path(part))
josie.JosieConfig.from_preset("micro")
assert len(josie.load_default_tokenizer(300)) == 300
"""


def packages() -> list[str]:
    """Return the folders of this tree that are packages, relative to it."""
    rooms = [path for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
    found = [path.parent for room in rooms for path in room.parent.rglob("__init__.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found if not path.is_relative_to(ROOT / "examples"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what belongs to it."""
    pytest.importorskip("setuptools", reason="builds a wheel: josie[dev]")
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "josie"
    sources.mkdir()
    for name in [
        *SOURCES,
        *(path.name for path in ROOT.glob("*.py")),
        *(room for room in packages() if "/" not in room),
    ]:
        (sources / name).symlink_to(ROOT / name)
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=sources, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the unpacked wheel, and a function that runs Python there with nothing else of ours in reach."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    zipfile.ZipFile(wheel).extractall(site)

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, "-W", "error", *arguments]
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    return site, elsewhere, run


def test_every_module_and_all_data_are_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("josie/") for name in archive.namelist() if name.startswith("josie/")}
    modules = {str(path.relative_to(ROOT)) for room in packages() for path in (ROOT / room).glob("*.py")}
    modules |= {path.name for path in ROOT.glob("*.py")}
    data = {str(path.relative_to(ROOT)) for room in packages() for path in data_files(ROOT / room)}
    assert modules | data | set(DATA) <= names
    assert not {name for name in names if name.startswith(("tests", "examples", "benchmarks", "docs"))}


def data_files(folder: Path) -> list[Path]:
    """Return the files below a package that are no modules, outside the packages inside it."""
    inner = [path.parent for path in folder.glob("*/__init__.py")]
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in files if path.suffix != ".py" and not any(path.is_relative_to(room) for room in inner)]


def test_what_the_wheel_says_of_itself(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    assert metadata["Name"] == "josie"
    assert metadata["Author"]
    assert "omni" in metadata["Keywords"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(
        metadata.get_all("Classifier")
    )
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["License-Expression"].startswith("Apache-2.0")
    texts = {path.name for path in (ROOT / "LICENSES").iterdir()}
    assert {Path(name).name for name in licences} == {"LICENSE", "NOTICE"} | texts
    assert metadata.get_payload().startswith("# JOSIE")


def test_it_looks_listens_and_answers_away_from_the_tree(installed):
    site, elsewhere, run = installed
    result = run("-c", TRY, str(site))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "There are three.\n"
    assert (elsewhere / "reply.wav").stat().st_size > 10_000


def test_the_command_line_works_away_from_the_tree(installed):
    _, _, run = installed
    result = run("-m", "josie", "--help")
    assert result.returncode == 0, result.stderr
    assert "generate" in result.stdout


def test_the_tests_find_this_tree_beside_another_install(installed, tmp_path):
    """As after `pip install .`, when the tests run in the clone."""
    _, _, run = installed
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import subprocess, this_tree; "
        "import josie, pathlib; print(pathlib.Path(josie.__file__).resolve(), flush=True); "
        "subprocess.run([sys.executable, '-c', 'import josie, pathlib; print(pathlib.Path(josie.__file__).resolve())'])"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(ROOT / "__init__.py")] * 2
