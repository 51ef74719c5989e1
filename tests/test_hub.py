"""Checkpoints with code: what is in them, how they load, and what would be pushed."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from exports import run_without_josie, whole_model
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny import CASES, TEXT, build, josie_inputs
from transformers import AutoModelForMultimodalLM
from transformers.dynamic_module_utils import check_imports, get_relative_import_files

import josie
from josie.conversion.hub.export import export_folder, find_processor
from josie.conversion.hub.flatten import ROOT, flat_name, flatten
from josie.conversion.hub.remote_code import add_code

TRUST = dict(trust_remote_code=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return an export of a whole model with its processor; not to be changed."""
    path = tmp_path_factory.mktemp("hub") / "whole"
    model, processor = whole_model()
    josie.save_with_code(model, path, processor)
    return path


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


class TestFlatten:
    def test_every_import_is_of_a_sibling(self):
        files = flatten([("modeling_josie", "josie"), ("processing_josie", "processor"), ("processing_josie", "video")])
        flat = {flat_name(module) for module in files}
        assert len(flat) == len(files)
        for module, text in files.items():
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.level:
                    assert node.level == 1, module
                    assert node.module in flat, module

    def test_nothing_but_imports_changes(self):
        for module, text in flatten([("modeling_josie", "josie"), ("processing_josie", "processor")]).items():
            source = ROOT.joinpath(*module).with_suffix(".py").read_text(encoding="utf-8")
            kept = [
                [ast.dump(node) for node in ast.parse(code).body if not isinstance(node, ast.ImportFrom)]
                for code in (source, text)
            ]
            assert kept[0] == kept[1], module

    def test_only_what_is_needed(self):
        assert [flat_name(module) for module in flatten([("modeling_josie", "thinker", "text")])] == [
            "configuration_backbone",
            "configuration_text",
            "modeling_layers_activations",
            "modeling_layers_backbone",
            "modeling_layers_fast",
            "modeling_layers_transformer",
            "modeling_pretrained",
            "modeling_thinker_text",
            "modeling_wrapped_parts",
        ]

    def test_refuses_what_is_not_there(self):
        with pytest.raises(ValueError, match="`starts` must be modules of the package, got 'modeling_josie.none'."):
            flatten([("modeling_josie", "none")])


