"""Scripts beside the recipes: what they cannot read is said in a sentence, before anything is made."""

import json
import re

import make_tasks
import pytest
import tiny
import torch

pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")

import compare_text
import join_parts
import merge_adapters
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie

# What peft 0.21 still asks every model of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TEXT = tiny.TEXT | {"num_hidden_layers": 1}
HUB = "must be a folder or Hub name of a model, got"


def build(folder, **changes):
    """Save a Thinker of text with a processor, which AutoModelForMultimodalLM loads too."""
    torch.manual_seed(0)
    config = josie.JosieThinkerConfig(text_config=TEXT | changes)
    josie.JosieThinkerForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def adapters(tmp_path):
    """A folder of adapters for a Thinker, `base`."""
    base = build(tmp_path / "base")
    model = josie.JosieThinkerForConditionalGeneration.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"])).save_pretrained(tmp_path / "adapters")
    return tmp_path / "adapters"


def change(adapters, **fields):
    path = adapters / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refuse(main, argv, message):
    with pytest.raises(SystemExit, match=re.escape(f"error: {message}")) as caught:
        main([str(value) for value in argv])
    assert "\n" not in str(caught.value)


def test_parts_that_cannot_be_joined_are_named(tmp_path):
    thinker, out = build(tmp_path / "thinker"), tmp_path / "out"
    for place, argument in enumerate(("THINKER", "TALKER")):
        for name, message in (
            (tmp_path / "no/where", f"`{argument}` {HUB} '{tmp_path}/no/where': "),
            ("some/nope", f"`{argument}` {HUB} 'some/nope': "),
            (thinker, f"`{argument}` must be a whole JOSIE, got {thinker!r}, of the model type 'josie_thinker'."),
            (tmp_path, f"`{argument}` must hold the files that AutoConfig reads, got '{tmp_path}': "),
        ):
            argv = ["nano", "nano", out]
            argv[place] = name
            refuse(join_parts.main, argv, message)
    refuse(
        join_parts.main, ["nope", "nope", tmp_path], f"`OUT` must not exist or be an empty folder, got '{tmp_path}'."
    )
    assert not out.exists()


def test_what_is_joined_knows_the_voices_and_the_rate_of_its_speech(tiny_folder, save_checkpoint, tmp_path):
    thinker, out = tmp_path / "thinker", tmp_path / "out"
    model, processor = (kind.from_pretrained(tiny_folder) for kind in (AutoModelForMultimodalLM, AutoProcessor))
    model.talker = model.config.talker_config = None  # as of a Thinker that was trained before there was a Talker
    model.audio_codec = model.config.audio_codec_config = None
    model.save_pretrained(thinker)
    processor.speakers, processor.output_sampling_rate, processor.tokenizer.model_max_length = [], None, 77
    processor.save_pretrained(thinker)
    talker = save_checkpoint(
        tmp_path / "talker",
        talker_config=tiny.TALKER | {"speakers": ["cat"]},
        audio_codec_config=tiny.JODIO | {"sampling_rate": 3200},
    )
    join_parts.main([str(thinker), str(talker), str(out)])
    joined, processor = AutoModelForMultimodalLM.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert processor.speakers == joined.config.talker_config.speakers == ["cat"]
    assert processor.output_sampling_rate == joined.config.sampling_rate == 3200
    assert processor.tokenizer.model_max_length == 77


