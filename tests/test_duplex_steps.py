"""Laws of sessions: units equal the whole track, rows equal themselves alone, copies and files go on."""

import pytest
import torch
from duplex_models import (
    AUDIO,
    LISTEN,
    SPEAK,
    UNIT_FRAMES,
    duplex_config,
    lay_out,
    make_duplex,
    make_track,
    run,
    written_logits,
)
from speech_pieces import TALKERS
from tiny import build

import josie
from josie.configuration_josie import split_into_units
from josie.modeling_josie.duplex.state_files import load_state, save_state

PROMPT = [1, 20, 21, 22]


def begin(model, prompts=(PROMPT,), **options):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return model.open_sessions(ids, attention_mask=mask, **(dict(talker_seed=3) | options))


def join_audio(outputs):
    return torch.cat([output.audio_values for output in outputs], dim=-1)


def assert_same(outputs, others):
    assert [output.sequences for output in outputs] == [output.sequences for output in others]
    assert [output.heard for output in outputs] == [output.heard for output in others]
    assert torch.equal(join_audio(outputs), join_audio(others))


@pytest.mark.parametrize("codec", ["jodio", "mimi", "encoder"])
@pytest.mark.parametrize("talker", TALKERS)
@pytest.mark.parametrize("script", [None, ["lsssllssl"]])
@torch.no_grad()
def test_units_equal_one_pass_over_the_whole_track(script, talker, codec):
    model = make_duplex(talker=talker, codec=codec)
    track = make_track(model, 9)
    outputs = run(model, begin(model), track, script, output_logits=True)
    ids = lay_out(PROMPT, outputs)
    expected = written_logits(model, ids, track)
    places = [place for place in expected if place >= len(PROMPT)]
    found = torch.cat([output.logits[0] for output in outputs])
    torch.testing.assert_close(found, torch.stack([expected[place] for place in places]), atol=1e-3, rtol=1e-3)
    silent = sorted((model._silent_tokens() | {LISTEN, SPEAK}) - model._end_tokens(model.generation_config))
    places_of_decisions = [place for place in places if ids[0, place - 1] == AUDIO]
    for place in places:
        logits, token = expected[place].clone(), int(ids[0, place])
        if ids[0, place - 1] == AUDIO:
            said = script[0][places_of_decisions.index(place)] == "s" if script else logits[SPEAK] > logits[LISTEN]
            assert token == (SPEAK if said else LISTEN)
        else:
            logits[silent] = -torch.inf
            assert token == int(logits.argmax())


