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


def run_as_copied(program: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a program as a user would: in a process of its own, with the package installed and nothing set."""
    (folder / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
    (folder / "program.py").write_text(program, encoding="utf-8")
    return subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, cwd=folder, check=False)


def without_progress(text: str) -> list[str]:
    """Return lines that are no progress bar."""
    return [line for line in re.split(r"[\r\n]+", text) if line and not re.match(r".*\d+%\|", line)]


@pytest.mark.parametrize("part", PARTS)
def test_the_code_of_a_card_runs_and_warns_of_nothing(part, tmp_path):
    result = run_as_copied(find_code(read_card(part).text), tmp_path)
    assert (result.returncode, without_progress(result.stderr)) == (0, []), result.stderr
    if part == "josie":
        assert result.stdout == "My name is Josie.\n"
        assert (tmp_path / "reply.wav").stat().st_size > 1000


def test_the_first_example_of_the_readme_warns_of_nothing(tmp_path):
    result = run_as_copied(find_code((ROOT / "README.md").read_text(encoding="utf-8")), tmp_path)
    assert (result.returncode, without_progress(result.stderr)) == (0, []), result.stderr


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
