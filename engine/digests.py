"""SHA-256 of tensors, which distinguishes two sets of weights and detects corrupt bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """Return the SHA-256 over `about`, then names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items(), key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
