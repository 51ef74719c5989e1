"""The JODIO recipe: its data, its configuration, and that a run that was interrupted goes on as if it had not been."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import train_jodio
from datasets import Dataset
from recipe_runs import interrupt_and_resume, refuse, run_recipe
from recipes import configuration, debian, runs, speech_data, speech_sources
from transformers import AutoModel

from josie.configuration_josie import decodes_in_stream

BACKBONE = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIG = {
    "crops": {"seconds": 0.1, "min_seconds": 0.05, "max_gain_db": 3.0},
    "teacher": {"num_mel_bins": 3},
    "model": {
        "model_type": "jodio",
        "sampling_rate": 1600,
        "channels": [4, 6, 8],
        "upsampling_ratios": [4, 4],
        "num_residual_layers": 0,
        "num_quantizers": 3,
        "codebook_size": 8,
        "codebook_dim": 4,
        "quantizer_dropout": 0.5,
        "encoder_config": BACKBONE,
        "decoder_config": BACKBONE,
        "loss_windows": [64],
        "semantic_target_size": 6,
    },
    "trainer": {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 3,
        "seed": 5,
        "disable_tqdm": True,
        "use_cpu": True,
    },
    "report": {"num_clips": 2, "num_examples": 0, "min_seconds": 0.1},
    "card": {"license": "apache-2.0", "hardware": "a tiny machine"},
}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of 24 clips, some with texts; one is broken."""
    folder = tmp_path_factory.mktemp("recordings")
    generator = np.random.default_rng(0)
    for index in range(24):
        values = 0.3 * np.sin(np.arange(400 + 9 * index) * (0.1 + 0.02 * index)) + 0.01 * generator.normal(
            size=400 + 9 * index
        )
        soundfile.write(folder / f"{index:02}.wav", values, 1600)
        if index % 2:
            (folder / f"{index:02}.txt").write_text(f"Sentence {index}!\n")
    (folder / "broken.wav").write_text("no audio")
    return folder


@pytest.fixture
def config(recordings, tmp_path):
    source = {"name": "folder", "path": str(recordings), "licence": "CC0"}
    data = {"folder": str(tmp_path / "data"), "sources": [source], "validation_share": 0.1, "test_share": 0.2}
    config = json.loads(json.dumps(CONFIG)) | {"data": data}
    config["trainer"]["output_dir"] = str(tmp_path / "run")
    return config


def test_a_teacher_knows_what_was_heard_so_far_and_no_more(config):
    model = train_jodio.build_model(config["model"])
    speech = speech_data.load_speech(speech_data.SpeechDataArguments(**config["data"]))
    teacher = train_jodio.TeacherArguments(**config["teacher"])
    crops, _ = train_jodio.build_crops(speech, model, train_jodio.CropArguments(**config["crops"]), 5, teacher)
    item = crops[3]
    hop = model.config.hop_length
    num_frames = item["input_values"].shape[-1] // hop
    assert item["semantic_targets"].shape == (num_frames, 6)

    def listen(waveform):
        mel = crops.transform(waveform.mean(0))[:, :-1].clamp(min=teacher.floor).log()
        return ((mel - teacher.mean) / teacher.std).T.reshape(num_frames, 6)

    assert item["semantic_targets"].equal(listen(item["input_values"]))
    changed = item["input_values"].clone()
    changed[:, 4 * hop :] += 1
    same = (listen(changed) == item["semantic_targets"]).all(-1)
    assert same[:4].all()
    assert not same[4:].any()


def test_a_teacher_must_fit_the_model(config):
    config["model"]["semantic_target_size"] = 7
    with pytest.raises(ValueError, match="`model.semantic_target_size` must be `teacher.num_mel_bins` .3. times"):
        run_recipe(train_jodio, config)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_losses(config, tmp_path, monkeypatch):
    metrics = interrupt_and_resume(train_jodio, config, "loss_mel", monkeypatch, tmp_path / "interrupted")
    assert metrics["num_clips"] == 2

    folder = tmp_path / "interrupted"
    assert json.loads((folder / "report" / "metrics.json").read_text())["mel_distance"] == metrics["mel_distance"]
    card = (folder / "model" / "README.md").read_text()
    assert "CC0" in card
    assert "the command" in card
    assert "a tiny machine" in card
    assert train_jodio.AutoModel.from_pretrained(folder / "model").config.codebook_size == 8


