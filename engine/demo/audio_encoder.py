"""The demo's audio encoder: a tiny network that maps the demo's sounds to the embedding space of a demo CLIP.

    encoder = load()                  # engine/demo/models/demo-audio.safetensors, in eval mode
    features = encoder(samples)       # [B, 128], L2-normalised, from samples [B, 1, 8000] in [-1, 1]

`engine.demo.pretrain_audio` trains its weights.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import released

NAME = "demo-audio"
PATH = Path(__file__).parent / "models" / f"{NAME}.safetensors"
DIMENSION = 128
WINDOW, HOP = 512, 200
BINS = 256
CHANNELS = (12, 16, 24, 32, 64)


class AudioEncoder(nn.Module):
    """Convolutions over a log spectrogram, mean and maximum pooling over time, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False)):
            stride = (2, 1 if number % 2 else 2)  # every layer halves frequency, every other one time
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.projection = nn.Linear(2 * CHANNELS[-1] * (BINS >> len(CHANNELS)), DIMENSION)

    def forward(self, samples: Tensor) -> Tensor:
        """Return L2-normalised features [B, DIMENSION] of samples [B, 1, L]."""
        maps = self.convolutions(self.spectrogram(samples).unsqueeze(1))
        pooled = torch.cat([maps.mean(3), maps.amax(3)], dim=1)
        return F.normalize(self.projection(pooled.flatten(1)))

    def spectrogram(self, samples: Tensor) -> Tensor:
        """Return the log power of BINS frequencies, [B, BINS, frames], of samples [B, 1, L]."""
        found = torch.stft(samples[:, 0], WINDOW, HOP, window=self.window, return_complex=True)[:, :BINS]
        return (found.abs().square() + 1e-3).log() / 5


def load(path: Path = PATH) -> AudioEncoder:
    """Load the encoder with its trained weights (stored as float16), in eval mode.

    Raises UserError if the project's weight file was altered.
    """
    if path == PATH:
        released.check_demo(path)
    encoder = AudioEncoder()
    state = safetensors.torch.load_file(path)
    encoder.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return encoder.eval().requires_grad_(False)
