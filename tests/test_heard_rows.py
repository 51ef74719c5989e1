"""Clips that were encoded ahead: the batches of the processor, in windows that clips share, and what is refused."""

import numpy as np
import pytest
import soundfile
import torch
from recipes import heard_rows, token_ctc
from transformers import AutoModelForMultimodalLM, AutoProcessor

import josie
from josie.training.conversations import to_dataset

LENGTHS = (0.2, 0.31, 0.15, 0.6, 0.05)


@pytest.fixture(scope="module")
def listener(parts, tmp_path_factory):
    """Fields that make a model with Whisper's encoder, of windows of a second, hear."""

    def make(folder, **options):
        arguments = heard_rows.HearingArguments(folder=str(folder), **options)
        return heard_rows.Listener(model, processor, arguments)

    model, processor = josie.assemble(
        parts("text", "gemma3_text"), audio=parts("audio", "whisper"), audio_stack_factor=4
    )
    return make


@pytest.fixture(scope="module")
def rows():
    """Conversations with clips of different lengths; the last has two, and one has none."""
    draw = np.random.default_rng(0)
    clips = [
        {"type": "audio", "audio": draw.normal(size=int(16000 * seconds), scale=0.1).tolist(), "sampling_rate": 16000}
        for seconds in LENGTHS
    ]
    asked = [[clip | {"text": "The ball."}] for clip in clips[:3]] + ["A ball?", clips[3:]]
    turns = [[{"role": "user", "content": content}, {"role": "assistant", "content": "The ball."}] for content in asked]
    return to_dataset([{"messages": turn} for turn in turns])


def test_batches_are_those_of_the_clips_themselves(listener, rows, tmp_path):
    one = listener(tmp_path)
    heard = one.encode_rows(rows)
    collate = josie.JosieDataCollator(one.processor)
    expected, given = collate(list(rows)), heard_rows.HeardCollator(collate)(list(heard))
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(given[name], expected[name]), name
    with torch.no_grad():
        losses = [one.model.eval()(**batch).loss for batch in (expected, given)]
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-3, atol=0)  # states are kept in bfloat16
    assert heard["length"] == [len(row["input_ids"]) for row in heard]


def test_clips_in_a_window_have_the_states_of_their_places(listener, rows, tmp_path):
    alone, packed = listener(tmp_path).encode_rows(rows), listener(tmp_path, packed=True).encode_rows(rows)
    for row, other in zip(alone, packed, strict=True):
        assert torch.equal(row["input_ids"], other["input_ids"])
        if row["audio_features"] is not None:
            assert torch.equal(row["audio_features_mask"], other["audio_features_mask"])
            assert row["audio_features"].shape == other["audio_features"].shape
    assert torch.equal(alone[0]["audio_features"], packed[0]["audio_features"])  # alone there too
    assert not torch.equal(alone[2]["audio_features"], packed[2]["audio_features"])


def test_windows_hold_all_clips_and_none_twice():
    lengths = [9000, 3000, 2000, 50, 20000, 700, 3000, 400, 400]
    windows = list(heard_rows._fill_windows(lengths, 320, 1000, 16000))
    assert [index for window in windows for index, _ in window] == list(range(len(lengths)))
    assert len(windows[0]) == len(windows[3]) == 1
    for window in windows:
        assert all(start % 320 == 0 for _, start in window)
        ends = [start + lengths[index] for index, start in window]
        assert all(end + 1000 <= start for end, (_, start) in zip(ends[:-1], window[1:], strict=True))
        assert len(window) == 1 or ends[-1] <= 16000