def test_a_decoder_learns_for_codes_that_stay(config, tmp_path):
    run_recipe(train_jodio, config)
    first = Path(config["trainer"]["output_dir"]) / "model"
    config["model"] = {"path": str(first), "codebook_update": "none", "freeze": ["encoder", "quantizer"]}
    config["trainer"]["output_dir"] = str(tmp_path / "second")
    run_recipe(train_jodio, config)
    given, found = (AutoModel.from_pretrained(path) for path in (first, tmp_path / "second" / "model"))
    assert found.config.codebook_update == "none"
    for name, value in given.state_dict().items():
        if name.startswith(("encoder.", "quantizer.")):
            assert torch.equal(found.state_dict()[name], value), name
    assert not torch.equal(given.decoder.state_dict()["layers.0.bias"], found.decoder.state_dict()["layers.0.bias"])


def test_what_cannot_go_on_is_named(config, tmp_path):
    run_recipe(train_jodio, config)
    path = str(Path(config["trainer"]["output_dir"]) / "model")
    for section, message in (
        ({"path": path, "freeze": ["head"]}, r"`model.freeze` must be among \['encoder', .*, got 'head'"),
        ({"path": path, "depth": 3}, "`model` must have fields of JodioConfig, got 'depth'"),
        (
            {"path": path, "codebook_size": 9},
            "`model` must have fields that fit the weights in .*, got {'codebook_size': 9}",
        ),
        ({"path": path, "freeze": "encoder"}, "`model.freeze` must be a list of parts of the model, got 'encoder'"),
        ({"path": path, "model_type": "jodio"}, "`model.path` must be null with a `model_type`, .*; `--set 'model=.*"),
        ({"model_type": "jodio", "freeze": ["head"]}, "`model.freeze` must be null with a `model_type`"),
        ({"path": "nano/jovio"}, "`model.path` must be a model of .*, got one of 'jovio'"),
        ({"path": str(tmp_path / "a")}, "`model.path` must be a folder or Hub name of a codec"),
        ({"path": 3}, "`model` must be a section with `model_type` 'jodio' or 'josie_mel_codec', or with `path`"),
        ({}, "`model` must be a section with `model_type` 'jodio' or 'josie_mel_codec', or with `path`"),
    ):
        with pytest.raises(ValueError, match=message):
            train_jodio.build_model(section)
    null = {"path": path, "model_type": None, "freeze": None}
    assert train_jodio.build_model(null).config.codebook_size == 8


def test_the_split_is_by_sentence_and_new_sources_move_nothing(recordings, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    for index in range(30):
        soundfile.write(more / f"{index}.wav", np.full(500, 0.1), 1600)
        (more / f"{index}.txt").write_text(f"sentence, {index}")
    sources = [{"name": "folder", "path": str(folder)} for folder in (recordings, more)]
    splits = []
    for chosen in (sources[:1], sources):
        arguments = speech_data.SpeechDataArguments(
            chosen, str(tmp_path / "data"), test_share=0.3, validation_share=0.2
        )
        manifests = speech_data.prepare_speech(arguments)
        splits.append({split: speech_data.read_manifest(path) for split, path in manifests.items()})
    alone, both = splits
    assert sum(map(len, alone.values())) == 24
    for split, rows in alone.items():
        assert rows == [row for row in both[split] if row["source"] == recordings.name]
    found = [{speech_sources.sentence_key(row["text"]) for row in rows if row["text"]} for rows in both.values()]
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found))


