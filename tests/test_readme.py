"""The README's Python, run from top to bottom as it stands, in a folder where only `tests/data` is."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_code_of_the_readme_runs(tmp_path, monkeypatch):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 3
    (tmp_path / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert (tmp_path / "reply.wav").stat().st_size > 1000
    assert (tmp_path / "said-1.wav").is_file()
