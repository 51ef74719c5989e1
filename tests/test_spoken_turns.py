"""Rows with several spoken turns: their batches, their losses against each turn's alone, and training on them."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from test_conversation_collator import CONFIG, asked, coded, said, tone
from tiny import MEL_CODEC, build
from transformers import Trainer, TrainingArguments

import josie
from josie import JosieDataCollator, JosieProcessor
from josie.modeling_josie.talker.spoken_turns import split_turns
from josie.processing_josie.spoken_turns import join_turns, split_codes, with_codes
from josie.training.metrics import Metrics, keep_scores
from josie.training.speech_codes import add_speech_codes


def ended(num_frames: int) -> np.ndarray:
    """Return codes with the frame that ends them."""
    codes = np.concatenate((coded(num_frames), np.full((3, 1), -100)), axis=1)
    codes[0, -1] = 11
    return codes


LONG = [asked(), said("Yes", codes=ended(4)), asked(), said("Not heard"), asked(), said("Two of them.", codes=ended(9))]
ROWS = [
    {"messages": LONG, "speaker": "bob"},
    {"messages": [asked(), said("No")]},
    {"messages": [asked(), said("One", codes=ended(3)), asked(), said("Mh")], "speaker": "ada"},
]


@pytest.fixture(scope="module")
def processor():
    return JosieProcessor.from_config(CONFIG, josie.load_default_tokenizer(301))


@pytest.fixture
def model():
    return build(josie.JosieForConditionalGeneration, CONFIG)


def turns_of(batch: dict, row: int, tokenizer) -> list[str]:
    mask, ids = batch["speech_mask"][row], batch["input_ids"][row]
    return [tokenizer.decode(ids[mask == number]) for number in range(1, int(mask.max()) + 1)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_turn_has_its_number_and_its_codes(processor, side):
    batch = JosieDataCollator(processor, padding_side=side)(ROWS)
    words = [turns_of(batch, row, processor.tokenizer) for row in range(3)]
    assert words == [["Yes", "Two of them."], [], ["One"]]
    assert batch["speech_codes"].shape == (3, 2, 3, 10)
    np.testing.assert_array_equal(batch["speech_codes"][0, 0, :, :5], ended(4))
    np.testing.assert_array_equal(batch["speech_codes"][0, 1], ended(9))
    np.testing.assert_array_equal(batch["speech_codes"][2, 0, :, :4], ended(3))
    for row, turn, start in ((0, 0, 5), (1, 0, 0), (1, 1, 0), (2, 0, 4), (2, 1, 0)):
        assert (batch["speech_codes"][row, turn, :, start:] == -100).all()
    pairs = zip(batch["input_ids"], batch["labels"], strict=True)
    learned = [processor.tokenizer.decode(ids[row != -100]) for ids, row in pairs]
    assert "Not heard" in learned[0]
    assert "Mh" in learned[2]


def test_processed_examples_make_the_same_batch(processor):
    options = dict(tokenize=True, return_dict=True, output_labels=True)
    rows = [dict(processor.apply_chat_template(row["messages"], **options)) for row in ROWS]
    together = JosieDataCollator(processor)(rows)
    expected = JosieDataCollator(processor)([{"messages": row["messages"]} for row in ROWS])
    for name, value in expected.items():
        assert torch.equal(together[name], value), name


CODES = [ended(4), ended(9)]
FORMS = {
    "list of arrays": CODES,
    "nested lists": [value.tolist() for value in CODES],
    "one matrix": join_turns([torch.from_numpy(value) for value in CODES]),
    "nested lists of one matrix": join_turns([torch.from_numpy(value) for value in CODES]).tolist(),
    "data frame": np.array([[*map(np.array, value), None][:-1] for value in CODES], dtype=object),
    "for each turn": [CODES[0], None, CODES[1]],
}


@pytest.mark.parametrize("form", list(FORMS))
def test_forms_of_codes_of_a_row(processor, form):
    sounding = [dict(message) for message in LONG]
    for index in (1, 5):
        parts = [part for part in LONG[index]["content"] if part["type"] == "text"]
        sounding[index] = dict(LONG[index], content=[*parts, {"type": "audio", "path": "missing.wav"}])
    expected = JosieDataCollator(processor)([{"messages": LONG}])
    batch = JosieDataCollator(processor)([{"messages": sounding, "speech_codes": FORMS[form]}])
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name


def test_codes_of_another_number_of_turns_are_refused():
    sounding = [asked(), said("a", path="a.wav"), asked(), said("b", path="b.wav"), asked(), said("c")]
    for codes, found in (([coded(2)], 1), ([coded(2)] * 4, 4), (coded(3), 1)):
        with pytest.raises(ValueError, match=rf"as many as the spoken turns of their `messages` \(2\), got {found}"):
            with_codes(sounding, codes)
    assert with_codes(sounding, []) == with_codes(sounding, None) == with_codes(sounding, [None, []]) == sounding
    two = [{"type": "text", "text": "a"}, {"type": "audio", "codes": coded(2)}, {"type": "audio", "codes": coded(2)}]
    with pytest.raises(ValueError, match="at most one clip in a turn of the assistant, got 2"):
        josie.processing_josie.spoken_turns.split_speech([{"role": "assistant", "content": two}])
    with pytest.raises(ValueError, match=r"got rows of different lengths \[2, 1\]"):
        with_codes([said("a")], [[1, 2], [3]])


def test_one_turn_keeps_frames_in_its_middle_of_which_nothing_is_learned():
    codes = coded(6)
    codes[:, 2] = -100
    assert len(split_codes(codes)) == 2
    kept = with_codes([asked(), said("a")], codes)[1]["content"][-1]["codes"]
    np.testing.assert_array_equal(kept, codes)


def alone(batch: dict, row: int, turn: int) -> dict:
    """Return the row of a batch with one of its spoken turns."""
    one = {name: value[row : row + 1] for name, value in batch.items()}
    return one | {
        "speech_mask": (one["speech_mask"] == turn + 1).long(),
        "speech_codes": one["speech_codes"][:, turn],
        "labels": torch.full_like(one["labels"], -100),
    }


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_losses_are_those_of_all_turns_each_read_alone(processor, model, mode):
    batch = JosieDataCollator(processor)(ROWS)
    getattr(model, mode)()
    together = model(**batch)
    sums, counts = {}, {}
    for row, turn in ((0, 0), (0, 1), (2, 0)):
        one = alone(batch, row, turn)
        output, count = model(**one), model.count_targets(**one)
        for name in ("talker", "depth"):
            sums[name] = sums.get(name, 0) + getattr(output, f"{name}_loss") * count[name]
            counts[name] = counts.get(name, 0) + count[name]
        if mode == "eval":
            frames = output.talker_logits.shape[1]
            torch.testing.assert_close(together.talker_logits[row, turn, :frames], output.talker_logits[0])
            torch.testing.assert_close(together.depth_logits[row, turn, :, :frames], output.depth_logits[0])
    for name in sums:
        assert model.count_targets(**batch)[name] == counts[name]
        torch.testing.assert_close(getattr(together, f"{name}_loss"), sums[name] / counts[name])
    silent = {name: value for name, value in batch.items() if not name.startswith("speech")}
    torch.testing.assert_close(together.text_loss, model(**silent).text_loss)
    assert together.talker_logits.shape[:2] == (3, 2)


def test_no_turn_of_a_batch_is_spoken(processor, model):
    batch = JosieDataCollator(processor)(ROWS)
    batch |= {"speech_codes": torch.full_like(batch["speech_codes"], -100)}
    output = model.train()(**batch)
    assert output.talker_loss == output.depth_loss == 0
    output.loss.backward()
    assert all(p.grad is not None for p in model.talker.parameters() if p.requires_grad)


def test_codes_for_fewer_turns_than_the_mask_counts_are_refused(processor, model):
    batch = JosieDataCollator(processor)(ROWS)
    batch["speech_codes"] = batch["speech_codes"][:, 0]
    with pytest.raises(ValueError, match=r"`speech_codes` must be of shape \(batch, 2, num_quantizers, num_frames\)"):
        model(**batch)


def test_durations_of_all_turns_go_to_their_tokens():
    mask = torch.tensor([[0, 1, 1, 0, 2], [1, 0, 0, 0, 0]])
    codes = torch.zeros(2, 2, 3, 4, dtype=torch.long)
    codes[1, 1] = -100
    states, durations = torch.arange(10.0).view(2, 5, 1), torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    turns = split_turns(codes, mask, states, speaker_ids=torch.tensor([7, 8]), speech_durations=durations)
    assert turns.speech_durations.tolist() == [[1, 2], [3, 0], [4, 0]]
    assert (turns.states[0][..., 0] * turns.mask).tolist() == [[1, 2], [4, 0], [5, 0]]
    assert turns.speaker_ids.tolist() == [7, 7, 8]
    with pytest.raises(
        ValueError, match=r"`speech_durations` must have a number for each spoken token, in all \(2, 3\)"
    ):
        split_turns(codes, mask, states, speech_durations=durations[:, :2])


def test_durations_of_a_row_are_of_all_its_spoken_tokens(processor):
    counts = (JosieDataCollator(processor)(ROWS)["speech_mask"] > 0).sum(dim=1).tolist()
    rows = [dict(row, speech_durations=[1.0] * count) for row, count in zip(ROWS, counts, strict=True)]
    assert JosieDataCollator(processor)(rows)["speech_durations"].sum(dim=1).tolist() == counts


def test_clips_become_codes_that_a_data_set_keeps(processor, tmp_path):
    config_dict = {name: value for name, value in MEL_CODEC.items() if name != "model_type"}
    codec = build(josie.JosieMelCodecModel, josie.JosieMelCodecConfig(**config_dict))
    clips = [tone(801), tone(1400, 0.5), tone(333, 0.7)]
    for index, clip in enumerate(clips):
        josie.save_audio(str(tmp_path / f"{index}.wav"), clip, 1600)
    speech = [str(tmp_path / f"{index}.wav") for index in range(3)]
    rows = [
        [asked(), said("Yes", path=speech[0]), asked(), said("No", path=speech[1])],
        [asked(), {"role": "assistant", "content": [{"type": "text", "text": "Silent", "path": None}]}],
        [asked(), said("Mh", path=speech[2])],
    ]
    each = [add_speech_codes({"messages": [[said("a", path=path)]]}, codec)["speech_codes"][0] for path in speech]
    encoded = Dataset.from_dict({"messages": rows}).map(partial(add_speech_codes, codec=codec), batched=True)
    encoded.save_to_disk(str(tmp_path / "rows"))
    rows = list(load_from_disk(str(tmp_path / "rows")))
    assert [len(split_codes(row["speech_codes"])) for row in rows] == [2, 0, 1]
    batch = JosieDataCollator(processor)(rows)
    for (row, turn), expected in zip(((0, 0), (0, 1), (2, 0)), each, strict=True):
        np.testing.assert_array_equal(batch["speech_codes"][row, turn, :, : expected.shape[1]], expected)


@pytest.mark.parametrize("trainer_class", [josie.JosieTrainer, Trainer])
def test_trainers_learn_rows_with_one_turn_several_and_none(processor, model, trainer_class, tmp_path):
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=3,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels", "speech_codes"],
        eval_do_concat_batches=False,
    )
    is_ours = trainer_class is josie.JosieTrainer
    metrics = dict(compute_metrics=Metrics(), preprocess_logits_for_metrics=keep_scores) if is_ours else {}
    trainer = trainer_class(
        model,
        arguments,
        train_dataset=ROWS,
        eval_dataset=ROWS,
        data_collator=JosieDataCollator(processor),
        **metrics,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    scores = trainer.evaluate()
    assert np.isfinite(scores["eval_loss"])
    if is_ours:
        assert scores["eval_code_accuracy_0"] > 0.3
        assert trainer.state.log_history[0]["talker_loss"] > 0