def test_a_codec_hears_recordings_as_nano_keeps_them(recordings, tmp_path):
    texts = [f"sentence {index}" for index in range(24)]
    flacs = [(recordings / f"{index:02}.wav").read_bytes() for index in range(24)]
    rows = Dataset.from_dict({"text": texts, "flac": flacs})
    rows.map(lambda row: {"seconds": len(row["text"])}, cache_file_name=str(tmp_path / "rms-1.2-timed-0.arrow"))
    config = configuration.read_config(EXAMPLES / "nano_world" / "voice.json")
    source = {"name": "datasets", "path": "arrow", "data_files": str(tmp_path / "rms-1.2-timed-*.arrow")}
    source |= {"audio_column": "flac", "text_column": "text", "licence": "free"}
    config["data"]["sources"] = [source]
    config["data"] |= {"folder": str(tmp_path / "data"), "validation_share": 0.2, "test_share": 0.2, "min_seconds": 0.1}
    speech = speech_data.load_speech(configuration.read_section(config, "data", speech_data.SpeechDataArguments))
    assert sorted(text for split in speech.values() for text in split["text"]) == sorted(texts)
    assert all(len(split) for split in speech.values())
    for row in speech["train"]:
        assert row["audio"]["bytes"] == flacs[texts.index(row["text"])]
        assert row["licence"] == source["licence"]


def test_the_recipe_of_a_voice_that_streams_is_of_twelve_and_a_half_frames():
    config = configuration.read_config(EXAMPLES / "nano_world" / "voice.json")
    configuration.require_sections(config, *train_jodio.SECTIONS)
    configuration.read_section(config, "data", speech_data.SpeechDataArguments)
    with torch.device("meta"):
        model = train_jodio.build_model(config["model"])
    assert decodes_in_stream(model.config)
    assert model.config.frame_rate == 12.5
    assert model.config.num_quantizers <= 10
    assert model.config.codebook_size <= 1024
    assert model.num_parameters() < 5_000_000


def test_a_source_appears_only_when_it_is_complete(recordings, tmp_path, monkeypatch):
    def clips(root, options, scratch):
        for path in sorted(recordings.glob("0*.wav")):
            yield speech_sources.Clip(path.stem, None, "en", "tone", path)
        if options.get("fails"):
            raise KeyboardInterrupt

    monkeypatch.setitem(speech_data.SOURCES, "flite", speech_sources.Source((), "CC0", clips, ("fails",)))
    arguments = speech_data.SpeechDataArguments([{"name": "flite", "fails": True}], str(tmp_path), sampling_rate=800)
    with pytest.raises(KeyboardInterrupt):
        speech_data.prepare_speech(arguments)
    assert list(tmp_path.iterdir()) == []
    arguments.sources = [{"name": "flite"}]
    manifests = speech_data.prepare_speech(arguments)
    rows = [row for path in manifests.values() for row in speech_data.read_manifest(path)]
    assert len(rows) == 10
    assert all(soundfile.info(row["path"]).samplerate == 800 for row in rows)
    before = (tmp_path / "flite").stat().st_mtime_ns
    speech_data.prepare_speech(arguments)
    assert (tmp_path / "flite").stat().st_mtime_ns == before