def test_adapters_that_cannot_be_merged_are_named(adapters, tmp_path):
    out, base = tmp_path / "out", str(tmp_path / "base")
    refuse(merge_adapters.main, [tmp_path, out], "`ADAPTERS` must be a folder with an adapter_config.json")
    refuse(
        merge_adapters.main, [adapters, out], "`base_model_name_or_path` must hold the files that AutoProcessor reads"
    )
    for given, message in (
        (
            None,
            f"`base_model_name_or_path` of '{adapters}/adapter_config.json' must name the model without adapters, got",
        ),
        (f"{tmp_path}/gone", f"`base_model_name_or_path` {HUB} '{tmp_path}/gone': "),
    ):
        change(adapters, base_model_name_or_path=given)
        refuse(merge_adapters.main, [adapters, out], message)
    change(adapters, base_model_name_or_path=base)
    weights = adapters / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    refuse(merge_adapters.main, [adapters, out], "`ADAPTERS` must be a folder with adapter_model.safetensors, got")
    weights.write_bytes(whole)
    (adapters / "adapter_config.json").write_text("{")
    refuse(merge_adapters.main, [adapters, out], f"`ADAPTERS` must hold valid settings, got '{adapters}/adapter_config")
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"hidden_size": 24}, "size mismatch for "), ({"num_hidden_layers": 2}, "without '")],
)
def test_adapters_of_another_model_are_refused(adapters, tmp_path, changes, reason):
    other = josie.JosieThinkerForConditionalGeneration.from_pretrained(build(tmp_path / "other", **changes))
    start = f"`ADAPTERS` must be of the model 'other', got '{adapters}'"
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*{re.escape(reason)}[^\n]*$"):
        merge_adapters.add_adapters(other, str(adapters), "other")
    own = josie.JosieThinkerForConditionalGeneration.from_pretrained(tmp_path / "base")
    assert merge_adapters.add_adapters(own, str(adapters), "base").peft_config
    (adapters / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="`ADAPTERS` must hold the weights of adapters, got"):
        merge_adapters.add_adapters(own, str(adapters), "base")


def test_a_processor_is_taken_from_the_base(adapters, tmp_path, monkeypatch):
    asked = []

    def load_part(name, part_class, argument):
        asked.append(name)
        return josie.load_default_tokenizer(300)

    monkeypatch.setattr(merge_adapters, "load_part", load_part)
    monkeypatch.setattr(merge_adapters, "AutoModelForMultimodalLM", josie.JosieThinkerForConditionalGeneration)
    merge_adapters.merge(str(adapters), tmp_path / "one")
    (adapters / "processor_config.json").write_text("{}")
    merge_adapters.merge(str(adapters), tmp_path / "two")
    assert asked == [str(tmp_path / "base"), str(adapters)]
    assert (tmp_path / "two" / "model.safetensors").is_file()


def test_models_that_cannot_be_compared_are_named(tmp_path):
    refuse(compare_text.main, ["nope", "nope2"], f"`MODEL` {HUB} 'nope': ")
    refuse(compare_text.main, ["nano", "some/nope"], f"`TEXT_MODEL` {HUB} 'some/nope': ")
    refuse(compare_text.main, ["nano", "nano"], "`TEXT_MODEL` must be the language model alone, got 'nano', of the")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "`FOLDER` must have clips with a `text`, got none in '{path}'."),
        ('{"path": "a.wav", "source": "a"}\n', "`FOLDER` must have clips with a `text`, got none in '{path}'."),
        ('{"path": "a.wav", "text": "a"}\n{"path"\n', "A manifest must have lines of JSON, got line 2 of '{path}': "),
        ('{"text": "a"}\n', "A clip of a manifest must have a `path`, got {'text': 'a'} in line 1 of '{path}'."),
        ("[]\n", "A clip of a manifest must have a `path`, got [] in line 1 of '{path}'."),
    ],
)
def test_manifests_that_make_no_tasks_are_named(tmp_path, lines, message):
    folder, out = tmp_path / "speech", tmp_path / "out.jsonl"
    folder.mkdir()
    path = folder / "test.jsonl"
    path.write_text(lines)
    refuse(make_tasks.main, [out, folder], message.replace("{path}", str(path)))
    assert not out.exists()


def test_tasks_of_clips_without_a_text_or_a_source(tmp_path):
    folder, out = tmp_path / "speech", tmp_path / "out.jsonl"
    folder.mkdir()
    rows = [{"path": "a.wav"}, {"path": "b.wav", "text": "b"}, {"path": "c.wav", "text": None, "source": "x"}]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make_tasks.main([str(out), str(folder)])
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["task"], row["answer"]) == ("speech-speech-transcribe", "b")
    refuse(make_tasks.main, [folder, folder], f"`OUT` must be the name of a file, got '{folder}', a folder.")
