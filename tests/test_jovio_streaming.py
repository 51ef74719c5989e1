"""Laws of streams through JOVIO: chunks of any size give what the whole video gives, and states stay as they are."""

import copy

import pytest
import torch

from josie.configuration_josie import JovioConfig
from josie.modeling_josie.codecs.jovio import JovioModel
from josie.modeling_josie.codecs.streaming import JovioStreamingState

PATCH, TEMPORAL = 4, 3
HEIGHT, WIDTH = 8, 12
PLANE = 2 * 3
# None: all the past. 1: no past. 4: less than a frame. 15: two frames and a half.
WINDOWS = [None, 1, 4, 15]


def backbone(hidden_size: int, sliding_window: int | None, **kwargs) -> dict:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
        "sliding_window": sliding_window,
    } | kwargs


def model(window: int | None = None, seed: int = 0, backbones: dict | None = None, **kwargs) -> JovioModel:
    torch.manual_seed(seed)
    fields = {
        "causal_time": True,
        "num_quantizers": 3,
        "codebook_size": 11,
        "codebook_dim": 6,
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL,
        "max_frames": 40,
        "encoder_config": backbone(16, window, **(backbones or {})),
        "decoder_config": backbone(12, window, **(backbones or {})),
        "initializer_range": 0.3,
    }
    return JovioModel(JovioConfig(**(fields | kwargs))).eval()


