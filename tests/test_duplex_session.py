"""Sessions: any pieces give the same, as long as what came in; and what goes wrong says so."""

import copy
import pickle
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from duplex_models import make_pair
from safetensors import safe_open
from safetensors.torch import save_file

IMAGE = np.zeros((24, 24, 3), dtype=np.uint8)
MESSAGES = [{"role": "system", "content": "Be short."}]


@pytest.fixture(scope="module")
def pair():
    return make_pair()


def make_samples(session, num_units, seed=0):
    samples = np.random.default_rng(seed).normal(size=num_units * session.unit_samples)
    return samples.clip(-1, 1).astype(np.float32)


def push_all(session, samples, cuts):
    """Return the pieces that come back for samples that are cut at these places."""
    bounds = [0, *sorted(cuts), len(samples)]
    return [session.push(samples[begin:end]) for begin, end in zip(bounds, bounds[1:], strict=False)]


def start(pair, **options):
    model, processor = pair
    return model.start_session(processor, **(dict(talker_seed=1, speak_bias=4.0) | options))


def test_any_pieces_give_the_same_and_as_much(pair):
    whole = start(pair, messages=MESSAGES)
    samples = make_samples(whole, 7)[:-9]
    (expected,) = push_all(whole, samples, [])
    assert expected.num_units == 6
    assert np.abs(expected.audio_values).max() > 0
    assert not expected.audio_values[: whole.unit_samples].any()
    assert expected.text
    assert expected.heard
    for seed in range(4):
        session = start(pair, messages=MESSAGES)
        cuts = random.Random(seed).choices(range(len(samples)), k=12)
        pieces = push_all(session, samples, [*cuts, cuts[0]])
        sizes = [len(piece.audio_values) for piece in pieces]
        bounds = [0, *sorted([*cuts, cuts[0]]), len(samples)]
        assert sizes == [end - begin for begin, end in zip(bounds, bounds[1:], strict=False)]
        assert np.array_equal(np.concatenate([piece.audio_values for piece in pieces]), expected.audio_values)
        assert "".join(piece.text for piece in pieces) == expected.text
        assert sum((piece.heard for piece in pieces), []) == expected.heard
        assert session.transcript() == whole.transcript()
        assert session.seconds == len(samples) / session.input_sampling_rate


def test_audio_that_is_asked_for_at_once_comes_a_unit_earlier(pair):
    whole, session = start(pair), start(pair)
    samples = make_samples(whole, 7)
    expected = whole.push(samples).audio_values
    pieces = [session.push(unit, at_once=True).audio_values for unit in np.split(samples, 7)]
    size = len(expected) // 7
    assert [len(piece) for piece in pieces] == [2 * size, *[size] * 6]
    joined = np.concatenate(pieces)
    assert np.array_equal(joined[:-size], expected)
    assert joined[-size:].any()
    assert len(session.push(np.zeros(5, np.float32)).audio_values) == 0  # it was given already
    rest = session.push(np.zeros(session.unit_samples - 5, np.float32), at_once=True)
    assert len(rest.audio_values) == size


def test_turns_have_times_and_are_cut(pair):
    session = start(pair)
    samples = make_samples(session, 8)
    for number, unit in enumerate(np.split(samples, 8)):
        session.speak_bias = 1e4 if 2 <= number < 5 else -1e4
        piece = session.push(unit)
        assert piece.is_speaking == session.is_speaking == (2 <= number < 5)
    (turn,) = session.transcript()
    assert turn["begin"] == round(3 * session.unit_seconds, 3)
    assert turn["is_cut"]
    assert turn["end"] == round(6 * session.unit_seconds, 3)
    assert turn["text"].startswith(turn["heard"])
    assert "".join(word["text"] for word in turn["words"]) == turn["heard"]
    times = [time for word in turn["words"] for time in (word["begin"], word["end"])]
    assert times == sorted(times)
    assert turn["begin"] <= times[0]
    assert times[-1] <= turn["end"]


def test_a_turn_that_ends_at_the_last_position_says_so():
    endless = start(make_pair(talker="states"))  # it has no durations, and nothing ends its speech
    samples = make_samples(endless, 30)
    for unit in np.split(samples, 30):
        endless.speak_bias = 1e4
        endless.push(unit)
    turn = endless.turns[0]
    assert turn.is_limited
    assert not turn.is_cut
    said = start(make_pair())
    said.speak_bias = 1e4
    said.push(samples)
    assert not any(turn.is_limited for turn in said.turns)


def test_copies_and_saved_sessions_go_on(pair, tmp_path):
    model, processor = pair
    session = start(pair, talker_do_sample=True)
    samples = make_samples(session, 8)
    session.push(samples[:331])
    copies = [session.copy(), copy.copy(session), copy.deepcopy({"session": session})["session"]]
    session.save(tmp_path / "session.safetensors")
    rest = session.push(samples[331:])
    loaded = model.start_session(processor, path=tmp_path / "session.safetensors")
    for other in (*copies, loaded):
        piece = other.push(samples[331:])
        assert np.array_equal(piece.audio_values, rest.audio_values)
        assert piece.text == rest.text
        assert other.transcript() == session.transcript()