@torch.no_grad()
def test_rows_equal_themselves_alone():
    model = make_duplex(talker="states, depth, durations")
    prompts = [PROMPT, [1, 30], [1, 31, 32]]
    track, script = make_track(model, 8, batch_size=3), ["lsssllss", "ssssssss", "llslslsl"]
    together = run(model, begin(model, prompts), track, script)
    said = [[output.sequences[row] for output in together] for row in range(3)]
    assert len({str(sequences) for sequences in said}) == 3
    for row, prompt in enumerate(prompts):
        alone = run(model, begin(model, [prompt], talker_seed=3 + row), track[row : row + 1], script[row : row + 1])
        assert [output.sequences[0] for output in alone] == said[row]
        torch.testing.assert_close(join_audio(alone)[0], join_audio(together)[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("codec", ["jodio", "mimi", "encoder"])
@torch.no_grad()
def test_a_row_that_is_reset_begins_anew_and_the_others_go_on(codec):
    model = make_duplex(codec=codec)
    track, script = make_track(model, 9, batch_size=2), ["lssssslls", "sslssslls"]
    whole = run(model, begin(model, [PROMPT, PROMPT]), track, script)
    state = begin(model, [PROMPT, PROMPT])
    size = model.config.thinker_config.unit_samples
    before = run(model, state, track[..., : 5 * size], script)
    state.reset_rows(torch.tensor([False, True]))
    assert state.num_units == [5, 0]
    rest = track[..., 5 * size :].clone()
    rest[1] = track[1, :, : 4 * size]
    after = run(model, state, rest, [script[0][5:], script[1]])
    assert [output.sequences[0] for output in before + after] == [output.sequences[0] for output in whole]
    assert [output.sequences[1] for output in after] == [output.sequences[1] for output in whole[:4]]
    torch.testing.assert_close(join_audio(after)[1], join_audio(whole)[1, :, : 4 * size], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"`rows` must be a bool tensor of shape \(2,\), got torch.int64 \(2,\)\."):
        state.reset_rows(torch.tensor([0, 1]))


@pytest.mark.parametrize("codec", ["jodio", "mimi", "encoder"])
@pytest.mark.parametrize("talker", TALKERS)
@torch.no_grad()
def test_copies_and_files_go_on_to_the_bit(talker, codec, tmp_path):
    model = make_duplex(talker=talker, codec=codec)
    options = dict(talker_do_sample=True, talker_temperature=1.5, talker_top_k=5)
    track, script, cut = make_track(model, 8), ["lsssslss"], 3
    size = model.config.thinker_config.unit_samples
    whole = run(model, begin(model, **options), track, script)
    state = begin(model, **options)
    run(model, state, track[..., : cut * size], script)
    copy, rest_of_script = state.copy(model), [script[0][cut:]]
    save_state(model, state, tmp_path / "session")
    num_parameters = sum(1 for _ in model.parameters())
    rest = run(model, state, track[..., cut * size :], rest_of_script)
    assert_same(rest, whole[cut:])
    assert_same(run(model, copy, track[..., cut * size :], rest_of_script), whole[cut:])
    loaded = load_state(model, tmp_path / "session")
    assert_same(run(model, loaded, track[..., cut * size :], rest_of_script), whole[cut:])
    assert sum(1 for _ in model.parameters()) == num_parameters
    assert (tmp_path / "session").stat().st_size < 10**6


@torch.no_grad()
def test_a_bias_to_begin_does_not_end_a_turn():
    model = make_duplex()
    track = make_track(model, 12)
    model.config.thinker_config.start_bias = -1e4
    assert all(output.sequences[0] == [LISTEN] for output in run(model, begin(model), track))
    size = model.config.thinker_config.unit_samples
    found = []
    for start_bias in (0.0, -1e3):
        model.config.thinker_config.start_bias = start_bias
        state = begin(model)
        run(model, state, track[..., :size], "s", speak_bias=0.0)
        found.append([output.sequences[0][0] for output in run(model, state, track[..., size:], speak_bias=1e3)])
    assert found[0] == found[1] == [SPEAK] * 11
    model.config.thinker_config.start_bias = 1e4  # a turn that was ended begins again
    state = begin(model)
    run(model, state, track[..., :size], "s", speak_bias=0.0)
    assert [output.sequences[0][0] for output in run(model, state, track[..., size:], speak_bias=-1e3)][:2] == [
        LISTEN,
        SPEAK,
    ]


@pytest.mark.parametrize("window", [4, None])
@torch.no_grad()
def test_what_is_forgotten_leaves_its_text(window):
    model = make_duplex(positions=140, unit_window=window)
    track, script = make_track(model, 40), "lssslssll" * 5
    state = begin(model)
    shown, sizes, num_read_anew = [], [], 0
    for number, unit in enumerate(track.split(model.config.thinker_config.unit_samples, dim=-1)):
        before = state.cache
        (output,) = run(model, state, unit, [script[number]], output_logits=True)
        num_read_anew += before is not None and state.cache is not before
        memory = state.rows[0].memory
        shown.append(output.sequences[0])
        sizes.append(memory.num_positions)
        # What is remembered explains what was just written: one pass over it gives the same logits.
        entries = [*memory.history, *(entry for unit in memory.units for entry in unit)]
        embeds = [memory.prompt[0].values]
        table = model.get_input_embeddings()
        embeds += [table(torch.tensor(entry)) if isinstance(entry, list) else entry.values for entry in entries]
        logits = model.thinker(inputs_embeds=torch.cat(embeds)[None]).logits[0]
        written = len(output.sequences[0])
        torch.testing.assert_close(output.logits[0], logits[-written - 1 : -1], atol=1e-3, rtol=1e-3)
        assert sum(len(entry) for entry in memory.history) <= 35
    assert num_read_anew >= 2
    assert max(sizes) <= 140
    assert window is None or max(len(unit) for unit in [memory.units]) <= window
    said = [token for sequence in shown for token in sequence if token not in (LISTEN, SPEAK)]
    kept = [token for entry in entries if isinstance(entry, list) for token in entry if token not in (LISTEN, SPEAK)]
    assert kept == said[len(said) - len(kept) :]
    forgotten = [token for entry in memory.history for token in entry]
    changes = [token for token in forgotten if token in (LISTEN, SPEAK)]
    assert all(first != second for first, second in zip(changes, changes[1:], strict=False))


@pytest.mark.parametrize("speed", [None, 0.8])  # of answers in turn
def test_the_layout_of_a_turn_is_that_of_a_session(speed):
    model = make_duplex()
    model.generation_config.talker_speed = speed
    track, script = make_track(model, 15), ["ssssslssslsssss"]
    state, turns = begin(model), []
    for output in run(model, state, track, script):
        sequence = output.sequences[0]
        if sequence[0] == LISTEN:
            turns.append([])
        else:
            turns[-1:] = [[*turns[-1], sequence[1:]]] if turns else [[sequence[1:]]]
    durations = model.get_token_durations()
    checked = 0
    for turn in filter(None, turns):
        tokens = [token for unit in turn for token in unit]
        text = [token for token in tokens if token != 2]
        counts = split_into_units(durations(text), UNIT_FRAMES, 1, model.config.talker_config.duration_right_context)
        written = [len([token for token in unit if token != 2]) for unit in turn]
        length = min(len(counts), len(turn)) - (2 not in tokens)
        assert written[:length] == counts[:length]
        checked += length
    assert checked >= 3


def test_a_backbone_with_a_window_has_one_session_at_a_time():
    config = duplex_config()
    config.thinker_config.text_config.sliding_window = 60
    model = build(josie.JosieForConditionalGeneration, config)
    with pytest.raises(ValueError, match="`input_ids` must have one row for a text backbone with .'sliding_window'"):
        begin(model, [PROMPT, PROMPT])
    assert len(run(model, begin(model), make_track(model, 2))) == 2
