"""Laws of the continuous encoders, and agreement with the modules of μOmni that they follow."""

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from muomni_checkpoints import draw_pixels
from safetensors.torch import load_file
from transformers import AutoModel

from josie.configuration_josie import JosieAudioEncoderConfig, JosieVisionEncoderConfig
from josie.modeling_josie.thinker.audio_encoder import JosieAudioEncoder
from josie.modeling_josie.thinker.vision_encoder import JosieVisionEncoder

GOLDEN = Path(__file__).parent / "data" / "muomni"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} with the reference outputs is not there")

# From the original's key names to ours; the two letters of audio and vision say who has them.
BLOCK_KEYS = {
    "blocks.": "backbone.layers.",
    ".norm1.": ".input_layernorm.",
    ".norm2.": ".post_attention_layernorm.",
    ".attn.in_proj_": ".self_attn.qkv_proj.",
    ".attn.out_proj.": ".self_attn.o_proj.",
    ".self_attn.in_proj_": ".self_attn.qkv_proj.",
    ".self_attn.out_proj.": ".self_attn.o_proj.",
    ".mlp.0.": ".mlp.up_proj.",
    ".mlp.2.": ".mlp.down_proj.",
    ".linear1.": ".mlp.up_proj.",
    ".linear2.": ".mlp.down_proj.",
}
AUDIO_KEYS = {"down.net.0.": "convolutions.0.", "down.net.2.": "convolutions.1.", "norm.": "backbone.norm."}
VISION_KEYS = {"cls": "cls_token", "pos": "position_embedding", "proj.": "patch_embed.", "norm.": "backbone.norm."}


def rename(state_dict: dict[str, torch.Tensor], top_level: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return the original's weights under our names."""
    renamed = {}
    for key, weight in state_dict.items():
        for old, new in top_level.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        for old, new in BLOCK_KEYS.items():
            key = key.replace(old, new)
        renamed[key] = weight
    return renamed


def audio_encoder(**kwargs) -> JosieAudioEncoder:
    fields = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_mel_bins": 10,
        "conv_channels": 5,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    encoder = JosieAudioEncoder(JosieAudioEncoderConfig(**(fields | kwargs))).eval()
    for convolution in encoder.convolutions:
        torch.nn.init.normal_(convolution.bias)  # a bias is what would make padding leak
    return encoder


def vision_encoder(**kwargs) -> JosieVisionEncoder:
    fields = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 12,
        "patch_size": 4,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    return JosieVisionEncoder(JosieVisionEncoderConfig(**(fields | kwargs))).eval()


def audio_inputs(num_frames: int = 37, num_mel_bins: int = 10) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([num_frames, 1, 18])
    return {
        "input_features": torch.randn(3, num_mel_bins, num_frames, generator=torch.Generator().manual_seed(1)),
        "attention_mask": (torch.arange(num_frames) < lengths[:, None]).long(),
    }


def stemmed_vision_encoder(**kwargs) -> JosieVisionEncoder:
    return vision_encoder(**({"stem_channels": [5, 7]} | kwargs))


def vision_inputs() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))}


BOTH = pytest.mark.parametrize(
    ("build", "inputs"),
    [(audio_encoder, audio_inputs), (vision_encoder, vision_inputs), (stemmed_vision_encoder, vision_inputs)],
    ids=["audio", "vision", "vision-with-stem"],
)


