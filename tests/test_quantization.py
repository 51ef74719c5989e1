"""Laws of the quantizers."""

import pytest
import torch
from processes import run_two
from test_jodio import make_model as make_jodio

from josie.configuration_josie import JosieCodecConfig
from josie.modeling_josie.codecs.codebook import VectorQuantizer, find_nearest, sample_vectors
from josie.modeling_josie.codecs.quantization import (
    ResidualVectorQuantizer,
    SplitResidualVectorQuantizer,
    build_quantizer,
)

SPLITS = pytest.mark.parametrize("num_semantic", [0, 1, 3], ids=lambda count: f"semantic{count}")


def make_config(**changes) -> JosieCodecConfig:
    sizes = {"num_quantizers": 4, "codebook_size": 13, "codebook_dim": 5}
    return JosieCodecConfig(**(sizes | changes))


def make_quantizer(**changes):
    torch.manual_seed(0)
    return build_quantizer(make_config(**changes), 7)


def test_nearest_is_the_naive_nearest():
    torch.manual_seed(0)
    vectors, codebook = torch.randn(61, 5), torch.randn(13, 5)
    assert torch.equal(find_nearest(vectors, codebook), torch.cdist(vectors, codebook).argmin(-1))


def test_the_search_in_parts_equals_the_search_at_once(monkeypatch):
    torch.manual_seed(0)
    vectors, codebook = torch.randn(61, 5), torch.randn(13, 5)
    whole = find_nearest(vectors, codebook)
    monkeypatch.setattr("josie.modeling_josie.codecs.codebook._MAX_SCORES", 40)
    assert torch.equal(find_nearest(vectors, codebook), whole)


@SPLITS
def test_fewer_quantizers_are_a_prefix(num_semantic):
    quantizer = make_quantizer(num_semantic_quantizers=num_semantic).eval()
    assert isinstance(quantizer, SplitResidualVectorQuantizer if num_semantic else ResidualVectorQuantizer)
    latents = torch.randn(3, 7, 11)
    codes = quantizer.encode(latents)
    assert codes.shape == (3, 4, 11)
    for count in range(1, 5):
        assert torch.equal(quantizer.encode(latents, count), codes[:, :count])
        output = quantizer(latents, num_quantizers=count)
        torch.testing.assert_close(output.quantized_latents, quantizer.decode(codes[:, :count]))


@SPLITS
def test_each_residual_gets_its_nearest_vector(num_semantic):
    quantizer = make_quantizer(num_semantic_quantizers=num_semantic).eval()
    latents = torch.randn(2, 7, 9)
    codes, expected = quantizer.encode(latents), torch.zeros(2, 9, 7)
    parts = [quantizer] if not num_semantic else [quantizer.semantic, quantizer.acoustic]
    start = 0
    for part in parts:
        residual, total = part.proj_in(latents.transpose(1, 2)), 0
        for index, item in enumerate(part.quantizers):
            nearest = torch.cdist(residual, item.codebook).argmin(-1)
            assert torch.equal(codes[:, start + index], nearest)
            total = total + item.codebook[nearest]
            residual = residual - item.codebook[nearest]
        expected, start = expected + part.proj_out(total), start + len(part.quantizers)
    torch.testing.assert_close(quantizer.decode(codes), expected.transpose(1, 2))


@pytest.mark.parametrize("update", ["ema", "gradient"])
@SPLITS
def test_gradients_pass_straight_through(update, num_semantic):
    quantizer = make_quantizer(codebook_update=update, num_semantic_quantizers=num_semantic, quantizer_dropout=0.5)
    latents = torch.randn(3, 7, 11, requires_grad=True)
    output = quantizer(latents)
    (output.quantized_latents.square().sum() + output.commitment_loss + output.codebook_loss).backward()
    for name, parameter in [("latents", latents), *quantizer.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert latents.grad.abs().sum() > 0


def test_straight_through_is_the_identity_of_the_projections():
    quantizer = build_quantizer(make_config(), 5)  # no projections
    latents = torch.randn(2, 5, 6, requires_grad=True)
    weights = torch.randn(2, 5, 6)
    (quantizer(latents).quantized_latents * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


def test_masked_frames_count_nowhere():
    latents, mask = torch.randn(2, 7, 10), torch.ones(2, 10)
    mask[1, 4:] = 0
    changed = latents.clone()
    changed[1, :, 4:] = 100.0
    outputs, states = [], []
    for values in (latents, changed):
        quantizer = make_quantizer(num_semantic_quantizers=1)
        torch.manual_seed(1)
        outputs.append([quantizer(values, mask) for _ in range(3)][-1])
        states.append(quantizer.state_dict())
    for name, value in outputs[0].items():
        torch.testing.assert_close(value, outputs[1][name], msg=name)
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], msg=name)
    assert outputs[0].codes[1, :, 4:].abs().sum() == 0
    assert outputs[0].quantized_latents[1, :, 4:].abs().sum() == 0