class TestFolder:
    def test_has_everything(self, folder):
        assert {
            "README.md",
            "auto_josie.py",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "processor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        } == {name for name in names(folder) if not name.startswith(("configuration_", "modeling_", "processing_"))}

    def test_code_is_found_from_the_index(self, folder):
        """transformers copies what it finds from there and nothing else."""
        index = folder / "auto_josie.py"
        found = {Path(path).name for path in get_relative_import_files(index)}
        assert found == {name for name in names(folder) if name.endswith(".py")} - {index.name}
        for path in folder.glob("*.py"):
            check_imports(path)

    def test_optional_packages_stay_optional(self, folder):
        needed = {
            package
            for path in folder.glob("*.py")
            for package in transformers.dynamic_module_utils.get_imports(path)
            if package not in sys.stdlib_module_names
        }
        # By transformers and torch.
        brought = {"huggingface_hub", "jinja2", "numpy", "safetensors", "typing_extensions"}
        assert needed - brought == {"PIL", "soundfile", "soxr", "torch", "torchaudio", "transformers"}

    def test_auto_maps(self, folder):
        config = json.loads((folder / "config.json").read_text())
        whole = "auto_josie.JosieForConditionalGeneration"
        assert config["auto_map"] == {
            "AutoConfig": "auto_josie.JosieConfig",
            "AutoModel": whole,
            "AutoModelForCausalLM": whole,
            "AutoModelForImageTextToText": whole,
            "AutoModelForMultimodalLM": whole,
            "AutoModelForSpeechSeq2Seq": "auto_josie.JosieForSpeechSeq2Seq",
            "AutoModelForTextToWaveform": "auto_josie.JosieForTextToWaveform",
        }
        processor = json.loads((folder / "processor_config.json").read_text())
        parts = {
            "feature_extractor": ("AutoFeatureExtractor", "JosieFeatureExtractor"),
            "image_processor": ("AutoImageProcessor", "JosieImageProcessor"),
            "video_processor": ("AutoVideoProcessor", "JosieVideoProcessor"),
        }
        assert processor["auto_map"] == {"AutoProcessor": "auto_josie.JosieProcessor"}
        for name, (auto_class, part) in parts.items():
            assert processor[name]["auto_map"] == {auto_class: f"auto_josie.{part}"}

    def test_where_josie_is_installed_its_own_classes_load_it(self, folder):
        model = AutoModelForMultimodalLM.from_pretrained(folder)
        assert type(model) is josie.JosieForConditionalGeneration
        assert type(AutoModelForMultimodalLM.from_pretrained(folder, **TRUST)) is type(model)

    def test_what_had_code_is_saved_with_code_when_asked(self, folder, tmp_path, caplog):
        model = AutoModelForMultimodalLM.from_pretrained(folder)
        josie.save_with_code(model, tmp_path / "with")
        assert names(tmp_path / "with") == names(folder)
        for path in folder.glob("*.py"):
            assert (tmp_path / "with" / path.name).read_text() == path.read_text()
        model.save_pretrained(tmp_path / "without")
        assert names(tmp_path / "without") == ["config.json", "generation_config.json", "model.safetensors"]
        assert "auto_map" not in json.loads((tmp_path / "without" / "config.json").read_text())

    def test_the_former_argument_still_does_it(self, folder, tmp_path):
        model = AutoModelForMultimodalLM.from_pretrained(folder)
        with pytest.warns(FutureWarning, match="call `josie.save_with_code"):
            model.save_pretrained(tmp_path / "with", with_code=True)
        assert names(tmp_path / "with") == names(folder)
        with pytest.raises(ValueError, match="`processor` must be None without `with_code`"):
            model.save_pretrained(tmp_path / "without", processor=object())

    def test_a_model_without_code_is_saved_without(self, tmp_path):
        CASES["text"].build().save_pretrained(tmp_path)
        assert names(tmp_path) == ["config.json", "model.safetensors"]

    def test_refuses_what_it_cannot_do(self, tmp_path):
        model = CASES["text"].build()
        with pytest.raises(ValueError, match="`push_to_hub` must be False with code"):
            josie.save_with_code(model, tmp_path, push_to_hub=True)
        with pytest.raises(ValueError, match="`folder` must have a config.json"):
            add_code(tmp_path, model.config)
        other = transformers.LlamaConfig()
        other.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="`config` must be of a class of this package, got a LlamaConfig."):
            add_code(tmp_path, other)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (dict(license="mit"), "`license` must be in `card`"),
            (dict(max_shard_szie="1MB"), "`max_shard_szie` must be one of"),
            (dict(card={"licence": "mit"}), r"`card` must have keys of \[.*'license'.*\], got 'licence'"),
            (dict(processor="abc"), "`processor` must have `save_pretrained`, got a str"),
            (dict(card={"hours": -1}), "`hours` must be at least 0"),
            (dict(max_shard_size="abc"), "not supported"),
        ],
        ids=str,
    )
    def test_a_folder_is_whole_or_not_there(self, options, match, tmp_path):
        with pytest.raises(ValueError, match=match):
            josie.save_with_code(CASES["text"].build(), tmp_path / "new", **options)
        assert not any(tmp_path.iterdir())


