"""Laws of augmentation: each effect does what it says, and chance depends on seed, epoch, row and clip alone."""

import base64

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset, IterableDataset
from samples import tone
from torch.utils.data import DataLoader

from josie.training import audio_effects as effects
from josie.training.augmentation import EFFECTS, AudioAugmentation, AugmentingCollator, number_rows

RATE = 16000


def power_at(samples: np.ndarray, pitch: float) -> float:
    """Return the power near a frequency in Hz as a share of all."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(spectrum[np.abs(frequencies - pitch) < 12].sum() / spectrum.sum())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def level(samples: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def test_gain_is_in_decibels():
    assert level(effects.scale(tone(0.1), -12)) == pytest.approx(level(tone(0.1)) - 12, abs=1e-3)


@pytest.mark.parametrize("color", effects.NOISES)
def test_noise_has_its_ratio_and_its_colour(color):
    noise = effects.make_noise(8001, color, rng())
    assert noise.std() == pytest.approx(1, rel=1e-3)
    mixed = effects.add_noise(tone(0.5), effects.make_noise(8000, color, rng()), 10)
    assert level(mixed - tone(0.5)) == pytest.approx(level(tone(0.5)) - 10, abs=0.01)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    low, high = spectrum[100:200].mean(), spectrum[1000:2000].mean()
    assert np.log10(low / high) == pytest.approx(effects.NOISES[color], abs=0.15)  # a decade up
    silence = np.zeros(100, np.float32)
    assert not effects.add_noise(silence, noise[:100], 10).any()


def test_bands_are_limited():
    low, high = tone(0.5, pitch=100), tone(0.5, pitch=6000)
    for samples, loss in ((low, 20), (high, 20)):
        limited = effects.limit_band(samples, RATE, 300, 3400)
        assert level(limited[1000:]) < level(samples) - loss
    middle = tone(0.5, pitch=1000)
    assert level(effects.limit_band(middle, RATE, 300, 3400)) == pytest.approx(level(middle), abs=0.5)
    assert level(effects.through_telephone(low, RATE)) < level(low) - 20
    assert effects.through_telephone(middle, RATE).shape == middle.shape


def test_speed_changes_length_and_pitch_tempo_the_one_and_pitch_the_other():
    samples = tone(0.5, pitch=400)
    faster = effects.change_speed(samples, RATE, 1.25)
    assert len(faster) == pytest.approx(len(samples) / 1.25, abs=1)
    assert power_at(faster, 500) > 0.95
    slower = effects.change_tempo(samples, 0.8)
    assert len(slower) == len(samples) / 0.8
    assert power_at(slower, 400) > 0.95
    higher = effects.change_pitch(samples, RATE, 12)
    assert len(higher) == len(samples)
    assert power_at(higher, 800) > 0.9
    assert len(effects.change_tempo(samples[:90], 1.1)) == 82


def test_a_room_keeps_the_voice_and_adds_a_tail():
    click = np.zeros(RATE, np.float32)
    click[100] = 1
    room = effects.reverberate(click, RATE, 0.3, 0.5, rng())
    assert np.abs(room[:100]).max() < 1e-6
    assert room[100] == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(room[101:]) == pytest.approx(0.5, rel=0.01)
    early, late = room[130:1000], room[3900:4770]
    assert level(early) - level(late) == pytest.approx(60 * 3770 / 4800, abs=6)
    assert np.abs(room[5000:]).max() < 1e-6


def test_peaks_are_cut():
    clipped = effects.clip_peaks(tone(0.1), 6)
    assert np.abs(clipped).max() == pytest.approx(np.abs(tone(0.1)).max() / 2, rel=0.01)


@pytest.mark.parametrize("codec", effects.CODECS)
def test_a_codec_keeps_the_length_and_most_of_the_rest(codec):
    samples = tone(0.5, pitch=600)[:7777]
    decoded = effects.round_trip(samples, RATE, codec)
    assert decoded.shape == samples.shape
    assert decoded.dtype == np.float32
    assert not np.array_equal(decoded, samples)
    assert power_at(decoded, 600) > 0.9
    loud = effects.round_trip(samples * 4, RATE, codec)  # beyond full scale, where files would cut
    assert level(loud) == pytest.approx(level(samples * 4), abs=1.5)


def every_effect(probability: float = 0.5) -> dict:
    return {name: {"probability": probability} for name in EFFECTS}


def test_numbers_decide_and_nothing_else():
    augment, samples = AudioAugmentation(seed=3, **every_effect()), tone(0.2)
    first = augment(samples, RATE, 0, 5, 0)
    np.random.seed(0)
    torch.manual_seed(0)
    assert np.array_equal(AudioAugmentation(seed=3, **every_effect())(samples, RATE, 0, 5, 0), first)
    others = [augment(samples, RATE, *numbers) for numbers in ((1, 5, 0), (0, 6, 0), (0, 5, 1))]
    others.append(AudioAugmentation(seed=4, **every_effect())(samples, RATE, 0, 5, 0))
    assert not any(np.array_equal(other, first) for other in others)


def test_one_effect_more_leaves_the_draws_of_others():
    numbers, samples = (0, 1, 0), tone(0.2)
    alone = AudioAugmentation(speed={"probability": 1})(samples, RATE, *numbers)
    both = AudioAugmentation(speed={"probability": 1}, gain={"probability": 1})(samples, RATE, *numbers)
    ratio = both[np.abs(alone) > 0.1] / alone[np.abs(alone) > 0.1]
    assert ratio.std() < 1e-5
    assert len(alone) == len(both) != len(samples)


def test_what_is_too_loud_is_cut_off():
    samples = tone(0.1)
    loud = AudioAugmentation(gain={"probability": 1, "decibels": [20, 20]})(samples, RATE, 0)
    assert np.array_equal(loud, np.clip(samples * 10, -1, 1))
    assert np.abs(loud).max() == 1
    drawn = [AudioAugmentation(**every_effect(1))(samples * 2, RATE, row) for row in range(20)]
    assert max(np.abs(one).max() for one in drawn) <= 1


def test_probability_is_how_often():
    augment = AudioAugmentation(gain={"probability": 0.3, "decibels": [-6, -6]})
    changed = [augment(np.ones(1, np.float32), RATE, row)[0] < 1 for row in range(400)]
    assert 0.22 < np.mean(changed) < 0.38


def test_recordings_of_a_folder_are_noise(tmp_path):
    soundfile.write(tmp_path / "hum.wav", tone(0.05, pitch=200), RATE)
    (tmp_path / "readme.txt").write_text("none")
    augment = AudioAugmentation(
        noise={"probability": 1, "colors": [], "folder": str(tmp_path), "snr": [0, 0]},
    )
    mixed = augment(tone(0.5, pitch=1000), RATE, 0)
    assert power_at(mixed, 200) == pytest.approx(0.5, abs=0.1)


def make_rows(number: int = 6) -> list[dict]:
    """Return rows whose user and assistant both have audio."""
    return [
        {
            "messages": [
                {"role": "user", "content": [{"type": "audio", "audio": tone(0.02).tolist(), "sampling_rate": RATE}]},
                {"role": "assistant", "content": [{"type": "text", "text": str(index)}]},
            ]
        }
        for index in range(number)
    ]


def collate(rows: list[dict]) -> dict[str, list]:
    """Return the first clip of each row, as it is."""
    return {"clips": [np.asarray(row["messages"][0]["content"][0]["audio"]) for row in rows]}


@pytest.mark.parametrize("form", ["memory", "stream"])
def test_neither_workers_nor_skipping_change_what_is_drawn(form):
    rows = Dataset.from_list(make_rows()) if form == "memory" else IterableDataset.from_generator(lambda: make_rows())
    found = []
    for workers, skip in ((0, 0), (1, 0), (2 if form == "memory" else 1, 2)):
        collator = AugmentingCollator(collate, AudioAugmentation(**every_effect(0.3)), RATE)
        numbered = number_rows(rows)
        numbered = numbered.skip(skip)
        loader = DataLoader(numbered, batch_size=2, num_workers=workers, collate_fn=collator)
        clips = [clip for batch in loader for clip in batch["clips"]]
        found.append([None] * skip + clips)
    for index in range(6):
        clips = [clips[index] for clips in found if clips[index] is not None]
        assert all(np.array_equal(clip, clips[0]) for clip in clips)
    assert len({clip.tobytes() for clip in found[0]}) == 6


def test_epochs_draw_anew_also_in_workers_that_are_kept():
    collator = AugmentingCollator(collate, AudioAugmentation(gain={"probability": 1}), RATE)
    rows = number_rows(Dataset.from_list(make_rows(2)))
    loader = DataLoader(rows, batch_size=1, num_workers=1, collate_fn=collator, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        collator.set_epoch(epoch)
        epochs.append(np.concatenate([batch["clips"][0] for batch in loader]))
    assert np.array_equal(epochs[0], epochs[2])
    assert not np.array_equal(epochs[0], epochs[1])


def test_rows_without_a_number_and_the_assistant_stay_as_they_are():
    collator = AugmentingCollator(lambda rows: {"rows": rows}, AudioAugmentation(gain={"probability": 1}), RATE)
    row = make_rows(1)[0]
    assert collator([row])["rows"][0] is row
    answer = {"role": "assistant", "content": [{"type": "audio", "path": "not-read.wav"}]}
    row["messages"] = [*row["messages"][:1], answer]
    row["messages"][0]["content"][0]["text"] = "beep"
    changed = collator([row | {"row_number": 0}])["rows"][0]
    assert changed["messages"][1] == answer
    assert changed["messages"][0]["content"][0]["text"] == "beep"
    assert row["messages"][0]["content"][0]["audio"] == tone(0.02).tolist()
    with pytest.raises(ValueError, match="`audio_features` must be None in rows whose audio is augmented"):
        collator([row | {"row_number": 0, "audio_features": [[0.0]]}])


@pytest.mark.parametrize("form", ["input_audio", "bare", "url", "gradio", "sharegpt", "pandas"])
def test_every_form_of_a_clip_is_augmented(form, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.02), RATE)
    data = base64.b64encode(path.read_bytes()).decode()
    content = {
        "input_audio": [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}],
        "bare": [{"audio": str(path)}],
        "url": [{"type": "audio_url", "audio_url": {"url": path.as_uri()}}],
        "gradio": {"path": str(path)},
        "sharegpt": [{"type": "audio", "path": str(path)}],
        "pandas": np.array([{"type": "audio", "path": str(path), "text": None}], dtype=object),
    }[form]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "Ho"}]
    row = {"conversations" if form == "sharegpt" else "messages": messages, "row_number": 2, "system": "Be."}
    if form == "pandas":
        row |= {"messages": np.array(messages, dtype=object), "audio_features": float("nan")}
    collator = AugmentingCollator(list, AudioAugmentation(gain={"probability": 1, "decibels": [-6, -6]}), RATE)
    (changed,) = collator([row])
    assert list(changed) == ["messages"]
    assert [message["role"] for message in changed["messages"]] == ["system", "user", "assistant"]
    heard = changed["messages"][1]["content"][0]
    assert np.abs(heard["audio"]).max() == pytest.approx(np.abs(soundfile.read(path)[0]).max() / 2, rel=0.01)


def test_what_has_times_keeps_them():
    """Tracks of full duplex and clips that begin at a time have no effect that moves what is heard."""
    effects = {name: {"probability": 1.0} for name in EFFECTS if name not in ("reverberation", "noise")}
    collate = AugmentingCollator(list, AudioAugmentation(0, **effects), RATE)
    silence = np.zeros(RATE, np.float32)
    silence[RATE // 2 :] = tone(0.5)[: RATE // 2]
    track = {"array": silence, "sampling_rate": RATE}
    part = {"type": "audio", "audio": track, "begin": 0.5}
    rows = [
        {"turns": [], "audio": track, "row_number": 3},
        {"turns": [], "messages": [{"role": "user", "content": [part]}], "row_number": 3},
        {"turns": [], "audio": track},
    ]
    changed = collate(rows)
    clips = [changed[0]["audio"]["array"], changed[1]["messages"][0]["content"][0]["audio"]]
    assert changed[1]["messages"][0]["content"][0]["begin"] == 0.5
    assert changed[2] == rows[2]
    assert set(changed[0]) == {"turns", "audio"}
    for samples in clips:
        assert len(samples) == RATE
        assert not np.array_equal(samples, silence)
        halves = [np.square(half).mean() for half in np.split(samples, 2)]
        assert halves[0] < 0.02 * halves[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"`augmentation` must have effects of \['speed'.* got none"),
        ({"echo": {}}, r"`augmentation` must have effects of \['speed'.* got 'echo'"),
        ({"gain": 3}, "`augmentation.gain` must be a section of settings, got 3"),
        ({"gain": {"db": [0, 1]}}, r"`augmentation.gain` must have keys of \['probability', 'decibels'\], got 'db'"),
        ({"gain": {"probability": 1.5}}, r"`gain.probability` must be in \[0, 1\], got 1.5"),
        ({"gain": {"decibels": 3}}, "`gain.decibels` must be two numbers, got 3"),
        ({"gain": {"decibels": [3, 1]}}, r"`gain.decibels` must be rising numbers in \[-120.0, 60.0\], got \[3, 1\]"),
        ({"speed": {"factors": [0, 1]}}, r"`speed.factors` must be rising numbers in \[0.25, 4.0\], got \[0, 1\]"),
        ({"noise": {"colors": ["blue"]}}, r"`noise.colors` must be of \['white', 'pink', 'brown'\], got \['blue'\]"),
        ({"noise": {"folder": "none-such"}}, "`noise.folder` must be a folder with recordings, got 'none-such'"),
        ({"codec": {"names": []}}, r"`codec.names` must be of \['mp3', .* got \[\]"),
        ({"seed": -1, "gain": {}}, "`seed` must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AudioAugmentation(**settings)


def test_rows_of_torch_are_numbered_too():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"text": "abc"[index]}

    numbered = number_rows(Rows())
    assert [numbered[index] for index in range(3)] == [
        {"text": "abc"[index], "row_number": index} for index in range(3)
    ]
    assert numbered[-1]["row_number"] == 2
    assert len(numbered) == 3