def test_kmeans_finds_clusters():
    torch.manual_seed(0)
    centers = 10 * torch.randn(4, 5)
    latents = (centers.repeat(20, 1) + 0.01 * torch.randn(80, 5)).T[None]
    quantizer = build_quantizer(make_config(num_quantizers=1, codebook_size=12, ema_decay=1.0), 5)
    output = quantizer(latents)
    assert quantizer.quantizers[0].initialized
    assert output.commitment_loss < 0.01
    assert output.perplexity.item() > 3.9


def test_kmeans_with_fewer_latents_than_codes():
    quantizer = make_quantizer()
    output = quantizer(torch.randn(1, 7, 3))
    assert output.commitment_loss.isfinite()
    for value in quantizer.state_dict().values():
        assert value.isfinite().all()


def test_a_batch_without_real_frames_changes_nothing():
    quantizer = make_quantizer(num_semantic_quantizers=1)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 7, 5), torch.zeros(2, 5))
    for name, value in quantizer.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)


def test_ema_follows_the_data_and_eval_does_not():
    torch.manual_seed(0)
    quantizer = build_quantizer(make_config(num_quantizers=1, ema_decay=0.5, dead_code_threshold=0), 5)
    latents = torch.randn(1, 5, 200)
    quantizer(latents)
    book = quantizer.quantizers[0].codebook
    codes, before = quantizer.encode(latents)[0, 0], book.clone()
    use = quantizer.quantizers[0].cluster_size.clone()
    sums = before * use[:, None]
    quantizer(latents + 0.5)
    assert not torch.equal(book, before)
    codes = find_nearest((latents + 0.5)[0].T, before)
    counts = torch.bincount(codes, minlength=13)
    expected = (sums + torch.zeros(13, 5).index_add_(0, codes, (latents + 0.5)[0].T)) / (use + counts)[:, None]
    torch.testing.assert_close(book, expected)
    before = book.clone()
    quantizer.eval()(latents)
    assert torch.equal(book, before)


def test_training_goes_on_from_files_with_and_without_sums():
    torch.manual_seed(0)
    config = make_config(num_quantizers=2, dead_code_threshold=0)
    quantizer = build_quantizer(config, 5)
    quantizer(torch.randn(1, 5, 200))
    new = {name: value.clone() for name, value in quantizer.state_dict().items()}
    assert not any("sum" in name for name in new)
    old = dict(new)
    for name in [name for name in new if name.endswith(".codebook")]:
        old[f"{name}_sum"] = new[name] * new[name.replace(".codebook", ".cluster_size")][:, None]
    latents = torch.randn(1, 5, 200)
    trained = []
    for weights in (new, old):
        other = build_quantizer(config, 5)
        other.load_state_dict(weights)
        other(latents)
        trained.append(other.state_dict())
    quantizer(latents)
    for name, value in quantizer.state_dict().items():
        assert not name.endswith(".codebook") or not torch.equal(value, new[name])
        assert all(torch.equal(value, one[name]) for one in trained), name
    averages = [old[f"{name}_sum"] for name in new if name.endswith(".codebook")]
    codes = find_nearest(latents[0].T, new["quantizers.0.codebook"])
    sums = torch.zeros(13, 5).index_add_(0, codes, latents[0].T)
    use = new["quantizers.0.cluster_size"].lerp(torch.bincount(codes, minlength=13).float(), 1 - config.ema_decay)
    expected = averages[0].lerp(sums, 1 - config.ema_decay) / use[:, None]
    torch.testing.assert_close(trained[0]["quantizers.0.codebook"], expected)


def test_codebooks_may_stay_as_they_are():
    quantizer = make_quantizer(codebook_update="none", kmeans_init=False, dead_code_threshold=5).train()
    before = {name: value.clone() for name, value in quantizer.named_buffers()}
    assert any("codebook" in name for name in before)
    quantizer(torch.randn(3, 7, 11))
    for name, value in quantizer.named_buffers():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_come_back_on_real_latents(update):
    torch.manual_seed(0)
    config = make_config(kmeans_init=False, codebook_update=update)
    quantizer = VectorQuantizer(config)
    with torch.no_grad():
        quantizer.codebook[3] = 1e3
    quantizer.cluster_size[3] = 0
    vectors, weights = torch.randn(50, 5), torch.ones(50)
    weights[25:] = 0
    quantizer.update(vectors, quantizer.encode(vectors), weights)
    assert (vectors[:25] == quantizer.codebook[3]).all(-1).any()


