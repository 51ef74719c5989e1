"""Conversations to training batches: directly, in workers, from streams; their speech as codes; lengths that match."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset, load_from_disk
from PIL import Image
from tiny import JODIO, MEL_CODEC, TEXT, THINKER, build, josie_config
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import josie
from josie import JosieDataCollator, JosieProcessor, LengthGroupedStream, load_audio
from josie.modeling_josie.codecs.adapters import encode_audio
from josie.training import speech_codes
from josie.training.speech_codes import add_speech_codes

DATA = Path(__file__).parent / "data"
SPEECH, IMAGE = DATA / "speech.wav", DATA / "picture.png"
CONFIG = josie_config(thinker_config=dict(THINKER, text_config=dict(TEXT, vocab_size=301, max_position_embeddings=256)))


@pytest.fixture(scope="module")
def processor():
    return JosieProcessor.from_config(CONFIG, josie.load_default_tokenizer(301))


@pytest.fixture(scope="module")
def codec():
    config_dict = {name: value for name, value in MEL_CODEC.items() if name != "model_type"}
    return build(josie.JosieMelCodecModel, josie.JosieMelCodecConfig(**config_dict))


def tone(num_samples: int, pitch: float = 0.3) -> np.ndarray:
    return np.sin(np.arange(num_samples) * pitch).astype(np.float32) / 2


def said(words: str, **clip) -> dict:
    parts = [{"type": "audio", **clip}] if clip else []
    return {"role": "assistant", "content": [{"type": "text", "text": words}, *parts]}


def asked(*parts) -> dict:
    return {"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}


def heard(num_samples: int) -> dict:
    return {"type": "audio", "audio": tone(num_samples), "sampling_rate": 1600}


def coded(num_frames: int) -> np.ndarray:
    return np.random.default_rng(num_frames).integers(0, 11, (3, num_frames))


SEEN = {"type": "image", "path": str(IMAGE)}
ROWS = [
    {"messages": [asked(SEEN, heard(700)), said("A ball.")], "speech_codes": coded(7), "speaker": "bob", "length": 3},
    {"messages": [asked(), said("No")], "speech_codes": None, "speaker": None, "length": 1},
    {"messages": [asked(heard(333)), said("Two", codes=coded(4)), asked(), said("Three, I think.")], "speaker": "ada"},
]


def bare(row: dict) -> list[dict]:
    """A row's messages without clips of the assistant."""
    kept = []
    for message in row["messages"]:
        parts = [part for part in message["content"] if "codes" not in part]
        kept.append(dict(message, content=parts))
    return kept


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_conversations_is_each_of_them_padded(processor, side):
    batch = JosieDataCollator(processor, padding_side=side)(ROWS)
    assert batch["speaker_ids"].tolist() == [1, 0, 0]
    assert batch["speech_codes"].shape == (3, 3, 7)
    assert (batch["speech_codes"][1] == -100).all()
    np.testing.assert_array_equal(batch["speech_codes"][0], ROWS[0]["speech_codes"])
    np.testing.assert_array_equal(batch["speech_codes"][2, :, :4], coded(4))
    assert (batch["speech_codes"][2, :, 4:] == -100).all()
    words = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["speech_mask"], strict=True)
    ]
    assert words == ["A ball.", "", "Two"]
    options = {"tokenize": True, "return_dict": True, "output_labels": True}
    for row, example in enumerate(ROWS):
        alone = processor.apply_chat_template(bare(example), **options)
        real = batch["attention_mask"][row].bool()
        for name in ("input_ids", "labels"):
            assert torch.equal(batch[name][row][real], alone[name][0])
        assert (batch["labels"][row][~real] == -100).all()
        assert not batch["speech_mask"][row][~real].any()


def test_paths_and_what_is_in_memory_give_one_batch(processor):
    values = load_audio(SPEECH)
    paths = [asked(SEEN, {"type": "audio", "path": str(SPEECH)}), said("Yes")]
    memory = [
        asked({"type": "image", "image": Image.open(IMAGE)}, {"type": "audio", "audio": (values, 16000)}),
        said("Yes"),
    ]
    collate = JosieDataCollator(processor)
    expected, batch = collate([{"messages": paths}]), collate([{"messages": memory}])
    assert expected.keys() == batch.keys()
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value, rtol=0, atol=0)


