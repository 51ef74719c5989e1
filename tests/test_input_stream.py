"""Laws of inputs that come one after the other: tokens, media and audio on one cache are as all of them at once."""

import pytest
import torch
from test_jodio_streaming import draw_chunks
from tiny import (
    AUDIO_ENCODER,
    CAUSAL_AUDIO_ENCODER,
    JODIO,
    TEXT,
    THINKER,
    build,
    coded_josie_config,
    lengths_to_mask,
)

import josie

HOP = 24  # samples a feature stands for
FAMILIES = {
    "josie": TEXT,
    "llama": TEXT | dict(model_type="llama"),
    "gpt2": dict(model_type="gpt2", n_embd=30, n_layer=2, n_head=3, n_positions=96, vocab_size=53),
}


def thinker(text="josie", **changes):
    fields = THINKER | dict(audio_config=CAUSAL_AUDIO_ENCODER, text_config=FAMILIES[text]) | changes
    return build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(**fields))


def waveforms(length: int, batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 1, length, generator=torch.Generator().manual_seed(3)) * 0.3


def read_row(model, ids: list[int], **media) -> torch.Tensor:
    """Return the logits of one row that is read at once, `(length, vocab_size)`."""
    return model(input_ids=torch.tensor([ids]), **media).logits[0]


def append(model, steps: list[dict]):
    """Append one after the other; return the state, and the logits of each row's own positions."""
    state, pieces = None, []
    for step in steps:
        before = 0 if state is None else state.input_ids.shape[1]
        output = model.append_inputs(streaming_state=state, **step)
        state = output.streaming_state
        if output.logits is not None:
            new = state.attention_mask[:, before:]
            assert new.sum(dim=1).tolist() == output.num_tokens.tolist()
            pieces.append([logits[real.bool()] for logits, real in zip(output.logits, new, strict=True)])
    return state, [torch.cat([piece[row] for piece in pieces]) for row in range(len(state.input_ids))]


