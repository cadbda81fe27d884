"""Read sound files as samples of one rate and one length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F


class UnreadableSound(Exception):
    """Why a file is of no use; who knows the others says so of all of them."""


@dataclass(frozen=True)
class Format:
    """Samples a second, channels and length (samples per channel) of a sound file."""

    rate: int
    channels: int
    length: int


def read_format(path: Path) -> Format:
    """What the header of a file says. Raises UnreadableSound."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnreadableSound(_reason(error)) from error
    return Format(info.samplerate, info.channels, info.frames)


def read(path: Path, rate: int, length: int, resample: bool = False) -> Tensor:
    """The samples [1, length] of a file, float32 in [-1, 1], cut or zero-padded at the end.

    With `resample` channels are averaged and another rate is brought to `rate` (polyphase filtering). Raises
    UnreadableSound for a file that cannot be read, holds nothing, or numbers that are not finite, and without
    `resample` for one that is not mono or of another rate.
    """
    try:
        samples, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnreadableSound(_reason(error)) from error
    if not len(samples):
        raise UnreadableSound("it holds no samples")
    samples = torch.from_numpy(samples)
    if not samples.isfinite().all():
        raise UnreadableSound("it holds samples that are not finite numbers")
    if not resample and (found != rate or samples.shape[1] > 1):
        raise UnreadableSound(f"it has {samples.shape[1]} channels of {found} Hz, and must have 1 of {rate} Hz")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
    return fit_length(change_rate(mono, found, rate), length)[None]


def fit_length(samples: Tensor, length: int) -> Tensor:
    """Samples [n] cut or zero-padded at the end to [length]."""
    return F.pad(samples[:length], (0, max(0, length - len(samples))))


def change_rate(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """Samples [n] of `rate` as ceil(n * wanted / rate) samples of the rate that is `wanted`."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # slow to import, and hardly ever needed

    divisor = math.gcd(rate, wanted)
    return torch.from_numpy(resample_poly(samples.numpy(), wanted // divisor, rate // divisor)).float()


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
