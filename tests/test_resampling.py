"""Laws of resampling: what is heard is kept, nothing folds back, lengths cover the time, streams equal the whole."""

import numpy as np
import pytest
from samples import tone

from josie.processing_josie import resample
from josie.processing_josie.resampling import (
    StreamResampler,
    require_rate,
    resampled_length,
    resampling_margin,
)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101])
def test_any_rate_is_resampled(rate):
    waveform = resample(tone(0.5, rate), rate, 16000)
    assert abs(len(waveform) - 8000) <= 1
    middle = slice(1000, 7000)
    np.testing.assert_allclose(waveform[middle], tone(0.5)[: len(waveform)][middle], atol=0.02)


def level(waveform: np.ndarray) -> float:
    """Return the level of the middle of a waveform, in dB."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    return 10 * np.log10(np.mean(middle.astype(np.float64) ** 2) + 1e-20)


@pytest.mark.parametrize("rate", [24000, 44100, 48000])
def test_the_band_is_kept_and_nothing_folds_back(rate):
    kept, gone = (level(resample(tone(1, rate, pitch), rate, 16000)) for pitch in (7000.0, 8300.0))
    assert kept == pytest.approx(level(tone(1)), abs=0.05)
    assert gone < level(tone(1)) - 100


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 44100), (48000, 16000), (44101, 24000)], ids=str)
@pytest.mark.parametrize("num_samples", [0, 1, 2, 3, 5, 10, 999, 1000, 1001])
def test_lengths_cover_the_time_of_the_whole(rates, num_samples):
    expected = -(-num_samples * rates[1] // rates[0])
    assert resampled_length(num_samples, *rates) == expected
    values = np.linspace(-1, 1, 2 * num_samples).reshape(2, num_samples)
    assert resample(values, *rates).shape == (2, expected)
    assert resample(values, *rates).dtype == np.float32


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 44100), (1600, 4800), (44101, 24000)], ids=str)
def test_beyond_the_margin_nothing_matters(rates):
    values = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * max(rates)).astype(np.float32)
    changed, cut, margin = values.copy(), len(values) // 2, resampling_margin(*rates)
    changed[cut:] = 0.5
    same = int((cut - margin) * rates[1] / rates[0])
    before, after = resample(values, *rates), resample(changed, *rates)
    np.testing.assert_allclose(after[:same], before[:same], rtol=0, atol=1e-6)
    assert np.abs(after - before)[same:].max() > 0.1


@pytest.mark.parametrize(
    "rates", [(16000, 24000), (44100, 16000), (16000, 44100), (48000, 16000), (44101, 24000)], ids=str
)
@pytest.mark.parametrize("sizes", [[4000], [1, 0, 17, 3000], [50000]], ids=str)
def test_a_resampled_stream_is_the_resampled_whole(rates, sizes):
    values, resampler = np.random.default_rng(0).normal(size=(2, 20011)).astype(np.float32), StreamResampler(*rates, 2)
    pieces, start = [], 0
    while start < values.shape[1]:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(resampler.push(values[:, start : start + size]))
        start += size
        late = min(start, values.shape[1]) - sum(piece.shape[1] for piece in pieces) * rates[0] / rates[1]
        assert late <= resampler.look_ahead
    pieces.append(resampler.push(values[:, :0], is_final=True))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), resample(values, *rates), rtol=0, atol=1e-6)


def test_equal_rates_change_nothing():
    values = tone(0.1)[None]
    np.testing.assert_array_equal(resample(values, 16000, 16000), values)
    assert StreamResampler(16000, 16000).look_ahead == resampling_margin(16000, 16000) == 0
    np.testing.assert_array_equal(StreamResampler(16000, 16000).push(values), values)


@pytest.mark.parametrize("rate", [0, -8000, 16000.0, True, None, "16000"])
def test_rates_are_positive_integers(rate):
    for call in (lambda: require_rate(rate), lambda: resample(tone(0.1), rate, 16000)):
        with pytest.raises(ValueError, match="`sampling_rate` must be a positive integer in Hz, got"):
            call()
    with pytest.raises(ValueError, match="`target_rate` must be a positive integer in Hz, got"):
        resample(tone(0.1), 16000, rate)
