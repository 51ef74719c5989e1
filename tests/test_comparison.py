"""README's table of other models says what the installed transformers says."""

import inspect

import pytest
import transformers
from torch import nn
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.mimi.modeling_mimi import MimiOutput

OMNI = ("Qwen2_5Omni", "Qwen3OmniMoe")


def arguments_of(name: str) -> set[str]:
    """Return the names of what a model's `forward` takes, by the name of its class."""
    return set(inspect.signature(getattr(transformers, name).forward).parameters)


@pytest.mark.parametrize("family", OMNI)
class TestOmni:
    def test_the_whole_model_has_no_forward(self, family):
        assert getattr(transformers, f"{family}ForConditionalGeneration").forward is nn.Module.forward

    def test_the_side_that_reads_trains(self, family):
        assert "labels" in arguments_of(f"{family}ThinkerForConditionalGeneration")

    def test_it_reads_and_writes_what_the_table_says(self, family):
        model = getattr(transformers, f"{family}ForConditionalGeneration")
        assert set(model.output_modalities) == {"text", "audio"}
        inputs = arguments_of(f"{family}ThinkerForConditionalGeneration")
        assert {"input_ids", "input_features", "pixel_values", "pixel_values_videos"} <= inputs

    def test_no_processor_makes_targets(self, family):
        processor = getattr(transformers, f"{family}Processor")
        assert "output_labels" not in inspect.getsource(inspect.getmodule(processor))


def test_moshi_has_a_loss_of_speech_and_no_processor():
    assert {"text_labels", "audio_labels"} <= arguments_of("MoshiForConditionalGeneration")
    assert "moshi" not in PROCESSOR_MAPPING_NAMES


def test_csm_has_a_loss_and_a_processor_that_makes_targets():
    assert "labels" in arguments_of("CsmForConditionalGeneration")
    assert "output_labels" in inspect.getsource(transformers.CsmProcessor.__call__)


def test_their_codecs_have_no_loss():
    """Moshi and CSM speak through Mimi, Qwen's through a vocoder."""
    assert "loss" not in MimiOutput.__dataclass_fields__
    for name in ("Qwen2_5OmniToken2WavModel", "Qwen3OmniMoeCode2Wav"):
        assert "loss" not in inspect.getsource(getattr(transformers, name).forward)
