"""The example of a model card: a program that loads the model and uses it, for every kind of model."""

from string import Template

from transformers.configuration_utils import PreTrainedConfig

_JOSIE = """
from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained($name)
processor = AutoProcessor.from_pretrained($name)
messages = [{"role": "user", "content": [{"type": "text", "text": "What is on the table?"}]}]
inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
"""
_TEXT_REPLY = """
reply = model.generate(**inputs, max_new_tokens=64)
print(processor.batch_decode(reply[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
"""
_SPOKEN_REPLY = """
reply = model.generate(**inputs, generation_mode="audio", max_new_tokens=64)
print(processor.batch_decode(reply.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
processor.save_audio(reply.audio_values[0, :, : reply.audio_lengths[0]], "reply.wav")
"""
_THINKER = _JOSIE.replace("AutoModelForMultimodalLM", "AutoModelForCausalLM")
_THINKER_FEATURES = """
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained($name)
processor = AutoProcessor.from_pretrained($name)
states = model(**processor(text="What is on the table?")).last_hidden_state  # (batch, length, hidden_size)
"""
_TALKER = """
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained($name)
# In a whole model these are the states and embeddings of the words to say; here they are random.
states, embeds = torch.randn(2, 1, 5, model.config.thinker_hidden_size)
spoken = model.generate(states, embeds, max_new_frames=20)
print(spoken.audio_codes.shape)  # (batch, num_quantizers, num_frames)
"""
_AUDIO_CODEC = """
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioTokenization

codec = AutoModelForAudioTokenization.from_pretrained($name)
extractor = AutoFeatureExtractor.from_pretrained($name)
rate = extractor.sampling_rate
tone = torch.sin(2 * torch.pi * 220 * torch.arange(rate) / rate).numpy()  # or what soundfile.read returns
inputs = extractor(tone, sampling_rate=rate)
codes = codec.encode(**inputs).audio_codes  # (batch, num_quantizers, num_frames)
waveform = codec.decode(codes).audio_values  # (batch, channels, num_samples)
"""
_JOVIO = """
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

codec = AutoModel.from_pretrained($name)
processor = AutoImageProcessor.from_pretrained($name)
picture = Image.new("RGB", (64, 48), "teal")  # or Image.open("picture.png")
encoded = codec.encode(**processor(picture))
print(encoded.vision_codes.shape)  # (batch, num_quantizers, num_patches)
pixels = codec.decode(encoded.vision_codes, encoded.grid_thw).pixel_values
"""
_AUDIO_ENCODER = """
import numpy as np
from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained($name)
extractor = AutoFeatureExtractor.from_pretrained($name)
inputs = extractor(np.zeros(extractor.sampling_rate, dtype=np.float32), sampling_rate=extractor.sampling_rate)
features = model(inputs["input_features"]).last_hidden_state  # (batch, num_features, hidden_size)
"""
_VISION_ENCODER = """
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained($name)
processor = AutoImageProcessor.from_pretrained($name)
inputs = processor(Image.new("RGB", (64, 48), "teal"))  # or Image.open("picture.png")
features = model(inputs["pixel_values"]).last_hidden_state  # (batch, 1 + num_patches, hidden_size)
"""
_TEXT = """
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained($name)
states = model(torch.tensor([[1, 2, 3]])).last_hidden_state  # (batch, length, hidden_size)
"""
_BACKBONE = """
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained($name)
states = model(torch.randn(1, 5, model.config.hidden_size)).last_hidden_state  # (batch, length, hidden_size)
"""
_EXAMPLES = {
    "josie_talker": _TALKER,
    "jodio": _AUDIO_CODEC,
    "josie_mel_codec": _AUDIO_CODEC,
    "jovio": _JOVIO,
    "josie_audio_encoder": _AUDIO_ENCODER,
    "josie_vision_encoder": _VISION_ENCODER,
    "josie_text": _TEXT,
    "josie_backbone": _BACKBONE,
}


def write_example(config: PreTrainedConfig, architecture: str | None, name: str, with_code: bool) -> str:
    """Return the example of a model of this package, as Markdown.

    Args:
        config ([`PreTrainedConfig`]): The model's.
        architecture (`str`, *optional*): Name of its class, where there are several for one kind.
        name (`str`): What to load, a folder or a name on the Hub.
        with_code (`bool`): Whether the code is loaded from there too.
    """
    if config.model_type == "josie":
        speaks = config.talker_config is not None and config.audio_codec_config is not None
        program = _JOSIE + (_SPOKEN_REPLY if speaks else _TEXT_REPLY).lstrip("\n")
    elif config.model_type == "josie_thinker":
        is_model = architecture == "JosieThinkerModel"
        program = _THINKER_FEATURES if is_model else _THINKER + _TEXT_REPLY.lstrip("\n")
    else:
        program = _EXAMPLES[config.model_type]
    if with_code:
        preface = (
            "The code comes with the weights; it needs `pip install transformers torch torchaudio soundfile pillow`."
        )
        name_in_code = f'"{name}", trust_remote_code=True'
    else:
        preface = "This needs the package `josie`, whose import makes the Auto classes know it."
        program, name_in_code = "\nimport josie\n" + program, f'"{name}"'
    return f"{preface}\n\n```python\n{Template(program).substitute(name=name_in_code).strip()}\n```"
