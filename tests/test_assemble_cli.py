"""`josie assemble`: the checkpoint it makes, the table it prints, and that failures leave nothing."""

import re

import pytest
import torch
import transformers
from assembly_parts import train_backbone_tokenizer
from typer.testing import CliRunner

import josie
from josie.cli.app import app
from josie.conversion.assemble.summary import list_parts

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["assemble", *map(str, arguments)])

    def test_makes_a_checkpoint_and_says_of_what(self, parts, tmp_path):
        sizes = ("--talker-hidden-size", 64, "--talker-layers", 1, "--talker-quantizers", 2, "--speaker", "ada")
        sources = ("--audio", parts("audio", "whisper"), "--vision", parts("vision", "clip"))
        sources = ("--text", parts("text", "qwen3"), *sources, "--codec", parts("codec", "dac"))
        result = self.run(tmp_path / "new", *sources, *sizes)
        assert result.exit_code == 0, (result.stderr, result.exception)
        assert [path.name for path in tmp_path.iterdir()] == ["new"]
        model = josie.JosieForConditionalGeneration.from_pretrained(tmp_path / "new")
        lines = [line.split("│")[1:-1] for line in result.stdout.splitlines() if line.startswith("│")]
        rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
        assert rows["language_model"][::2] == ["Qwen3Model", "pretrained"]
        assert rows["lm_head"][1] == "0"  # the embedding's
        assert rows["audio_front_end.encoder"][::2] == ["WhisperEncoder", "pretrained"]
        assert rows["audio_front_end.projector"][::2] == ["Projector", "fresh"]
        assert rows["vision_front_end.encoder"][::2] == ["CLIPVisionModel", "pretrained"]
        # The folder's codec has more codes than `--talker-quantizers` asks for.
        assert rows["talker"][0] == "JosieTalkerForConditionalGeneration"
        assert re.fullmatch(r"fresh, predicts 2 of \d+ codes a frame", rows["talker"][2])
        assert rows["audio_codec"][::2] == ["DacModel", "pretrained"]
        assert sum(int(row[1].replace(",", "")) for row in rows.values()) == model.num_parameters()
        assert [part.num_parameters for part in list_parts(model)] == [
            int(row[1].replace(",", "")) for row in rows.values()
        ]
        talker = model.config.talker_config
        assert (talker.hidden_size, talker.num_hidden_layers, talker.num_quantizers) == (64, 1, 2)
        assert talker.speakers == ["ada"]

    def test_the_seed_decides_what_is_new(self, parts, tmp_path):
        weights = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            sources = ("--text", parts("text", "gpt2"), "--audio", parts("audio", "hubert"), "--seed", seed)
            assert self.run(tmp_path / name, *sources).exit_code == 0
            model = josie.JosieForConditionalGeneration.from_pretrained(tmp_path / name)
            weights.append(model.thinker.model.audio_front_end.projector.linear_1.weight)
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_a_gguf_file_is_a_text_part(self, tmp_path):
        pytest.importorskip("gguf")
        from gguf_files import write_gguf

        (tmp_path / "text").mkdir()
        write_gguf(tmp_path / "text" / "tiny.gguf")
        file, options = tmp_path / "text" / "tiny.gguf", ("--gguf-file", "tiny.gguf")
        for name, given in (("a", (file,)), ("b", (tmp_path / "text", *options))):
            result = self.run(tmp_path / name, "--text", *given)
            assert result.exit_code == 0, (result.stderr, result.exception)
            assert (tmp_path / name / "model.safetensors").is_file()

    def test_the_context_of_a_model_that_knows_none(self, tmp_path):
        config = transformers.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)
        transformers.BloomForCausalLM(config).save_pretrained(tmp_path / "text")
        train_backbone_tokenizer(None, True, True).save_pretrained(tmp_path / "text")
        result = self.run(tmp_path / "new", "--text", tmp_path / "text")
        assert result.stderr.splitlines()[-1].startswith("Error: `context` must be the longest sequence")
        assert self.run(tmp_path / "new", "--text", tmp_path / "text", "--context", 40).exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--codec", "nothing/here"), "`codec` must be a folder, or a name on the Hub, with the configuration"),
            (("--codec", "nothing/at/all"), "`--codec` must be an existing folder or a name on the Hub, got "),
            (("--talker", "micro"), "`--codec` must be given for a Talker to speak through, got None."),
            (("--talker", "micro", "--talker-layers", 2), "`--talker` must be 'fit' with sizes"),
        ],
    )
    def test_leaves_nothing_when_it_fails(self, parts, tmp_path, arguments, message):
        result = self.run(tmp_path / "deep" / "new", "--text", parts("text", "llama"), *arguments)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].startswith(f"Error: {message}")
        assert list(tmp_path.iterdir()) == []

    def test_leaves_nothing_when_it_cannot_be_written(self, parts, tmp_path, monkeypatch):
        def fail(self, folder, **kwargs):
            raise OSError("No space left on device")

        monkeypatch.setattr(josie.JosieProcessor, "save_pretrained", fail)
        result = self.run(tmp_path / "new", "--text", parts("text", "llama"))
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, "Error: No space left on device")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_with_something_in_it(self, parts, tmp_path):
        (tmp_path / "note").write_text("mine")
        result = self.run(tmp_path, "--text", parts("text", "llama"))
        assert result.stderr.startswith("Error: `OUT` must not exist or be an empty folder, got ")
        assert [path.name for path in tmp_path.iterdir()] == ["note"]
