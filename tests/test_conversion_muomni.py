"""μOmni's checkpoints: the converted model gives what the original gave, in every form, and faults are all named.

Set MUOMNI_CHECKPOINT to a folder like `tests/data/muomni`, with `expected.safetensors` and `expected_tokens.json`, to
check another checkpoint.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from josie import JosieForConditionalGeneration, JosieProcessor
from josie.cli.app import app
from josie.conversion.muomni import convert as muomni
from josie.conversion.muomni.convert import convert_muomni
from josie.conversion.muomni.sentencepiece import convert_sentencepiece, read_sentencepiece

GOLDEN = Path(__file__).parent / "data" / "muomni"
SOURCE = Path(os.environ.get("MUOMNI_CHECKPOINT", GOLDEN))
FILES = {
    "thinker": "thinker_tiny/thinker.pt",
    "audio": "audio_enc_tiny/audio_enc.pt",
    "vision": "vision_tiny/vision.pt",
    "talker": "talker_tiny/talker.pt",
    "omni": "omni_sft_tiny/omni.pt",
}
FIRST_BLOCK = "thinker.model.language_model.layers.0"


def close(actual, expected, rtol=0.0):
    """Assert equality to 1e-4, and to `rtol` of the value where it is large."""
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=rtol)


def convert(source, destination, **options):
    """Convert, and return the loaded model and the report."""
    report = convert_muomni(source, destination, **options)
    return JosieForConditionalGeneration.from_pretrained(destination).eval(), report


def read_parts():
    """Return the content of every `.pt` file of the golden checkpoint."""
    return {name: torch.load(GOLDEN / file, weights_only=True) for name, file in FILES.items()}


def write_parts(folder, parts, config=None):
    """Write a checkpoint folder with tokenizer and configuration."""
    for name, content in parts.items():
        (folder / FILES[name]).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / FILES[name])
    (folder / "thinker_tiny").mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDEN / "thinker_tiny" / "tokenizer.model", folder / "thinker_tiny")
    config = json.loads((GOLDEN / "config.json").read_text()) if config is None else config
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def merge(parts):
    """Return the weights under the names of the single safetensors file."""
    groups = {
        "thinker": parts["omni"]["thinker"],
        "audio_encoder": parts["audio"]["enc"],
        "vision_encoder": parts["vision"]["vit"],
        "talker": parts["talker"]["talker"],
        "rvq": parts["talker"]["rvq"],
        "proj_a": parts["omni"]["proj_a"],
        "proj_v": parts["omni"]["proj_v"],
    }
    return {f"{name}.{key}": tensor for name, weights in groups.items() for key, tensor in weights.items()}


def rename(weights, *pairs):
    """Replace parts of the keys."""
    for old, new in pairs:
        weights = {key.replace(old, new): tensor for key, tensor in weights.items()}
    return weights


@pytest.fixture(scope="module")
def expected():
    """What the original modules took and gave."""
    return load_file(SOURCE / "expected.safetensors")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The converted checkpoint."""
    folder = tmp_path_factory.mktemp("muomni") / "josie"
    convert_muomni(SOURCE, folder)
    return folder


@pytest.fixture(scope="module")
def model(converted):
    """Its model."""
    return AutoModelForMultimodalLM.from_pretrained(converted).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def processor(converted):
    """Its processor."""
    return AutoProcessor.from_pretrained(converted)


@pytest.fixture(scope="module")
def inputs(processor, expected):
    """What the processor makes of picture, sound and text."""
    return processor(
        images=expected["vision.pixels"][0],
        audio=(expected["audio.waveform"][0], 16000),
        text=processor.tokenizer.decode(expected["text.input_ids"][0], skip_special_tokens=True),
    )


@pytest.fixture(scope="module")
def golden_weights(tmp_path_factory):
    """The weights of the golden checkpoint, converted."""
    folder = tmp_path_factory.mktemp("golden") / "josie"
    convert_muomni(GOLDEN, folder)
    return load_file(folder / "model.safetensors")


