"""Audio that cannot be used: the error names its file, which nobody would find among many rows."""

import re

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor

import josie
from josie.processing_josie import load_audio
from josie.processing_josie.audio import as_waveform

FAULTS = [
    (np.array([0.0, np.nan]), "`audio` must be finite, got NaN or infinity in {path}."),
    (np.array([0.0, 3.0]), "`audio` of floating point must be in [-1, 1], got values from 0 to 3 in {path}."),
]


def write(folder, values):
    path = folder / "bad.wav"
    soundfile.write(path, values, 1600, subtype="FLOAT")
    return path


@pytest.mark.parametrize(("values", "message"), FAULTS)
def test_a_file_is_named_whatever_reads_it(tmp_path, values, message):
    path = write(tmp_path, values)
    for source, name in ((str(path), repr(str(path))), ({"path": str(path)}, repr(str(path))), (path, repr(str(path)))):
        with pytest.raises(ValueError, match=re.escape(message.replace("{path}", name))):
            as_waveform(source, None, 1600)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=re.escape(message.replace("{path}", f"{len(content)} bytes"))):
        load_audio(content)
    with pytest.raises(ValueError, match=re.escape(message.replace(" in {path}", ""))):
        as_waveform(values, 1600, 1600)


def test_a_row_of_a_batch_is_named(tiny_folder, tmp_path):
    path, good = write(tmp_path, FAULTS[0][0]), tmp_path / "good.wav"
    soundfile.write(good, torch.linspace(-30, 30, 900).sin().numpy() * 0.3, 1600)
    rows = [
        {"messages": [{"role": "user", "content": [{"type": "audio", "path": str(file)}]}]} for file in (good, path)
    ]
    with pytest.raises(ValueError, match=re.escape(f"`audio` must be finite, got NaN or infinity in {str(path)!r}.")):
        josie.JosieDataCollator(AutoProcessor.from_pretrained(tiny_folder))(rows)


@pytest.mark.parametrize("audio", [5, 0.5, {"path": 5}, np.float32(0.5)], ids=str)
def test_a_number_is_no_file(audio):
    with pytest.raises(ValueError, match=r"`audio` must be a file or an array of samples, got .*5"):
        as_waveform(audio, None, 1600)
