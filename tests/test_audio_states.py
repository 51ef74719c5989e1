"""States of an audio encoder that were made ahead stand for its inputs."""

import pytest
import torch
from test_front_ends import audio_encoder_config, jodio_config, thinker_config, whisper_config

from josie.configuration_josie import num_audio_tokens
from josie.modeling_josie.thinker.audio_front_end import AudioFrontEnd

ENCODERS = {"ours": (audio_encoder_config, 40, [40, 9, 23]), "whisper": (whisper_config, 18, [18, 7, 1])}


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_states_give_the_rows_of_the_clips(encoder, factor):
    make, longest, lengths = ENCODERS[encoder]
    config = thinker_config(audio_config=make(), audio_stack_factor=factor, audio_context_fraction=0.2)
    front_end = AudioFrontEnd(config).eval()
    features = torch.randn(3, 6, longest)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    expected = front_end(input_features=features, input_features_mask=mask)
    counts = torch.tensor([num_audio_tokens(config.audio_config, length) for length in lengths])
    states = expected.encoded.last_hidden_state[:, : int(counts.max())].detach()
    is_real = torch.arange(states.shape[1]) < counts[:, None]
    states = states.masked_fill(~is_real[..., None], 7.0)  # what stands past a clip's end is not read
    given = front_end(audio_features=states, audio_features_mask=is_real)
    assert given.counts.tolist() == expected.counts.tolist()
    torch.testing.assert_close(given.rows, expected.rows)
    alone = front_end(audio_features=states[:1, : int(counts[0])])
    torch.testing.assert_close(alone.rows, expected.rows[: int(expected.counts[0])])
    given.rows.square().sum().backward()
    assert all(value.grad is not None for value in front_end.projector.parameters())
    assert all(value.grad is None for value in front_end.encoder.parameters())


def test_a_projector_that_learns_may_be_in_more_than_its_encoder():
    front_end = AudioFrontEnd(thinker_config(audio_config=whisper_config())).bfloat16().eval()
    front_end.projector.float()
    assert front_end(input_features=torch.randn(1, 6, 18)).rows.dtype == torch.float32


def test_a_projector_may_be_wider_between_its_layers():
    config = thinker_config(
        audio_config=whisper_config(), projector_hidden_act="gelu", projector_intermediate_size=30, audio_stack_factor=2
    )
    projector = AudioFrontEnd(config).projector
    assert [tuple(value.shape) for value in projector.parameters()] == [(30, 32), (30,), (14, 30), (14,)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(audio_features=torch.zeros(1, 3, 5)), r"`audio_features` must be of shape \(.*, 16\), got \(1, 3, 5\)"),
        (
            dict(audio_features=torch.zeros(1, 3, 16), audio_features_mask=torch.ones(1, 4)),
            r"`audio_features_mask` must be of shape \(1, 3\), got \(1, 4\)",
        ),
        (
            dict(audio_features=torch.zeros(1, 3, 16), input_features=torch.zeros(1, 6, 18)),
            "`input_features` must be None with `audio_features`, got both",
        ),
    ],
)
def test_wrong_states_are_refused(given, message):
    front_end = AudioFrontEnd(thinker_config(audio_config=whisper_config()))
    with pytest.raises(ValueError, match=message):
        front_end(**given)


def test_a_front_end_of_codes_takes_no_states():
    front_end = AudioFrontEnd(thinker_config(audio_config=jodio_config()))
    with pytest.raises(ValueError, match="`audio_features` cannot be read by a front end of codes"):
        front_end(audio_features=torch.zeros(1, 3, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(projector_intermediate_size=30), "`projector_intermediate_size` must be None without"),
        (dict(projector_intermediate_size=0, projector_hidden_act="gelu"), "`projector_intermediate_size` must be"),
    ],
)
def test_impossible_projectors_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        thinker_config(audio_config=whisper_config(), **changes)
