"""The language of the code is the field's: modalities by their names, docstrings that open with a noun or a verb."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("configuration_josie", "tokenization", "processing_josie", "modeling_josie", "training", "evaluation"),
    *("conversion", "serving", "cli", "examples", "benchmarks"),
)
PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "nano").rglob("README.md"))]
OPENERS = re.compile(r"(What|How|Which|Where|When|Who|Whose|Why|That|Let)\b")
# Words that have another name in the field, and where they mean something else.
OTHERS = {
    r"pictures?": "image",
    r"sounds?": "audio, clip",
    r"facts?": "metadata, config_dict",
    r"deaf|blind": "without audio or vision input",
    r"ears?": "audio tower, audio encoder",
    r"eyes?": "vision tower, vision encoder",
    r"overhang": "look-ahead",
    r"mistakes?": "error",
}
USES = re.compile(
    r"core[- ]sounds|SoundFile\w*|asterisk/sounds|sound/|picture\.png|SoundStream|mel_overhang|game / \"sound\"|"
    r"speech\|sound|salt: str = \"pictures\"|"
    r"index\(\"sound\"\)|Describe (the|this) picture\.|[Dd]oes the picture show|in the picture\b|"
    r"Yes, I can see pictures|sounds? (equal|as good|good|like|after)\b|"
    r"(word|speech) sounds\b|bright a sound is|one word or sound|a[ _]sound[ _]card|sounds_a?like|torch\.eye|by ear\b",
)


def find_words(text: str) -> dict[str, str]:
    """Return the words of a text that the field has another name for, and that name."""
    words = re.findall(r"[A-Za-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", USES.sub(" ", text).replace("_", " ")))
    return {word: name for word in words for other, name in OTHERS.items() if re.fullmatch(other, word.lower())}


def docstrings(path: Path) -> list[str]:
    """Return the docstrings of a module and of all in it."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in nodes if isinstance(node, documented) and (text := ast.get_docstring(node))]


def test_words_are_found():
    assert find_words("demo_picture, PICTURE_SIZE, a Sound and `SoundStream`").keys() == {"picture", "PICTURE", "Sound"}
    assert not find_words("soundfile, sounddevice, an artefact and how a word sounds")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(ROOT).as_posix())
class TestCode:
    def test_docstrings_open_with_a_noun_or_a_verb(self, path):
        assert not [text.splitlines()[0] for text in docstrings(path) if OPENERS.match(text)]

    def test_names_comments_and_texts_are_the_fields(self, path):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not {f"{number}: {line}": words for number, line in enumerate(lines, 1) if (words := find_words(line))}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
class TestTests:
    def test_docstrings_open_with_a_noun_or_a_verb(self, path):
        assert not [text.splitlines()[0] for text in docstrings(path) if OPENERS.match(text)]

    def test_names_comments_and_texts_are_the_fields(self, path):
        if path.name == Path(__file__).name:
            return  # which has to name the words
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not {f"{number}: {line}": words for number, line in enumerate(lines, 1) if (words := find_words(line))}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_use_the_fields_words(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not {f"{number}: {line}": words for number, line in enumerate(lines, 1) if (words := find_words(line))}
