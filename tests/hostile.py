"""Files of weights that run code when torch loads them."""

import warnings

import torch
from torch import nn


class Hostile(nn.Module):
    """A model whose archive writes a file when it is loaded."""

    def __init__(self, path):
        super().__init__()
        self.weight, self.path = nn.Parameter(torch.ones(2)), path

    def forward(self, x):
        return x + self.weight

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.weight, self.path, self.training = state
        torch.save(self.weight, self.path)


def save_hostile(path, sprung):
    """Write an archive to `path` that writes the file `sprung` when torch loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(Hostile(str(sprung))).save(path)
    return path
