"""Voice activity: the probability that a chunk of audio has speech, by Silero VAD (Silero Team, 2021).

Its weights for 16 kHz are those that the package silero-vad has as safetensors. The package itself is not imported:
that would set the number of torch's threads, and its own loaders need torch.jit or ONNX. The network here takes its
state and gives it back, so that all sessions share it.
"""

import functools
import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

SAMPLING_RATE = 16000
CHUNK = 512  # samples, 32 ms
_CONTEXT = 64  # samples before a chunk that are read with it
_WINDOW, _HOP, _NUM_BINS = 256, 128, 129

State = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # context, and hidden and cell state of the LSTM


class VoiceActivityModel(nn.Module):
    """Spectrum, four convolutions, an LSTM and a probability."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _NUM_BINS, _WINDOW, stride=_HOP, bias=False)
        self.conv1 = nn.Conv1d(_NUM_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    @staticmethod
    def start() -> State:
        """Return the state before the first chunk."""
        return torch.zeros(1, _CONTEXT), torch.zeros(1, 128), torch.zeros(1, 128)

    @torch.inference_mode()
    def forward(self, samples: torch.Tensor, state: State) -> tuple[float, State]:
        """Return the probability of speech, and the next state.

        Args:
            samples (`torch.Tensor`): `(512,)`, float32 at 16 kHz.
            state: As before the chunk.
        """
        context, hidden, cell = state
        values = torch.cat((context, samples[None]), dim=1)
        spectrum = self.stft_conv(nn.functional.pad(values[:, None], (0, _CONTEXT), mode="reflect"))
        features = (spectrum[:, :_NUM_BINS].square() + spectrum[:, _NUM_BINS:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = layer(features).relu()
        hidden, cell = self.lstm_cell(features[:, :, 0], (hidden, cell))
        probability = float(self.final_conv(hidden.relu()[:, :, None]).sigmoid())
        return probability, (values[:, -_CONTEXT:], hidden, cell)


@functools.cache
def load_voice_activity() -> VoiceActivityModel:
    """Return the network with Silero's weights, one for all sessions.

    Raises:
        `ImportError`: The package silero-vad is missing.
    """
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        raise ImportError("Turns are detected by silero-vad: `pip install 'josie[serve]'`.")
    model = VoiceActivityModel().eval().requires_grad_(False)
    model.load_state_dict(load_file(Path(found.origin).parent / "data" / "silero_vad_16k.safetensors"))
    return model