def test_what_cannot_be_downloaded_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.FetchError, match="The command 'apt-get' is needed and was not found"):
        debian.fetch_package("flite", tmp_path / "cache")
    tool = tmp_path / "apt-get"
    tool.write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    tool.chmod(0o755)
    with pytest.raises(debian.FetchError, match="'flite' cannot be downloaded .*: E: no network"):
        debian.fetch_package("flite", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["root"]


def test_configurations_are_json_or_yaml_and_can_be_changed(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {seed: 1, sources: []}\nthreads: 1\n")
    config = configuration.read_config(path, ["data.seed=3", "data.sources=[1]", "card.license=mit", "threads=null"])
    assert config == {"data": {"seed": 3, "sources": [1]}, "threads": None, "card": {"license": "mit"}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    assert configuration.read_config(path) == CONFIG
    line = configuration.command_line("", [str(path), "--restart", "--set", "a.b=1", "c=2"])
    assert (line.mode, line.config["a"], line.config["c"]) == ("restart", {"b": 1}, 2)


def test_the_recipes_own_configuration_is_valid():
    config = configuration.read_config(EXAMPLES / "train_jodio.json")
    configuration.require_sections(config, *train_jodio.SECTIONS)
    configuration.read_section(config, "data", speech_data.SpeechDataArguments)
    configuration.read_section(config, "report", train_jodio.ReportArguments)
    configuration.read_section(config, "crops", train_jodio.CropArguments)
    runs.read_trainer_section(config, train_jodio.CodecTrainingArguments)
    model = train_jodio.build_model(config["model"])
    assert model.num_parameters() <= 5_000_000
    assert model.config.sampling_rate == 16000
    assert model.config.frame_rate <= 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("crop.seconds=1", "`config` must have sections of"),
        ("crops.second=1", "`crops` must have keys of ['max_gain_db', 'min_seconds', 'seconds'], got 'second'."),
        ("trainer={}", "`trainer` must be a section with `output_dir`, got {}."),
        ("threads=0", "`threads` must be a positive integer, got 0."),
        ("model.path=nano/jodio", "`model.path` must be null with a `model_type`, which is of a new codec, got 'nano/"),
        ("model.model_type=mimi", "`model` must be a section with `model_type`"),
        ("model.widths=3", "`model` must have fields of JodioConfig, got 'widths'."),
        ("data.sources=[]", "`data.sources` must name at least one of"),
        ('data.sources=[{"name": "radio"}]', "got {'name': 'radio'}."),
        ('data.sources=[{"name": "folder", "path": "/nowhere"}]', "must give an existing folder as `path`"),
        ("data.test_share=1", "`data.validation_share` and `data.test_share` must be at least 0 and below 1"),
        ("report.num_clips=0", "`report.num_clips` must be positive"),
        ("report.max_seconds=0.05", "`report.min_seconds` must be at least 0 and `report.max_seconds` above 0 and not"),
        ("report.min_seconds=5", "`report.min_seconds` must leave at least one clip, got 5."),
        ("crops.seconds=0", "`crops.seconds` must be greater than 0, got 0."),
        ("crops.seconds=-1", "`crops.seconds` must be greater than 0, got -1."),
        ("crops.min_seconds=-5", "`crops.min_seconds` must be at least 0, got -5."),
        ("crops.max_gain_db=-1", "`crops.max_gain_db` must be at least 0, got -1."),
        ("teacher.num_mel_bins=0", "`teacher.num_mel_bins` must be at least 1, got 0."),
        ("teacher.floor=0", "`teacher.floor` must be greater than 0, got 0."),
        ("teacher.std=0", "`teacher.std` must be greater than 0, got 0."),
        ("teacher.mean=NaN", "`teacher.mean` must be finite, got nan."),
        ("trainer.adversarial_weight=3", "`adversarial_weight` must be 1.0 without a `discriminator`, got 3."),
        ("trainer.max_grad_norm=null", "`trainer.max_grad_norm` must be of type float, got None."),
    ],
)
def test_wrong_configurations_are_errors(config, tmp_path, change, message, monkeypatch):
    monkeypatch.setattr(train_jodio, "train", None)  # it is said before
    refuse(train_jodio, config, change, message, tmp_path)


@pytest.mark.parametrize("override", ["seed", "=3", "data.=3", "threads.x=1"])
def test_wrong_overrides_are_errors(tmp_path, override):
    path = tmp_path / "config.json"
    path.write_text('{"threads": 1}')
    with pytest.raises(ValueError, match="`--set` must"):
        configuration.read_config(path, [override])


def test_resuming_needs_a_checkpoint(config):
    with pytest.raises(ValueError, match="`--resume` needs a checkpoint in"):
        run_recipe(train_jodio, config, "resume")


def test_the_report_draws_and_writes_clips(config, tmp_path):
    pytest.importorskip("matplotlib", reason="the report's images need josie[recipes]")
    speech = speech_data.load_speech(configuration.read_section(config, "data", speech_data.SpeechDataArguments))
    model = train_jodio.build_model(config["model"])
    arguments = train_jodio.ReportArguments(num_clips=3, num_examples=2, min_seconds=0.1)
    metrics = train_jodio.write_report(model, speech["train"], tmp_path / "report", arguments)
    assert metrics["num_clips"] == 3
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        *(f"{index}_{kind}.wav" for index in (0, 1) for kind in ("original", "reconstruction")),
        "metrics.json",
        "spectrograms.png",
    }
    assert (tmp_path / "report" / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
