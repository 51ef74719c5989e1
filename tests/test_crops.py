"""Laws of crops: they are parts of the file, drawn from seed, epoch and place alone, whatever workers read them."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from torch.utils.data import DataLoader

from josie.processing_josie import load_audio
from josie.training.audio_crops import AudioCrops, AudioCropsCallback, AudioCropStream, CropSettings, read_crop

RATE = 1600


@pytest.fixture
def write_clips(tmp_path):
    """A function that writes noise of given lengths and returns the paths."""

    def write(*lengths, rate=RATE, suffix="wav", channels=1):
        generator = np.random.default_rng(3)
        paths = []
        for index, length in enumerate(lengths):
            paths.append(str(tmp_path / f"{rate}_{channels}_{index}.{suffix}"))
            values = generator.uniform(-0.5, 0.5, (length, channels)).astype(np.float32)
            soundfile.write(paths[-1], values, rate, subtype="FLOAT" if suffix == "wav" else None)
        return paths

    return write


def read_all(crops, num_workers=0, persistent=False):
    loader = DataLoader(crops, batch_size=3, num_workers=num_workers, persistent_workers=persistent)
    return torch.cat([batch["input_values"] for batch in loader])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [RATE, 800, 2205, 4800])
def test_a_crop_is_a_part_of_the_whole_file(write_clips, rate, suffix):
    (path,) = write_clips(5003, rate=rate, suffix=suffix)
    whole = torch.from_numpy(load_audio(path, RATE))
    for seed in range(8):
        crop = read_crop(path, CropSettings(RATE, 317), random.Random(seed))
        assert crop["padding_mask"].all()
        windows = whole.unfold(0, 317, 1)
        assert (windows - crop["input_values"][0]).abs().amax(1).min() < 1e-5


def test_crops_reach_from_the_first_sample_to_the_last(write_clips):
    (path,) = write_clips(12)
    whole = load_audio(path)
    found = {read_crop(path, CropSettings(RATE, 10), random.Random(seed))["input_values"][0, 0] for seed in range(99)}
    assert {float(value) for value in found} == {float(value) for value in whole[:3]}


def test_a_short_file_is_padded_and_masked(write_clips):
    (path,) = write_clips(7)
    crop = read_crop(path, CropSettings(RATE, 11), random.Random(0))
    assert crop["padding_mask"].tolist() == [1] * 7 + [0] * 4
    assert torch.equal(crop["input_values"][0, :7], torch.from_numpy(load_audio(path)))
    assert not crop["input_values"][0, 7:].any()


@pytest.mark.parametrize(("channels", "num_channels"), [(1, 2), (2, 1), (2, 2)])
def test_channels_are_averaged_or_repeated(write_clips, channels, num_channels):
    (path,) = write_clips(30, channels=channels)
    values = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    expected = values.mean(0, keepdims=True) if num_channels == 1 else np.broadcast_to(values, (2, 30))
    crop = read_crop(path, CropSettings(RATE, 30, num_channels), random.Random(0))
    np.testing.assert_allclose(crop["input_values"].numpy(), expected, atol=1e-7)


def test_gain_changes_loudness_only_and_never_clips(write_clips):
    (path,) = write_clips(400)
    whole = torch.from_numpy(load_audio(path))
    gains = []
    for seed in range(20):
        settings = CropSettings(RATE, 400, max_gain_db=20.0)
        crop = read_crop(path, settings, random.Random(seed))["input_values"][0]
        assert crop.abs().max() <= 1 + 1e-6
        gain = (crop @ whole) / (whole @ whole)
        torch.testing.assert_close(crop, gain * whole, atol=1e-5, rtol=0)
        gains.append(float(gain))
    assert min(gains) < 0.5
    assert max(gains) > 1.5


@pytest.mark.parametrize("form", ["path", "audio", "bytes"])
def test_forms_of_the_column_are_the_same_to_it(write_clips, form):
    paths = write_clips(90, 100, 110)
    dataset = Dataset.from_dict({"clip": paths, "other": [1, 2, 3]})
    expected = read_all(AudioCrops(dataset, CropSettings(RATE, 50), "clip"))
    if form == "bytes":
        dataset = Dataset.from_dict({"clip": [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]})
    if form != "path":
        dataset = dataset.cast_column("clip", Audio())
    assert torch.equal(read_all(AudioCrops(dataset, CropSettings(RATE, 50), "clip")), expected)


@pytest.mark.parametrize("persistent", [False, True])
def test_crops_depend_on_seed_epoch_and_place_alone(write_clips, persistent):
    dataset = Dataset.from_dict({"audio": write_clips(*range(200, 207))})
    crops, same, other = (AudioCrops(dataset, CropSettings(RATE, 50, seed=seed)) for seed in (1, 1, 2))
    first = read_all(crops)
    loader = DataLoader(same, batch_size=2, num_workers=2, persistent_workers=persistent)
    assert torch.equal(torch.cat([batch["input_values"] for batch in loader]), first)
    crops.set_epoch(1)
    same.set_epoch(1)
    second = read_all(crops)
    assert torch.equal(torch.cat([batch["input_values"] for batch in loader]), second)
    assert not torch.equal(first, second)
    assert not torch.equal(read_all(other), first)
    crops.set_epoch(0)
    assert torch.equal(crops[5]["input_values"], first[5])
    assert torch.equal(crops[-2]["input_values"], first[5])


@pytest.fixture
def broken_clips(write_clips, tmp_path):
    """Paths of five broken files: missing, no audio, empty, cut short, NaN; and their names in order."""
    paths = write_clips(0, 300, 300)
    missing, text, nan = (str(tmp_path / name) for name in ("missing.wav", "text.wav", "nan.wav"))
    (tmp_path / "text.wav").write_text("no audio")
    content = Path(paths[1]).read_bytes()
    Path(paths[1]).write_bytes(content[: len(content) // 2])
    soundfile.write(nan, np.full(300, np.nan, np.float32), RATE, subtype="FLOAT")
    return [missing, text, paths[0], paths[1], nan]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_files_are_skipped_named_once_and_counted_everywhere(broken_clips, tmp_path, caplog, num_workers):
    good = [str(tmp_path / f"good{index}.wav") for index in range(3)]
    for path in good:
        soundfile.write(path, np.full(100, 0.25, np.float32), RATE)
    dataset = Dataset.from_dict({"audio": [good[0], *broken_clips, *good[1:]]})
    crops = AudioCrops(dataset, CropSettings(RATE, 50))
    for _ in range(3):
        values = read_all(crops, num_workers)
        assert values.shape == (8, 1, 50)
        torch.testing.assert_close(values, torch.full_like(values, 0.25))
    assert crops.num_broken == 5
    assert crops.broken_indices() == [1, 2, 3, 4, 5]
    if num_workers == 0:  # the warnings of workers are theirs
        assert sum("Skipped a broken file" in record.message for record in caplog.records) == 5


def test_what_replaces_a_broken_file_does_not_depend_on_who_found_it(write_clips, broken_clips):
    dataset = Dataset.from_dict({"audio": [*broken_clips, *write_clips(*range(200, 207), rate=2000)]})
    first, second = (AudioCrops(dataset, CropSettings(RATE, 50)) for _ in range(2))
    expected = read_all(first)
    assert torch.equal(torch.stack([second[index]["input_values"] for index in reversed(range(12))]), expected.flip(0))
    assert torch.equal(read_all(first, 2), expected)


def test_files_that_are_too_short_count_as_broken(write_clips):
    crops = AudioCrops(Dataset.from_dict({"audio": write_clips(9, 100)}), CropSettings(RATE, 50, min_length=10))
    assert crops[0]["padding_mask"].sum() == 50
    assert crops.num_broken == 1


@pytest.mark.parametrize("kind", ["map", "stream"])
def test_only_broken_files_are_an_error_and_no_endless_loop(broken_clips, kind):
    dataset = Dataset.from_dict({"audio": broken_clips})
    if kind == "map":
        crops = AudioCrops(dataset, CropSettings(RATE, 50))
    else:
        crops = AudioCropStream(dataset.to_iterable_dataset(), CropSettings(RATE, 50))
    with pytest.raises(ValueError, match="`dataset` must have a file that can be used, got 5 broken ones"):
        list(DataLoader(crops))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_gives_the_same_crops_whatever_workers_read_it(write_clips, broken_clips, num_workers):
    dataset = Dataset.from_dict({"audio": [*write_clips(*range(200, 207), rate=2000), *broken_clips]})
    settings = CropSettings(RATE, 50, seed=4)

    def read(crops):
        loader = DataLoader(crops, batch_size=1, num_workers=num_workers)
        return sorted(batch["input_values"].flatten().tolist() for batch in loader)

    expected = sorted(
        batch["input_values"].flatten().tolist()
        for batch in DataLoader(AudioCropStream(dataset.to_iterable_dataset(), settings))
    )
    crops = AudioCropStream(dataset.to_iterable_dataset(num_shards=2), settings)
    assert read(crops) == expected
    assert len(expected) == 7
    assert crops.num_broken == 5
    crops.set_epoch(1)
    assert read(crops) != expected


def test_the_callback_sets_the_epoch_and_logs_the_count(write_clips, broken_clips):
    class State:
        epoch, log_history = 2.4, [{}]

    crops = AudioCrops(Dataset.from_dict({"audio": [broken_clips[0], *write_clips(100, 100)]}), CropSettings(RATE, 9))
    callback = AudioCropsCallback(crops)
    callback.on_epoch_begin(None, State, None)
    entered = read_all(crops)
    crops.set_epoch(2)
    assert torch.equal(read_all(crops), entered)
    logs = {}
    callback.on_log(None, State, None, logs)
    assert logs == State.log_history[-1] == {"num_broken_files": 1}


def test_epochs_of_a_stream_are_counted(write_clips):
    class State:
        epoch = 1.0  # of `Trainer`, which knows no length: all steps are done

    stream = AudioCropStream(
        Dataset.from_dict({"audio": write_clips(100)}).to_iterable_dataset(), CropSettings(RATE, 9)
    )
    callback = AudioCropsCallback(stream)
    for epoch in (0, 1, 2, 0):
        if epoch == 0:
            callback.on_train_begin(None, State, None)
        callback.on_epoch_begin(None, State, None, train_dataloader=DataLoader(stream))
        assert int(stream._epoch) == epoch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate": 0}, "`sampling_rate` must be a positive integer in Hz, got 0."),
        ({"crop_length": 0}, "`crop_length` must be a positive integer, got 0."),
        ({"min_length": 1.5}, "`min_length` must be a positive integer, got 1.5."),
        ({"num_channels": 3}, "`num_channels` must be 1 or 2, got 3."),
        ({"max_gain_db": -1.0}, "`max_gain_db` must be at least 0, got -1.0."),
    ],
)
def test_impossible_settings_are_errors(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CropSettings(**{"sampling_rate": RATE, "crop_length": 50} | options)


def test_impossible_data_sets_are_errors():
    settings = CropSettings(RATE, 50)
    with pytest.raises(ValueError, match="`dataset` must have at least one file, got none"):
        AudioCrops(Dataset.from_dict({"audio": []}), settings)
    with pytest.raises(ValueError, match=r"`column` must be one of \['audio'\], got 'clip'"):
        AudioCrops(Dataset.from_dict({"audio": ["a.wav"]}), settings, "clip")
    with pytest.raises(ValueError, match="`column` must hold paths"):
        AudioCrops(Dataset.from_dict({"audio": [1]}), settings)