def test_a_run_that_was_stopped_goes_on_with_the_next_shard(listener, rows, tmp_path, monkeypatch):
    whole = listener(tmp_path / "whole", shard_rows=2).encode_rows(rows)
    one = listener(tmp_path / "parts", shard_rows=2)
    calls = []

    def stop(waveforms, is_packed):
        calls.append(len(waveforms))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return type(one)._listen(one, waveforms, is_packed)

    with monkeypatch.context() as patch:
        patch.setattr(one, "_listen", stop)
        with pytest.raises(KeyboardInterrupt):
            one.encode_rows(rows)
        again = one.encode_rows(rows)
    assert calls == [2, 1, 1, 2]
    for row, other in zip(whole, again, strict=True):
        assert torch.equal(row["input_ids"], other["input_ids"])


def test_a_recording_that_changed_is_heard_anew(listener, tmp_path):
    def hear(samples):
        soundfile.write(tmp_path / "clip.wav", samples, 16000)
        return one.encode_rows(to_dataset([{"messages": turns}]))[0]["audio_features"]

    one, path = listener(tmp_path / "states"), str(tmp_path / "clip.wav")
    turns = [
        {"role": "user", "content": [{"type": "audio", "path": path}]},
        {"role": "assistant", "content": "A ball."},
    ]
    noise = np.random.default_rng(0).normal(size=8000, scale=0.1)
    first = hear(noise)
    assert not torch.equal(first, hear(noise[::-1]))
    assert torch.equal(first, hear(noise))


def test_what_cannot_be_heard_ahead_is_refused(listener, rows, tmp_path, parts, tiny_folder):
    one = listener(tmp_path)
    one.model.requires_grad_(True)
    with pytest.raises(ValueError, match="`hearing` must be null where the audio encoder learns"):
        one.encode_splits({"train": rows, "validation": rows})
    one.model.requires_grad_(False)
    with pytest.raises(ValueError, match="`data.streaming` must be false with `hearing`"):
        one.encode_splits({"train": rows.to_iterable_dataset(), "validation": rows})
    with pytest.raises(ValueError, match="`hearing.shard_rows` must be at least 1, got 0"):
        heard_rows.HearingArguments(shard_rows=0)
    model, processor = (kind.from_pretrained(tiny_folder) for kind in (AutoModelForMultimodalLM, AutoProcessor))
    with pytest.raises(ValueError, match="`hearing.packed` must be false"):
        heard_rows.Listener(model, processor, heard_rows.HearingArguments(packed=True))
    model, processor = josie.assemble(parts("text", "llama"))
    with pytest.raises(ValueError, match="`hearing` must be null for a model without an audio encoder, got none"):
        heard_rows.Listener(model, processor, heard_rows.HearingArguments())


def make_learner(listener, rows, folder, **options):
    one = listener(folder)
    heard = one.encode_rows(rows.select([0, 1, 2]))
    tokens = token_ctc.find_tokens(heard.select_columns(["transcripts"]))
    one.model.requires_grad_(False)
    one.model.thinker.model.audio_front_end.projector.requires_grad_(True)
    learner = token_ctc.TokenCTCModel(one.model, token_ctc.TokenCTCArguments(**options), tokens)
    batch = heard_rows.HeardCollator(josie.JosieDataCollator(one.processor), keeps_transcripts=True)(list(heard))
    return one, learner, batch