def videos(num_frames: int, batch_size: int = 2, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.rand(batch_size, num_frames, 3, height, width, generator=generator)


def stream_codes(jovio: JovioModel, given: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    """Encode `given` in chunks; the last is final."""
    assert sum(chunks) == given.shape[1]
    codes, state = [], None
    for index, chunk in enumerate(given.split(chunks, dim=1)):
        is_final = index == len(chunks) - 1
        output = jovio.encode(chunk, streaming_state=state, use_streaming=True, is_final=is_final)
        assert output.vision_codes.shape == (len(given), 3, int(output.grid_thw[0].prod()))
        assert output.grid_thw[:, 1:].tolist() == [[2, 3]] * len(given)
        assert (output.streaming_state is None) == is_final
        codes.append(output.vision_codes)
        state = output.streaming_state
    return torch.cat(codes, dim=-1)


def stream_pixels(jovio: JovioModel, codes: torch.Tensor, times: list[int]) -> torch.Tensor:
    """Decode `codes` in chunks of some temporal patches."""
    pixels, state = [], None
    for time, chunk in zip(times, codes.split([PLANE * time for time in times], dim=-1), strict=True):
        grid = torch.tensor([[time, 2, 3]] * len(codes))
        output = jovio.decode(chunk, grid, streaming_state=state, use_streaming=True)
        assert output.pixel_values.shape == (len(codes), TEMPORAL * time, 3, HEIGHT, WIDTH)
        pixels.append(output.pixel_values)
        state = output.streaming_state
    return torch.cat(pixels, dim=1)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(
    "chunks", [[1] * 17, [17], [3] * 5 + [2], [7, 0, 1, 2, 5, 2], [0, 16, 1], [2, 15, 0]], ids=lambda c: str(c)[:20]
)
def test_streamed_codes_are_those_of_the_whole_video(window, chunks):
    jovio, given = model(window), videos(17)
    assert torch.equal(stream_codes(jovio, given, chunks), jovio.encode(given).vision_codes)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("times", [[1] * 6, [6], [2, 0, 3, 1], [0, 5, 1]], ids=str)
def test_streamed_pixels_are_those_of_the_whole_video(window, overlap, times):
    jovio = model(window, patch_overlap=overlap)
    codes = torch.randint(0, 11, (2, 3, 6 * PLANE), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        whole = jovio.decode(codes, torch.tensor([[6, 2, 3]] * 2)).pixel_values
        streamed = stream_pixels(jovio, codes, times)
    assert whole.std() > 0.1
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 4], ids=str)
def test_latents_of_a_stream_are_exact(window):
    """Codes hide small differences; latents do not. The eager attention takes masks of another form."""
    from josie.modeling_josie.codecs.patches import PatchLayout

    given = videos(12)
    latents = {}
    for attention in ("eager", "sdpa"):
        jovio = model(window)
        jovio.set_attn_implementation(attention)
        state = jovio._enter_stream(None, (2, 2, 3), jovio.encoder)
        pieces = []
        with torch.no_grad():
            whole, _ = jovio._encode(given, PatchLayout.from_grids([[4, 2, 3]] * 2, (4, 2, 3), given.device))
            for chunk in given.split([3, 6, 3], dim=1):
                time = chunk.shape[1] // TEMPORAL
                layout = PatchLayout.from_grids([[time, 2, 3]] * 2, (time, 2, 3), given.device)
                piece, state = jovio._encode(chunk, layout, state)
                pieces.append(piece)
        latents[attention] = torch.cat(pieces, dim=-1)
        torch.testing.assert_close(latents[attention], whole, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(latents["eager"], latents["sdpa"], atol=2e-5, rtol=1e-4)


def test_without_rotary_positions_a_stream_is_exact_too():
    jovio, given = model(backbones={"rope_parameters": None}), videos(11)
    assert torch.equal(stream_codes(jovio, given, [4, 5, 2]), jovio.encode(given).vision_codes)


def test_images_are_frames_of_a_stream():
    jovio, given = model(), videos(6)
    state, codes = None, []
    for frame in given.unbind(1):
        output = jovio.encode(frame, streaming_state=state, use_streaming=True)
        state = output.streaming_state
        codes.append(output.vision_codes)
    assert [chunk.shape[-1] for chunk in codes] == [0, 0, PLANE, 0, 0, PLANE]
    assert torch.equal(torch.cat(codes, dim=-1), jovio.encode(given).vision_codes)


def test_a_row_of_a_stream_is_the_row_alone():
    jovio, given = model(), videos(8, batch_size=3)
    together = stream_codes(jovio, given, [2, 5, 1])
    for row in range(3):
        assert torch.equal(together[row : row + 1], stream_codes(jovio, given[row : row + 1], [5, 3]))


def test_fewer_quantizers_are_a_prefix_in_a_stream():
    jovio, given = model(), videos(3)
    more = jovio.encode(given, use_streaming=True).vision_codes
    for num_quantizers in (1, 2):
        fewer = jovio.encode(given, num_quantizers=num_quantizers, use_streaming=True).vision_codes
        assert torch.equal(fewer, more[:, :num_quantizers])


def test_a_state_stays_as_it_is_and_can_be_continued_twice():
    jovio, given = model(15), videos(10)
    before = jovio.encode(given[:, :7], use_streaming=True).streaming_state
    kept = copy.deepcopy(before)
    runs = [jovio.encode(given[:, 7:], streaming_state=before, is_final=True).vision_codes for _ in range(2)]
    assert torch.equal(*runs)
    assert before.num_times == kept.num_times == 2
    assert torch.equal(before.pending, kept.pending)
    for ours, theirs in zip(before.cache.layers, kept.cache.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
    expected = jovio.encode(given).vision_codes
    assert torch.equal(runs[0], expected[..., -runs[0].shape[-1] :])


def test_num_frames_cuts_the_end_of_a_stream():
    jovio, given = model(), videos(7)
    with torch.no_grad():
        encoded = jovio.encode(given)
        whole = jovio.decode(encoded.vision_codes, encoded.grid_thw, num_frames=7).pixel_values
        split = 2 * PLANE
        first = jovio.decode(encoded.vision_codes[..., :split], torch.tensor([[2, 2, 3]] * 2), use_streaming=True)
        last = jovio.decode(
            encoded.vision_codes[..., split:], torch.tensor([[1, 2, 3]] * 2), 1, streaming_state=first.streaming_state
        )
    streamed = torch.cat((first.pixel_values, last.pixel_values), dim=1)
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=1e-4)


def test_a_window_bounds_the_state_and_lifts_the_end():
    jovio, given = model(15, max_frames=9), videos(30)
    state, sizes, codes = None, [], []
    for chunk in given.split(TEMPORAL, dim=1):
        output = jovio.encode(chunk, streaming_state=state, use_streaming=True)
        state = output.streaming_state
        codes.append(output.vision_codes)
        sizes.append(max(layer.keys.shape[2] for layer in state.cache.layers))
    assert sizes[-1] == max(sizes) == 14
    assert state.num_times == 10
    longer = model(15, max_frames=30)  # the same weights, and offline allowed
    assert torch.equal(torch.cat(codes, dim=-1), longer.encode(given).vision_codes)
    with torch.no_grad():
        pixels = stream_pixels(jovio, torch.cat(codes, dim=-1), [1] * 10)
        offline = longer.decode(torch.cat(codes, dim=-1), torch.tensor([[10, 2, 3]] * 2)).pixel_values
    torch.testing.assert_close(pixels, offline, atol=1e-5, rtol=1e-4)


def test_without_a_window_a_stream_ends_at_the_longest_video():
    jovio, given = model(max_frames=9), videos(9)
    state = jovio.encode(given, use_streaming=True).streaming_state
    with pytest.raises(ValueError, match=r"longer than `max_frames` \(9\).*no `sliding_window`, got 10 frames"):
        jovio.encode(given[:, :1], streaming_state=state)
    codes = torch.zeros(1, 3, 3 * PLANE, dtype=torch.long)
    decoded = jovio.decode(codes, torch.tensor([[3, 2, 3]]), use_streaming=True)
    with pytest.raises(ValueError, match=r"`vision_codes` must not make a stream longer.*got 12 frames"):
        jovio.decode(codes[..., :PLANE], torch.tensor([[1, 2, 3]]), streaming_state=decoded.streaming_state)


def test_an_empty_stream_has_no_codes():
    jovio = model()
    output = jovio.encode(videos(0), use_streaming=True, is_final=True)
    assert output.vision_codes.shape == (2, 3, 0)
    assert output.grid_thw.tolist() == [[0, 2, 3]] * 2
    assert jovio.decode(output.vision_codes, output.grid_thw, use_streaming=True).pixel_values.shape[1] == 0


def test_bfloat16_streams():
    jovio, given = model().to(torch.bfloat16), videos(7).to(torch.bfloat16)
    codes = stream_codes(jovio, given, [4, 3])
    assert codes.shape == (2, 3, 3 * PLANE)
    pixels = stream_pixels(jovio, codes, [1, 2])
    assert pixels.dtype == torch.bfloat16
    assert pixels.isfinite().all()


def other_state(name: str) -> JovioStreamingState:
    if name == "decode":
        codes = torch.zeros(2, 3, PLANE, dtype=torch.long)
        return model().decode(codes, torch.tensor([[1, 2, 3]] * 2), use_streaming=True).streaming_state
    if name == "layers":
        return model(backbones={"num_hidden_layers": 1}).encode(videos(4), use_streaming=True).streaming_state
    if name == "heads":
        return model(backbones={"num_key_value_heads": 1}).encode(videos(4), use_streaming=True).streaming_state
    if name == "window":
        return model(5).encode(videos(4), use_streaming=True).streaming_state
    return model().encode(videos(4), use_streaming=True).streaming_state


@pytest.mark.parametrize(
    ("state", "given", "message"),
    [
        (None, videos(4, batch_size=3), r"columns of patches\) \(3, 2, 3\), got \(2, 2, 3\)"),
        (None, videos(4, height=12), r"columns of patches\) \(2, 3, 3\), got \(2, 2, 3\)"),
        (None, videos(4, width=16), r"\(2, 2, 4\), got \(2, 2, 3\)"),
        (None, videos(4, width=10), "`width` must be a positive multiple"),
        (None, videos(1).fill_(torch.nan), "`pixel_values` must be finite"),
        (None, videos(1)[:, :, :1], "`pixel_values` must be of shape"),
        ("decode", videos(4), "`streaming_state` must come from `encode`, got one from `decode`"),
        ("layers", videos(4), "`streaming_state` must have keys and values of 2 layers, got 1"),
        ("heads", videos(4), r"`streaming_state` must have keys and values of \(batch, heads, head_dim\)"),
        ("window", videos(4), "`streaming_state` must have a window of None, got 5"),
    ],
)
def test_chunks_that_cannot_follow_are_refused(state, given, message):
    with pytest.raises(ValueError, match=message):
        model().encode(given, streaming_state=other_state(state or "encode"))


@pytest.mark.parametrize(
    ("state", "shape", "grid", "message"),
    [
        ("encode", (2, 3, PLANE), [[1, 2, 3]] * 2, "`streaming_state` must come from `decode`, got one from `encode`"),
        ("decode", (1, 3, PLANE), [[1, 2, 3]], r"\(1, 2, 3\), got \(2, 2, 3\)"),
        ("decode", (2, 3, PLANE), [[1, 3, 2]] * 2, r"\(2, 3, 2\), got \(2, 2, 3\)"),
        ("decode", (2, 3, 2 * PLANE), [[1, 2, 3], [2, 2, 3]], "`grid_thw` must be the same for all items of a stream"),
        ("decode", (2, 3, PLANE), [[2, 2, 3]] * 2, "`vision_codes` must hold 12 patches"),
        ("decode", (2, 3, PLANE), [[-1, 2, 3]] * 2, r"`grid_thw` must be at least \(0, 1, 1\)"),
        ("decode", (2, 4, PLANE), [[1, 2, 3]] * 2, "`vision_codes` must have shape"),
    ],
)
def test_codes_that_cannot_follow_are_refused(state, shape, grid, message):
    with pytest.raises(ValueError, match=message):
        model().decode(torch.zeros(shape, dtype=torch.long), torch.tensor(grid), streaming_state=other_state(state))


def test_a_codec_that_sees_the_future_does_not_stream():
    jovio = model(causal_time=False)
    with pytest.raises(ValueError, match="`causal_time` must be True in the configuration of a codec that streams"):
        jovio.encode(videos(3), use_streaming=True)
    with pytest.raises(ValueError, match="`causal_time` must be True"):
        jovio.decode(torch.zeros(1, 3, PLANE, dtype=torch.long), torch.tensor([[1, 2, 3]]), use_streaming=True)


@pytest.mark.parametrize(
    "argument", [{"grid_thw": torch.tensor([[1, 2, 3]] * 2)}, {"num_frames": torch.tensor([3, 3])}]
)
def test_streams_take_no_sizes_of_items(argument):
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}` must be None in a stream"):
        model().encode(videos(3), use_streaming=True, **argument)
