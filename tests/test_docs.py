"""The documentation is true: its code runs, its commands and files exist, its links lead somewhere."""

import importlib.util
import json
import logging
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import trl_stand_in
from assembly_parts import lengthen, save_audio, save_codec, save_text, save_vision
from doc_pages import list_pages, read_anchors, read_blocks, read_links, read_title, without_code
from doc_run import PageRun
from this_tree import ROOT

import josie

PAGES = list_pages(ROOT)
WITH_CODE = [page for page in PAGES if read_blocks(page.read_text(encoding="utf-8"))]
# Names on the Hub that pages use, and what stands there in the tests: a tiny random model of that kind, in a folder of
# that name.
HUB = {
    "google/gemma-3-270m": lambda folder: lengthen(save_text("gemma3_text", folder)),
    "HuggingFaceTB/SmolLM2-135M": lambda folder: lengthen(save_text("llama", folder)),
    "google/siglip-base-patch16-224": lambda folder: save_vision("siglip", folder),
    "kyutai/mimi": lambda folder: save_codec("mimi", folder),
    "openai/whisper-tiny": lambda folder: save_audio("whisper", folder),
    "openai/whisper-tiny.en": lambda folder: save_audio("whisper", folder),
}
ANSWERS = "josie.conversion."  # what is said of a checkpoint is what a conversion is for
MAX_LINES = 200
# In place of nano's tests, whose voices need flite: a row of each.
TEST_ROW = {"task": "chat", "messages": [{"role": "user", "content": "Hello."}], "answer": "?", "scores": ["exact"]}
QUESTION = {
    "situation": "question",
    "audio": josie.example_path("question.flac"),
    "question_end": 1.9,
    "answers": ["?"],
}
SESSION = QUESTION | {"situation": "session", "later": [[0.2, 1.9]], "answers": ["?", "?"]}
TEST_ROWS = {
    "runs/nano/test/tasks.jsonl": TEST_ROW,
    "runs/nano/duplex/test.jsonl": QUESTION,
    "runs/nano/duplex/test-turns.jsonl": TEST_ROW,
    "runs/nano/duplex/sessions.jsonl": SESSION,
    "runs/nano/duplex/sessions-turns.jsonl": TEST_ROW,
}


def name_of(page: Path) -> str:
    """Return a page's path in the tree."""
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder with the stand-ins."""
    folder = tmp_path_factory.mktemp("hub")
    for name, save in HUB.items():
        save(folder / name)
    return folder


@pytest.fixture
def folder(tmp_path, hub, monkeypatch):
    """A folder to run a page in, without the tree, and with nothing of it left behind in this process."""
    for name in {name.partition("/")[0] for name in HUB}:
        (tmp_path / name).symlink_to(hub / name)
    for name, row in TEST_ROWS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(row), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "runs" / "cache")
    if importlib.util.find_spec("trl") is None:
        monkeypatch.setitem(sys.modules, "trl", trl_stand_in)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def warned():
    """Return what libraries have said at the level of warnings or above."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            messages.append(f"{record.name}: {record.getMessage()}")

    handler, loggers = Keep(logging.WARNING), [logging.getLogger(name) for name in ("", "transformers", "josie")]
    for logger in loggers:
        logger.addHandler(handler)
    yield messages
    for logger in loggers:
        logger.removeHandler(handler)


# What peft 0.21 still asks every model of transformers, and TRL 1.16 still sets.
@pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
class TestCode:
    @pytest.mark.slow
    def test_it_runs_and_warns_of_nothing(self, page, folder, warned):
        if page != ROOT / "README.md":  # which needs no clone
            for name in ("benchmarks", "examples", "tests"):
                (folder / name).symlink_to(ROOT / name)
        before = {path.name for path in folder.iterdir()}
        run = PageRun(name_of(page))
        with run.servers:
            for block in read_blocks(page.read_text(encoding="utf-8")):
                run.run(block)
        assert [message for message in warned if not message.startswith(ANSWERS)] == []
        left = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
        check_ignored([name for name in left if name.strip("/") not in before])

    def test_its_blocks_say_what_they_are(self, page):
        for block in read_blocks(page.read_text(encoding="utf-8")):
            assert block.language in ("python", "bash", "text", "json", "jsonl", "yaml", ""), block.line


def check_ignored(names: list[str]) -> None:
    """Check that what a page leaves in the folder where it is run would not show in the status of a clone."""
    if not names or not (ROOT / ".git").exists():
        return
    ignored = subprocess.run(
        ["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert sorted(ignored) == sorted(names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
class TestText:
    def test_links_lead_somewhere(self, page):
        for target in read_links(page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), target
            assert linked.is_relative_to(ROOT), target
            assert not anchor or anchor in read_anchors(linked.read_text(encoding="utf-8")), target

    def test_it_has_a_title_and_opens_with_a_sentence(self, page):
        text = page.read_text(encoding="utf-8")
        assert read_title(text)
        assert re.match(r"# .+\n\n[A-Z*!][^\n]+\n", text)

    def test_files_named_in_code_exist(self, page):
        """`examples/demo.py` and the like; what a command makes is under `runs` or `try`."""
        if page.name == "CHANGELOG.md":  # which names what was
            return
        for name in re.findall(
            r"`((?:examples|benchmarks|tests|docs|nano)/[\w./-]+)`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), name

    def test_lines_are_not_too_long(self, page):
        text = page.read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if len(line) > 120 and not re.match(r" *[|!\[{]", line)] == []

    def test_it_speaks_of_the_project_alone(self, page):
        text = without_code(page.read_text(encoding="utf-8"))
        assert not re.findall(r"(?<![\w.:/)])/[a-z]+/|\bTODO\b", text)  # no path of any one machine


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_rooms_in_drawings_exist(page):
    drawings = [block.text for block in read_blocks(page.read_text(encoding="utf-8")) if not block.language]
    rooms = [name for text in drawings for name in re.findall(r"(?:^|  )(\w+)/ ", text, re.MULTILINE)]
    assert [name for name in rooms if not any(ROOT.glob(name)) and not any(ROOT.glob(f"*/{name}"))] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_front_page_names_every_room():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    rooms = {name.split(".")[1] for name in packages if "." in name}
    house = (ROOT / "README.md").read_text(encoding="utf-8").split("## The house")[1]
    assert [room for room in sorted(rooms) if f"{room}/ " not in house] == []


def test_the_size_of_the_shipped_models_is_told():
    size = sum(path.stat().st_size for path in ROOT.glob("nano/*/*.safetensors")) / 1e6
    assert f"part of the package ({size:.0f} MB)" in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def test_the_index_names_every_page():
    linked = {
        target.partition("#")[0] for target in read_links((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    }
    assert {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"} <= linked


def test_every_extra_is_explained():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert [name for name in extras if f"`{name}`" not in text] == []


def test_images_are_small():
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.stat().st_size < 150_000, path
