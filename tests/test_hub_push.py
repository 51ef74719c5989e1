"""Pushing checkpoints with code: what reaches the Hub, against a stand-in of it."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from exports import whole_model
from hub_stand_in import stand_in
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from tiny import CASES

import josie
from josie.conversion.hub import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return an export of a whole model with its processor; not to be changed."""
    path = tmp_path_factory.mktemp("hub") / "whole"
    model, processor = whole_model()
    josie.save_with_code(model, path, processor)
    return path


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


PUSH = """
import sys
sys.path.insert(0, {tests!r})
import josie
from exports import whole_model
from tiny import CASES
model, processor = whole_model()
josie.push_with_code(model, "voice", processor, tags=["mine"], revision="trial")
josie.push_with_code(CASES["jodio"].build(), "codec", commit_message="A codec")
CASES["text"].build().push_to_hub("plain")
josie.push_with_code(CASES["jodio"].build(), "codec", revision="trial")
try:
    josie.push_with_code(model, "never", "no processor")
except ValueError:
    pass
"""
BY_HAND = b"---\nlicense: mit\ntags:\n- theirs\n---\n# A voice\n\nThis was written by hand.\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory, pytestconfig):
    """Return the stand-in after three models have been pushed to it, in a process of its own: huggingface_hub reads the
    address when it is imported."""
    script = tmp_path_factory.mktemp("push") / "script.py"
    script.write_text(PUSH.format(tests=str(pytestconfig.rootpath / "tests")))
    cards = {"somebody/codec": BY_HAND, "somebody/codec@trial": BY_HAND.replace(b"A voice", b"A trial")}
    with stand_in({name: {"README.md": card} for name, card in cards.items()}) as hub:
        environment = os.environ | dict(
            HF_ENDPOINT=hub.endpoint,
            HF_TOKEN="hf_none",
            HF_HOME=str(script.parent),
            HF_HUB_OFFLINE="0",
            HF_HUB_DISABLE_XET="1",
            NO_PROXY="*",
            PYTHONPATH=str(Path(josie.__file__).absolute().parents[1]),
        )
        result = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False
        )
    assert result.returncode == 0, result.stderr
    return hub


@pytest.mark.slow
class TestPush:
    """Against a stand-in for the Hub."""

    def test_each_push_is_one_commit(self, hub):
        assert [(commit["repo"], commit["branch"]) for commit in hub.commits] == [
            ("somebody/voice", "trial"),
            ("somebody/codec", "main"),
            ("somebody/plain", "main"),
            ("somebody/codec", "trial"),
        ]
        assert hub.commits[1]["header"]["summary"] == "A codec"
        assert "POST /api/models/somebody/voice/branch/trial" in hub.requests

    def test_everything_is_in_it(self, hub, folder):
        files = hub.commits[0]["files"]
        assert sorted(files) == names(folder)
        for name in names(folder):
            if name != "README.md":
                assert files[name] == (folder / name).read_bytes(), name
        card = ModelCard(files["README.md"].decode())
        assert card.data.pipeline_tag == "any-to-any"
        assert "mine" in card.data.tags
        assert 'from_pretrained("somebody/voice", trust_remote_code=True)' in card.text

    def test_a_codec_brings_its_feature_extractor_and_not_the_rest(self, hub):
        files = set(hub.commits[1]["files"])
        assert {"preprocessor_config.json", "auto_josie.py", "modeling_codecs_jodio.py", "processing_audio.py"} <= files
        assert not {"modeling_thinker_model.py", "modeling_talker_model.py", "tokenizer.json"} & files

    def test_a_card_that_is_there_is_kept(self, hub):
        card = ModelCard(hub.commits[1]["files"]["README.md"].decode())
        assert card.data.license == "mit"
        assert "theirs" in card.data.tags
        assert "jodio" in card.data.tags
        assert card.text.strip() == "# A voice\n\nThis was written by hand."

    def test_a_branch_keeps_its_own_card(self, hub):
        assert ModelCard(hub.commits[3]["files"]["README.md"].decode()).text.strip().startswith("# A trial")

    def test_nothing_is_made_for_what_cannot_be_saved(self, hub):
        assert "somebody/never" not in hub.files

    def test_without_code_it_is_transformers_push(self, hub):
        assert sorted(hub.commits[2]["files"]) == ["README.md", "config.json", "model.safetensors"]


def test_a_model_with_its_own_code_is_pushed_with_its_own_card(monkeypatch):
    model, api = CASES["text"].build(), MagicMock()
    monkeypatch.setattr(model, "is_remote_code", lambda: True)
    monkeypatch.setattr(export, "HfApi", lambda token: api)
    monkeypatch.setattr(export, "hf_hub_download", MagicMock(side_effect=EntryNotFoundError("none")))
    saved = MagicMock()
    monkeypatch.setattr(export, "save_with_code", saved)
    export.push_with_code(model, "somebody/text")
    assert saved.call_args.kwargs["card"] is None
    api.upload_folder.assert_called_once()
    with pytest.raises(
        ValueError, match=r"`card` and `tags` must be None for a model with its own code, got \['tags'\]"
    ):
        export.push_with_code(model, "somebody/text", tags=["mine"])
