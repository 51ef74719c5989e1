"""The voices that ask: flite's, espeak-ng's and festival's, some of them as larger or smaller people.

| voices | who hears them |
| --- | --- |
| `QUESTIONERS` | training and the test: flite's four |
| `TRAINING` | training: these, the same as larger and smaller people, espeak-ng's, one of festival's |
| `VALIDATION` | validation alone |
| `UNKNOWN` | the test alone |

All are free: flite's and festival's licences allow any use, and what espeak-ng says is not under its GPL.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from recipes.debian import require_tool

SAMPLING_RATE = 16000
_ESPEAK_RATE = 160  # words a minute


@dataclass(frozen=True)
class Voice:
    """A voice, and how it is changed.

    Args:
        engine (`str`): `"flite"`, `"espeak"` or `"festival"`.
        name (`str`): Of the voice, as the engine calls it.
        stretch (`float`): How many times as long it takes.
        size (`float`): Of who speaks: pitch and formants are so many times as low, at the same pace.
    """

    engine: str
    name: str
    stretch: float = 1.0
    size: float = 1.0

    def __post_init__(self):
        if self.engine not in _ENGINES:
            raise ValueError(f"`engine` must be one of {list(_ENGINES)}, got {self.engine!r}.")

    @property
    def key(self) -> str:
        """Name of its files."""
        changed = "" if self.size == 1 else f"-size-{self.size:g}"
        return f"{self.engine}-{re.sub('[^a-zA-Z0-9]+', '-', self.name)}-{self.stretch:g}{changed}"

    def say(self, text: str) -> np.ndarray:
        """Return what it says, `(num_samples,)`, float32 at 16 kHz.

        Raises:
            [`FetchError`]: The engine is not installed.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "said.wav"
            _ENGINES[self.engine](self.name, self.stretch / self.size, text, path)
            samples, rate = soundfile.read(path, dtype="float32")
        # Played slower by `size`, what was said faster by as much is deeper and takes as long.
        return soxr.resample(samples, rate, SAMPLING_RATE * self.size) if rate != SAMPLING_RATE * self.size else samples


def _run_flite(name: str, stretch: float, text: str, path: Path) -> None:
    command = [require_tool("flite", "flite"), "-voice", name, "--setf", f"duration_stretch={stretch}"]
    subprocess.run([*command, "-t", text, "-o", str(path)], check=True, capture_output=True)


def _run_espeak(name: str, stretch: float, text: str, path: Path) -> None:
    command = [require_tool("espeak-ng", "espeak-ng"), "-v", name, "-s", str(round(_ESPEAK_RATE / stretch))]
    subprocess.run([*command, "-w", str(path), text], check=True, capture_output=True)


def _run_festival(name: str, stretch: float, text: str, path: Path) -> None:
    lines = [f"(voice_{name})", f"(Parameter.set 'Duration_Stretch {stretch})"]
    command = [require_tool("text2wave", "festival"), *(part for line in lines for part in ("-eval", line))]
    subprocess.run([*command, "-o", str(path)], input=text, text=True, check=True, capture_output=True)


_ENGINES = {"flite": _run_flite, "espeak": _run_espeak, "festival": _run_festival}

QUESTIONERS = tuple(Voice("flite", name) for name in ("slt", "rms", "awb", "kal16"))
TRAINING = (
    *QUESTIONERS,
    Voice("espeak", "en-us", 1.0),
    Voice("espeak", "en-us+f2", 0.9),
    Voice("espeak", "en-gb+m4", 1.1),
    Voice("espeak", "en-gb+f4", 1.0),
    Voice("flite", "slt", 1.1, 0.92),
    Voice("flite", "slt", 0.9, 1.08),
    Voice("flite", "rms", 1.1, 0.88),
    Voice("flite", "rms", 0.95, 1.1),
    Voice("flite", "awb", 1.15, 0.9),
    Voice("flite", "awb", 0.95, 1.1),
    Voice("flite", "kal16", 1.1, 0.92),
    Voice("flite", "kal16", 0.9, 1.1),
    Voice("festival", "kal_diphone", 1.1, 0.85),
    Voice("espeak", "en-gb-x-rp+f5", 0.95),
    Voice("espeak", "en-029+m1", 1.0),
    Voice("espeak", "en-us+m7", 1.15),
    Voice("espeak", "en-gb-x-gbclan+f1", 1.0),
    Voice("espeak", "en-us+klatt3", 1.0),
    Voice("flite", "slt", 1.0, 1.2),
    Voice("flite", "rms", 1.0, 0.8),
)
VALIDATION = (Voice("espeak", "en-gb-x-gbcwmd+m6"), Voice("flite", "awb", 1.0, 0.8))
UNKNOWN = (
    Voice("festival", "cmu_us_slt_arctic_hts"),
    Voice("flite", "kal"),  # 8 kHz
    Voice("espeak", "en-gb-scotland+f3"),
    Voice("espeak", "en-us+m5"),
)
