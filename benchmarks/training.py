"""Tokens and frames of training a second, and memory: Thinker beside Llama, Talker beside CSM, of the same sizes.

A step is forward, loss of every position or frame, backward, and AdamW. Float32, random weights. On a CPU that is
not Intel's JOSIE multiplies by oneDNN in training; a row without it shows what that gains.

* Thinker and Llama: width 256, 4 layers, 4 heads, an MLP of 1024, a vocabulary of 5000; 8 rows of 256 tokens.
* Talker and CSM: the sizes of `benchmarks/talker.py`; 8 rows of 32 tokens of text and 96 frames of 9 codes. All frames
  teach the depth decoder; in one row a sixteenth of them does (`depth_loss_fraction`).

    python benchmarks/training.py [--rounds 15] [--json FILE]
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import talker
import thinker
import torch
from measure import measure, parse_arguments, report
from transformers import LlamaConfig, LlamaForCausalLM

from josie import JosieThinkerConfig, JosieThinkerForConditionalGeneration

ROWS, LENGTH, TOKENS, FRAMES = 8, 256, 32, 96
PEAK = "import sys; sys.path.insert(0, sys.argv[1]); import training as t; print(t.measure_peak(*sys.argv[2:]))"
PAIRS = {
    "Thinker": ("JOSIE Thinker", "the same without oneDNN", "Llama"),
    "Talker": ("JOSIE Talker", "the same, depth 1/16", "CSM"),
}


def make_step(model: Any, inputs: dict[str, Any]) -> Callable[[], float]:
    """Return one step of training of a model on a batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def build_thinker() -> Callable[[], float]:
    """Return a step of the Thinker."""
    text = thinker.SIZES | dict(model_type="josie_text", max_position_embeddings=2048)
    model = JosieThinkerForConditionalGeneration(JosieThinkerConfig(text_config=text))
    return make_step(model, _texts())


def without_onednn(step: Callable[[], float]) -> Callable[[], float]:
    """Return a step that multiplies as torch does by itself."""

    def plain_step() -> float:
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            return step()
        finally:
            torch.backends.mkldnn.enabled = True  # type: ignore[assignment]

    return plain_step


def build_llama() -> Callable[[], float]:
    """Return a step of Llama."""
    model = LlamaForCausalLM(LlamaConfig(**thinker.SIZES, eos_token_id=None, bos_token_id=None))
    return make_step(model, _texts())


def _texts() -> dict[str, Any]:
    ids = torch.randint(0, thinker.SIZES["vocab_size"], (ROWS, LENGTH))
    return {"input_ids": ids, "labels": ids, "use_cache": False}


def build_talker(fraction: float = 1.0) -> Callable[[], float]:
    """Return a step of the Talker, whose depth decoder learns from a part of the frames."""
    model = talker.build_talker()
    model.config.depth_loss_fraction = fraction
    states = torch.randn(ROWS, TOKENS, 256)
    return make_step(model, dict(speech_codes=_codes(), thinker_hidden_states=states, thinker_embeds=states.clone()))


def build_csm() -> Callable[[], float]:
    """Return a step of CSM on as much text and speech, embedded before as CSM does for audio."""
    model: Any = talker.build_csm()
    del model.codec_model  # which a step does not need
    words = torch.randint(10, 5000, (ROWS, TOKENS))
    codes = _codes().transpose(1, 2)
    labels = torch.cat((torch.full((ROWS, TOKENS, talker.QUANTIZERS), -100), codes), dim=1)

    class Embedded(torch.nn.Module):
        """CSM with its embeddings of text and of codes, in the order in which CSM joins them."""

        def __init__(self):
            super().__init__()
            self.csm = model

        def forward(self) -> Any:
            text = self.csm.embed_text_tokens(words)
            audio = self.csm.backbone_model.embed_tokens(codes)
            return self.csm(inputs_embeds=torch.cat((text, audio), dim=1), labels=labels, use_cache=False)

    return make_step(Embedded(), {})


def _codes() -> torch.Tensor:
    return torch.randint(0, talker.CODEBOOK - 2, (ROWS, talker.QUANTIZERS, FRAMES))


BUILDERS: dict[str, Callable[[], Callable[[], float]]] = {
    "JOSIE Thinker": build_thinker,
    "the same without oneDNN": lambda: without_onednn(build_thinker()),
    "Llama": build_llama,
    "JOSIE Talker": build_talker,
    "the same, depth 1/16": lambda: build_talker(1 / 16),
    "CSM": build_csm,
}


def find_peak(name: str, threads: int) -> int:
    """Return what [`measure_peak`] finds in a process of its own."""
    command = [sys.executable, "-c", PEAK, str(Path(__file__).parent), name, str(threads)]
    # A fixed threshold gives freed memory back at once, so that earlier steps leave none to use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(result.stdout.splitlines()[-1])


def measure_peak(name: str, threads: str | int) -> int:
    """Return by how many KiB a step raises the memory of this process at its peak; Linux only."""
    torch.set_num_threads(int(threads))
    step = BUILDERS[name]()
    step()  # which makes the optimizer's moments
    Path("/proc/self/clear_refs").write_text("5")  # which begins a new peak
    before = _read_memory("VmRSS")
    step()
    return _read_memory("VmHWM") - before


def _read_memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__.splitlines()[0])
    for part, names in PAIRS.items():
        torch.manual_seed(0)
        seconds = measure({name: BUILDERS[name]() for name in names}, arguments.rounds, learns=True)
        amount, unit = (ROWS * LENGTH, "tokens") if part == "Thinker" else (ROWS * FRAMES, "frames")
        report(f"{part}, a step of training", seconds, amount, unit, arguments)
        for name in names:
            print(f"{name}: {find_peak(name, arguments.threads) / 1024:.0f} MiB more at the peak of a step")


if __name__ == "__main__":
    main()
