"""The goldens of AudioCLIP's audio tower, and the weights and sounds that they describe in closed form."""

import json
import math
from pathlib import Path

import pytest
import torch

from audioclip import frontend
from audioclip.tower import AudioTower


@pytest.fixture(scope="session")
def goldens():
    return json.loads((Path(__file__).parent / "goldens.json").read_text())


@pytest.fixture(scope="session")
def golden_weights():
    """The state dict whose numbers follow from the position of each name among all, sorted."""
    weights = {}
    state = AudioTower().state_dict()
    waves = torch.sin(torch.arange(1, max(value.numel() for value in state.values()) + 1, dtype=torch.float64))
    for k, (name, value) in enumerate(sorted(state.items())):
        leaf = name.rpartition(".")[2]
        if name == "window" or name.startswith("fbsp."):
            weights[name] = value
        elif leaf in ("running_mean", "num_batches_tracked") or (name.endswith(".bias") and _is_norm(name, state)):
            weights[name] = torch.zeros_like(value)
        elif leaf == "running_var" or _is_norm(name, state):
            weights[name] = torch.ones_like(value)
        else:
            s = torch.sin(12345.678 * waves[: value.numel()] + k).view(value.shape)
            fan_in = math.prod(value.shape[1:])
            gain = 0.1 if value.dim() == 1 else math.sqrt(3 / fan_in) * (0.01 if name == "conv1.weight" else 1)
            weights[name] = (gain * s).float()
    return weights


def _is_norm(name, state):
    return f"{name.rpartition('.')[0]}.running_mean" in state


@pytest.fixture(scope="session")
def golden_sounds():
    """Six clips [6, 1, 220500] in [-1, 1]: four chords, a sweep, and a tone that stops half way."""
    t = torch.arange(frontend.SAMPLES, dtype=torch.float64) / frontend.RATE
    turn = 2 * math.pi
    sounds = [
        (0.3 / 3) * sum(torch.sin(turn * ratio * f * t) for ratio in (1, 2.5, 7.3)) for f in (220, 440, 997, 2000)
    ]
    sounds.append(0.3 * torch.sin(turn * (100 * t + 0.5 * 1580 * t**2)))
    sounds.append(torch.where(torch.arange(len(t)) < 110_250, 0.3 * torch.sin(turn * 1000 * t), 0))
    return torch.stack(sounds).float()[:, None]


@pytest.fixture(scope="session")
def golden_levels(golden_sounds):
    """What the front end with its initial parameters makes of the sounds."""
    bins = torch.arange(1025.0)
    kernels = frontend.kernels(torch.zeros(1025), torch.ones(1025), bins)
    return frontend.spectrogram(golden_sounds, frontend.window(), *kernels)


@pytest.fixture(scope="session")
def fused_linspace(goldens):
    """Whether this CPU rounds as the one of the goldens did: without fused multiply-add, quiet bins are other noise."""
    at, values = (goldens["t"][name] for name in ("at", "linspace"))
    return torch.equal(torch.linspace(-1, 1, 2048)[at], torch.tensor(values)) and torch.equal(
        frontend.times()[at], torch.tensor(goldens["t"]["t"])
    )


@pytest.fixture(scope="session")
def same_rounding(goldens, golden_levels, fused_linspace):
    """Whether matrix products round as on the CPU of the goldens too: the quietest bin, all rounding errors, tells."""
    clip, *at, value, _ = min(goldens["sets"]["unit_default"]["db"], key=lambda row: row[-2])
    return fused_linspace and golden_levels[(clip, 0, *at)].item() == pytest.approx(value, abs=1e-3)