class TestWhatIsExported:
    def test_a_thinker_of_text_keeps_its_tokenizer(self, tmp_path):
        thinker = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(text_config=TEXT))
        thinker.save_pretrained(tmp_path / "old")
        josie.load_default_tokenizer(301).save_pretrained(tmp_path / "old")
        assert {"tokenizer.json", "tokenizer_config.json"} <= set(export_folder(tmp_path / "old", tmp_path / "new"))

    @pytest.mark.parametrize("fault", ["shape", "damaged"])
    def test_weights_that_do_not_fit_are_refused(self, fault, tmp_path):
        old = tmp_path / "old"
        CASES["text"].build().save_pretrained(old)
        weights = load_file(old / "model.safetensors")
        name = next(name for name, value in weights.items() if value.ndim == 2)
        save_file(weights | {name: weights[name][:1].clone()}, old / "model.safetensors", {"format": "pt"})
        if fault == "damaged":
            (old / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="`DIR` must hold a.* weights.*old"):
            export_folder(old, tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestFindProcessor:
    def test_beside_the_weights(self, folder):
        assert type(find_processor(AutoModelForMultimodalLM.from_pretrained(folder).config)) is josie.JosieProcessor

    def test_of_a_codec_from_its_configuration(self):
        assert find_processor(CASES["jodio"].config()).sampling_rate == 1600

    def test_none(self):
        assert find_processor(CASES["josie"].config()) is None
        assert find_processor(CASES["backbone"].config()) is None


@pytest.mark.slow
class TestWithoutJosie:
    """In a process where josie cannot be imported."""

    SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from without_josie import TRUST, forget_code, transformers, torch

assert "josie" not in sys.modules
folder = {folder!r}
for auto_class, name in {parts!r}.items():
    forget_code()
    part = getattr(transformers, auto_class).from_pretrained(folder, **TRUST)
    assert type(part).__name__ == name, (auto_class, type(part))
processor = transformers.AutoProcessor.from_pretrained(folder, **TRUST)
model = transformers.AutoModelForMultimodalLM.from_pretrained(folder, **TRUST)
content = [
    dict(type="image", path={image!r}), dict(type="audio", path={clip!r}), dict(type="text", text="What is it?")
]
messages = [dict(role="user", content=content)]
inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
options = dict(max_new_tokens=4, talker_max_new_frames=5, talker_min_new_frames=5)
spoken = model.generate(**inputs, generation_mode="audio", **options)
torch.save(dict(inputs=dict(inputs), sequences=spoken.sequences, audio_values=spoken.audio_values), "spoken.pt")
model.audio_codec.save_pretrained("codec")
forget_code()
codec = transformers.AutoModelForAudioTokenization.from_pretrained("codec", **TRUST)
again, before = (part.decode(spoken.audio_codes).audio_values for part in (codec, model.audio_codec))
assert torch.equal(again, before)
if {has_torchvision!r}:
    pipe = transformers.pipeline("any-to-any", model=folder, device="cpu", **TRUST)
    assert isinstance(pipe(text=messages, max_new_tokens=4, return_full_text=False)[0]["generated_text"], str)
    options = dict(generation_mode="audio", generate_kwargs=dict(talker_max_new_frames=5))
    heard = pipe(text=messages, max_new_tokens=4, **options)
    assert heard[0]["generated_audio"].ndim == 1
placed = transformers.AutoModelForMultimodalLM.from_pretrained(folder, dtype="bfloat16", device_map="auto", **TRUST)
assert placed.dtype == torch.bfloat16, placed.dtype
# `transformers serve` asks this table what it may load.
served = transformers.models.auto.modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
assert served["josie"] == "JosieForConditionalGeneration"
"""

    def test_everything_loads_speaks_and_is_saved_in_parts(self, folder, tmp_path, pytestconfig):
        tests = pytestconfig.rootpath / "tests"
        parts = {
            "AutoConfig": "JosieConfig",
            "AutoProcessor": "JosieProcessor",
            "AutoFeatureExtractor": "JosieFeatureExtractor",
            "AutoImageProcessor": "JosieImageProcessor",
            "AutoVideoProcessor": "JosieVideoProcessor",
            "AutoTokenizer": "TokenizersBackend",
            "AutoModel": "JosieForConditionalGeneration",
        }
        image, clip = str(tests / "data" / "picture.png"), str(tests / "data" / "speech.wav")
        script = tmp_path / "script.py"
        script.write_text(
            self.SCRIPT.format(
                tests=str(tests),
                folder=str(folder),
                parts=parts,
                image=image,
                clip=clip,
                has_torchvision=importlib.util.find_spec("torchvision") is not None,
            )
        )
        run_without_josie(script, tmp_path)
        spoken = torch.load(tmp_path / "spoken.pt", weights_only=False)
        model = josie.JosieForConditionalGeneration.from_pretrained(folder)
        content = [
            dict(type="image", path=image),
            dict(type="audio", path=clip),
            dict(type="text", text="What is it?"),
        ]
        inputs = josie.JosieProcessor.from_pretrained(folder).apply_chat_template(
            [dict(role="user", content=content)], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        assert inputs.keys() == spoken["inputs"].keys()
        for name, value in inputs.items():
            assert torch.equal(spoken["inputs"][name], value), name
        ours = model.generate(
            **inputs, generation_mode="audio", max_new_tokens=4, talker_max_new_frames=5, talker_min_new_frames=5
        )
        assert torch.equal(spoken["sequences"], ours.sequences)
        assert torch.equal(spoken["audio_values"], ours.audio_values)


class TestLoading:
    """As for any model of transformers."""

    def test_in_shards(self, tmp_path):
        model, inputs = CASES["josie"].build(), josie_inputs()
        josie.save_with_code(model, tmp_path, max_shard_size="60KB")
        shards = list(tmp_path.glob("model-*.safetensors"))
        assert len(shards) > 1
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {path.name for path in shards}
        loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    @pytest.mark.parametrize(
        "options", [dict(dtype=torch.bfloat16), dict(dtype="auto"), dict(device_map="auto")], ids=str
    )
    def test_options(self, tmp_path, options):
        model = CASES["josie"].build().to(torch.bfloat16)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path, low_cpu_mem_usage=True, **options)
        for (name, ours), (_, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
            assert torch.equal(ours.to(theirs.dtype), theirs), name
        if "dtype" in options:
            dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
            assert {dtype for name, dtype in dtypes.items() if "_codec." not in name} == {torch.bfloat16}
            assert {dtype for name, dtype in dtypes.items() if "_codec." in name} == {torch.float32}
        assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}

    def test_parts_may_stay_on_disk(self, tmp_path):
        model, inputs = CASES["josie"].build(), josie_inputs()
        model.save_pretrained(tmp_path, max_shard_size="60KB")
        places = {"thinker": "disk", "talker": "cpu", "audio_codec": "cpu"}
        loaded = AutoModelForMultimodalLM.from_pretrained(
            tmp_path, device_map=places, offload_folder=tmp_path / "offloaded"
        )
        assert {parameter.device.type for parameter in loaded.thinker.parameters()} == {"meta"}
        with torch.no_grad():
            ours, theirs = model(**inputs), loaded(**inputs)
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.depth_logits, theirs.depth_logits)

    @pytest.mark.parametrize("name", ["jodio", "thinker", "josie"])
    def test_missing_and_unexpected_keys_are_reported(self, tmp_path, name):
        from safetensors.torch import load_file, save_file

        CASES[name].build().save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        lost = sorted(key for key in weights if key.endswith("norm.weight"))[0]
        del weights[lost]
        save_file(weights | {"stranger.weight": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
        model_class = getattr(josie, CASES[name].model_class)
        loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == {lost}
        assert set(info["unexpected_keys"]) == {"stranger.weight"}
        assert torch.isfinite(loaded.get_parameter(lost)).all()


class TestExport:
    def test_a_folder_once_more(self, tmp_path, folder):
        model, processor = whole_model()
        model.to(torch.bfloat16).save_pretrained(tmp_path / "plain")
        processor.save_pretrained(tmp_path / "plain")
        (tmp_path / "plain" / "README.md").write_text("# Mine\n\nI wrote this.\n")
        (tmp_path / "plain" / "optimizer.pt").write_bytes(b"")
        written = export_folder(tmp_path / "plain", tmp_path / "out", license="cc-by-4.0", languages=["en"])
        assert written == names(tmp_path / "out") == names(folder)
        assert AutoModelForMultimodalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
        card = ModelCard.load(tmp_path / "out" / "README.md")
        assert "I wrote this." in card.text
        assert (card.data.license, card.data.language, card.data.library_name) == ("cc-by-4.0", ["en"], "transformers")

    def test_a_codec(self, tmp_path):
        CASES["jodio"].build().save_pretrained(tmp_path / "plain")
        written = export_folder(tmp_path / "plain", tmp_path / "out")
        assert {"preprocessor_config.json", "modeling_codecs_jodio.py", "processing_audio.py"} <= set(written)
        assert not {"modeling_thinker_model.py", "modeling_talker_model.py", "processing_vision.py"} & set(written)
        config_dict = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
        assert config_dict["auto_map"] == {"AutoFeatureExtractor": "auto_josie.JosieFeatureExtractor"}

    def test_refuses(self, tmp_path):
        with pytest.raises(ValueError, match="`DIR` must be a folder with a JOSIE checkpoint"):
            export_folder(tmp_path / "none", tmp_path / "out")
        transformers.LlamaConfig().save_pretrained(tmp_path / "llama")
        with pytest.raises(ValueError, match="`DIR` must hold a model of this package, got .*, a 'llama'."):
            export_folder(tmp_path / "llama", tmp_path / "out")
        CASES["text"].build().save_pretrained(tmp_path / "text")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        with pytest.raises(ValueError, match="`OUT` must not exist or be an empty folder"):
            export_folder(tmp_path / "text", tmp_path / "full")

    def test_refuses_another_licence_than_the_cards(self, tmp_path):
        CASES["text"].build().save_pretrained(tmp_path / "plain")
        (tmp_path / "plain" / "README.md").write_text("---\nlicense: gpl-2.0\n---\n# Mine\n")
        with pytest.raises(
            ValueError, match="`license` must be 'gpl-2.0', as '.*README.md' says .*, got 'apache-2.0'."
        ):
            export_folder(tmp_path / "plain", tmp_path / "out", license="apache-2.0")
        assert not (tmp_path / "out").exists()
        export_folder(tmp_path / "plain", tmp_path / "out", license="GPL-2.0")

    def test_refuses_random_weights_in_the_place_of_missing_ones(self, tmp_path):
        from safetensors.torch import load_file, save_file

        CASES["text"].build().save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        weights.pop(sorted(weights)[0])
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="`DIR` must hold all weights .*, which lacks 1 of them"):
            export_folder(tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_command(self, tmp_path):
        CASES["text"].build().save_pretrained(tmp_path / "plain")
        command = [sys.executable, "-m", "josie", "export", str(tmp_path / "plain"), str(tmp_path / "out")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{tmp_path / 'out'}: 13 files, 10 of them code\n"