def test_draws_do_not_repeat_while_there_are_enough():
    vectors, weights = torch.arange(20.0)[:, None], torch.ones(20)
    weights[10:] = 0
    drawn, found = sample_vectors(vectors, weights, 10)
    assert found
    assert sorted(drawn[:, 0].tolist()) == list(range(10))


def test_dropped_quantizers_do_not_learn():
    quantizer = make_quantizer(num_semantic_quantizers=1)
    latents = torch.randn(4, 7, 9)
    quantizer(latents)
    before = quantizer.acoustic.quantizers[1].codebook.clone()
    output = quantizer(latents, row_quantizers=torch.tensor([1, 2, 1, 2]))
    assert torch.equal(quantizer.acoustic.quantizers[1].codebook, before)
    assert output.usage[2:].sum() == 0
    quantizer.eval()
    rows = quantizer(latents, row_quantizers=torch.tensor([1, 2, 1, 2])).quantized_latents
    for row, count in enumerate([1, 2, 1, 2]):
        torch.testing.assert_close(
            rows[row : row + 1], quantizer(latents[row : row + 1], None, count).quantized_latents
        )


def test_perplexity_and_usage_are_those_of_the_codes():
    quantizer = make_quantizer().eval()
    output = quantizer(torch.randn(3, 7, 20))
    for level in range(4):
        counts = torch.bincount(output.codes[:, level].flatten(), minlength=13)
        shares = counts[counts > 0] / counts.sum()
        torch.testing.assert_close(output.perplexity[level], (-(shares * shares.log()).sum()).exp())
        torch.testing.assert_close(output.usage[level], (counts > 0).float().mean())


def test_training_lowers_the_error():
    quantizer = make_quantizer(num_semantic_quantizers=1, kmeans_init=False)
    latents = torch.randn(4, 7, 50)
    losses = [quantizer(latents).commitment_loss.item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_autocast_keeps_the_codebook_in_float32():
    quantizer = make_quantizer(num_semantic_quantizers=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = quantizer(torch.randn(2, 7, 9))
    assert output.commitment_loss.dtype == torch.float32
    assert quantizer.semantic.quantizers[0].codebook.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: q.encode(torch.zeros(1, 7, 2), 5), r"`num_quantizers` must be in \[1, 4\], got 5"),
        (lambda q: q(torch.zeros(1, 7, 2), None, 0), r"`num_quantizers` must be in \[1, 4\], got 0"),
        (lambda q: q.encode(torch.zeros(1, 6, 2)), r"`latents` must have shape \(batch, 7, frames\)"),
        (lambda q: q(torch.zeros(1, 7, 2), torch.ones(1, 3)), r"`mask` must have shape \(1, 2\), got \(1, 3\)"),
        (lambda q: q.decode(torch.zeros(1, 5, 2, dtype=torch.long)), r"`codes` must have shape .*1 to 4 quantizers"),
        (lambda q: q.decode(torch.zeros(1, 4, 2)), r"`codes` must be integers, got torch.float32"),
        (lambda q: q.decode(torch.full((1, 4, 2), 13)), r"`codes` must be in \[0, 12\], got values from 13 to 13"),
        (lambda q: q.decode(torch.full((1, 4, 2), -1)), r"got values from -1 to -1"),
    ],
)
@SPLITS
def test_bad_input_is_named(call, message, num_semantic):
    with pytest.raises(ValueError, match=message):
        call(make_quantizer(num_semantic_quantizers=num_semantic))


def train_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    quantizer = make_quantizer(num_semantic_quantizers=1, quantizer_dropout=0.5)
    torch.manual_seed(rank + 1)
    for step in range(4):
        mask = torch.ones(2, 6) if rank or step != 1 else torch.zeros(2, 6)
        quantizer(torch.randn(2, 7, 6), mask)
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_keep_equal_codebooks(tmp_path):
    first, second = run_two(train_process, tmp_path)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("keep_variance", [True, False])
def test_new_projections_keep_the_variance_or_start_as_any_other(keep_variance):
    torch.manual_seed(0)
    config = make_config(codebook_dim=64, initializer_range=0.02)
    quantizer = build_quantizer(config, 256, keep_variance)
    owner = make_jodio()
    for module in quantizer.modules():
        owner._init_weights(module)
    for projection in (quantizer.proj_in, quantizer.proj_out):
        expected = projection.in_features**-0.5 if keep_variance else 0.02
        assert 0.9 < projection.weight.std() / expected < 1.1