PROMPT = torch.tensor([[6, 20, 21, 22, 23], [0, 0, 6, 30, 31]])
QUESTION = torch.tensor([[24, 25, 26], [0, 32, 33]])
PIXELS = torch.rand(2, 3, 21, 21, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("text", FAMILIES)
@pytest.mark.parametrize("factor", [1, 4])
@torch.no_grad()
def test_pieces_are_as_all_at_once(text, factor):
    model, values = thinker(text, audio_stack_factor=factor, audio_context_fraction=1.0), waveforms(250)
    chunks = draw_chunks(250, [0, 7, 24, 60, 101], seed=5)
    steps = [{"input_ids": PROMPT, "attention_mask": (PROMPT > 0).long(), "pixel_values": PIXELS}]
    steps += [{"input_values": values[..., chunk], "is_final": chunk.stop == 250} for chunk in chunks]
    steps += [{"input_ids": QUESTION, "attention_mask": (QUESTION > 0).long()}]
    state, found = append(model, steps)
    count = model.config.get_num_audio_tokens(250)
    assert count == -(-11 // factor)
    assert state.audio is state.pending is None
    for row in range(2):
        ids = [*PROMPT[row][PROMPT[row] > 0], *[8] * count, *QUESTION[row][QUESTION[row] > 0]]
        expected = read_row(model, ids, input_values=values[row : row + 1], pixel_values=PIXELS[row : row + 1])
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)
        assert state.num_tokens[row] == len(ids)


@pytest.mark.parametrize("text", FAMILIES)
@torch.no_grad()
def test_greedy_tokens_are_those_of_all_at_once(text):
    model, values = thinker(text), waveforms(240)
    steps = [{"input_ids": PROMPT, "attention_mask": (PROMPT > 0).long(), "pixel_values": PIXELS}]
    steps += [{"input_values": values[..., :100]}, {"input_values": values[..., 100:], "is_final": True}]
    state, _ = append(model, steps)
    asked = state.continue_with(QUESTION, QUESTION > 0)
    options = dict(max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    found = model.generate(**asked, **options)[:, -9:]
    for row in range(2):
        ids = [*PROMPT[row][PROMPT[row] > 0], *[8] * 10, *QUESTION[row][QUESTION[row] > 0]]
        media = dict(input_values=values[row : row + 1], pixel_values=PIXELS[row : row + 1])
        expected = model.generate(torch.tensor([ids]), **media, **options)[0, -9:]
        assert found[row].tolist() == expected.tolist()
    # The state was not changed: tokens appended one by one are the same.
    output, tokens = model.append_inputs(QUESTION, QUESTION > 0, state, logits_to_keep=1), []
    forbidden = model.generation_config.suppress_tokens
    for _ in range(9):
        logits = output.logits[:, -1].index_fill(1, torch.tensor(forbidden), -torch.inf)
        tokens.append(logits.argmax(dim=-1, keepdim=True))
        output = model.append_inputs(tokens[-1], streaming_state=output.streaming_state)
    assert torch.equal(torch.cat(tokens, dim=1), found)


@pytest.mark.parametrize("factor", [1, 2])
@torch.no_grad()
def test_rows_that_end_one_by_one_have_tokens_of_their_own(factor):
    model, values = thinker(audio_stack_factor=factor, audio_context_fraction=1.0), waveforms(240, batch_size=3)
    lengths = [240, 150, 100]
    mask = lengths_to_mask(lengths, 240)
    steps = [{"input_values": values[..., :100]}]
    steps += [{"input_values": values[..., 100:], "padding_mask": mask[:, 100:], "is_final": True}]
    steps += [{"input_ids": torch.full((3, 1), 40)}]
    state, found = append(model, steps)
    for row, length in enumerate(lengths):
        count = -(-length // (HOP * factor))
        expected = read_row(model, [8] * count + [40], input_values=values[row : row + 1, :, :length])
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)
        assert state.num_tokens[row] == count + 1


@torch.no_grad()
def test_a_row_that_is_reset_has_read_nothing():
    model, values = thinker(), waveforms(10 * HOP)
    wait = model.model.audio_front_end.encoder.config.algorithmic_delay - HOP
    state, _ = append(model, [{"input_ids": PROMPT[:, :1] + 40}, {"input_values": values[..., : 4 * HOP]}])
    state = state.reset_rows(torch.tensor([False, True]))
    assert state.num_tokens.tolist() == [4, 0]
    num_pending = HOP  # as the last feature lacks its look-ahead
    pieces = []
    for step in ({"input_values": values[..., 4 * HOP :]}, {"input_ids": torch.full((2, 1), 40)}):
        output = model.append_inputs(streaming_state=state, **step)
        state = output.streaming_state
        pieces.append(output.logits)
    assert wait > 0
    silence = torch.nn.functional.pad(values[1:, :, 4 * HOP :], (num_pending, 0))
    _, expected = append(model, [{"input_values": silence}, {"input_ids": torch.full((1, 1), 40)}])
    torch.testing.assert_close(torch.cat(pieces, dim=1)[1], expected[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="`rows` must be a bool tensor of shape"):
        state.reset_rows(torch.tensor([0, 1]))


@torch.no_grad()
def test_features_made_ahead_are_as_the_waveforms():
    model, values = thinker(audio_stack_factor=2), waveforms(100)
    encoder = model.model.audio_front_end.encoder
    first = encoder.encode(values[..., :75], use_streaming=True)
    last = encoder.encode(values[..., 75:], streaming_state=first.streaming_state, is_final=True)
    steps = [{"audio_features": first.audio_features}]
    steps += [
        {"audio_features": last.audio_features, "audio_features_mask": last.audio_features_mask, "is_final": True}
    ]
    _, found = append(model, steps)
    _, expected = append(model, [{"input_values": values, "is_final": True}])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_codes_of_a_codec_that_streams_are_the_other_way_in():
    config = coded_josie_config()
    model = build(josie.JosieForConditionalGeneration, config).prepare_for_inference()
    values = waveforms(203)
    whole = model.audio_codec.encode(values).audio_codes
    ids = torch.tensor([[8] * whole.shape[2] + [20, 21]] * 2)
    expected = model(input_ids=ids, input_values=values).logits
    state, pieces = None, []
    for chunk in draw_chunks(203, [0, 7, 60], seed=6):
        output = model.append_inputs(input_values=values[..., chunk], streaming_state=state, is_final=chunk.stop == 203)
        state = output.streaming_state
        pieces += [] if output.logits is None else [output.logits]
    pieces.append(model.append_inputs(torch.tensor([[20, 21]] * 2), streaming_state=state).logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=1e-4, rtol=1e-4)
    _, found = append(model, [{"audio_codes": whole[..., :4]}, {"audio_codes": whole[..., 4:]}])
    torch.testing.assert_close(torch.stack(found), expected[:, :-2], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_model_takes_waveforms_through_its_thinkers_encoder():
    config = josie.JosieConfig(thinker_config=THINKER | dict(audio_config=CAUSAL_AUDIO_ENCODER))
    model, values = build(josie.JosieForConditionalGeneration, config), waveforms(100)
    _, found = append(model, [{"input_values": values[..., :70]}, {"input_values": values[..., 70:], "is_final": True}])
    expected = model(input_ids=torch.full((2, 5), 8), input_values=values).logits
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_appended_is_refused():
    model, values = thinker(), waveforms(100)
    state = model.append_inputs(PROMPT + 20).streaming_state
    cases = [
        ({}, "`input_ids` must be given with anything but the audio of a stream, got nothing"),
        ({"pixel_values": PIXELS}, r"`input_ids` must be given with anything .* got \['pixel_values'\]"),
        ({"input_values": values, "attention_mask": PROMPT}, "`attention_mask` must be None without `input_ids`"),
        ({"input_ids": PROMPT + 20, "is_final": True}, "`is_final` must be False with `input_ids`"),
        (
            {"input_ids": torch.full((2, 1), 8)},
            "`input_ids` must hold no audio placeholders without audio inputs",
        ),
        ({"input_ids": PROMPT + 20, "attention_mask": torch.ones(2, 9)}, r"`attention_mask` must be of shape \(2, 5\)"),
        ({"input_values": waveforms(100, 3)}, "`streaming_state` must be of a batch of 3, got 2"),
        ({"audio_codes": torch.zeros(2, 3, 4, dtype=torch.long)}, "`audio_codes` cannot be read by a continuous"),
        (
            {"input_features": torch.zeros(2, 9, 8)},
            "`input_features` must be None where `config.mel_lookahead` is a",
        ),
        (
            {"audio_features": torch.zeros(2, 3, 5)},
            r"`audio_features` must be of shape \(num_clips, .*, 18\)",
        ),
        (
            {"audio_features": torch.zeros(2, 3, 18), "audio_features_mask": torch.tensor([[1, 1, 0]] * 2)},
            "`audio_features_mask` must be all true before the end of a clip",
        ),
        (
            {"input_ids": torch.full((2, 95), 40)},
            "`streaming_state` must leave positions for what is new, of 96",
        ),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            model.append_inputs(streaming_state=state, **given)
    bidirectional = thinker(audio_config=AUDIO_ENCODER)
    with pytest.raises(ValueError, match="`use_streaming` must be False for an audio encoder whose `config.is_causal`"):
        bidirectional.append_inputs(input_features=torch.zeros(2, 9, 8))
    with pytest.raises(ValueError, match="`input_values` cannot be heard: `config.audio_config` is None"):
        thinker(audio_config=None).append_inputs(input_values=values)
    coded = thinker(audio_config=JODIO)
    with pytest.raises(ValueError, match="`input_values` cannot be read by a front end of codes: pass `audio_codes`"):
        coded.append_inputs(input_values=values)


GAP_READERS = {
    "conv": {k: v for k, v in TEXT.items() if k != "head_dim"}
    | dict(model_type="lfm2", layer_types=["conv", "full_attention"]),
    "state": dict(model_type="mamba2", hidden_size=30, state_size=4, num_heads=4, head_dim=15, n_groups=1, chunk_size=4)
    | dict(num_hidden_layers=2, vocab_size=TEXT["vocab_size"], max_position_embeddings=96),
    "attention_chunk_size": TEXT
    | dict(model_type="llama4_text", attention_chunk_size=6, num_local_experts=2, intermediate_size_mlp=20)
    | dict(layer_types=["chunked_attention", "full_attention"], no_rope_layers=[1, 0]),
    "local": dict(model_type="gpt_neo", hidden_size=30, num_layers=2, num_heads=3, window_size=5)
    | dict(attention_types=[[["global", "local"], 1]], vocab_size=TEXT["vocab_size"], max_position_embeddings=96),
}


@torch.no_grad()
@pytest.mark.parametrize("reader", GAP_READERS)
def test_backbones_that_read_hidden_positions(reader):
    """They are right where these stand in front, also after rows began anew, and refuse them elsewhere."""
    model = build(josie.JosieThinkerForConditionalGeneration, josie.JosieThinkerConfig(text_config=GAP_READERS[reader]))
    ids = torch.randint(4, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = [read_row(model, row.tolist()) for row in ids]
    half = torch.ones_like(ids)
    half[1, :4] = 0
    steps = [dict(input_ids=ids[:, cut], attention_mask=half[:, cut]) for cut in (slice(1), slice(1, 3))]
    state, _ = append(model, steps)
    following = model.append_inputs(ids[:, 3:], half[:, 3:], state)
    torch.testing.assert_close(following.logits[0], expected[0][3:], atol=1e-4, rtol=1e-4)
    alone = read_row(model, ids[1, 4:].tolist())
    torch.testing.assert_close(following.logits[1, 1:], alone, atol=1e-4, rtol=1e-4)
    state = following.streaming_state.reset_rows(torch.tensor([False, True]))
    again = model.append_inputs(ids, streaming_state=state)
    torch.testing.assert_close(again.logits[1], expected[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        model.append_inputs(ids, streaming_state=following.streaming_state).logits[0], again.logits[0]
    )
    with pytest.raises(ValueError, match=f"`attention_mask` must hide nothing behind the first .* with .*'{reader}'"):
        model.append_inputs(ids, half, following.streaming_state)


@torch.no_grad()
def test_a_window_over_positions_that_are_none_is_refused():
    model = thinker(text_config=TEXT | dict(sliding_window=4))
    state = model.append_inputs(
        PROMPT, PROMPT > 0, pixel_values=PIXELS
    ).streaming_state  # padded in front: none is seen
    ids = [*PROMPT[1][2:].tolist(), 40, 41]
    found = model.append_inputs(torch.tensor([[40, 41]] * 2), streaming_state=state).logits[1]
    torch.testing.assert_close(found, read_row(model, ids, pixel_values=PIXELS[1:])[-2:], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="`attention_mask` must hide nothing behind the first token"):
        model.append_inputs(QUESTION, QUESTION > 0, state)


@torch.no_grad()
@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "mamba2"])
def test_backbones_of_states_alone(family):
    """Padded rows are written as alone, tokens are read one by one, and what needs positions is refused."""
    first = dict(hidden_size=30, state_size=4, num_hidden_layers=2, time_step_rank=3, max_position_embeddings=96)
    sizes = GAP_READERS["state"] if family == "mamba2" else first | dict(vocab_size=TEXT["vocab_size"])
    config = josie.JosieThinkerConfig(text_config=sizes | dict(model_type=family, pad_token_id=0))
    model = build(josie.JosieThinkerForConditionalGeneration, config)
    ids = torch.randint(4, 50, (1, 6), generator=torch.Generator().manual_seed(0))
    options = dict(
        max_new_tokens=3, min_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    padded = torch.nn.functional.pad(ids, (3, 0))
    expected, found = model.generate(ids, **options), model.generate(padded, attention_mask=padded > 0, **options)
    assert torch.equal(found.sequences[:, 3:], expected.sequences)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    state, read = append(model, [dict(input_ids=piece) for piece in (ids[:, :3], *ids[:, 3:].split(1, dim=1))])
    torch.testing.assert_close(read[0], read_row(model, ids[0].tolist()), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="`cache` must be None for a text backbone of states alone"):
        model.generate(**state.continue_with(ids[:, :1]), max_new_tokens=2)
    with pytest.raises(ValueError, match="`prefill_chunk_size` must be None for a text backbone of states alone"):
        model.generate(ids, prefill_chunk_size=2, max_new_tokens=2)
    if family != "mamba2":
        with pytest.raises(ValueError, match="`cache` must be that of nothing, or go on with one token, .* got 6"):
            model.append_inputs(ids, streaming_state=state)
    half = model.to(torch.bfloat16)
    assert half(ids).logits.dtype == torch.bfloat16
    assert half.generate(ids, max_new_tokens=2).shape[0] == 1
