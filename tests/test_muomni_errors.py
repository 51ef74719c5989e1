"""Faults of μOmni checkpoints are all named, and leave nothing behind; the command prints them in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from muomni_checkpoints import FILES, GOLDEN, convert_golden, merge, read_parts, rename, same, write_parts
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from josie import JosieProcessor, convert_muomni
from josie.cli.app import app


class TestErrors:
    @pytest.fixture(autouse=True)
    def _prepare(self, tmp_path):
        self.parts, self.tmp_path, self.folder = read_parts(), tmp_path, tmp_path / "source"

    def refuse(self, match, source=None, **options):
        """Assert that a conversion fails with a message, and leaves nothing behind."""
        if not self.folder.exists():
            write_parts(self.folder, self.parts)
        before = sorted(self.tmp_path.iterdir())
        with pytest.raises(ValueError, match=match) as caught:
            convert_muomni(self.folder if source is None else source, self.tmp_path / "out", **options)
        assert sorted(self.tmp_path.iterdir()) == before
        return str(caught.value)

    def test_all_faults_are_listed_at_once(self):
        thinker, rvq = self.parts["omni"]["thinker"], self.parts["talker"]["rvq"]
        del thinker["blocks.1.norm2.weight"], thinker["blocks.0.mlp.up_proj.weight"]
        thinker["blocks.2.norm1.weight"] = torch.ones(32)
        thinker["lm_head.bias"] = torch.ones(300)
        thinker["tok_emb.weight"] = torch.ones(299, 32)
        rvq["proj_in.weight"] = torch.ones(9, 128)
        rvq["counts"] = torch.ones(16, dtype=torch.long)
        self.parts["audio"]["enc"]["proj.bias"] = "no tensor"
        self.parts["vision"]["text_encoder"] = {"weight": torch.ones(3)}
        message = self.refuse("must hold exactly the weights of a μOmni model")
        lines = {line.strip() for line in message.splitlines()[1:]}
        assert lines == {
            "missing: thinker.blocks.1.norm2.weight",
            "missing: thinker.blocks.0.mlp.up_proj.weight",
            "missing: audio_encoder.proj.bias",
            "unknown: thinker.blocks.2.norm1.weight in omni_sft_tiny/omni.pt",
            "unknown: thinker.lm_head.bias in omni_sft_tiny/omni.pt",
            "unknown: text_encoder in vision_tiny/vision.pt",
            "wrong shape: thinker.tok_emb.weight must be (300, 32), got (299, 32)",
            "wrong shape: rvq.proj_in.weight must be (8, 128), got (9, 128)",
            "not a weight: rvq.counts in talker_tiny/talker.pt, a int64",
            "not a weight: audio_encoder.proj.bias in audio_enc_tiny/audio_enc.pt, a str",
        }
        assert "with 10 faults" in message

    @pytest.mark.slow
    def test_every_single_key_counts(self):
        """Without any one of its weights a checkpoint is refused, and the weight is named."""
        weights = merge(self.parts)
        write_parts(self.folder, {})
        for key in weights:
            save_file(
                {name: tensor.clone() for name, tensor in weights.items() if name != key}, self.folder / "m.safetensors"
            )
            self.refuse(f"missing: {key}(\n|$)")

    def test_uneven_keys_and_values(self):
        weights = self.parts["omni"]["thinker"]
        weights["blocks.0.mlp.gate_proj.weight"] = torch.ones(63, 32)
        weights["blocks.0.mlp.up_proj.weight"] = torch.ones(65, 32)
        self.refuse(r"must be \(128, 32\) together, got \(63, 32\) and \(65, 32\)")

    def test_uneven_groups(self):
        weights = self.parts["omni"]["thinker"]
        for name, size in (("q", 32), ("k", 16), ("v", 8)):
            weights[f"blocks.0.attn.{name}.weight"] = torch.ones(size, 32)
        del weights["blocks.0.attn.qkv.weight"]
        self.refuse(r"must be \(64, 32\) together, got \(32, 32\) and \(16, 32\) and \(8, 32\)")

    def test_both_forms_of_attention(self):
        self.parts["omni"]["thinker"]["blocks.0.attn.q.weight"] = torch.ones(32, 32)
        self.refuse("unknown: thinker.blocks.0.attn.q.weight")

    def test_experts_are_unknown(self):
        self.parts["omni"]["thinker"] = rename(self.parts["omni"]["thinker"], (".mlp.", ".moe.experts.0."))
        self.refuse("unknown: thinker.blocks.0.moe.experts.0.gate_proj.weight")

    def test_config_and_weights_that_differ(self):
        config = json.loads((GOLDEN / "config.json").read_text())
        config["talker"]["d_ff"] = 47
        message = self.refuse("with 4 faults", config=config)
        assert "talker.blocks.1.mlp.down_proj.weight must be (24, 47), got (24, 48)" in message

    def test_a_projector_less(self):
        del self.parts["omni"]["proj_v"]
        message = self.refuse("with 2 faults")
        assert "missing: proj_v.weight" in message
        assert "missing: proj_v.bias" in message

    def test_a_talker_without_codes(self):
        del self.parts["talker"]["rvq"]
        assert "missing: rvq.codebooks.1.weight" in self.refuse("missing: rvq.proj_in.weight")

    def test_no_thinker(self):
        del self.parts["thinker"], self.parts["omni"]["thinker"]
        self.refuse("`source` must have a Thinker, in thinker.pt, omni.pt or a .safetensors file, got none.")

    def test_pickles_with_code_are_not_run(self):
        self.parts["vision"] = {"vit": Path("x")}
        self.refuse("`source` must hold files of weights only, got 'vision_tiny/vision.pt': Weights only load failed")

    def test_unreadable_files(self):
        write_parts(self.folder, self.parts)
        (self.folder / FILES["talker"]).write_bytes(b"broken")
        self.refuse("`source` must hold files of weights only, got 'talker_tiny/talker.pt'")
        (self.folder / "x.safetensors").write_bytes(b"broken")
        self.refuse("`source` must be a readable .safetensors file", source=self.folder / "x.safetensors")

    def test_no_dictionary(self):
        self.parts["thinker"] = torch.ones(3)
        self.refuse("`source` must hold dictionaries of weights, got 'thinker_tiny/thinker.pt', with a Tensor.")

    def test_a_file_twice(self):
        write_parts(self.folder, self.parts)
        shutil.copy(self.folder / FILES["omni"], self.folder / "thinker_tiny")
        self.refuse(r"`source` must have one omni\.pt, got \['omni_sft_tiny/omni\.pt', 'thinker_tiny/omni\.pt'\]\.")

    def test_a_key_twice(self):
        self.parts["omni"]["thinker"]["_orig_mod.norm.weight"] = torch.ones(32)
        self.refuse("given twice: thinker.norm.weight")

    def test_nothing_there(self):
        self.folder.mkdir()
        self.refuse("`source` must have one .safetensors file, or one of omni.pt")
        self.refuse("`source` must be a folder or a .safetensors file", source=self.tmp_path / "nowhere")

    def test_no_tokenizer(self):
        write_parts(self.folder, self.parts)
        (self.folder / "thinker_tiny" / "tokenizer.model").unlink()
        self.refuse(r"`source` must have a tokenizer\.model")

    def test_more_pieces_than_rows(self):
        for key in ("tok_emb.weight", "lm_head.weight"):
            self.parts["omni"]["thinker"][key] = torch.ones(299, 32)
        self.refuse("`tokenizer` must have at most 299 pieces, got 300.", config={})

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("{", "`config` must be readable JSON"),
            ("[]", "`config` must hold a JSON object, got .*, with a list"),
            ('{"talker": 3}', "`config` must have an object for 'talker', got 3"),
            ('{"thinker": {"n_heads": 32}}', "`config` must have sizes that are possible"),
            ('{"thinker": {"n_heads": "four"}}', "`config` must have sizes that are possible"),
            ('{"thinker": {"n_heads": 0}}', "`config` must have sizes that are possible"),
        ],
    )
    def test_bad_config(self, content, match):
        write_parts(self.folder, self.parts)
        (self.folder / "config.json").write_text(content)
        self.refuse(match)

    def test_destination_in_use(self):
        (self.tmp_path / "out").mkdir()
        (self.tmp_path / "out" / "mine").touch()
        self.refuse("`destination` must not exist or be an empty folder")
        assert [path.name for path in (self.tmp_path / "out").iterdir()] == ["mine"]

    def test_a_failure_while_writing_leaves_nothing(self, monkeypatch):
        def fail_to_save(self, folder):
            raise ValueError("disk full")

        monkeypatch.setattr(JosieProcessor, "save_pretrained", fail_to_save)
        self.refuse("disk full")


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["convert", "muomni", *map(str, arguments)])

    def test_converts_and_reports(self, tmp_path):
        result = self.run(GOLDEN, tmp_path / "new" / "out")
        assert result.exit_code == 0
        assert "used: 100" in result.stdout
        assert (
            "2 x thinker.blocks.N.attn.o.weight -> thinker.model.language_model.layers.N.self_attn.o_proj.weight"
            in (result.stdout)
        )
        assert "audio_head.weight (audio_enc_tiny/audio_enc.pt)  [head of the encoder's own training" in result.stdout
        same(load_file(tmp_path / "new" / "out" / "model.safetensors"), convert_golden())

    @pytest.mark.slow
    def test_notes_are_printed_once(self, tmp_path):
        command = [sys.executable, "-m", "josie", "convert", "muomni", str(GOLDEN), str(tmp_path / "out")]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        notes = json.loads((tmp_path / "out" / "conversion_report.json").read_text(encoding="utf-8"))["notes"]
        printed = " ".join((result.stdout + result.stderr).split())
        assert [printed.count(" ".join(note.split())) for note in notes] == [1] * len(notes) != []

    def test_an_empty_folder_is_filled(self, tmp_path):
        assert self.run(GOLDEN, tmp_path).exit_code == 0
        assert (tmp_path / "config.json").is_file()

    def test_errors_are_one_line(self, tmp_path):
        parts = read_parts()
        parts["omni"]["thinker"]["a"] = parts["omni"]["thinker"]["b"] = torch.ones(2)
        result = self.run(write_parts(tmp_path / "source", parts), tmp_path / "out")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert "unknown: thinker.a in omni_sft_tiny/omni.pt unknown: thinker.b in" in result.stderr
        assert not (tmp_path / "out").exists()
