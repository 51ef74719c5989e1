"""Exports of every tiny model, and what became of them in a process without josie."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tiny import CASES, TEXT, THINKER, josie_config, josie_inputs
from transformers import PreTrainedModel

import josie

AUTO_CLASSES = {
    "JosieForConditionalGeneration": "AutoModelForMultimodalLM",
    "JosieThinkerForConditionalGeneration": "AutoModelForCausalLM",
    "JodioModel": "AutoModelForAudioTokenization",
    "JosieMelCodecModel": "AutoModelForAudioTokenization",
}
PROCESSORS = {
    "audio-encoder": "AutoFeatureExtractor",
    "jodio": "AutoFeatureExtractor",
    "mel-codec": "AutoFeatureExtractor",
    "jovio": "AutoImageProcessor",
    "vision-encoder": "AutoImageProcessor",
    "whole": "AutoProcessor",
}


def whole_model() -> tuple[PreTrainedModel, "josie.JosieProcessor"]:
    """Return a tiny JOSIE that reads and makes everything, with its processor."""
    torch.manual_seed(0)
    thinker = dict(THINKER, text_config=dict(TEXT, vocab_size=301, max_position_embeddings=256))
    config = josie_config(thinker_config=thinker)
    processor = josie.JosieProcessor.from_config(config, josie.load_default_tokenizer(301))
    return josie.JosieForConditionalGeneration(config).eval(), processor


def export_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Write an export of every case, and of a whole model with its processor, and what each has to give."""
    cases = {}
    for name in [*CASES, "whole"]:
        torch.manual_seed(0)
        model, processor = whole_model() if name == "whole" else (CASES[name].build(), None)
        inputs = josie_inputs() if name == "whole" else CASES[name].inputs()
        output = "logits" if name == "whole" else CASES[name].output
        josie.save_with_code(model, folder / "exports" / name, processor)
        with torch.no_grad():
            case = dict(inputs=inputs, output=output, expected=getattr(model(**inputs), output))
        case["auto_class"] = AUTO_CLASSES.get(type(model).__name__, "AutoModel")
        case["processor"] = PROCESSORS.get(name)
        if isinstance(model, josie.JosieForConditionalGeneration):
            ids = torch.randint(10, 53, (2, 5))
            case["speech_inputs"] = dict(input_ids=ids, talker_max_new_frames=7, talker_min_new_frames=3)
            case["speech"] = model.generate_speech(**case["speech_inputs"]).audio_values
        cases[name] = case
    return cases


def run_without_josie(script: Path, folder: Path, *arguments: str) -> str:
    """Run a script where josie is not, in `folder`; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= dict(HF_MODULES_CACHE=str(folder / "modules"), HF_HUB_OFFLINE="1", HF_HOME=str(folder / "home"))
    command = [sys.executable, str(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def try_exports(folder: Path) -> dict[str, dict[str, Any]]:
    """Export everything into `folder` and return what a process without josie found there."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.save(export_all(folder), folder / "cases.pt")
    torch.set_num_threads(num_threads)
    run_without_josie(Path(__file__).with_name("without_josie.py"), folder, str(folder))
    return json.loads((folder / "found.json").read_text())
