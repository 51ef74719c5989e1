"""Needs of single families in an assembly: heads with a bias, embeddings for each layer, patches in place of pixels."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from josie import assemble

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "benchmarks") not in sys.path:
    sys.path.append(str(ROOT / "benchmarks"))

import families  # noqa: E402

IDS = torch.tensor([[5, 80, 31, 200, 7, 9]])
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that saves a family once."""
    saved = {}

    def save(part, family):
        if family not in saved:
            saved[family] = tmp_path_factory.mktemp("part") / family
            families.save_part(part, family, saved[family])
        return saved[family]

    return save


@pytest.mark.parametrize("family", ["phi", "gptj", "codegen", "ctrl"])
class TestHeadBias:
    def test_logits_are_the_language_models(self, family, folders, tmp_path):
        folder = folders("text", family)
        original = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert original.get_output_embeddings().bias.std() > 0
        model, processor = assemble(folder)
        assert model.config.thinker_config.lm_head_bias
        assert torch.equal(model(IDS).logits[..., :270], original(IDS).logits[..., :270])
        model.save_pretrained(tmp_path)
        assert torch.equal(AutoModelForMultimodalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)

    def test_new_tokens_are_the_mean_of_all(self, family, folders):
        model, processor = assemble(folders("text", family))
        new = processor.tokenizer.convert_tokens_to_ids("<|audio|>")
        logits = model(IDS).logits
        assert torch.allclose(logits[..., new], logits[..., :270].mean(dim=-1), atol=1e-6)


def test_most_heads_have_no_bias(folders):
    model, _ = assemble(folders("text", "llama"))
    assert not model.config.thinker_config.lm_head_bias
    assert model.thinker.lm_head.bias is None


@pytest.mark.parametrize("family", ["gemma3n_text", "gemma4_text"])
class TestEmbeddingsOfLayers:
    def test_logits_are_the_language_models(self, family, folders):
        original = AutoModelForCausalLM.from_pretrained(folders("text", family)).eval()
        model, _ = assemble(folders("text", family))
        logits = original(IDS).logits
        assert torch.equal(model(IDS).logits[..., :270], logits[..., :270])
        with torch.no_grad():  # they matter
            original.get_per_layer_input_embeddings().weight[80] += 1
        assert not torch.equal(original(IDS).logits, logits)

    def test_media_are_padding_to_layers(self, family, folders):
        model, processor = assemble(folders("text", family), vision=folders("vision", "siglip_vision_model"))
        image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
        inputs = processor(text=f"{processor.image_token} A ball", images=[image])
        ids = inputs["input_ids"]
        embeds = model.thinker.model.language_model
        expected = embeds.get_per_layer_inputs(ids.masked_fill(ids == processor.image_token_id, 2))
        assert torch.equal(model.thinker.model.embed_for_layers(ids)["per_layer_inputs"], expected)
        text = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        assert text.shape[1] == ids.shape[1] + 3

    def test_answers_of_beams_are_read_with_them(self, family, folders):
        talker = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
        model, _ = assemble(folders("text", family), codec=folders("codec", "mimi"), talker=talker)
        options = dict(generation_mode="audio", max_new_tokens=3, talker_max_new_frames=2)
        assert model.generate(IDS, num_beams=2, **options).audio_codes.shape[-1] == 2
        read = model._read(model.get_input_embeddings()(IDS), torch.ones_like(IDS), IDS, ())
        assert torch.equal(read, model.thinker.model(IDS).last_hidden_state)

    def test_embeddings_alone_are_refused(self, family, folders):
        model, _ = assemble(folders("text", family))
        with pytest.raises(ValueError, match=f"`input_ids` must be given to a '{family}' backbone, whose layers"):
            model(inputs_embeds=model.get_input_embeddings()(IDS))


class TestNaFlex:
    def test_features_are_the_towers(self, folders):
        folder = folders("vision", "siglip2_vision_model")
        model, processor = assemble(folders("text", "llama"), vision=folder)
        image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
        batch = processor(text=processor.image_token, images=[image])
        theirs = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)(image, return_tensors="pt")
        tower = AutoModel.from_pretrained(folder).eval()
        ours = model.get_image_features(pixel_values=batch["pixel_values"])
        assert batch["input_ids"].shape == (1, 17)  # the first token begins the text
        assert torch.allclose(ours.last_hidden_state, tower(**theirs).last_hidden_state, atol=1e-5)

    def test_images_of_other_shapes_have_positions_of_their_own(self, folders):
        model, _ = assemble(folders("text", "llama"), vision=folders("vision", "siglip2_vision_model"))
        wide = model.get_image_features(torch.rand(2, 3, 16, 64))
        assert [rows.shape for rows in wide.pooler_output] == [(16, 32)] * 2
        grey = model.get_image_features(torch.full((1, 3, 16, 64), 0.5)).last_hidden_state
        assert not torch.allclose(grey[:, 0], grey[:, 8])  # left patches of two rows

    def test_the_processor_may_send_other_shapes(self, folders):
        model, processor = assemble(folders("text", "llama"), vision=folders("vision", "siglip2_vision_model"))
        processor.image_processor.size = {"height": 16, "width": 64}
        inputs = processor(text=processor.image_token, images=[torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()])
        assert inputs["pixel_values"].shape == (1, 3, 16, 64)
        assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1] == 17


def test_options_of_encoders_are_left_out(folders):
    original = AutoModelForCausalLM.from_pretrained(folders("text", "xglm"))
    assert original.generation_config.decoder_start_token_id == 2
    model, _ = assemble(folders("text", "xglm"))
    assert model.generation_config.decoder_start_token_id is None
    assert model.generate(IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (1, 9)
