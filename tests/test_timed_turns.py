"""Turns with times as users have them: out of tables, as arrays, beside conversations, and with errors in them."""

import numpy as np
import pandas
import pytest
import torch
from duplex_models import make_pair
from transformers import TrainingArguments

import josie
from josie.training.metrics import Metrics, keep_scores
from josie.training.unit_rows import make_unit_row, read_timed_row

RATE, UNIT = 1600, 0.0375
IMAGE = np.zeros((24, 24, 3), dtype=np.uint8)
CLIP = {"array": np.full(600, 0.5, np.float32), "sampling_rate": RATE}


@pytest.fixture(scope="module")
def parts():
    model, processor = make_pair()
    return model.eval(), processor, model.get_speech_timing()


@pytest.fixture(scope="module")
def collator(parts):
    return josie.JosieDataCollator(parts[1], speech_timing=parts[2])


def talk(*answers):
    pairs = [({"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}) for text in answers]
    return [message for pair in pairs for message in pair]


def codes_of(seed):
    return np.random.default_rng(seed).integers(0, 8, (3, 5)).tolist()


class TestTables:
    ROW = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Listen."}]},
            {"role": "assistant", "content": [{"type": "text", "text": "red", "begin": 1.5}]},
        ],
        "turns": [
            {"begin": 0.2, "text": "It is red."},
            {"begin": 0.9, "words": [{"text": "a", "begin": 1.0, "end": 1.2}]},
        ],
        "past": ["red", "blue"],
        "seconds": 2.0,
    }

    def test_rows_of_parquet_are_what_they_were(self, parts, collator, tmp_path):
        pandas.DataFrame([self.ROW]).to_parquet(tmp_path / "rows.parquet")
        (read,) = pandas.read_parquet(tmp_path / "rows.parquet").to_dict("records")
        expected = collator([self.ROW])
        for name, value in collator([read]).items():
            assert torch.equal(value, expected[name])

    @pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)], ids=type)
    def test_times_may_be_numbers_of_any_library(self, number):
        row = {"turns": [{"begin": number, "text": "a"}], "seconds": number, "forget_until": number}
        timed = read_timed_row(row, RATE)
        assert (timed.turns[0]["begin"], len(timed.track), timed.forget_until) == (0.5, 800, 0.5)


def test_rows_of_a_batch_keep_their_own_voice_and_durations(parts, collator):
    model, processor, _ = parts
    timed = {"turns": [{"begin": 0.2, "text": "It is red."}], "seconds": 1.0}
    spoken = {"messages": talk("Hello.", "Bye."), "speech_codes": [codes_of(1), codes_of(2)], "speaker": "bob"}
    written = {"messages": talk("Written."), "speaker": "ada"}
    with torch.no_grad():
        alone = model(**collator([spoken])).talker_loss
        for rows in (
            [timed, spoken, written],
            [timed, spoken],
            [spoken, timed],
            [timed, written | {"speaker": None}, spoken],
        ):
            batch = collator(rows)
            expected = [1 if row is spoken else 0 for row in rows]
            assert batch["speaker_ids"].tolist() == expected
            torch.testing.assert_close(model(**batch).talker_loss, alone, atol=1e-4, rtol=1e-4)
    count = int((collator([spoken])["speech_mask"] > 0).sum())
    known = spoken | {"speech_durations": [2.0] * count}
    durations = collator([timed, known, written])["speech_durations"]
    assert durations.tolist() == [[0.0] * count, [2.0] * count, [0.0] * count]
    with pytest.raises(
        ValueError, match=r"`speech_durations` must have a number for each spoken token in every example"
    ):
        collator([timed, known, spoken])


@pytest.mark.parametrize("wrong", [float("nan"), -1.0, float("inf")])
def test_durations_are_finite_numbers(collator, wrong):
    row = {"messages": talk("a"), "speech_codes": codes_of(0)}
    count = int((collator([row])["speech_mask"] > 0).sum())
    with pytest.raises(ValueError, match="`speech_durations` must be finite numbers of frames, at least 0, got"):
        collator([row | {"speech_durations": [wrong] * count}])


def test_an_image_after_everything_is_shown(parts):
    _, processor, timing = parts
    for begin in (0.1, 1.0, 3.3):
        part = {"type": "image", "image": IMAGE, "begin": begin}
        made = make_unit_row(
            processor, timing, {"audio": CLIP, "turns": [], "messages": [{"role": "user", "content": [part]}]}
        )
        assert (made["input_ids"] == processor.thinker_config.image_token_id).any()
        assert "pixel_values" in made


