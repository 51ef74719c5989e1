"""Samples of the tests of processing: files, tones and a small Thinker."""

from pathlib import Path

import numpy as np

from josie.configuration_josie import JosieThinkerConfig

DATA = Path(__file__).parent / "data"
SPEECH, IMAGE, VIDEO = DATA / "speech.wav", DATA / "picture.png", DATA / "video.mp4"
IMAGE_ID, VIDEO_ID, AUDIO_ID = 6, 7, 8
CONTEXT = 256
AUDIO_ENCODER = {"model_type": "josie_audio_encoder"}
TOWER = {"model_type": "josie_vision_encoder", "image_size": 48}


def thinker_config(**kwargs) -> JosieThinkerConfig:
    text = {"model_type": "josie_text", "max_position_embeddings": CONTEXT, "hidden_size": 16, "num_attention_heads": 2}
    ids = {"image_token_id": IMAGE_ID, "video_token_id": VIDEO_ID, "audio_token_id": AUDIO_ID}
    return JosieThinkerConfig(text_config=text, **ids, **kwargs)


def tone(seconds: float, rate: int = 16000, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def short(value: object) -> str:
    """Return a readable name for a test's parameter."""
    shape = getattr(value, "shape", None)
    return f"{value.dtype}{tuple(shape)}" if shape is not None else str(value).replace(str(DATA), "")[:30]
