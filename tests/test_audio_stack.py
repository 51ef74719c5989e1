"""Assembled models whose audio features are stacked: counts, batches of clips of many lengths, types and files."""

import logging

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from josie import assemble

RATE = 16000
LENGTHS = (1617, 16000, 320, 4001)  # samples, odd on purpose


def clips() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, length).astype(np.float32) for length in LENGTHS]


def features_of(model, batch, index):
    """Return the rows of one clip of a batch."""
    inputs = {name: batch[name] for name in batch if name.startswith(("input_features", "input_values", "padding"))}
    rows, counts, _ = model.thinker.model.audio_front_end(**inputs)
    return rows.split(counts.tolist())[index]


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_a_batch_has_the_tokens_of_each_clips_own_length(parts, family, factor):
    model, processor = assemble(
        parts("text", "llama"), audio=parts("audio", family), audio_stack_factor=factor, audio_context_fraction=1.0
    )
    token = processor.tokenizer.convert_tokens_to_ids("<|audio|>")
    lengths = LENGTHS if family == "whisper" else [max(length, 800) for length in LENGTHS]
    heard = [np.resize(clip, length) for clip, length in zip(clips(), lengths, strict=True)]
    batch = processor(text=["<|audio|> a"] * len(heard), audio=heard, sampling_rate=RATE)
    counts = (batch["input_ids"] == token).sum(dim=1).tolist()
    seconds = np.array(lengths) / RATE
    assert counts == processor._get_num_multimodal_tokens(audio_lengths=list(lengths))["num_audio_tokens"]
    if family == "whisper":
        assert counts == [int(np.ceil(np.ceil(length / 320) / factor)) for length in lengths]
    assert max(counts) <= np.ceil(50 * seconds.max() / factor)
    with torch.no_grad():
        together = model(**batch).logits
        for index, clip in enumerate(heard):
            alone = processor(text="<|audio|> a", audio=[clip], sampling_rate=RATE)
            torch.testing.assert_close(
                features_of(model, batch, index), features_of(model, alone, 0), rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(together[index, -1], model(**alone).logits[0, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_answers_alike(parts, dtype, tmp_path):
    model, processor = assemble(
        parts("text", "llama"), audio=parts("audio", "whisper"), audio_stack_factor=4, audio_context_fraction=1.0
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=dtype)
    its_processor = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.config.thinker_config.audio_stack_factor == 4
    projector = loaded.thinker.model.audio_front_end.projector
    assert projector.linear_1.weight.shape[1] == 4 * loaded.config.thinker_config.audio_config.d_model
    options = dict(text=["<|audio|> a", "b <|audio|>"], audio=clips()[:2], sampling_rate=RATE)
    batch, ours = its_processor(**options), processor(**options)
    assert {name: value.tolist() for name, value in batch.items()} == {name: v.tolist() for name, v in ours.items()}
    with torch.no_grad():
        logits = loaded(**batch).logits
        assert logits.dtype == dtype
        expected = model(**ours).logits
    tolerance = dict(rtol=0, atol=0) if dtype == torch.float32 else dict(rtol=0.1, atol=0.1)
    torch.testing.assert_close(logits.float(), expected, **tolerance)
    assert loaded.generate(**batch, max_new_tokens=2, do_sample=False).shape[0] == 2


def test_a_configuration_without_the_field_stacks_nothing(parts, tmp_path):
    model, _ = assemble(parts("text", "llama"), audio=parts("audio", "whisper"))
    values = model.config.to_dict()
    del values["thinker_config"]["audio_stack_factor"]
    assert type(model.config).from_dict(values).thinker_config.audio_stack_factor == 1


def test_no_warning_while_nothing_is_cut(parts):
    _, processor = assemble(parts("text", "llama"), audio=parts("audio", "whisper"), audio_context_fraction=0.3)
    record: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda entry: record.append(entry.getMessage())
    named = logging.getLogger("josie.processing_josie.clip_inputs")
    named.addHandler(handler)
    try:
        limit = processor.thinker_config.max_audio_tokens
        tone = np.zeros(320 * (limit + 1), dtype=np.float32)
        processor(text="<|audio|>", audio=[tone[: 320 * limit]], sampling_rate=RATE)
        assert record == []
        processor(text="<|audio|>", audio=[tone], sampling_rate=RATE)
    finally:
        named.removeHandler(handler)
    assert len(record) == 1
    assert f"kept {limit} of {limit + 1} tokens" in record[0]


@pytest.mark.parametrize(("factor", "audio"), [(3, "whisper"), (0, "whisper"), (2, "mimi"), (2, None)])
def test_refused(parts, factor, audio):
    source = None if audio is None else parts("codec" if audio == "mimi" else "audio", audio)
    with pytest.raises(ValueError, match="audio_stack_factor"):
        assemble(parts("text", "llama"), audio=source, audio_stack_factor=factor)