def test_images_are_seen_from_the_unit_on_in_which_they_are_shown(pair):
    samples = make_samples(start(pair), 6)
    size, answers = start(pair).unit_samples, []
    for shown in (None, 2 * size, 2 * size + 5, 4 * size):
        session = start(pair, images=IMAGE)
        place = len(samples) if shown is None else shown
        first = session.push(samples[:place])
        if shown is not None:
            session.show_image(IMAGE + 200)
            assert session.state.rows[0].memory.shown
        second = session.push(samples[place:])
        answers.append(session.state.rows[0].memory.list_entries())
        assert len(first.audio_values) + len(second.audio_values) == len(samples)
    lengths = [sum(map(len, entries)) for entries in answers]
    assert lengths[1] == lengths[2]
    images = [
        [place for place, entry in enumerate(entries[1:]) if not isinstance(entry, list) and not entry.is_audio]
        for entries in answers
    ]
    assert [len(places) for places in images] == [0, 1, 1, 1]
    assert images[1] == images[2] < images[3]


class TestRefusals:
    @pytest.mark.parametrize(
        ("samples", "rate", "message"),
        [
            (np.zeros(5, np.float32), 8000, "`sampling_rate` must be 1600 in a session, got 8000."),
            (
                np.zeros((1, 5), np.float32),
                None,
                "`samples` must be of shape .num_samples,., one channel alone",
            ),
            (
                np.zeros((5, 2), np.float32),
                None,
                "`samples` must be of shape .num_samples,., one channel alone",
            ),
            (np.zeros(5, np.int16), None, r"`samples` must be floats in \[-1, 1\], got int16."),
            (np.full(5, np.nan, np.float32), None, "`samples` must be finite, got NaN or infinity."),
            (np.full(5, np.inf, np.float32), 1600, "`samples` must be finite, got NaN or infinity."),
            ((np.zeros(5, np.float32), 1600), None, "floats, and their rate `sampling_rate`, got a tuple of 2."),
            ({"array": np.zeros(5, np.float32)}, None, "floats, and their rate `sampling_rate`, got a dict."),
            (np.zeros(5, object), None, r"`samples` must be floats in \[-1, 1\], got object."),
            (torch.zeros(5, device="meta"), None, "`samples` must be a tensor that stores each of its values"),
            (torch.zeros(5).to_sparse(), None, "`samples` must be a tensor that stores each of its values"),
        ],
    )
    def test_samples_that_cannot_be_heard_change_nothing(self, pair, samples, rate, message):
        session = start(pair)
        with pytest.raises(ValueError, match=message):
            session.push(samples, rate)
        assert session.seconds == 0
        assert len(session.push(np.zeros(7, np.float32), 1600).audio_values) == 7
        assert len(session.push([]).audio_values) == 0

    def test_arrays_of_every_layout_are_heard(self, pair):
        values = np.linspace(-0.5, 0.5, 9, dtype=np.float32)
        session = start(pair)
        with warnings.catch_warnings(action="error"):
            for samples in (values[::-1], np.frombuffer(values.tobytes(), np.float32), values.astype(">f4")):
                session.push(samples)
        expected = np.concatenate([values[::-1], values, values])
        assert np.array_equal(session._progress.waiting.numpy(), expected)

    def test_a_session_is_not_pickled(self, pair):
        with pytest.raises(TypeError, match="`session` must be written by its `save`"):
            pickle.dumps(start(pair))
        with pytest.raises(TypeError, match="`state` must be copied by its `copy`"):
            copy.copy(start(pair).state)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("none/x", "`path` must be a file to write, got .*none/x': No such file or directory"),
            ("", "`path` must be a file to write, got .*: Is a directory"),
            ("a\0b", "`path` must be the name of a file"),
            (None, "`path` must be the name of a file, got None"),
        ],
    )
    def test_places_that_cannot_be_written(self, pair, tmp_path, name, message):
        session = start(pair)
        path = name if name is None else tmp_path / name
        with pytest.raises(ValueError, match=message):
            session.save(path)
        assert not list(tmp_path.iterdir())
        if name != "none/x" and name != "":
            with pytest.raises(ValueError, match=message):
                session.load(path)

    def test_a_closed_session_is_not_used(self, pair):
        with start(pair) as session:
            session.push(np.zeros(3, np.float32))
        for use in (lambda: session.push([]), lambda: session.show_image(IMAGE), session.copy):
            with pytest.raises(ValueError, match="`session` must be open, got one that was closed."):
                use()

    def test_a_session_that_failed_is_closed(self, pair, monkeypatch):
        session = start(pair)

        def fail(*args, **kwargs):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(session, "model", type("Broken", (torch.nn.Module,), {"step_sessions": fail})())
        with pytest.raises(RuntimeError, match="out of memory"):
            session.push(make_samples(session, 1))
        with pytest.raises(ValueError, match="`session` must be open"):
            session.push([])

    def test_two_threads_do_not_share_a_session(self, pair, monkeypatch):
        session = start(pair)
        is_inside, may_go_on, errors = threading.Event(), threading.Event(), []
        step = session.model.step_sessions

        def wait(*args, **kwargs):
            is_inside.set()
            may_go_on.wait(10)
            return step(*args, **kwargs)

        monkeypatch.setattr(session, "model", _Waiting(session.model, wait))
        thread = threading.Thread(target=session.push, args=(make_samples(session, 1),))
        thread.start()
        is_inside.wait(10)
        try:
            session.push(np.zeros(3, np.float32))
        except ValueError as error:
            errors.append(str(error))
        may_go_on.set()
        thread.join()
        assert errors == ["`session` must be used by one thread at a time, got a call while another is going on."]
        assert len(session.push(np.zeros(3, np.float32)).audio_values) == 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (dict(talker_max_new_frames=5), "`talker_max_new_frames` must be None in a session, got 5."),
            (dict(talker_speed=3), "`talker_speed` must be 1 in a session, as units are learned at that speed, got 3."),
            (dict(talker_volume=3), "`talker_volume` must be one of"),
            (dict(talker_seed=1.5), "`talker_seed` must be an integer or one for each row, got 1.5."),
            (dict(talker_sentence_end_ids=5), "`talker_sentence_end_ids` must be a list of integers, got 5."),
            (dict(temperature=3), r"`open_sessions` takes a prompt and `talker_\*` options, got \['temperature'\]."),
            (dict(speaker="eve"), r"`speaker` must be one of \['ada', 'bob'\], got 'eve'."),
            (dict(path="nowhere"), "`path` must be a file of a session, got 'nowhere', which does not exist."),
            (dict(path="x", messages=MESSAGES), "`messages` must be None with `path`, a session that was saved, got"),
            (dict(messages=[{"role": "user", "content": "word " * 100}]), "`input_ids` must have between 1 and"),
        ],
    )
    def test_options_that_do_not_fit(self, pair, options, message):
        model, processor = pair
        with pytest.raises(ValueError, match=message):
            model.start_session(processor, **options)

    def test_a_session_of_silence_stays_as_large(self, pair, tmp_path):
        model, processor = make_pair(positions=160)
        session, sizes = model.start_session(processor, talker_seed=1), []
        for number in range(120):
            session.speak_bias = 1e4 if number % 7 == 0 else -1e4
            session.push(np.zeros(session.unit_samples, np.float32))
            session.save(tmp_path / "session.safetensors")
            sizes.append((tmp_path / "session.safetensors").stat().st_size)
        assert len(session.turns) == 18
        assert max(sizes[60:]) < 1.2 * max(sizes[:60])

    def test_a_file_of_something_else(self, pair, tmp_path):
        model, processor = pair
        (tmp_path / "text").write_text("no session", encoding="utf-8")
        torch.save({"state": print}, tmp_path / "code")
        save_file({"0": torch.zeros(2)}, tmp_path / "weights")
        save_file({"0": torch.zeros(2)}, tmp_path / "list", {"josie_session": "[]"})
        for name in ("text", "code", "weights", "list"):
            with pytest.raises(ValueError, match="of this model, got .*, which is none of a session"):
                model.start_session(processor, path=tmp_path / name)

    def test_a_file_of_another_model(self, pair, tmp_path):
        start(pair).save(tmp_path / "session")
        model, processor = make_pair(talker="states, depth, durations")
        with pytest.raises(ValueError, match="of this model, got .*, which another model or release wrote"):
            model.start_session(processor, path=tmp_path / "session")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"class": "RowMemory"', '"class": "Popen"'),
            ('"class": "JosieSessionState"', '"class": "DynamicLayer"'),
            ('"module", "', '"module", "no.'),
            ('"tensor": true', '"weights": true'),
            ('"tuple": ', '"deque": '),
        ],
        ids=["class", "state", "part", "tensor", "container"],
    )
    def test_a_damaged_file(self, pair, tmp_path, old, new):
        model, processor = pair
        session = start(pair, speak_bias=100)
        session.push(make_samples(session, 3))
        session.save(tmp_path / "session")
        with safe_open(tmp_path / "session", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tree = file.metadata()["josie_session"]
        assert old in tree
        save_file(tensors, tmp_path / "session", {"josie_session": tree.replace(old, new)})
        with pytest.raises(ValueError, match="of this model, got .*, which is damaged"):
            model.start_session(processor, path=tmp_path / "session")


class _Waiting:
    """A model with another `step_sessions`."""

    def __init__(self, model, step):
        self._model, self.step_sessions = model, step

    def __getattr__(self, name):
        return getattr(self._model, name)