def test_rows_without_speech_or_voices_have_none(processor):
    batch = JosieDataCollator(processor)([{"messages": ROWS[1]["messages"]}])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    nameless = JosieProcessor(tokenizer=processor.tokenizer, thinker_config=CONFIG.thinker_config)
    batch = JosieDataCollator(nameless)([dict(ROWS[1], speaker="bob")])
    assert "speaker_ids" not in batch


def test_processed_examples_come_back_from_tables(processor):
    """`None` where other rows have something, and what they were made of beside them."""
    collate = JosieDataCollator(processor)
    options = {"tokenize": True, "return_dict": True, "output_labels": True}
    made = [processor.apply_chat_template(bare(row), **options) for row in ROWS[:2]]
    rows = [{name: value[0].tolist() for name, value in each.items() if "pixel" not in name} for each in made]
    rows[0]["input_values"], rows[1]["length"] = [[[0.5, 0.25]]], 3
    rows = [
        {name: row[name] for name in row if name in ("input_ids", "labels", "input_values", "length")} for row in rows
    ]
    table = [row | {"system": "x", "conversations": None} for row in Dataset.from_list(rows)]
    assert table[1]["input_values"] is None
    expected, found = collate([{n: v for n, v in row.items() if n != "length"} for row in rows]), collate(table)
    assert found.keys() == expected.keys() == {"input_ids", "labels", "attention_mask", "input_values"}
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match="`id` of an example with `input_ids` must be numbers, .* got 'a'"):
        collate([row | {"id": "a"} for row in rows])


def test_voices_belong_to_the_processor(processor, tmp_path):
    assert processor.speakers == ["ada", "bob"]
    processor.save_pretrained(tmp_path)
    assert JosieProcessor.from_pretrained(tmp_path).speakers == ["ada", "bob"]
    with pytest.raises(ValueError, match=r"`speaker` must be one of \['ada', 'bob'\], got 'eve'"):
        JosieDataCollator(processor)([dict(ROWS[1], speaker="eve")])


def test_speech_without_codes_or_words_of_the_assistant_is_refused(processor):
    collate = JosieDataCollator(processor)
    with pytest.raises(ValueError, match="`messages` must have codes of the assistant's speech"):
        collate([{"messages": [asked(), said("Yes", audio=tone(300), sampling_rate=1600)]}])
    with pytest.raises(ValueError, match="`speech_codes` must belong to a turn of the assistant"):
        collate([{"messages": [asked()], "speech_codes": coded(2)}])
    with pytest.raises(ValueError, match="`speech_codes` must have one number of quantizers, got"):
        collate([ROWS[0], dict(ROWS[1], speech_codes=coded(2)[:2])])


def test_codes_of_a_row_take_the_place_of_its_audio(processor):
    row = {"messages": [asked(), said("Two", path="missing.wav"), asked(), said("No")], "speech_codes": coded(5)}
    batch = JosieDataCollator(processor)([row])
    np.testing.assert_array_equal(batch["speech_codes"][0], coded(5))
    assert processor.tokenizer.decode(batch["input_ids"][batch["speech_mask"].bool()]) == "Two"


def test_the_model_learns_from_it(processor):
    model = build(josie.JosieForConditionalGeneration, CONFIG)
    output = model(**JosieDataCollator(processor)(ROWS))
    for loss in (output.loss, output.text_loss, output.talker_loss, output.depth_loss):
        assert loss.isfinite()
        assert loss > 0
    assert model(**JosieDataCollator(processor)(ROWS[1:2])).talker_loss is None


def make_rows(num_rows: int):
    for index in range(num_rows):
        yield {"messages": [asked(), said("ha" * (7 * index % 11))], "index": index}


@pytest.mark.slow
def test_it_works_in_workers_and_on_streams(processor):
    stream = IterableDataset.from_generator(make_rows, gen_kwargs={"num_rows": 5})
    collate = JosieDataCollator(processor)
    here = list(DataLoader(stream, batch_size=2, collate_fn=collate))
    there = list(DataLoader(stream, 2, collate_fn=collate, num_workers=1, multiprocessing_context="spawn"))
    assert len(here) == len(there) == 3
    for expected, batch in zip(here, there, strict=True):
        assert expected.keys() == batch.keys()
        for name, value in expected.items():
            assert torch.equal(batch[name], value)


# Codes of the assistant's speech

