"""Rows of full duplex: where turns, images and audio come to lie, and what cannot be laid out."""

import numpy as np
import pytest
import torch
from duplex_models import make_pair

import josie
from josie.modeling_josie.duplex.memory import RowMemory
from josie.training.unit_rows import lay_out_turns, make_unit_row

RATE, UNIT = 1600, 0.0375
IMAGE = np.zeros((24, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def parts():
    model, processor = make_pair()
    return model, processor, model.get_speech_timing()


def clip(num_units, value=0.5):
    return {"array": np.full(int(num_units * UNIT * RATE), value, np.float32), "sampling_rate": RATE}


def words_of(processor, ids):
    return processor.tokenizer.decode(ids)


def units_of(processor, row):
    """Return what is written in each unit, and the prompt."""
    thinker, ids = processor.thinker_config, row["input_ids"].tolist()
    units, prompt = [], []
    for token, before in zip(ids, [None, *ids], strict=False):
        if token == thinker.audio_token_id:
            if before != token:
                units.append([])
        elif token == thinker.image_token_id or not units:
            prompt.append(token)
        else:
            units[-1].append(token)
    return units, prompt


def test_a_turn_fills_units_as_its_tokens_last(parts):
    model, processor, timing = parts
    row = {"audio": clip(9), "turns": [{"begin": 3 * UNIT, "text": "It is red."}]}
    made = make_unit_row(processor, timing, row)
    units, _ = units_of(processor, made)
    thinker = processor.thinker_config
    decisions = [unit[0] for unit in units]
    spoken = [number for number, token in enumerate(decisions) if token == thinker.speak_token_id]
    assert spoken == list(range(2, 2 + len(spoken)))
    text = [token for unit in units for token in unit[1:]]
    assert text == [*processor.tokenizer("It is red.", add_special_tokens=False)["input_ids"], 2]
    frames = sum(timing.token_durations(text[:-1]))
    assert len(spoken) >= np.ceil(np.ceil(frames) / 3) + 1
    labels = made["labels"]
    assert (labels == -100).sum() == 3 * len(units) + 1
    assert torch.equal(labels[labels != -100], made["input_ids"][labels != -100])
    track = made["input_values"][0]
    assert track.shape == (1, 1, 60 * len(units))
    assert (track[..., :540] == 0.5).all()
    assert not track[..., 540:].any()


def test_a_turn_is_cut(parts):
    _, processor, timing = parts
    text = "It is red, and much larger than the other one."
    whole = lay_out_turns(processor, timing, [{"begin": 2 * UNIT, "text": text}])
    cut = lay_out_turns(processor, timing, [{"begin": 2 * UNIT, "text": text, "cut_at": 5 * UNIT}])
    assert sorted(cut) == [1, 2, 3]
    assert all(cut[unit] == whole[unit] for unit in cut)
    late = lay_out_turns(processor, timing, [{"begin": 2 * UNIT + 0.001, "text": text, "cut_at": 5 * UNIT + 0.001}])
    assert sorted(late) == [2, 3, 4]


def test_durations_may_come_with_the_turn(parts):
    _, processor, timing = parts
    ids = processor.tokenizer("red", add_special_tokens=False)["input_ids"]
    turn = {"begin": 2 * UNIT, "text": "red", "durations": [4.0] * len(ids)}
    written = lay_out_turns(processor, timing, [turn])
    assert len(written) == max(np.ceil(4 * len(ids) / 3), 1) + 1  # a unit more than it takes
    spaced = [{"text": "red", "begin": 0.1, "end": 0.2}, {"text": "one", "begin": 0.4, "end": 0.5}]
    ids = processor.tokenizer("red one", add_special_tokens=False)["input_ids"]
    written = lay_out_turns(processor, timing, [{"begin": 0.1, "words": spaced}])
    assert [token for unit in sorted(written) for token in written[unit][1:] if token != 2] == ids
    assert sorted(written) == list(range(2, 2 + int(np.ceil(0.4 / UNIT)) + 1))


def test_parts_with_times(parts):
    _, processor, timing = parts
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "audio", "audio": clip(2), "begin": UNIT}]},
        {"role": "user", "content": [{"type": "audio", "audio": clip(2, 0.25), "begin": 2 * UNIT}]},
        {"role": "user", "content": [{"type": "image", "image": IMAGE, "begin": 2.5 * UNIT}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red", "begin": 5 * UNIT}]},
    ]
    made = make_unit_row(processor, timing, {"messages": messages, "seconds": 8 * UNIT})
    units, prompt = units_of(processor, made)
    assert words_of(processor, prompt).startswith("<|begin|><|system|>Be short.<|end|>")
    track = made["input_values"][0][0, 0]
    levels = [track[60 * unit + 30].item() for unit in range(5)]
    assert levels == [0.0, 0.5, 0.75, 0.25, 0.0]
    thinker = processor.thinker_config
    place = made["input_ids"].tolist().index(thinker.image_token_id)
    assert (made["input_ids"][:place] == thinker.audio_token_id).sum() == 2 * 3
    assert units[4][0] == thinker.speak_token_id
    assert made["pixel_values"][0].shape[0] == 1


def test_what_was_forgotten_is_remembered_as_a_session_does(parts):
    """A row whose beginning is forgotten is what a session with so little room reads once more."""
    _, processor, timing = parts
    row = {"audio": clip(16), "turns": [{"begin": 3 * UNIT, "text": "red"}, {"begin": 12 * UNIT, "text": "a"}]}
    whole, thinker = make_unit_row(processor, timing, row), processor.thinker_config
    units, prompt = units_of(processor, whole)
    for first in (1, 3, 5, 9):
        made = make_unit_row(processor, timing, row | {"forget_until": first * UNIT - 0.001})
        memory = RowMemory([prompt])
        for unit in units:
            memory.begin_unit(torch.zeros(3, 1))
            for token in unit:
                memory.write(token)
        memory.forget(len(units) - first, 1000, thinker.listen_token_id, thinker.speak_token_id)
        expected = [
            token
            for entry in memory.list_entries()
            for token in (entry if isinstance(entry, list) else [thinker.audio_token_id] * len(entry))
        ]
        assert made["input_ids"].tolist() == expected
        place = expected.index(thinker.audio_token_id)
        assert (made["labels"][:place] == -100).all()
        assert torch.equal(made["labels"][place:], whole["labels"][-len(expected) + place :])
        assert torch.equal(made["input_values"][0], whole["input_values"][0][..., 60 * first :])


def test_the_past_is_what_is_left_of_turns(parts):
    _, processor, timing = parts
    row = {"audio": clip(16), "turns": [{"begin": 3 * UNIT, "text": "red"}, {"begin": 12 * UNIT, "text": "a"}]}
    long = make_unit_row(processor, timing, row | {"forget_until": 10 * UNIT})
    rest = {"audio": clip(6), "turns": [{"begin": 2 * UNIT, "text": "a"}], "past": ["red"]}
    short = make_unit_row(processor, timing, rest)
    assert torch.equal(long["input_ids"], short["input_ids"])
    assert torch.equal(long["labels"], short["labels"])
    with pytest.raises(ValueError, match=r"`past` must be a list of texts of turns, got \[''\]."):
        make_unit_row(processor, timing, rest | {"past": [""]})


def test_rows_of_a_batch_have_the_logits_of_themselves(parts):
    model, processor, timing = parts
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "audio", "audio": clip(4, 0.2)}, {"type": "text", "text": "a"}]},
                {"role": "assistant", "content": "It is red."},
            ]
        },
        {"audio": clip(6), "turns": [{"begin": 2 * UNIT, "text": "red"}]},
        {
            "messages": [{"role": "user", "content": [{"type": "image", "image": IMAGE + 9, "begin": 0.0}]}],
            "audio": clip(3, 0.1),
            "turns": [],
        },
    ]
    collator = josie.JosieDataCollator(processor, speech_timing=timing)
    batch = collator(rows)
    assert batch["labels"].shape == batch["input_ids"].shape
    with torch.no_grad():
        together = model(**batch).logits
        for number, row in enumerate(rows):
            one = collator([row])
            length = one["input_ids"].shape[1]
            expected = model(**one).logits[0]
            torch.testing.assert_close(together[number, -length:], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"turns": [{"begin": 0.1}]}, "`turns` must have `begin`, and either `text` or `words`, got"),
        ({"turns": [{"begin": 0.1, "text": "a", "until": 3}]}, r"`turns` must have keys among .*, got \['until'\]."),
        ({"turns": [{"begin": -1, "text": "a"}]}, "`begin` must be seconds of at least 0, got -1."),
        ({"turns": [{"begin": "1", "text": "a"}]}, "`begin` must be seconds of at least 0, got '1'."),
        ({"turns": [{"begin": 1, "text": "a", "cut_at": 0.5}]}, r"`cut_at` must be after `begin` \(1.0\), got 0.5."),
        (
            {"turns": [{"begin": 1, "text": "a", "durations": [1, 2, 3]}]},
            "`durations` must have a number for each",
        ),
        (
            {"turns": [{"begin": 0.1, "text": "a long word"}, {"begin": 0.12, "text": "a"}]},
            "`turns` must begin a unit of 0.04 s or more after the one before is over, or cut, got one that begins at",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "begin": 0.1}]}]},
            "`begin` must stand in the user's audio and images, and in the assistant's text, got it in 'text' of",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "a"}, {"type": "image", "image": IMAGE, "begin": 0.1}],
                    }
                ]
            },
            "`messages` must have `begin` in all parts of a message or in none, got some with it.",
        ),
    ],
)
def test_rows_that_cannot_be_laid_out(parts, row, message):
    _, processor, timing = parts
    with pytest.raises(ValueError, match=message):
        josie.JosieDataCollator(processor, speech_timing=timing)([row])


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"turns": [], "seconds": 1e9}, "seconds"),
        ({"turns": [{"begin": 1e9, "text": "a"}]}, "turns"),
        ({"turns": [{"begin": 1, "text": "a", "durations": [1e12]}]}, "turns"),
        ({"turns": [{"begin": 1, "words": [{"text": "a", "begin": 1, "end": 1e9}]}]}, "turns"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": clip(1), "begin": 1e9}]}]}, "begin"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": IMAGE, "begin": 1e9}]}]}, "begin"),
    ],
    ids=str,
)
def test_times_beyond_a_day_are_refused_before_memory_is_asked_for(parts, row, name):
    _, processor, timing = parts
    with pytest.raises(ValueError, match=f"`{name}` must be seconds, 86400 at most, got 1"):
        make_unit_row(processor, timing, row)


def test_collators_that_cannot_make_units(parts):
    _, processor, timing = parts
    row = {"turns": [], "audio": clip(2)}
    with pytest.raises(ValueError, match="`speech_timing` of the collator must be `model.get_speech_timing.."):
        josie.JosieDataCollator(processor)([row])
    model, states = make_pair(talker="states, depth, durations")
    assert model.get_speech_timing().token_durations is None
    with pytest.raises(ValueError, match="`durations` or `words` must stand in each turn for a model whose durations"):
        josie.JosieDataCollator(states, speech_timing=model.get_speech_timing())(
            [{"turns": [{"begin": 1, "text": "a"}]}]
        )
