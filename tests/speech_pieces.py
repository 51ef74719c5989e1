"""Models that speak while they write, and their pieces, joined and held against the whole."""

import threading

import torch
from tiny import DEPTH, JODIO, TALKER, build, josie_config

import josie

TALKERS = {
    "states": dict(),
    "states, depth, durations": dict(depth_decoder_config=DEPTH, learns_durations=True, frames_per_token=2),
    "embeddings, durations": dict(
        reads_thinker_states=False,
        learns_durations=True,
        duration_left_context=2,
        duration_right_context=1,
        frames_per_token=3,
    ),
}
MIMI = dict(
    model_type="mimi",
    sampling_rate=1600,
    upsampling_ratios=[5, 2, 2, 2],
    frame_rate=20,
    hidden_size=32,
    num_filters=4,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=32,
    codebook_dim=16,
    codebook_size=16,
    num_quantizers=3,
    vector_quantization_hidden_dimension=16,
    upsample_groups=32,
    sliding_window=9,
)
LIMITS = dict(max_new_tokens=7, talker_max_new_frames=40)


def make_josie(talker="states, depth, durations", codec=JODIO):
    talker_config = TALKER | TALKERS[talker] | dict(codebook_size=codec["codebook_size"])
    config = josie_config(talker_config=talker_config, audio_codec_config=codec)
    return build(josie.JosieForConditionalGeneration, config)


def make_reader(talker: str, thinker_positions: int = 256, **overrides):
    """Return a model whose Thinker reads any text, and the tokenizer."""
    text = josie_config().thinker_config.text_config.to_dict()
    text |= dict(vocab_size=301, max_position_embeddings=thinker_positions)
    config = josie_config(
        thinker_config=dict(text_config=text),
        talker_config=TALKER | TALKERS[talker] | overrides,
        audio_codec_config=JODIO,
    )
    return build(josie.JosieForConditionalGeneration, config), josie.load_default_tokenizer(301)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "josie-speech"]


def join(pieces) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the tokens, and the samples of each row."""
    pieces = list(pieces)
    assert [piece.is_final for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    rows = [
        torch.cat([piece.audio_values[row, :, : piece.audio_lengths[row]] for piece in pieces], dim=-1)
        for row in range(pieces[0].sequences.shape[0])
    ]
    return torch.cat([piece.sequences for piece in pieces], dim=1), rows


def assert_same(pieces, whole, prompt_length: int) -> None:
    pieces = list(pieces)
    ids, rows = join(pieces)
    assert torch.equal(ids, whole.sequences[:, prompt_length:])
    assert any(row.shape[-1] for row in rows)
    for row, values, length in zip(rows, whole.audio_values, whole.audio_lengths, strict=True):
        assert torch.equal(row, values[:, :length])
    assert_same_times(pieces, whole, prompt_length)


def assert_same_times(pieces, whole, prompt_length: int) -> None:
    """Check that the times of the pieces are those of the whole, and come with the samples that they tell of."""
    if whole.word_times is None:
        assert all(piece.word_times is None for piece in pieces)
        return
    for row, times in enumerate(whole.word_times):
        said, num_samples = [], 0
        for piece in pieces:
            num_samples += int(piece.audio_lengths[row])
            said += piece.word_times[row]
            assert all(time.end * piece.sampling_rate <= num_samples + 0.5 for time in piece.word_times[row])
        heard = [index for index, (begin, _) in enumerate(times.tolist()) if begin == begin]
        assert [prompt_length + time.token for time in said] == heard
        assert [[time.begin, time.end] for time in said] == times[heard].tolist()