SPOKEN = [
    [asked(), said("Yes")],
    [asked(heard(99)), said("No", audio=tone(801), sampling_rate=1600)],
    [asked(), said("I see", audio=tone(1900, 0.7), sampling_rate=3200), asked(), said("you")],
    [asked(), said("Mh", codes=coded(2).tolist())],
]


@pytest.mark.parametrize("end_of_speech", [True, False], ids=["ends", "does not end"])
@pytest.mark.parametrize("num_quantizers", [None, 2], ids=["all", "fewer"])
@pytest.mark.parametrize("name", ["mel", "jodio"])
def test_codes_are_those_of_each_clip_alone(codec, name, num_quantizers, end_of_speech):
    if name == "jodio":
        codec = build(josie.JodioModel, josie.JodioConfig(**{k: v for k, v in JODIO.items() if k != "model_type"}))
    codes = add_speech_codes({"messages": SPOKEN}, codec, num_quantizers, end_of_speech)["speech_codes"]
    assert codes[0].size == 0
    np.testing.assert_array_equal(codes[3], coded(2))
    waveforms = [
        torch.from_numpy(tone(801)),
        torch.from_numpy(josie.processing_josie.resample(tone(1900, 0.7), 3200, 1600)),
    ]
    for found, waveform in zip(codes[1:3], waveforms, strict=True):
        expected = encode_audio(codec, waveform[None, None], num_quantizers=num_quantizers)[0][0]
        if end_of_speech:
            np.testing.assert_array_equal(found[:, -1], [11] + [-100] * (len(expected) - 1))
            found = found[:, :-1]
        np.testing.assert_array_equal(found, expected)


def test_encoding_leaves_a_codec_in_training_as_it_was(codec):
    codec.train()
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    add_speech_codes({"messages": SPOKEN}, codec)
    assert codec.training
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())
    codec.eval()


def test_codes_are_made_once_and_then_read_from_the_cache(processor, codec, tmp_path, monkeypatch):
    path = str(tmp_path / "said.wav")
    josie.save_audio(path, tone(900), 1600)
    speech = {"type": "audio", "text": None, "path": path}
    words = [{"type": "text", "text": text, "path": None} for text in ("Hm", "Yes")]
    question = {"role": "user", "content": words[:1]}
    rows = [[question, {"role": "assistant", "content": [words[1], *clips]}] for clips in ([], [speech])]
    Dataset.from_dict({"messages": rows}).save_to_disk(str(tmp_path / "rows"))
    options = {"batched": True, "batch_size": 1, "writer_batch_size": 1}
    calls = []
    monkeypatch.setattr(speech_codes, "encode_audio", lambda *args: calls.append(1) or encode_audio(*args))
    first = load_from_disk(str(tmp_path / "rows")).map(partial(add_speech_codes, codec=codec), **options)
    assert len(calls) == 1
    same = build(josie.JosieMelCodecModel, codec.config)
    second = load_from_disk(str(tmp_path / "rows")).map(partial(add_speech_codes, codec=same), **options)
    assert len(calls) == 1, "equal weights must give the codes of the cache"
    assert first["speech_codes"][:] == second["speech_codes"][:]
    with torch.no_grad():
        next(same.parameters()).add_(1.0)
    load_from_disk(str(tmp_path / "rows")).map(partial(add_speech_codes, codec=same), **options)
    assert len(calls) == 2, "other weights must not"
    batch = JosieDataCollator(processor)(list(second))
    assert batch["speech_mask"].any(dim=1).tolist() == [False, True]
    assert batch["speech_codes"][1, 0, -1] == codec.config.codebook_size


def test_codes_are_made_of_rows_in_other_forms(codec):
    [expected] = add_speech_codes({"messages": SPOKEN[:1]}, codec)["speech_codes"]
    asked = [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}]
    made = add_speech_codes({"messages": [None, SPOKEN[0]], "conversations": [asked, None]}, codec)["speech_codes"]
    assert made[0].shape == (0, 0)
    assert np.array_equal(made[1], expected)
    assert add_speech_codes({"conversations": [asked]}, codec)["speech_codes"][0].shape == (0, 0)
    with pytest.raises(ValueError, match="`examples` must have a column `messages` or `conversations`, got"):
        add_speech_codes({"text": ["Hm?"]}, codec)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], "none"),
        ([{"messages": None}], "one with nothing"),
        ([{"messages": None, "speaker": "ada"}], "one with ['speaker']"),
        ([{"messages": SPOKEN[0]}, {"input_ids": [1]}], "one with ['messages']"),
    ],
)
def test_rows_without_anything_to_read_are_named(rows, found, processor):
    message = f"`features` must be examples with `input_ids`, or all rows with `messages`, got {found}."
    with pytest.raises(ValueError, match=re.escape(message)):
        JosieDataCollator(processor)(rows)


