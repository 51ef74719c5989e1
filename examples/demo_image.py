"""The image that `demo.py` makes: a scene, and beside it what was asked and answered, as text and as audio."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from josie import JosieFeatureExtractor
from josie.processing_josie import resample

PAPER, INK, QUIET, LINE = "#fbf9f6", "#23262d", "#8d8981", "#e4dfd7"
ASKED, ANSWERED = "#40607f", "#b4523a"
WIDTH, HEIGHT, DPI = 13.0, 7.3, 160  # inches, and pixels an inch
LEFT, RIGHT, TOP, BOTTOM = 0.046, 0.962, 0.868, 0.118  # of everything below the title
COLUMN = 0.545  # where the waveforms begin
WAVE_HEIGHT, MEL_HEIGHT, SPACE = 0.072, 0.152, 0.012
# Of a text: characters of a line at the large size, and at the small one, which has at most so many lines.
LARGE, SMALL, MAX_LINES = 42, 52, 2
_SAMPLING_RATE, _HOP_LENGTH, _NUM_MEL_BINS, _RANGE = 16000, 80, 80, 9.0  # the last one in nepers of power
_NUM_COLUMNS = 560  # of a waveform


@dataclass
class Spoken:
    """A text that was said.

    Args:
        label (`str`): Who said it.
        text (`str`): What was said.
        waveform (`np.ndarray`): `(num_samples,)`; empty where it was not said aloud.
        sampling_rate (`int`): In Hz.
    """

    label: str
    text: str
    waveform: np.ndarray
    sampling_rate: int

    @property
    def seconds(self) -> float:
        """Its duration in seconds."""
        return len(self.waveform) / self.sampling_rate


def draw_demo(scene: Image.Image, asked: Spoken, answered: Spoken, caption: str, path: Path) -> None:
    """Write the image.

    Args:
        scene (`Image`): What is asked about; square.
        asked, answered ([`Spoken`]): Drawn on one scale of time.
        caption (`str`): Stands below the scene.
        path (`Path`): A PNG file.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor=PAPER)
    figure.text(LEFT, 0.922, "JOSIE nano", color=INK, fontsize=17, weight="bold", va="baseline")
    figure.text(COLUMN, 0.922, "looks, listens, answers aloud", color=QUIET, fontsize=11, va="baseline")
    _draw_scene(figure, scene)
    figure.text(LEFT, BOTTOM - 0.03, caption, color=QUIET, fontsize=9.5, va="top")
    longest = max(asked.seconds, answered.seconds)
    middle = (TOP + BOTTOM) / 2
    _draw_spoken(figure, asked, middle + 0.033, longest, ASKED)
    last = _draw_spoken(figure, answered, BOTTOM, longest, ANSWERED)
    last.set_xticks(np.arange(0, longest, 0.5 if longest < 4 else 1.0))
    last.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    last.tick_params(bottom=True, labelbottom=True, color=LINE, labelcolor=QUIET, labelsize=9, length=4, pad=3)
    figure.savefig(path, facecolor=PAPER)


def _draw_scene(figure: Figure, scene: Image.Image) -> None:
    height = TOP - BOTTOM
    axes = figure.add_axes((LEFT, BOTTOM, height * HEIGHT / WIDTH, height))
    axes.set_axis_off()
    shown = axes.imshow(np.asarray(scene), extent=(0, 1, 0, 1), interpolation="lanczos")
    frame = FancyBboxPatch(
        (0.02, 0.02), 0.96, 0.96, "round,pad=0.02,rounding_size=0.03", facecolor="none", edgecolor=LINE, linewidth=1.2
    )
    axes.add_patch(frame)
    shown.set_clip_path(frame)


def _draw_spoken(figure: Figure, spoken: Spoken, bottom: float, longest: float, colour: str) -> Axes:
    """Draw who says what, above its waveform, above its mel spectrogram; return the axes of the last."""
    wave_bottom = bottom + MEL_HEIGHT + SPACE
    lines = textwrap.wrap(spoken.text, SMALL, max_lines=MAX_LINES, placeholder=" …") or ["…"]
    top = wave_bottom + WAVE_HEIGHT + 0.02
    size = 18 if len(spoken.text) <= LARGE else 15
    text = figure.text(COLUMN, top, "\n".join(lines), color=colour, fontsize=size, va="bottom", linespacing=1.2)
    text.set_parse_math(False)
    label = figure.text(
        COLUMN, top + 0.0029 * size * len(lines) + 0.01, spoken.label, color=QUIET, fontsize=9.5, va="bottom"
    )
    label.set_parse_math(False)
    wave = _add_axes(figure, wave_bottom, WAVE_HEIGHT, longest)
    mel = _add_axes(figure, bottom, MEL_HEIGHT, longest)
    if len(spoken.waveform):
        _draw_waveform(wave, spoken, colour)
        _draw_mel(mel, spoken, colour)
    return mel


def _add_axes(figure: Figure, bottom: float, height: float, longest: float) -> Axes:
    axes = figure.add_axes((COLUMN, bottom, RIGHT - COLUMN, height), facecolor="none")
    axes.set_xlim(0, max(longest, 1e-3))
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
    return axes


def _draw_waveform(axes: Axes, spoken: Spoken, colour: str) -> None:
    """Fill the space between the lowest and the highest sample of each column."""
    pieces = np.array_split(spoken.waveform, min(_NUM_COLUMNS, len(spoken.waveform)))
    low, high = ([function(piece) for piece in pieces] for function in (np.min, np.max))
    loudest = max(float(np.abs(spoken.waveform).max()), 1e-3)
    times = (np.arange(len(pieces)) + 0.5) * spoken.seconds / len(pieces)
    axes.fill_between(times, low, high, color=colour, linewidth=0.4)
    axes.set_ylim(-loudest, loudest)


def _draw_mel(axes: Axes, spoken: Spoken, colour: str) -> None:
    extractor = JosieFeatureExtractor(
        sampling_rate=_SAMPLING_RATE,
        num_mel_bins=_NUM_MEL_BINS,
        n_fft=1024,
        win_length=480,
        mel_hop_length=_HOP_LENGTH,
        log_mel=True,
    )
    waveform = resample(spoken.waveform, spoken.sampling_rate, _SAMPLING_RATE)
    mel = extractor(waveform, _SAMPLING_RATE, return_tensors="np")["input_features"][0]
    top = float(mel.max()) - 0.5
    colours = LinearSegmentedColormap.from_list("spoken", [PAPER, colour, INK])
    extent = (0.0, spoken.seconds, 0.0, float(_NUM_MEL_BINS))
    axes.imshow(
        mel,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap=colours,
        vmin=top - _RANGE,
        vmax=top,
        interpolation="bicubic",
    )
    axes.set_xlim(0, axes.get_xlim()[1])
