"""The plain Trainer teaches a tiny model two conversations, and sessions of it then go as they went."""

import numpy as np
import pytest
import torch
from duplex_models import make_pair
from transformers import Trainer, TrainingArguments, set_seed

import josie

RATE, UNIT = 1600, 0.0375


def make_rows():
    """Return two conversations: a high tone is answered, and the answer to a low one is cut by a second high one."""
    time = np.arange(int(RATE * UNIT * 2)) / RATE
    high, low = (np.sin(2 * np.pi * pitch * time).astype(np.float32) for pitch in (400, 90))

    def hear(*clips):
        parts = [{"type": "audio", "audio": {"array": clip, "sampling_rate": RATE}, "begin": at} for clip, at in clips]
        return [{"role": "user", "content": [part]} for part in parts]

    return [
        {
            "messages": hear((high, 2 * UNIT)),
            "turns": [{"begin": 5 * UNIT, "text": "It is red."}],
            "seconds": 16 * UNIT,
        },
        {
            "messages": hear((low, 1 * UNIT), (high, 6 * UNIT)),
            "turns": [
                {"begin": 4 * UNIT, "text": "There are two of them.", "cut_at": 8 * UNIT},
                {"begin": 10 * UNIT, "text": "blue"},
            ],
            "seconds": 16 * UNIT,
        },
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model, processor = make_pair()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 0.5
    rows, timing = make_rows(), model.get_speech_timing()
    model.freeze("talker")
    model.freeze("thinker.text.embeddings")
    set_seed(0)
    arguments = TrainingArguments(
        tmp_path_factory.mktemp("trained"),
        max_steps=120,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        warmup_steps=5,
        remove_unused_columns=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=40,
        disable_tqdm=True,
    )
    collator = josie.JosieDataCollator(processor, speech_timing=timing)
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.05, losses
    return model.eval(), processor, timing, rows, collator


def frames(seconds):
    """Return the first sample of the frame that begins at rounded seconds."""
    return 20 * round(seconds * RATE / 20)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_session_replays_what_was_learned(trained, number):
    model, processor, timing, rows, collator = trained
    batch = collator([rows[number]])
    with model.start_session(processor, talker_seed=0) as session:
        pieces = [session.push(chunk) for chunk in np.array_split(batch["input_values"][0, 0].numpy(), 23)]
        turns = session.transcript()
    expected = rows[number]["turns"]
    assert [turn["begin"] for turn in turns] == pytest.approx([turn["begin"] for turn in expected], abs=0.001)
    for turn, wanted in zip(turns, expected, strict=True):
        assert turn["is_cut"] == ("cut_at" in wanted)
        assert wanted["text"].startswith(turn["text"])
        assert turn["is_cut"] or turn["text"] == wanted["text"]
        if turn["is_cut"]:
            assert turn["end"] == pytest.approx(wanted["cut_at"], abs=0.001)
    audio = np.concatenate([piece.audio_values for piece in pieces])
    is_silent = np.ones(len(audio), bool)
    for turn in turns:
        is_silent[frames(turn["begin"]) : frames(turn["end"])] = False
    assert not audio[is_silent].any()
    assert all(np.abs(audio[frames(turn["begin"]) :][:60]).max() > 0 for turn in turns)


def test_what_a_session_reads_is_what_was_trained(trained):
    model, processor, timing, rows, collator = trained
    batch = collator(rows[:1])
    with torch.no_grad():
        logits = model(**batch).logits[0]
    learned = batch["labels"][0] != -100
    predicted = logits[:-1].argmax(dim=-1)[learned[1:]]
    assert torch.equal(predicted, batch["labels"][0][learned])
