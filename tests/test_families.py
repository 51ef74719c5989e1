"""The table of families in the docs: it names what the command knows, and says what the command finds."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "benchmarks") not in sys.path:
    sys.path.append(str(ROOT / "benchmarks"))

import families  # noqa: E402

PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
SECTIONS = {part: PAGE.split(f"## {title}\n")[1].split("\n## ")[0] for part, title in families.TITLES.items()}
# One or two of each reason.
TRIED = {
    "text": (
        "llama",
        "gpt2",
        "mixtral",
        "qwen3_next",
        "falcon_h1",
        "bloom",
        "mamba",
        "phi",
        "bart",
        "openai-gpt",
        "xlm",
    ),
    "audio": ("whisper", "wavlm", "sew"),
    "vision": ("siglip_vision_model", "dinov2", "pixtral", "vit_mae", "timesformer", "convnext"),
    "codec": ("mimi", "jodio"),
}


@pytest.mark.parametrize("part", families.TITLES)
def test_the_page_names_every_family_that_the_command_knows(part):
    cells = [row.rsplit(" | ", 1)[1] for row in SECTIONS[part].splitlines() if row.startswith("| ")]
    assert sorted(re.findall(r"`([^`]+)`", " ".join(cells))) == families.list_families(part)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "text"
    families.save_part("text", "llama", folder)
    return folder


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("part", "family"), [(part, family) for part, names in TRIED.items() for family in names])
def test_the_page_says_what_the_command_finds(part, family, text):
    result = families.try_family(part, family, None if part == "text" else text)
    assert result.status != "wrong", result
    alone = families.write_markdown(part, [result])
    rows = [[row for row in text.splitlines() if f"`{family}`" in row] for text in (alone, SECTIONS[part])]
    labels = [[re.sub(r" \(\d+\)$", "", row.split(" | ")[0]) for row in found] for found in rows]
    assert labels[0] == labels[1]
    assert len(labels[0]) == 1
