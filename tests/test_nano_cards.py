"""The cards of the models that come with the package: their titles, licences and limits, and that their code runs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import josie

ROOT = Path(__file__).parents[1]
PARTS = {
    "josie": ("JOSIE nano", "cc-by-sa-3.0"),
    "jodio": ("JODIO nano", "cc-by-sa-3.0"),
    "jovio": ("JOVIO nano", "cc-by-sa-4.0"),
}
SPDX = {"cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0"}
MOST_WORDS = 25  # of a sentence that a reader takes in at once


def read_card(part: str) -> ModelCard:
    return ModelCard.load(Path(josie.nano_path(part)) / "README.md")


def find_code(text: str) -> str:
    """Return the first program of a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]


# Runs `program.py` of each folder in a process of its own, forked from one that has imported what all of them need.
RUN_EACH = """
import os, runpy, sys
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor
import josie.modeling_josie, josie.processing_josie

for folder in sys.argv[1:]:
    child = os.fork()
    if not child:
        os.chdir(folder)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), descriptor)
        runpy.run_path("program.py", run_name="__main__")
        sys.exit()
    print(folder, os.waitpid(child, 0)[1], flush=True)
"""


def without_progress(text: str) -> list[str]:
    """Return lines that are no progress bar."""
    return [line for line in re.split(r"[\r\n]+", text) if line and not re.match(r".*\d+%\|", line)]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Folders in which the programs of the cards and the README's first one ran as a user would run them: with the
    package installed and nothing set; and by folder what they ended with."""
    texts = {part: read_card(part).text for part in PARTS} | {"README": (ROOT / "README.md").read_text("utf-8")}
    folders = {}
    for name, text in texts.items():
        folders[name] = tmp_path_factory.mktemp(name)
        (folders[name] / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
        (folders[name] / "program.py").write_text(find_code(text), encoding="utf-8")
    command = [sys.executable, "-c", RUN_EACH, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folders["README"], check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folders, dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PARTS, "README"])
def test_its_first_program_runs_and_warns_of_nothing(name, copied):
    folders, ends = copied
    output, errors = ((folders[name] / stream).read_text("utf-8") for stream in ("stdout", "stderr"))
    assert (ends[str(folders[name])], without_progress(errors)) == ("0", []), errors
    if name == "josie":
        assert output == "My name is Josie.\n"
        assert (folders[name] / "reply.wav").stat().st_size > 1000


@pytest.mark.parametrize("part", PARTS)
def test_a_card_says_what_the_model_is(part):
    card = read_card(part)
    title, license = PARTS[part]
    assert f"\n# {title}\n" in f"\n{card.text}"
    assert card.data.license == license
    assert f"The weights are under {license}, the code under apache-2.0." in card.text
    for section in ("what", "use", "training", "results", "limits"):
        assert card.text.count(f"<!-- josie:{section} -->") == 1
    limits = card.text.split("## Limits\n")[1].split("<!--")[0]
    sentences = re.split(r"(?<=[.:])\s+", limits.strip())
    assert [s for s in sentences if len(s.split()) > MOST_WORDS] == []


def test_nothing_is_under_the_gpl():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for text in (notice, *(read_card(part).content for part in PARTS)):
        assert not re.search("GPL|gpl-", text)


def test_the_notice_names_the_authors_of_the_images():
    card = read_card("jovio")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    entry = notice.split("\nnano/jovio")[1].split("\nnano/examples")[0]
    authors = {
        name for line in re.findall(r"^\* data: .*\), by (.*)$", card.text, re.MULTILINE) for name in line.split(", ")
    }
    assert len(authors) > 20
    assert [name for name in authors if name not in " ".join(entry.split())] == []


def test_code_and_weights_are_told_apart():
    """The notice, the metadata of the package and the cards name the same licences."""
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {SPDX[license] for _, license in PARTS.values()}
    assert set(project["license"].split(" AND ")) == {"Apache-2.0", "MIT", *named}  # MIT: a table of words
    for part, (_, license) in PARTS.items():
        assert re.search(rf"^nano/{part} +{SPDX[license]} ", notice, re.MULTILINE)
    files = {path.relative_to(ROOT).as_posix() for pattern in project["license-files"] for path in ROOT.glob(pattern)}
    assert files == {"LICENSE", "NOTICE", "LICENSES/MIT-whisper.txt"}


@pytest.mark.parametrize("name", ["josie", "jodio", "jovio"])
def test_configurations_name_no_folder_of_whoever_trained(name):
    assert '"/' not in (Path(josie.nano_path(name)) / "config.json").read_text(encoding="utf-8")
