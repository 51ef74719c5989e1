"""What the nano model needs besides its recipes: two halves, trained apart, become one model."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

EXAMPLES = str(Path(__file__).resolve().parents[1] / "examples")
if EXAMPLES not in sys.path:
    sys.path.append(EXAMPLES)

import make_nano  # noqa: E402


@pytest.fixture
def halves(tiny_folder, tmp_path):
    """A model with another Thinker, and one with a Talker of another shape; their words are the same."""
    thinker = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    talker = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    torch.nn.init.normal_(thinker.thinker.lm_head.weight)
    talker.config.talker_config.frames_per_token = 3
    torch.nn.init.normal_(talker.talker.head.weight)
    for name, model in (("thinker", thinker), ("talker", talker)):
        model.save_pretrained(tmp_path / name)
        AutoProcessor.from_pretrained(tiny_folder).save_pretrained(tmp_path / name)
    return thinker, talker


def test_each_half_comes_from_its_own_training(halves, tmp_path):
    thinker, talker = halves
    (tmp_path / "report.json").write_text('{"tasks": {"look": {"scores": {"exact": 0.25}}}}')
    folder = tmp_path / "joined"
    make_nano.main(
        ["join", *map(str, (tmp_path / "thinker", tmp_path / "talker", folder)), "--hours", "2"]
        + ["--report", str(tmp_path / "report.json")]
    )
    joined = AutoModelForMultimodalLM.from_pretrained(folder)
    assert joined.dtype == torch.float32
    assert joined.config.talker_config.frames_per_token == joined.talker.config.frames_per_token == 3
    for ours, theirs in ((joined.thinker, thinker.thinker), (joined.talker, talker.talker)):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value.half().float(), msg=name)
    assert AutoProcessor.from_pretrained(folder).tokenizer is not None
    card = (folder / "README.md").read_text()
    assert "| look_exact | 0.25 |" in card
    assert "python examples/train_talker.py" in card


def test_halves_with_other_words_are_refused(halves, tmp_path):
    _, talker = halves
    torch.nn.init.normal_(talker.get_input_embeddings().weight)
    talker.save_pretrained(tmp_path / "talker")
    with pytest.raises(SystemExit, match="`THINKER` and `TALKER` must have the same token embeddings"):
        make_nano.main(["join", *(str(tmp_path / name) for name in ("thinker", "talker", "joined"))])
    assert not (tmp_path / "joined").exists()
