"""Load the audio tower from AudioCLIP's checkpoint; all names and shapes must fit."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from audioclip.tower import AudioTower
from engine import released
from engine.datasets.checks import list_preview
from engine.digests import tensors_digest
from engine.errors import UserError

PREFIX = "audio."
EMPTY = "fbsp.bias"
"""An empty entry, which may be missing."""


@dataclass(frozen=True)
class AudioEncoder:
    """The tower, its buffers (running statistics, ...) as loaded, and the SHA-256 of all its weights."""

    tower: AudioTower
    buffers: dict[str, Tensor]
    digest: str

    def fresh(self, mode: str) -> Callable[[Tensor], Tensor]:
        """Return a function from samples [B, 1, L] to features [B, 1024] on the CPU, in `mode` "train" or "eval".

        It starts from the loaded buffers: in train() mode every batch changes BatchNorm's running statistics.
        """
        self.tower.load_state_dict(self.buffers, strict=False)
        self.tower.train(mode == "train")

        @torch.inference_mode()
        def encode(samples: Tensor) -> Tensor:
            return self.tower(samples).float().cpu()

        return encode


def load_encoder(path: Path, device: str = "cpu") -> AudioEncoder:
    """Load the tower with the `audio.*` weights of a checkpoint, float32, on `device`.

    Raises UserError if the file does not exist, cannot be read, differs from the released file of the same name, or has
    missing or unexpected entries, which it names.
    """
    released.check_audioclip(path)
    state = _audio_state(path)
    with torch.device("meta"):  # skips the random initialisation
        tower = AudioTower()
    _check_names(state, tower.state_dict(), path)
    tower.to_empty(device="cpu").load_state_dict(state)
    # by default, torch on a GPU may not compute in float32, or not reproducibly
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    buffers = {name: tensor.clone() for name, tensor in tower.named_buffers()}
    digest = tensors_digest(tower.state_dict())
    return AudioEncoder(tower.requires_grad_(False).to(device), buffers, digest)


def _audio_state(path: Path) -> dict[str, Tensor]:
    """Return the tower's entries of a state dict, without their prefix. Only tensors are unpickled."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        state = {name: value for name, value in state.items() if name.startswith(PREFIX)}
    except Exception as error:  # torch and pickle may raise anything
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        raise UserError(f"{path} cannot be read as a PyTorch state dict ({reason})") from error
    if not state:
        raise UserError(f"{path} has no {PREFIX}* entries: it is not a checkpoint of AudioCLIP.\n{released.WHERE}")
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def _check_names(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Raise UserError unless `state` has the names and shapes of `wanted`; add the empty entry if it is missing."""
    state.setdefault(EMPTY, torch.empty(0))
    names = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(
            name for name in state.keys() & wanted.keys() if getattr(state[name], "shape", None) != wanted[name].shape
        ),
    }
    faults = [
        f"{len(bad)} {fault}: {list_preview([PREFIX + name for name in bad])}" for fault, bad in names.items() if bad
    ]
    if faults:
        raise UserError(f"{path} does not fit AudioCLIP's audio tower; entries\n  " + "\n  ".join(faults))