# Lengths


def test_a_stream_is_grouped_by_length_in_an_order_of_its_seed():
    lengths = np.random.default_rng(0).integers(1, 100, 103).tolist()
    rows = [{"index": index, "length": length} for index, length in enumerate(lengths)]
    stream = LengthGroupedStream(rows, batch_size=4, buffer_size=40, seed=3)
    order = [row["index"] for row in stream]
    assert sorted(order) == list(range(103))
    assert order == [row["index"] for row in LengthGroupedStream(rows, 4, lambda row: row["length"], 40, 3)]

    def padding(indices: list[int]) -> int:
        batches = [[lengths[index] for index in indices[start : start + 4]] for start in range(0, 103, 4)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(order) < 0.3 * padding(list(range(103)))
    assert sorted(order[:40]) == list(range(40)), "no row leaves its buffer"
    starts = [lengths[index] for index in order[:40:4]]
    assert starts != sorted(starts), "batches come in random order"
    stream.set_epoch(1)
    assert order != [row["index"] for row in stream]
    stream.set_epoch(0)
    assert order == [row["index"] for row in stream]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": 3, "buffer_size": 8}, r"`buffer_size` must be a multiple of `batch_size` \(3\), got 8"),
        (
            {"batch_size": 1, "length": "size"},
            r"`length` must be a column or a function, got 'size', not in \['length'\]",
        ),
    ],
    ids=["batch", "buffer", "column"],
)
def test_numbers_that_cannot_be_grouped_by_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        list(LengthGroupedStream([{"length": 1}], **options))


@pytest.mark.parametrize("length", [None, float("nan"), "3"])
def test_rows_without_a_length_are_refused(length):
    with pytest.raises(ValueError, match=re.escape(f"`length` must be a number of every row, got {length!r}.")):
        list(LengthGroupedStream([{"length": 1}, {"length": length}], batch_size=1))
    for made in (np.int64(2), torch.tensor(2), 2.5):
        assert len(list(LengthGroupedStream([{"length": 3}, {"length": made}], batch_size=1))) == 2


def test_the_trainer_groups_conversations_by_their_length_column(processor, tmp_path):
    words = ["a" * (1 + 7 * index % 40) for index in range(80)]
    rows = [[{"role": "user", "content": "Hm"}, {"role": "assistant", "content": each}] for each in words]
    dataset = Dataset.from_dict({"messages": rows})
    dataset = dataset.map(lambda row: {"length": processor.get_num_tokens(row["messages"])})
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        per_device_train_batch_size=2,
        max_steps=6,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )
    lengths = []
    collate = JosieDataCollator(processor)

    def watch(examples: list[dict]) -> dict:
        lengths.append([example["length"] for example in examples])
        return collate(examples)

    trainer = Trainer(
        model=build(josie.JosieForConditionalGeneration, CONFIG),
        args=arguments,
        train_dataset=dataset,
        data_collator=watch,
    )
    assert np.isfinite(trainer.train().training_loss)
    # Of two rows by chance the lengths would differ by a third of the range.
    assert np.ptp(lengths, axis=1).mean() < 0.2 * np.ptp(lengths)


def test_durations_are_filled_up_and_belong_to_spoken_tokens(processor):
    collate = JosieDataCollator(processor)
    counts = collate(ROWS)["speech_mask"].sum(dim=1).tolist()
    assert counts[0] != counts[2]
    assert counts[1] == 0
    told = [[1.5] * counts[0], None, [2.25] * counts[2]]
    batch = collate([dict(row, speech_durations=values) for row, values in zip(ROWS, told, strict=True)])
    assert batch["speech_durations"].shape == (3, max(counts))
    assert batch["speech_durations"].sum(dim=1).tolist() == [1.5 * counts[0], 0, 2.25 * counts[2]]
    for wrong in ([1.5], None):
        told[0] = wrong
        with pytest.raises(ValueError, match="`speech_durations` must have a number for each spoken token in every"):
            collate([dict(row, speech_durations=values) for row, values in zip(ROWS, told, strict=True)])
