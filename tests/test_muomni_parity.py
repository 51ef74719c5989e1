"""A converted μOmni model gives what the original gave."""

import json
import os
import subprocess
import sys

import pytest
import torch
from muomni_checkpoints import GOLDEN, SOURCE, close, convert, convert_golden, merge, read_expected, read_parts, same
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM, AutoProcessor

from josie import JosieForConditionalGeneration, JosieProcessor, convert_muomni
from josie.conversion.muomni import convert as muomni


@pytest.fixture(scope="module")
def expected():
    """Inputs and outputs of the original modules."""
    return read_expected()


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
    """Return what the processor makes of image, audio and text."""
    return processor(
        images=expected["vision.pixels"][0],
        audio=(expected["audio.waveform"][0], 16000),
        text=processor.tokenizer.decode(expected["text.input_ids"][0], skip_special_tokens=True),
    )


class TestParity:
    def test_classes(self, model, processor):
        assert type(model) is JosieForConditionalGeneration
        assert type(processor) is JosieProcessor

    def test_tokenizer(self, processor):
        cases = json.loads((SOURCE / "expected_tokens.json").read_text(encoding="utf-8"))
        assert cases
        for text, expected in cases.items():
            assert processor.tokenizer(text, add_special_tokens=False)["input_ids"] == expected["ids"]
            assert processor.batch_decode([[1, *expected["ids"]]], skip_special_tokens=True) == [expected["decoded"]]

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

    @pytest.mark.slow
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
        (rows,) = model.get_audio_features(inputs["input_features"]).pooler_output
        close(rows, expected["omni.inputs_embeds"][0, 1 : 1 + len(rows)])

    def test_image_features(self, model, inputs, expected):
        states = model.thinker.model.vision_front_end.encoder(inputs["pixel_values"]).last_hidden_state
        close(states[:, :1], expected["vision.cls"])
        close(states[:, 1:], expected["vision.grid"])
        (rows,) = model.get_image_features(inputs["pixel_values"]).pooler_output
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

    def test_conversion_repeats(self, tmp_path):
        convert_muomni(GOLDEN, tmp_path / "again")
        same(load_file(tmp_path / "again" / "model.safetensors"), convert_golden())
