"""Every form of a μOmni checkpoint is converted, the same weights to the same model."""

import json
import shutil

import pytest
import torch
from muomni_checkpoints import (
    GOLDEN,
    close,
    convert,
    convert_golden,
    merge,
    read_parts,
    rename,
    same,
    write_parts,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoProcessor

from josie import convert_muomni

FIRST_BLOCK = "thinker.model.language_model.layers.0"


class TestForms:
    """Every form of the same weights gives the same model."""

    @pytest.fixture(autouse=True)
    def _prepare(self, tmp_path):
        self.parts, self.golden, self.folder = read_parts(), convert_golden(), tmp_path / "source"
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

    def test_grouped_query(self, tmp_path):
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
        encoder_module = model.thinker.model.audio_front_end.encoder
        mel, found = torch.rand(1, 128, 101), []
        encoder_module.proj.register_forward_hook(lambda module, args, output: found.append(output))
        assert encoder_module(mel).last_hidden_state.shape == (1, 13, 24)
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