class TestParity:
    def test_classes(self, model, processor):
        assert type(model) is JosieForConditionalGeneration
        assert type(processor) is JosieProcessor

    def test_tokenizer(self, processor):
        cases = json.loads((SOURCE / "expected_tokens.json").read_text(encoding="utf-8"))
        assert cases
        for text, facts in cases.items():
            assert processor.tokenizer(text, add_special_tokens=False)["input_ids"] == facts["ids"]
            assert processor.batch_decode([[1, *facts["ids"]]], skip_special_tokens=True) == [facts["decoded"]]

    def test_processor(self, model, inputs, expected):
        config = model.config.thinker_config
        # Of values up to 1593, as here, the last digits are those of the Fourier transform: see the test that follows.
        close(inputs["input_features"].transpose(1, 2), expected["audio.mel"], rtol=1e-6)
        close(inputs["pixel_values"], expected["vision.pixels"])
        num_text = expected["text.input_ids"].shape[1]
        num_audio = expected["omni.inputs_embeds"].shape[1] - 1 - num_text
        ids = [config.image_token_id] + [config.audio_token_id] * num_audio + expected["text.input_ids"][0].tolist()
        assert inputs["input_ids"].tolist() == [ids]
        assert num_audio == min(expected["audio.encoded"].shape[1], config.max_position_embeddings // 4)

    @pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs a torch with MKL, as the reference had")
    def test_mel_to_the_letter(self, tmp_path):
        """With the plain Fourier transform that made the reference, the mel meets it to 1e-4 like everything else."""
        convert_muomni(SOURCE, tmp_path / "josie")
        code = (
            "import sys, josie\n"
            "from safetensors.torch import load_file, save_file\n"
            "from transformers import AutoProcessor\n"
            "waveform = load_file(sys.argv[1])['audio.waveform'][0].numpy()\n"
            "extract = AutoProcessor.from_pretrained(sys.argv[2]).feature_extractor\n"
            "features = extract(waveform, sampling_rate=16000, return_tensors='pt')['input_features']\n"
            "save_file({'mel': features.transpose(1, 2).contiguous()}, sys.argv[3])\n"
        )
        paths = [SOURCE / "expected.safetensors", tmp_path / "josie", tmp_path / "mel.safetensors"]
        run = [sys.executable, "-c", code, *map(str, paths)]
        # With one thread, torch would sum over the mel bands by MKL too, and without fused multiply-adds.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")
        settings = threads | {"MKL_CBWR": "COMPATIBLE", "PYTHONPATH": os.pathsep.join(sys.path)}
        environment = os.environ | settings
        subprocess.run(run, check=True, env=environment)
        close(load_file(paths[2])["mel"], load_file(paths[0])["audio.mel"])

    def test_chat_gives_the_same_prompt(self, processor, inputs, expected):
        text = processor.tokenizer.decode(expected["text.input_ids"][0], skip_special_tokens=True)
        content = [
            {"type": "text", "text": text},
            {"type": "audio", "audio": expected["audio.waveform"][0].numpy(), "sampling_rate": 16000},
            {"type": "image", "image": expected["vision.pixels"][0]},
        ]
        chat = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        assert chat["input_ids"].tolist() == inputs["input_ids"].tolist()

    def test_audio_features(self, model, inputs, expected):
        encoder = model.thinker.model.audio_front_end.encoder
        close(encoder(inputs["input_features"]).last_hidden_state, expected["audio.encoded"])
        close(encoder(expected["audio.mel"].transpose(1, 2)).last_hidden_state, expected["audio.encoded"])
        rows, counts = model.thinker.model.get_audio_features(input_features=inputs["input_features"])
        close(rows, expected["omni.inputs_embeds"][0, 1 : 1 + int(counts)])

    def test_image_features(self, model, inputs, expected):
        states = model.thinker.model.vision_front_end.encoder(inputs["pixel_values"]).last_hidden_state
        close(states[:, :1], expected["vision.cls"])
        close(states[:, 1:], expected["vision.grid"])
        rows, _ = model.thinker.model.get_image_features(pixel_values=inputs["pixel_values"])
        close(rows, expected["omni.inputs_embeds"][0, :1])

    def test_text_logits(self, model, expected):
        vocab_size = expected["text.logits"].shape[-1]
        close(model(input_ids=expected["text.input_ids"]).logits[..., :vocab_size], expected["text.logits"])

    def test_joint_embeddings_and_logits(self, model, inputs, expected):
        modal = {key: value for key, value in inputs.items() if key != "attention_mask"}
        close(model.thinker.model.embed_inputs(**modal), expected["omni.inputs_embeds"])
        logits = model(**inputs).logits
        vocab_size = expected["omni.logits"].shape[-1]
        close(logits[..., :vocab_size], expected["omni.logits"])
        assert (logits[..., vocab_size:] < logits[..., :vocab_size].amax(-1, keepdim=True)).all()

    def test_greedy_tokens(self, model, inputs, expected):
        num_prompt = inputs["input_ids"].shape[1] - expected["text.input_ids"].shape[1]
        num_new = expected["omni.greedy_ids"].shape[1] - expected["text.input_ids"].shape[1]
        sequences = model.generate(**inputs, max_new_tokens=num_new, do_sample=False)
        assert sequences[:, num_prompt:].tolist() == expected["omni.greedy_ids"].tolist()

    def test_mel_codec(self, model, expected):
        codes = model.audio_codec.encode_mel(expected["rvq.mel"].transpose(1, 2))
        assert codes.transpose(1, 2).tolist() == expected["rvq.codes"].tolist()
        close(model.audio_codec.decode_to_mel(codes)[0].T, expected["rvq.decoded"])

    def test_mel_codec_analysis(self, model, expected):
        """Its spectrogram has the hop and window of the one that the expected codes are of, which was clipped."""
        mel = model.audio_codec.extract_mel(expected["audio.waveform"][:, None]).transpose(1, 2)
        close(mel.clamp(max=expected["rvq.mel"].max()), expected["rvq.mel"])

    def test_talker(self, model, expected):
        codes = expected["rvq.codes"].transpose(1, 2)
        previous = torch.roll(codes, 1, dims=2)
        previous[..., 0] = 0
        assert previous.transpose(1, 2).tolist() == expected["talker.prev_codes"].tolist()
        output = model.talker(codes)
        close(output.logits, expected["talker.base_logits"])
        close(output.depth_logits[:, 0], expected["talker.res_logits"])
        close(output.loss, expected["talker.loss"])


class TestConvertedModel:
    def test_speaks(self, model, processor):
        ids = processor.tokenizer(["hello world", "do"], padding=True, return_tensors="pt")
        spoken = model.generate_speech(ids["input_ids"], ids["attention_mask"], talker_max_new_frames=5)
        assert spoken.audio_codes.shape == (2, 2, 5)
        assert spoken.audio_values.shape == (2, 1, 5 * model.config.audio_codec_config.hop_length)

    def test_sampling_gives_no_placeholder(self, model, inputs):
        first = model.config.thinker_config.text_config.pad_token_id
        written = model.generate(**inputs, max_new_tokens=20, do_sample=True, temperature=50.0)
        assert (written[:, inputs["input_ids"].shape[1] :] < first).all()

    def test_talker_learns_to_hear(self, model, expected):
        """The zeros that stand for what μOmni lacks get gradients."""
        model.requires_grad_(True)
        model.zero_grad()
        codes = expected["rvq.codes"].transpose(1, 2)
        model(input_ids=expected["text.input_ids"], speech_codes=codes).loss.backward()
        assert model.talker.thinker_projection.weight.grad.abs().sum() > 0
        assert model.talker.end_of_text.grad.abs().sum() > 0
        model.zero_grad()
        model.requires_grad_(False)

    def test_the_log_warns_of_a_hop_without_overlap(self, tmp_path, monkeypatch):
        notes = []
        monkeypatch.setattr(muomni.logger, "warning", notes.append)
        _, report = convert(GOLDEN, tmp_path / "out")
        assert any("hop of 1280 samples at a window of 1024" in note for note in notes)
        assert notes == report.notes

    def test_report_accounts_for_every_key(self, converted):
        report = json.loads((converted / "conversion_report.json").read_text(encoding="utf-8"))
        targets = [key["target"] for key in report["keys"] if key["action"] != "dropped"]
        assert sorted(targets) == sorted(load_file(converted / "model.safetensors"))
        used = {name for key in report["keys"] if key["action"] == "used" for name in key["source"].split(" + ")}
        dropped = {key["source"] for key in report["keys"] if key["action"] == "dropped"}
        given = merge(read_parts()).keys() | {
            f"{kind}_head.{name}" for kind in ("audio", "vision") for name in ("weight", "bias")
        }
        if SOURCE == GOLDEN:
            assert used | dropped == given | {"*"}
        assert all(key["reason"] for key in report["keys"] if key["action"] != "used")

    def test_conversion_repeats(self, tmp_path, golden_weights):
        convert_muomni(GOLDEN, tmp_path / "again")
        same(load_file(tmp_path / "again" / "model.safetensors"), golden_weights)


def same(weights, others):
    """Assert that two state dicts are equal."""
    assert weights.keys() == others.keys()
    for key, tensor in weights.items():
        assert torch.equal(tensor, others[key]), key


class TestForms:
    """Every form of the same weights gives the same model."""

    @pytest.fixture(autouse=True)
    def _prepare(self, tmp_path, golden_weights):
        self.parts, self.golden, self.folder = read_parts(), golden_weights, tmp_path / "source"
        self.folder.mkdir()
        self.out = tmp_path / "out"

    def check(self, source=None, **options):
        convert_muomni(self.folder if source is None else source, self.out, **options)
        same(load_file(self.out / "model.safetensors"), self.golden)

    def write_single(self, weights, name="model.safetensors"):
        write_parts(self.folder, {})
        save_file({key: tensor.clone() for key, tensor in weights.items()}, self.folder / name)
        return self.folder / name

    def test_single_safetensors_in_a_folder(self):
        self.write_single(merge(self.parts))
        self.check()

    def test_single_safetensors_by_its_own_name(self):
        self.check(self.write_single(merge(self.parts), "muomni.safetensors"))

    def test_compiled(self):
        self.parts["talker"]["talker"] = rename(
            self.parts["talker"]["talker"], ("blocks.0.", "blocks.0._orig_mod."), ("base_head.", "base_head._orig_mod.")
        )
        for part, entry in (("omni", "thinker"), ("audio", "enc"), ("vision", "vit")):
            weights = self.parts[part][entry]
            self.parts[part][entry] = {f"_orig_mod.{key}": tensor for key, tensor in weights.items()}
        write_parts(self.folder, self.parts)
        self.check()

    def test_compiled_single_safetensors(self):
        self.write_single(rename(merge(self.parts), ("thinker.", "thinker._orig_mod.")))
        self.check()

    @pytest.mark.parametrize("where", ["omni", "thinker"])
    def test_wrapped_thinker(self, where):
        if where == "omni":
            self.parts["omni"]["thinker"] = {"model": self.parts["omni"]["thinker"], "optimizer": {"step": 3}}
        else:
            self.parts["thinker"] = {"model": self.parts["omni"].pop("thinker"), "optimizer": {"step": 3}, "step": 7}
        write_parts(self.folder, self.parts)
        self.check()

    def test_thinker_of_the_last_stage_wins(self):
        self.parts["thinker"]["norm.weight"] += 1
        write_parts(self.folder, self.parts)
        self.check()

    def test_training_state_is_dropped(self):
        for name in ("omni", "audio", "vision", "talker"):
            self.parts[name] |= {"optimizer": {"state": {}}, "scheduler": {}, "step": 7}
        write_parts(self.folder, self.parts)
        self.check()

    def test_heads_of_the_encoders_own_training_are_dropped(self):
        self.parts["audio"]["head"] = None
        self.parts["audio"]["enc"]["attention_pool.attention.weight"] = torch.ones(1, 24)
        self.parts["vision"] |= {"img_proj": {"weight": torch.ones(8, 16)}, "text_proj": {"weight": torch.ones(8, 16)}}
        write_parts(self.folder, self.parts)
        self.check()

    def test_other_models_in_the_file_are_dropped(self):
        self.write_single(merge(self.parts) | {"ocr.norm.num_batches_tracked": torch.tensor(3)})
        self.check()

    @pytest.mark.parametrize("name", ["attn.qkv_proj", "qkv_proj"])
    def test_audio_attention_naming(self, name):
        out = name.replace("qkv_proj", "out_proj")
        self.parts["audio"]["enc"] = rename(
            self.parts["audio"]["enc"],
            ("attn.in_proj_weight", f"{name}.weight"),
            ("attn.in_proj_bias", f"{name}.bias"),
            ("attn.out_proj", out),
        )
        write_parts(self.folder, self.parts)
        self.check()

    def test_half_precision(self):
        weights = {key: tensor.half() for key, tensor in merge(self.parts).items()}
        self.write_single(weights)
        model, _ = convert(self.folder, self.out)
        assert model.dtype == torch.float32
        assert torch.equal(model.talker.start, weights["talker.start"].float().flatten())

    def test_separate_configs_and_no_config(self):
        config = json.loads((GOLDEN / "config.json").read_text())
        write_parts(self.folder, self.parts)
        (self.folder / "config.json").unlink()
        (self.folder / "configs").mkdir()
        for part in ("thinker", "talker", "audio_enc", "vision"):
            (self.folder / "configs" / f"{part}_tiny.json").write_text(json.dumps(config[part]))
        self.check()
        shutil.rmtree(self.folder / "configs")
        shutil.rmtree(self.out)
        model, report = convert(self.folder, self.out)
        text = model.config.get_text_config()
        assert (text.num_hidden_layers, text.hidden_size, text.intermediate_size) == (2, 32, 64)
        assert (text.num_attention_heads, text.max_position_embeddings) == (1, 512)
        assert any(
            "how many heads thinker (1), talker (1), audio_enc (1), vision (1) have" in note for note in report.notes
        )
        shutil.rmtree(self.out)
        self.check(config=config)

    def test_every_size_can_be_read_off_the_weights(self):
        """But heads and context, which are given here."""
        write_parts(self.folder, self.parts)
        config = {
            "thinker": {"n_heads": 4, "ctx_len": 64},
            "talker": {"n_heads": 3},
            "audio_enc": {"n_heads": 3},
            "vision": {"n_heads": 2},
        }
        convert_muomni(self.folder, self.out, config=config)
        convert_muomni(GOLDEN, self.out.with_name("golden"))
        assert (self.out / "config.json").read_text() == (self.out.with_name("golden") / "config.json").read_text()

    def test_tokenizer_from_elsewhere(self):
        write_parts(self.folder, self.parts)
        moved = (self.folder / "thinker_tiny" / "tokenizer.model").rename(self.folder.parent / "pieces.model")
        self.check(tokenizer=moved)

    def test_no_encoders_and_no_talker(self):
        kept = {"omni": self.parts["omni"]}
        model, report = convert(write_parts(self.folder, kept), self.out)
        assert model.input_modalities == ("text",)
        assert model.output_modalities == ("text",)
        assert {key.source for key in report.keys if key.action == "dropped"} == {
            "proj_a.weight", "proj_a.bias", "proj_v.weight", "proj_v.bias"
        }  # fmt: skip
        ids = AutoProcessor.from_pretrained(self.out)(text="hello")["input_ids"]
        assert model.generate(ids, max_new_tokens=2, min_new_tokens=2).shape == (1, ids.shape[1] + 2)

    @pytest.mark.parametrize(
        ("missing", "modalities"), [("audio", ("text", "image", "video")), ("vision", ("text", "audio"))]
    )
    def test_one_encoder_less(self, missing, modalities):
        del self.parts[missing]
        model, _ = convert(write_parts(self.folder, self.parts), self.out)
        assert model.input_modalities == modalities
        assert model.output_modalities == ("text", "audio")
        AutoProcessor.from_pretrained(self.out)

    def test_before_the_last_stage_projectors_are_new(self):
        self.parts["thinker"] = self.parts.pop("omni")["thinker"]
        write_parts(self.folder, self.parts)
        _, report = convert(self.folder, self.out)
        new = {key.target for key in report.keys if key.reason.startswith("random")}
        assert len(new) == 4
        assert all(".projector." in target for target in new)
        assert "have to be trained" in report.notes[-1]
        weights = load_file(self.out / "model.safetensors")
        same({k: v for k, v in weights.items() if k not in new}, {k: v for k, v in self.golden.items() if k not in new})


class TestOtherShapes:
    """Forms whose weights are of other shapes, against the same model in the known form or written out."""

    def test_grouped_query(self, tmp_path, expected):
        """Equals full attention whose key and value heads are repeated."""
        parts, full = read_parts(), read_parts()
        for part, entry, heads in (("omni", "thinker", 4), ("talker", "talker", 3)):
            weights, repeated = parts[part][entry], full[part][entry]
            groups = max(heads // 2, 1)
            for key in [key for key in weights if key.endswith("attn.qkv.weight")]:
                query, keys, values = weights.pop(key).chunk(3)
                head_dim = len(query) // heads
                stem = key.removesuffix("qkv.weight")
                weights[f"{stem}q.weight"] = query
                rows = [query]
                for name, tensor in (("k", keys), ("v", values)):
                    tensor = tensor[: groups * head_dim]
                    weights[f"{stem}{name}.weight"] = tensor.clone()
                    rows.append(tensor.unflatten(0, (groups, -1)).repeat_interleave(heads // groups, 0).flatten(0, 1))
                repeated[key] = torch.cat(rows)
        grouped, _ = convert(write_parts(tmp_path / "grouped", parts), tmp_path / "a")
        reference, _ = convert(write_parts(tmp_path / "full", full), tmp_path / "b")
        assert grouped.config.get_text_config().num_key_value_heads == 2
        assert grouped.config.talker_config.num_key_value_heads == 1
        ids = load_file(GOLDEN / "expected.safetensors")["text.input_ids"]
        close(grouped(input_ids=ids).logits, reference(input_ids=ids).logits)
        codes = torch.randint(0, 16, (2, 2, 9))
        close(grouped.talker(codes).loss, reference.talker(codes).loss)

    def test_plain_mlp(self, tmp_path):
        parts = read_parts()
        weights = parts["omni"]["thinker"]
        for block in range(2):
            stem = f"blocks.{block}.mlp."
            del weights[f"{stem}gate_proj.weight"]
            weights[f"{stem}fc1.weight"] = weights.pop(f"{stem}up_proj.weight")
            weights[f"{stem}fc2.weight"] = weights.pop(f"{stem}down_proj.weight")
            weights[f"{stem}fc1.bias"], weights[f"{stem}fc2.bias"] = torch.randn(64), torch.randn(32)
        model, _ = convert(write_parts(tmp_path / "source", parts), tmp_path / "out")
        mlp, hidden_states = model.get_submodule(f"{FIRST_BLOCK}.mlp"), torch.randn(2, 3, 32)
        first, second = (
            [weights[f"blocks.0.mlp.{name}.{kind}"] for kind in ("weight", "bias")] for name in ("fc1", "fc2")
        )
        inner = nn.functional.gelu(nn.functional.linear(hidden_states, *first))
        close(mlp(hidden_states), nn.functional.linear(inner, *second))
        assert model.config.talker_config.gated_mlp

    def test_downsampling_by_8(self, tmp_path):
        parts = read_parts()
        encoder = rename(parts["audio"]["enc"], ("down.net.", "down.0.net."))
        encoder |= {"down.1.weight": torch.randn(64, 64, 3, 3) / 20, "down.1.bias": torch.randn(64)}
        encoder["proj.weight"] = encoder["proj.weight"][:, :1024].clone()
        parts["audio"]["enc"] = encoder
        model, _ = convert(write_parts(tmp_path / "source", parts), tmp_path / "out")
        ear = model.thinker.model.audio_front_end.encoder
        mel, found = torch.rand(1, 128, 101), []
        ear.proj.register_forward_hook(lambda module, args, output: found.append(output))
        assert ear(mel).last_hidden_state.shape == (1, 13, 24)
        hidden_states = mel.transpose(1, 2)[:, None]
        for name in ("down.0.net.0", "down.0.net.2", "down.1"):
            weight, bias = encoder[f"{name}.weight"], encoder[f"{name}.bias"]
            hidden_states = nn.functional.gelu(nn.functional.conv2d(hidden_states, weight, bias, 2, 1))
        hidden_states = hidden_states.permute(0, 2, 1, 3).flatten(2)
        close(found[0], nn.functional.linear(hidden_states, encoder["proj.weight"], encoder["proj.bias"]))
        processor = AutoProcessor.from_pretrained(tmp_path / "out")
        audio = (torch.zeros(16000), 16000)
        ids = processor(audio=audio, text="")["input_ids"]
        assert (ids == processor.audio_token_id).sum() == 13


class TestTokenizer:
    FILE = GOLDEN / "thinker_tiny" / "tokenizer.model"

    def test_equals_sentencepiece(self):
        """On random texts, and on random ids back."""
        sentencepiece = pytest.importorskip("sentencepiece")
        original = sentencepiece.SentencePieceProcessor(model_file=str(self.FILE))
        tokenizer = convert_sentencepiece(read_sentencepiece(self.FILE))
        draw = random.Random(0)
        for _ in range(2000):
            text = "".join(
                draw.choice("abcdehilmnouwy 1234   .,!?\t\n\u3000\u200b▁éï①日한🙂A") for _ in range(draw.randrange(14))
            )
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == original.encode(text), text
            ids = [draw.choice((draw.randrange(300), 0, 259, 1, 2)) for _ in range(draw.randrange(7))]
            assert tokenizer.decode(ids, skip_special_tokens=True) == original.decode(ids), ids

    def test_roles(self, converted):
        tokenizer = AutoProcessor.from_pretrained(converted).tokenizer
        assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
        assert tokenizer("hello")["input_ids"][0] == tokenizer.bos_token_id == 1
        assert tokenizer.pad_token_id not in (0, None)
        assert tokenizer.padding_side == "left"

    def test_another_file_is_refused(self, tmp_path):
        for content in (b"", b"no model at all", self.FILE.read_bytes()[:-1000]):
            (tmp_path / "x.model").write_bytes(content)
            with pytest.raises(
                ValueError, match=r"`tokenizer` must be a SentencePiece model, got '.*x\.model', which is not"
            ):
                read_sentencepiece(tmp_path / "x.model")

    def test_unigram_is_refused(self, tmp_path):
        content = self.FILE.read_bytes().replace(b"tokenizer\x18\x02", b"tokenizer\x18\x01")
        (tmp_path / "x.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"`tokenizer` must be a BPE model \(type 2\), got type 1\."):
            read_sentencepiece(tmp_path / "x.model")


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

    def test_converts_and_reports(self, tmp_path, golden_weights):
        result = self.run(GOLDEN, tmp_path / "new" / "out")
        assert result.exit_code == 0
        assert "used: 100" in result.stdout
        assert (
            "2 x thinker.blocks.N.attn.o.weight -> thinker.model.language_model.layers.N.self_attn.o_proj.weight"
            in (result.stdout)
        )
        assert "audio_head.weight (audio_enc_tiny/audio_enc.pt)  [head of the encoder's own training" in result.stdout
        same(load_file(tmp_path / "new" / "out" / "model.safetensors"), golden_weights)

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