def test_what_was_learned_is_read_token_by_token(listener, tmp_path):
    draw = np.random.default_rng(1)
    clip = {"type": "audio", "audio": draw.normal(size=12000, scale=0.1).tolist(), "sampling_rate": 16000}
    turns = [{"role": "user", "content": [clip | {"text": "A ball."}]}, {"role": "assistant", "content": "A ball."}]
    one, learner, batch = make_learner(listener, to_dataset([{"messages": turns}] * 3), tmp_path, only=True)
    optimizer = torch.optim.Adam([value for value in learner.parameters() if value.requires_grad], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = learner(**batch).loss
        loss.backward()
        optimizer.step()
    names = ("audio_features", "audio_features_mask")
    heard = one.model.thinker.get_audio_features(**{name: batch[name] for name in names})
    assert one.processor.tokenizer.decode(learner.read_tokens(heard.pooler_output[0])) == "A ball."
    assert learner.count_targets(**batch) == {"ctc": 3 * len(learner.read_tokens(heard.pooler_output[0]))}


@pytest.mark.parametrize("num_tokens", [4, 20])
def test_the_loss_is_that_of_all_tokens(num_tokens, listener, tmp_path):
    tokens = torch.arange(num_tokens) + 3
    learner = token_ctc.TokenCTCModel(listener(tmp_path).model, token_ctc.TokenCTCArguments(), tokens)
    torch.manual_seed(0)
    for value in (learner.blank, learner.bias):
        value.data.normal_()
    heard = [torch.randn(length, len(learner.blank), requires_grad=True) for length in (9, 4, 7)]
    places = torch.tensor([[3, 1, 1, 2], [2, 2, 2, -100], [-100] * 4])  # the second is too long: 3 repeated in 4 rows
    transcripts = torch.where(places < 0, -100, learner.token_ids[places.clamp(min=0)])
    lengths, is_target = torch.tensor([9, 4, 7]), places >= 0
    logits = learner.compute_logits(torch.cat(heard)).log_softmax(dim=-1).split(lengths.tolist())
    naive = torch.nn.functional.ctc_loss(
        torch.nn.utils.rnn.pad_sequence(list(logits)),
        (places + 1) * is_target,
        lengths,
        is_target.sum(dim=1),
        reduction="none",
        zero_infinity=True,
    )
    losses = learner.compute_losses(tuple(heard), transcripts)
    torch.testing.assert_close(losses, torch.where(is_target.any(dim=1), naive, 0))
    assert losses[0] > 0
    assert losses[1:].tolist() == [0, 0]
    wanted = [*heard[:2], learner.blank, learner.bias]
    torch.testing.assert_close(
        torch.autograd.grad(losses.sum(), wanted), torch.autograd.grad(naive[:2].sum(), wanted), rtol=1e-3, atol=1e-4
    )


def test_drawn_tokens_stand_for_all_in_training(listener, tmp_path):
    tokens = torch.arange(200) + 3
    model = listener(tmp_path).model
    learner = token_ctc.TokenCTCModel(model, token_ctc.TokenCTCArguments(num_others=50), tokens).train()
    torch.manual_seed(0)
    learner.bias.data.normal_()
    rows, said = torch.randn(4, len(learner.blank)), torch.tensor([3, 8])
    exact = learner.eval()._score_others(rows, said)
    kept = torch.ones(200, dtype=torch.bool).index_fill(0, said, False)
    torch.testing.assert_close(exact, learner.compute_logits(rows)[:, 1:][:, kept].logsumexp(dim=-1, keepdim=True))
    draws = torch.stack([learner.train()._score_others(rows, said) for _ in range(400)])
    assert draws.std(dim=0).min() > 0
    torch.testing.assert_close(draws.exp().mean(dim=0), exact.exp(), rtol=0.1, atol=0)
    learner.arguments.num_others = 198
    assert torch.equal(learner._score_others(rows, said), exact)
    with pytest.raises(ValueError, match="`token_ctc.num_others` must be null or at least 1, got 0"):
        token_ctc.TokenCTCArguments(num_others=0)


def test_the_loss_of_tokens_is_added_to_the_models(listener, rows, tmp_path):
    _, learner, batch = make_learner(listener, rows, tmp_path, weight=0.5)
    output = learner(**batch)
    assert output.ctc_loss is not None
    torch.testing.assert_close(output.loss, output.text_loss + 0.5 * output.ctc_loss)
    transcripts = batch.pop("transcripts")
    torch.testing.assert_close(learner(**batch).loss, output.text_loss)
    unknown = learner(**batch, transcripts=torch.full_like(transcripts, -100))
    assert unknown.ctc_loss == 0
    with pytest.raises(ValueError, match="`token_ctc.weight` must be above 0, got 0"):
        token_ctc.TokenCTCArguments(weight=0)
