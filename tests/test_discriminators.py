"""Laws of the discriminators and of the losses on both sides."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from test_codec_trainer import make_discriminator
from transformers import AutoModel

from josie.configuration_josie import JodioDiscriminatorConfig
from josie.modeling_josie.codecs.discriminators import (
    JodioDiscriminatorModel,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)

LOSS_TYPES = pytest.mark.parametrize("loss_type", ["hinge", "least_squares"])


def test_logits_features_and_masks_have_the_frames_of_the_transform():
    model = make_discriminator()
    output = model(torch.randn(3, 1, 333), torch.tensor([333, 16, 17]))
    assert [tuple(item.shape) for item in output.logits] == [(3, 1, 21, 9), (3, 1, 42, 5)]
    assert [len(items) for items in output.features] == [2, 2]
    assert [item.shape[1] for item in output.features[0]] == [3, 4]
    assert [mask.sum((1, 2, 3)).tolist() for mask in output.masks] == [[21, 1, 2], [42, 2, 3]]


def test_a_row_equals_the_row_alone():
    model, audio = make_discriminator(), torch.randn(2, 1, 333)
    audio[1, :, 100:] = 0
    lengths = torch.tensor([333, 100])
    both = model(audio, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(audio[row : row + 1, :, :length])
        for scale, mask in enumerate(alone.masks):
            num_real = int(mask.sum())
            for ours, theirs in (
                (both.logits[scale], alone.logits[scale]),
                *zip(both.features[scale], alone.features[scale], strict=True),
            ):
                torch.testing.assert_close(ours[row : row + 1, :, :num_real], theirs[:, :, :num_real])
    other = audio.flip(0).clone()
    other[1, :, 100:] = 0
    judged = model(other, lengths)
    loss = feature_loss(both.features, judged.features, both.masks)
    padded = [torch.nn.functional.pad(values, (0, 111)) for values in (audio, other)]
    first, second = (model(values, lengths) for values in padded)
    torch.testing.assert_close(feature_loss(first.features, second.features, first.masks), loss)
    torch.testing.assert_close(
        discriminator_loss(first.logits, second.logits, first.masks),
        discriminator_loss(both.logits, judged.logits, both.masks),
    )


def test_losses_are_those_of_the_papers():
    real, decoded = (torch.tensor([[[[0.5], [2.0]]]]),), (torch.tensor([[[[-3.0], [0.5]]]]),)
    masks = (torch.tensor([[[[True], [True]]]]),)
    assert discriminator_loss(real, decoded, masks).item() == pytest.approx((0.5 + 0.0 + 0.0 + 1.5) / 2)
    assert adversarial_loss(decoded, masks).item() == pytest.approx((3.0 - 0.5) / 2)
    squares = discriminator_loss(real, decoded, masks, "least_squares").item()
    assert squares == pytest.approx((0.25 + 1.0 + 9.0 + 0.25) / 2)
    assert adversarial_loss(decoded, masks, "least_squares").item() == pytest.approx((16.0 + 0.25) / 2)
    first = (torch.tensor([[[[True], [False]]]]),)
    assert adversarial_loss(decoded, first).item() == pytest.approx(3.0)
    assert feature_loss((real,), (decoded,), masks).item() == pytest.approx((3.5 + 1.5) / 2.5)
    assert feature_loss((real,), (real,), masks) == 0


@LOSS_TYPES
def test_it_learns_to_tell_noise_from_tones(loss_type):
    model = make_discriminator()
    tones = torch.sin(torch.arange(333) * torch.tensor([0.3, 0.7, 1.1])[:, None])[:, None]
    noise = 0.7 * torch.randn(3, 1, 333)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        real, decoded = model(tones), model(noise)
        loss = discriminator_loss(real.logits, decoded.logits, real.masks, loss_type)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert adversarial_loss(model(noise).logits, real.masks, loss_type) > adversarial_loss(
        model(tones).logits, real.masks, loss_type
    )


@LOSS_TYPES
def test_every_parameter_and_the_waveform_get_gradients(loss_type):
    model = make_discriminator(audio_channels=2)
    audio = torch.randn(2, 2, 200, requires_grad=True)
    output = model(audio)
    half = tuple(item[:1] for item in output.logits), tuple(item[1:] for item in output.logits)
    masks = tuple(mask[:1] for mask in output.masks)
    discriminator_loss(*half, masks, loss_type).backward(retain_graph=True)
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # Within the margins of the hinge, what real and decoded waveforms want of the last bias cancels.
        if not (loss_type == "hinge" and name.endswith("head.bias")):
            assert parameter.grad.abs().sum() > 0, name
    audio.grad = None
    features = tuple(tuple(item[:1] for item in items) for items in output.features)
    others = tuple(tuple(item[1:] for item in items) for items in output.features)
    (adversarial_loss(half[1], masks, loss_type) + feature_loss(features, others, masks)).backward()
    assert audio.grad.isfinite().all()
    assert audio.grad[0].abs().sum() == 0  # the target of feature matching is not moved
    assert audio.grad[1].abs().sum() > 0


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model, audio = make_discriminator(), torch.randn(1, 1, 300)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, JodioDiscriminatorModel)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    for ours, theirs in zip(model(audio).logits, loaded(audio).logits, strict=True):
        assert torch.equal(ours, theirs)


def test_a_model_made_without_weights_is_initialised():
    loaded = JodioDiscriminatorModel.from_pretrained(None, config=make_discriminator().config, state_dict={})
    for name, value in loaded.state_dict().items():
        assert value.isfinite().all(), name
        assert name.endswith("bias") or 0 < value.abs().mean() < 2, name


def test_bfloat16_and_autocast_are_finite():
    audio = torch.randn(1, 1, 300)
    model = make_discriminator()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(audio)
        loss = discriminator_loss(output.logits, output.logits, output.masks)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    output = model.to(torch.bfloat16)(audio.bfloat16())
    assert output.logits[0].dtype == torch.bfloat16
    assert output.logits[0].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_ffts": []}, r"`n_ffts` must hold numbers of at least 4, got \[\]"),
        ({"channels": [3, 0]}, r"`channels` must hold numbers of at least 1, got \[3, 0\]"),
        ({"time_dilations": [1]}, r"`time_dilations` must have one entry for each of the 2 `channels`, got \[1\]"),
        ({"kernel_size": [2, 3]}, r"`kernel_size` must hold two odd numbers, got \[2, 3\]"),
    ],
)
def test_impossible_layers_are_named(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        make_discriminator(**changes)


def test_wrong_waveforms_are_named():
    for shape in ((1, 9), (1, 2, 9), (1, 1, 0)):
        with pytest.raises(ValueError, match=r"`waveforms` must have shape \(batch, 1, samples\)"):
            make_discriminator()(torch.zeros(shape))
    assert JodioDiscriminatorConfig().n_ffts[0] == 2048
