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
    """The reason why a file is unusable. The caller collects the reasons for all files."""


@dataclass(frozen=True)
class Format:
    """Samples a second, channels and length (samples per channel) of a sound file."""

    rate: int
    channels: int
    length: int


def read_format(path: Path) -> Format:
    """Return the format in the header of a file. Raises UnreadableSound."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnreadableSound(_reason(error)) from error
    return Format(info.samplerate, info.channels, info.frames)


def read(path: Path, rate: int, length: int, resample: bool = False) -> Tensor:
    """Return the samples [1, length] of a file, float32 in [-1, 1], cut or zero-padded at the end.

    With `resample`, average the channels and convert to `rate` in Hz (polyphase filtering). Raises UnreadableSound if
    the file cannot be read, is empty or has non-finite samples, and without `resample` if it is not mono or has another
    rate.
    """
    try:
        samples, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnreadableSound(_reason(error)) from error
    if not len(samples):
        raise UnreadableSound("it has no samples")
    samples = torch.from_numpy(samples)
    if not samples.isfinite().all():
        raise UnreadableSound("it has samples that are not finite numbers")
    if not resample and (found != rate or samples.shape[1] > 1):
        raise UnreadableSound(f"it has {samples.shape[1]} channels of {found} Hz, but must have 1 of {rate} Hz")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
    return fit_length(change_rate(mono, found, rate), length)[None]


def fit_length(samples: Tensor, length: int) -> Tensor:
    """Return samples [n] cut or zero-padded at the end to [length]."""
    return F.pad(samples[:length], (0, max(0, length - len(samples))))


def change_rate(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """Convert samples [n] of `rate` to ceil(n * wanted / rate) samples of the rate `wanted`, both in Hz."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # slow to import, rarely needed

    divisor = math.gcd(rate, wanted)
    return torch.from_numpy(resample_poly(samples.numpy(), wanted // divisor, rate // divisor)).float()


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