def test_an_image_that_is_there_from_the_beginning_may_be_an_array_or_a_list(parts, collator):
    row = {"turns": [{"begin": 0.2, "text": "a"}], "seconds": 1.0}
    objects = np.empty(1, object)
    objects[0] = IMAGE
    expected = collator([row | {"images": [IMAGE]}])["pixel_values"]
    for images in (IMAGE, objects):
        assert torch.equal(collator([row | {"images": images}])["pixel_values"], expected)
    assert "pixel_values" not in collator([row | {"images": []}])


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            {"text": "a", "words": [{"text": "a", "begin": 1, "end": 2}]},
            "`turns` must have `begin`, and either `text` or",
        ),
        ({"text": 5}, "`text` of a turn must be a string, got 5"),
        ({"text": "a", "durations": [-3.0]}, "`durations` must be finite numbers of frames, at least 0, got"),
        ({"text": "a", "durations": [float("nan")]}, "`durations` must be finite numbers of frames, at least 0, got"),
        ({"text": "a", "durations": "3"}, "`durations` must be finite numbers of frames, at least 0, got '3'"),
        ({"words": [{"text": "It"}]}, "`words` must be dicts with `text`, `begin` and `end`, got"),
        ({"words": "It is"}, "`words` must be dicts with `text`, `begin` and `end`, got"),
        ({"words": [{"text": "It", "begin": 0.5, "end": 0.8}]}, "`words` must follow each other from the `begin` of"),
        (
            {"words": [{"text": "It", "begin": 2, "end": 3}, {"text": "is", "begin": 1.5, "end": 1.7}]},
            "`words` must follow each other .* got 'is' from 1.5 to 1.7 s after 2.0 s",
        ),
        ({"text": "a", "begin": True}, "`begin` must be seconds of at least 0, got True"),
    ],
)
def test_wrong_turns_are_named(turn, message):
    with pytest.raises(ValueError, match=message):
        read_timed_row({"turns": [{"begin": 1.0} | turn]}, RATE)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"turns": ["hello"]}, r"`turns` must be a list of dicts, got \['hello'\]"),
        ({"turns": {"begin": 1, "text": "a"}}, "`turns` must be a list of dicts, got {'begin'"),
        ({"turns": [{}]}, "`turns` must have `begin`, and either"),
        ({"turns": [], "past": "Red."}, "`past` must be a list of texts of turns, got 'Red.'"),
        ({"turns": [], "conversations": [{"from": "human", "value": "a"}]}, "must have its prompt in `messages`"),
        ({"turns": [], "seconds": "3"}, "`seconds` must be seconds of at least 0, got '3'"),
    ],
)
def test_wrong_rows_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        read_timed_row(row, RATE)


@pytest.mark.parametrize("key", ["begin", "text"])
def test_keys_of_parts_are_refused_in_messages(parts, collator, key):
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Red.", key: 2.4 if key == "begin" else "a"},
    ]
    with pytest.raises(ValueError, match=f"A message must have `role` and `content` alone, .* got '{key}'"):
        collator([{"messages": messages}])


class TestOptions:
    def test_sides_and_lengths(self, parts):
        processor = parts[1]
        with pytest.raises(ValueError, match="`padding_side` must be 'left' or 'right', got 'Right'"):
            josie.JosieDataCollator(processor, padding_side="Right")  # type: ignore[arg-type]
        for name, value in (
            ("padding_side", "Right"),
            ("padding", "longestt"),
            ("max_length", "64"),
            ("pad_to_multiple_of", -16),
        ):
            options = {"padding": "max_length", "max_length": 64} | {name: value}
            with pytest.raises(ValueError, match=f"`{name}` must be .* got {value!r}"):
                processor(text=["a", "a b"], **options)

    def test_a_rate_that_is_no_whole_number(self, parts):
        part = {"type": "audio", "audio": np.zeros(400, np.float32), "sampling_rate": 16000.5}
        with pytest.raises(ValueError, match="`sampling_rate` must be .* got 16000.5"):
            parts[1].apply_chat_template([{"role": "user", "content": [part]}], tokenize=True, return_dict=True)

    @pytest.mark.parametrize("wrong", ["x", float("nan"), None, True])
    def test_a_bias_is_a_number(self, parts, wrong):
        model, processor, _ = parts
        with pytest.raises(ValueError, match="`speak_bias` must be a number, got"):
            model.start_session(processor, speak_bias=wrong)

    def test_a_bias_may_be_of_any_library(self, parts):
        model, processor, _ = parts
        assert model.start_session(processor, speak_bias=np.float32(0.5)).speak_bias == 0.5

    @pytest.mark.parametrize("wrong", [None, "abc", np.full(60, 3000.0, np.float32)], ids=str)
    def test_samples_are_floats_of_full_scale(self, parts, wrong):
        model, processor, _ = parts
        with model.start_session(processor) as session, pytest.raises(ValueError, match="`samples` must be .* got"):
            session.push(wrong)


class TestEvaluation:
    """Rows that are only written, where codes are among the labels: they count, in batches of any kinds of rows."""

    ROWS = (
        {"messages": talk("Hello."), "speech_codes": codes_of(3)},
        {"messages": talk("Hey you there.")},
        {"messages": talk("No."), "speech_codes": codes_of(4)},
    )

    def evaluate(self, parts, rows, folder, size, **options):
        model, processor, _ = parts
        arguments = TrainingArguments(
            str(folder),
            report_to="none",
            use_cpu=True,
            per_device_eval_batch_size=size,
            eval_do_concat_batches=False,
            label_names=["labels", "speech_codes"],
            remove_unused_columns=False,
        )
        trainer = josie.JosieTrainer(
            model,
            arguments,
            josie.JosieDataCollator(processor),
            eval_dataset=list(rows),
            processing_class=processor,
            **options,
        )
        return trainer.evaluate()

    def test_written_rows_have_a_loss(self, parts, tmp_path):
        one = self.evaluate(parts, self.ROWS[1:2], tmp_path, 1)
        assert one["eval_loss"] > 0
        both = self.evaluate(parts, self.ROWS[:2], tmp_path, 1)
        assert both["eval_loss"] != one["eval_loss"] != self.evaluate(parts, self.ROWS[:1], tmp_path, 1)["eval_loss"]

    def test_scores_do_not_depend_on_batches(self, parts, tmp_path):
        options = {"compute_metrics": Metrics(), "preprocess_logits_for_metrics": keep_scores}
        scores = [self.evaluate(parts, self.ROWS, tmp_path, size, **options) for size in (1, 2, 3)]
        names = ["eval_perplexity", "eval_token_accuracy", "eval_code_accuracy_0", "eval_code_accuracy_2"]
        for other in scores[1:]:
            assert [other[name] for name in names] == pytest.approx([scores[0][name] for name in names], rel=1e-3)