@needs_golden
def test_audio_encoder_agrees_with_the_original():
    expected = load_file(GOLDEN / "expected.safetensors")
    weights = torch.load(GOLDEN / "audio_enc_tiny" / "audio_enc.pt", weights_only=True)["enc"]
    config = JosieAudioEncoderConfig(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3)
    encoder = JosieAudioEncoder(config).eval()
    encoder.load_state_dict(rename(weights, AUDIO_KEYS))
    with torch.no_grad():
        output = encoder(expected["audio.mel"].transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(output, expected["audio.encoded"], atol=1e-4, rtol=0)


@needs_golden
def test_vision_encoder_agrees_with_the_original():
    expected = load_file(GOLDEN / "expected.safetensors")
    weights = torch.load(GOLDEN / "vision_tiny" / "vision.pt", weights_only=True)["vit"]
    config = JosieVisionEncoderConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    encoder = JosieVisionEncoder(config).eval()
    encoder.load_state_dict(rename(weights, VISION_KEYS))
    with torch.no_grad():
        output = encoder(draw_pixels()).last_hidden_state
    torch.testing.assert_close(output[:, :1], expected["vision.cls"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output[:, 1:], expected["vision.grid"], atol=1e-4, rtol=0)


def test_default_sizes_are_those_of_the_seed():
    with torch.no_grad():
        heard = JosieAudioEncoder(JosieAudioEncoderConfig()).eval()(torch.rand(1, 128, 100))
        seen = JosieVisionEncoder(JosieVisionEncoderConfig()).eval()(torch.rand(1, 3, 224, 224))
    assert heard.last_hidden_state.shape == (1, 25, 192)
    assert seen.last_hidden_state.shape == (1, 197, 128)


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 8, 9, 33])
def test_lengths_are_those_of_the_configuration(factor, num_frames):
    encoder = audio_encoder(downsampling_factor=factor)
    features = encoder(torch.randn(2, 10, num_frames)).last_hidden_state
    expected = encoder.config.downsample(num_frames)
    assert features.shape == (2, expected, 24)
    for length in range(1, num_frames + 1):
        mask = (torch.arange(num_frames) < length)[None]
        assert encoder.downsample_mask(mask).tolist() == [
            [place < encoder.config.downsample(length) for place in range(expected)]
        ]


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_equals_the_row_alone(factor, attention):
    encoder = audio_encoder(downsampling_factor=factor)
    encoder.set_attn_implementation(attention)
    inputs = audio_inputs()
    features, mask = inputs["input_features"], inputs["attention_mask"]
    features = features.masked_fill(mask[:, None] == 0, torch.nan)
    with torch.no_grad():
        batch = encoder(features, mask).last_hidden_state
        for row, length in enumerate(mask.sum(-1).tolist()):
            alone = encoder(features[row : row + 1, :, :length]).last_hidden_state[0]
            torch.testing.assert_close(batch[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)
            assert not batch[row, len(alone) :].any()


def test_a_clip_without_frames_is_zero_and_leaves_the_others_alone():
    encoder = audio_encoder()
    features = audio_inputs()["input_features"]
    mask = torch.ones(3, 37)
    mask[1] = 0
    output = encoder(features, mask).last_hidden_state
    assert not output[1].any()
    torch.testing.assert_close(output[2], encoder(features[2:]).last_hidden_state[0], atol=1e-5, rtol=1e-4)
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@BOTH
def test_eager_equals_sdpa(build, inputs):
    encoder = build()
    outputs = []
    for attention in ("eager", "sdpa"):
        encoder.set_attn_implementation(attention)
        outputs.append(encoder(**inputs()).last_hidden_state)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)


@BOTH
def test_auto_model_saves_and_loads_equal_outputs_and_buffers(build, inputs, tmp_path):
    encoder = build()
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(encoder)
    assert torch.equal(loaded(**inputs()).last_hidden_state, encoder(**inputs()).last_hidden_state)
    buffers = dict(loaded.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in encoder.named_buffers())


def test_missing_parameters_start_at_random_after_loading(tmp_path):
    encoder = vision_encoder()
    state_dict = encoder.state_dict()
    encoder.save_pretrained(tmp_path, state_dict={k: v for k, v in state_dict.items() if k != "position_embedding"})
    loaded = AutoModel.from_pretrained(tmp_path)
    assert 0.2 < loaded.position_embedding.std() < 0.4
    assert torch.equal(loaded.cls_token, encoder.cls_token)


@BOTH
def test_every_parameter_gets_a_finite_gradient_with_and_without_checkpointing(build, inputs):
    gradients = []
    for checkpointing in (False, True):
        encoder = build().train()
        if checkpointing:
            encoder.activation_checkpointing_enable()
        encoder(**inputs()).last_hidden_state.square().mean().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@BOTH
