"""Rows of conversations as files hold them: what is in memory goes into the messages, and lines are those of UTF-8."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from samples import AUDIO_ENCODER, IMAGE, SPEECH, TOWER, VIDEO, thinker_config, tone

from josie.configuration_josie import JosieConfig
from josie.processing_josie import JosieProcessor
from josie.tokenization import load_default_tokenizer
from josie.training.conversations import normalize_row, read_jsonl, to_dataset

PIXELS, SAMPLES = Image.open(IMAGE).convert("RGB"), tone(0.1)
TURNED = PIXELS.copy()
TURNED.getexif()[0x0112] = 6


class Decoder:
    """Stand-in for what `datasets` makes of a clip where torchcodec is installed."""

    _hf_encoded = {"path": "none-such.wav", "bytes": SPEECH.read_bytes()}


PARTS = {
    "bytes of an image": {"type": "image", "image": IMAGE.read_bytes()},
    "column of an image": {"type": "image", "image": {"bytes": IMAGE.read_bytes(), "path": "none-such.png"}},
    **{mode: {"type": "image", "image": PIXELS.convert(mode)} for mode in ("RGB", "P", "1", "LA", "CMYK", "F", "I")},
    "turned": {"type": "image", "image": TURNED},
    "array of an image": {"type": "image", "image": np.asarray(PIXELS), "max_pixels": None},
    "path of an image": {"type": "image", "path": IMAGE},
    "frames": {"type": "video", "video": [PIXELS, IMAGE.read_bytes()]},
    "array of frames": {"type": "video", "video": np.stack([np.asarray(PIXELS)] * 3), "num_frames": 2},
    "bytes of a video": {"type": "video", "video": VIDEO.read_bytes()},
    "column of a clip": {"type": "audio", "audio": {"bytes": SPEECH.read_bytes(), "path": None}},
    "samples": {"type": "audio", "audio": SAMPLES, "sampling_rate": 8000},
    "decoded column": {"type": "audio", "audio": {"array": SAMPLES.astype(np.float64), "sampling_rate": 8000}},
    "integers": {"type": "audio", "audio": ((SAMPLES * 20000).astype(np.int16), 8000)},
    "tensor of two channels": {
        "type": "audio",
        "audio": torch.from_numpy(np.stack([SAMPLES, SAMPLES / 2])),
        "sampling_rate": 22050,
    },
    "decoder": {"type": "audio", "audio": Decoder()},
}


@pytest.fixture(scope="module")
def processor():
    config = thinker_config(audio_config=AUDIO_ENCODER, vision_config=TOWER)
    return JosieProcessor.from_config(JosieConfig(thinker_config=config), load_default_tokenizer())


@pytest.mark.parametrize("name", PARTS)
def test_what_is_in_memory_is_read_back_as_it_was(processor, name):
    part = PARTS[name]
    if name == "F":
        part = part | {"image": Image.fromarray(np.asarray(PIXELS.convert("F")) / 255)}
    messages = [{"role": "user", "content": [part]}]
    row = normalize_row({"messages": messages}, None, ())
    json.dumps(row)
    if name == "decoder":
        messages = [{"role": "user", "content": [{"type": "audio", "path": SPEECH}]}]
    expected = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    for kept in (row["messages"], to_dataset([row])[0]["messages"]):
        found = processor.apply_chat_template(kept, tokenize=True, return_dict=True)
        assert processor.get_num_tokens(kept) == found["input_ids"].shape[1]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_files_are_named_and_not_read(tmp_path):
    parts = [{"type": "image", "image": {"path": "a.png", "bytes": None}}, {"type": "audio", "path": "b.wav"}]
    moved = normalize_row({"messages": [{"role": "user", "content": parts}]}, tmp_path, ())["messages"][0]["content"]
    assert moved[0]["image"]["path"] == str(tmp_path / "a.png")
    assert moved[1]["path"] == str(tmp_path / "b.wav")


def test_what_no_file_holds_is_refused():
    part = {"type": "image", "image": np.zeros((3, 8, 8), np.float32)}
    with pytest.raises(ValueError, match=r"of type 'image' in a data set must be .* got float32 of shape \(3, 8, 8\)"):
        normalize_row({"messages": [{"role": "user", "content": [part]}]}, None, ())
    with pytest.raises(ValueError, match="`sampling_rate` must be given with `audio` that is an array"):
        normalize_row({"messages": [{"role": "user", "content": [{"audio": SAMPLES}]}]}, None, ())


def test_lines_end_at_newlines_and_are_in_utf_8(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ["a\u2028b\u0085c\x1cd", "é"]
    lines = [json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False) for text in texts]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert [row["messages"][0]["content"] for row in read_jsonl(path)] == texts
    for encoding, number in (("latin-1", 2), ("utf-16", 1)):
        path.write_bytes("\n".join([lines[1].replace("é", "e"), lines[1]]).encode(encoding))
        with pytest.raises(
            ValueError, match=f"Line {number} of .*rows.jsonl' must be in UTF-8, got bytes that are not"
        ):
            list(read_jsonl(path))
