"""Convert samples to the trunk's input: scaling, frames, the fbsp layer's kernels, power in dB (AudioCLIP, section 3).

Pure functions on CPU tensors, float32 throughout. The order of operations matters: with samples in [-1, 1], as for the
published features, most bins are rounding noise, and BatchNorm in train() mode makes it as loud as the signal. In exact
arithmetic, much of this code could be shorter.
"""

from __future__ import annotations

import math

import torch
from scipy.signal import get_window
from torch import Tensor
from torch.nn import functional as F

SAMPLES = 220_500
"""Length of a clip in samples: 5 s at 44.1 kHz."""
RATE = 44_100
WINDOW = 1654
HOP = 561
FFT = 2048
BINS = FFT // 2 + 1
CHANNELS = 3
"""The trunk was made for images: the bins are divided into three channels, without the last two bins."""
HEIGHT = BINS // CHANNELS
EPSILON = 1e-8
QUIETEST = 1e-18
"""The power that replaces zero: -180 dB."""


def window() -> Tensor:
    """Return the Blackman-Harris window [WINDOW]."""
    return torch.from_numpy(get_window("blackmanharris", WINDOW, fftbins=True)).float()


def scale(samples: Tensor) -> Tensor:
    """Scale samples of the 16-bit range to [-1, 1]: -32768 to -1, and 32767 to 1."""
    return (((samples + 32768.0) * 2.0) / 65535.0) + (-1.0)


def frames(scaled: Tensor) -> Tensor:
    """Cut scaled samples [..., L], zero-padded on both sides, into N overlapping frames [..., N, WINDOW].

    N is 1 + ceil((L - WINDOW) / HOP), or 1 for less than a window.
    """
    length = scaled.shape[-1]
    count = 1 + max(0, math.ceil((length - WINDOW) / HOP))
    padding = (count - 1) * HOP + WINDOW - length
    return F.pad(scaled, (padding // 2, padding - padding // 2)).unfold(-1, WINDOW, HOP)


def times() -> Tensor:
    """Return the points [FFT] at which kernels are sampled: from -pi to pi, both included, but never exactly 0."""
    return math.pi * torch.linspace(-1.0, 1.0, FFT) + EPSILON


def kernels(m: Tensor, fb: Tensor, fc: Tensor) -> tuple[Tensor, Tensor]:
    """Return frequency B-spline wavelets of order `m`, bandwidth `fb` and centre `fc`: two [len(m), FFT] tensors.

    They are the real and imaginary parts. With m = 0, fb = 1 and fc = 0, 1, ... they are the kernels of a discrete
    Fourier transform, except for `times`.
    """
    t, m, fb, fc = times(), m[:, None], fb[:, None], fc[:, None]
    a = fb * t / (m + EPSILON)
    s = torch.where(a == 0, torch.ones_like(a), torch.sin(a) / a)
    # the complex power s ** m, as magnitude and phase
    rho = torch.sqrt(s**2) ** 2
    rho = rho ** (0.5 * m)
    phi = m * torch.atan2(torch.zeros_like(s), s)
    power_real, power_imaginary = rho * torch.cos(phi), rho * torch.sin(phi)
    wave_real, wave_imaginary = torch.cos(fc * t), -torch.sin(fc * t)
    # products of real numbers: torch's complex division rounds differently
    real = power_real * wave_real - power_imaginary * wave_imaginary
    imaginary = power_real * wave_imaginary + power_imaginary * wave_real
    return torch.sqrt(fb) * real / FFT**0.5, torch.sqrt(fb) * imaginary / FFT**0.5


def spectrum(samples: Tensor, window: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """Return real and imaginary parts [..., N, bins] of the spectrum of samples [..., L], for kernels [bins, FFT]."""
    left = (FFT - WINDOW) // 2
    windowed = F.pad(frames(scale(samples)) * window, (left, FFT - WINDOW - left))
    return windowed @ real.T, windowed @ imaginary.T


def decibels(real: Tensor, imaginary: Tensor) -> Tensor:
    """Return the power of a spectrum in dB, element by element."""
    power = real**2 + imaginary**2
    return 10 * torch.log10(torch.where(power > 0, power, QUIETEST))


def spectrogram(samples: Tensor, window: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    """Return the power in dB [B, C, CHANNELS, HEIGHT, N] of samples [B, C, L], for kernels [BINS, FFT].

    Processes one sound at a time: intermediate tensors take twenty times the memory of the samples.
    """
    kept = CHANNELS * HEIGHT
    real, imaginary = real[:kept], imaginary[:kept]
    levels = [decibels(*spectrum(sound, window, real, imaginary)).mT for sound in samples.flatten(0, 1)]
    return torch.stack(levels).view(*samples.shape[:2], CHANNELS, HEIGHT, -1)