def test_bfloat16_is_finite(build, inputs):
    output = build().to(torch.bfloat16)(**inputs()).last_hidden_state
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # RMSNorm keeps float32 weights
@BOTH
def test_autocast_is_finite(build, inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build()(**inputs()).last_hidden_state.isfinite().all()


@BOTH
def test_tuple_equals_dataclass_and_layers_are_recorded(build, inputs):
    encoder = build()
    output = encoder(**inputs(), output_hidden_states=True)
    plain = encoder(**inputs(), return_dict=False)
    assert torch.equal(plain[0], output.last_hidden_state)
    assert len(output.hidden_states) == encoder.config.num_hidden_layers + 1


def test_the_first_row_of_an_image_is_its_cls_row():
    encoder = vision_encoder()
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoder(**vision_inputs())
    expected = (encoder.cls_token + encoder.position_embedding[:, :1]).expand(3, 1, 16)
    torch.testing.assert_close(seen[0][:, :1], expected)
    patch = vision_inputs()["pixel_values"][:, :, 4:8, 8:12]  # row 1, column 2 of 3
    expected = encoder.patch_embed(patch).flatten(1) + encoder.position_embedding[:, 1 + 5]
    torch.testing.assert_close(seen[0][:, 1 + 5], expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("build", [vision_encoder, stemmed_vision_encoder])
def test_an_image_equals_the_image_alone(build, attention):
    encoder, images = build(), vision_inputs()["pixel_values"]
    encoder.set_attn_implementation(attention)
    with torch.no_grad():
        batch = encoder(images).last_hidden_state
        for row, image in enumerate(images):
            torch.testing.assert_close(batch[row], encoder(image[None]).last_hidden_state[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [[], [6], [6, 8], [6, 8, 10]], ids=str)
def test_a_stem_leaves_as_many_patches(channels):
    encoder = vision_encoder(image_size=32, patch_size=16, stem_channels=channels)
    assert encoder.config.num_patches == 4
    assert encoder(torch.rand(2, 3, 32, 32)).last_hidden_state.shape == (2, 5, 16)
    assert encoder.patch_embed.kernel_size == (16 // 2 ** len(channels),) * 2


def test_a_new_stem_keeps_the_power_of_what_it_reads():
    encoder = vision_encoder(image_size=64, patch_size=16, stem_channels=[32, 64, 128], initializer_range=0.02)
    states = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        for convolution in encoder.stem:
            before = convolution(states)
            assert 0.5 < before.square().mean() < 1.5
            states = torch.nn.functional.gelu(before)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([4, 4, 4], r"`stem_channels` must have at most as many entries as `patch_size` \(4\) can be halved, got"),
        ([4, 0], r"`stem_channels` must hold numbers of at least 1, got \[4, 0\]"),
    ],
    ids=str,
)
def test_wrong_stems_are_refused(channels, message):
    with pytest.raises(StrictDataclassError, match=message):
        vision_encoder(stem_channels=channels)


def test_what_is_subtracted_and_divided_by_is_done_in_the_encoder():
    mask = torch.tensor([[1] * 20, [1] * 13 + [0] * 7])
    features = torch.randn(2, 10, 20) * mask[:, None]
    plain, shifted = audio_encoder(), audio_encoder(mel_mean=-5.0, mel_std=4.0)
    shifted.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected = plain((features + 5) / 4, attention_mask=mask).last_hidden_state
        found = shifted(features, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected)
    images = torch.rand(2, 3, 12, 12)
    plain, shifted = vision_encoder(), vision_encoder(pixel_mean=0.9, pixel_std=0.2)
    shifted.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected = plain((images - 0.9) / 0.2).last_hidden_state
        torch.testing.assert_close(shifted(images).last_hidden_state, expected)


@pytest.mark.parametrize("name", ["mel_std", "pixel_std"])
def test_nothing_is_divided_by_zero(name):
    kind = JosieAudioEncoderConfig if name == "mel_std" else JosieVisionEncoderConfig
    with pytest.raises(StrictDataclassError, match=f"`{name}` must be above 0, got 0"):
        kind(**{name: 0.0})


@pytest.mark.parametrize("shape", [(2, 9, 20), (2, 20, 10), (10, 20), (2, 10, 0)], ids=str)
def test_wrong_mels_are_refused(shape):
    with pytest.raises(ValueError, match=r"`input_features` must be of shape \(batch, 10, num_frames\), got"):
        audio_encoder()(torch.rand(shape))


@pytest.mark.parametrize("shape", [(2, 19), (1, 20), (2, 10, 20)], ids=str)
def test_wrong_masks_are_refused(shape):
    with pytest.raises(ValueError, match=r"`attention_mask` must be of shape \(2, 20\), got"):
        audio_encoder()(torch.rand(2, 10, 20), torch.ones(shape))


@pytest.mark.parametrize("shape", [(1, 3, 12, 16), (1, 3, 8, 8), (1, 1, 12, 12), (3, 12, 12)], ids=str)
def test_wrong_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"`pixel_values` must be of shape \(batch, 3, 12, 12\), got"):
        vision_encoder()(torch.rand(shape))
