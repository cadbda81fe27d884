"""AudioCLIP's audio tower: ESResNeXt-fbsp, a ResNeXt-50 over a learned spectrogram, with attention after each stage.

    tower = AudioTower()              # random weights; `checkpoint.load_encoder` loads trained ones
    features = tower(samples)         # [B, 1024] from samples [B, channels, L]

Guzhov et al., *AudioCLIP* (ICASSP 2022) and *ESResNe(X)t-fbsp* (IJCNN 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

from audioclip import frontend

DIMENSION = 1024
ATTENTION = {
    "att1": (64, 256, (3, 1)),
    "att2": (256, 512, (1, 5)),
    "att3": (512, 1024, (3, 1)),
    "att4": (1024, 2048, (1, 5)),
    "att5": (2048, 2048, (3, 5)),
}
"""Input and output channels, and the kernel of the depthwise convolution (height: frequency, width: time)."""


class BatchNorm2d(nn.BatchNorm2d):
    """torch's BatchNorm2d, but in train() mode with two passes over channels-last memory, accurate to float32.

    With channels last, convolutions take half the time on a CPU, but torch's own statistics are wrong by 1e-4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, h, w] by its mean and variance in train() mode, by running statistics in eval() mode."""
        if not self.training:
            return super().forward(x)
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        if len(rows) < 2:
            raise ValueError("a single sound has no variance: train() mode needs batches of two or more")
        mean = rows.mean(0)
        variance = (rows - mean).square_().mean(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (len(rows) / (len(rows) - 1)), self.momentum)
        gain = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul((self.bias - mean * gain)[:, None, None], x, gain[:, None, None])


class FrequencyBSplines(nn.Module):
    """The parameters of the learned spectrogram, a value per frequency bin: order, bandwidth, centre."""

    def __init__(self):
        super().__init__()
        self.m = nn.Parameter(torch.zeros(frontend.BINS))
        self.fb = nn.Parameter(torch.ones(frontend.BINS))
        self.fc = nn.Parameter(torch.arange(frontend.BINS, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(0))  # unused; an entry of the released state dict


class Attention(nn.Module):
    """Weights from 0 to 1 for each position and channel of a stage's output, computed from the stage's input."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int]):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels)
        self.conv_point = nn.Conv2d(channels, out, 1)
        self.bn = BatchNorm2d(out)

    def forward(self, x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
        """Map x [B, channels, h, w] to [B, out, *size]."""
        pooled = F.adaptive_max_pool2d(x, tuple(size))
        return torch.sigmoid(self.bn(self.conv_point(self.conv_depth(pooled))))


class AudioTower(ResNet):
    """The tower. Its state dict has the released checkpoint's names, without their `audio.`.

    train() and eval() differ only in the BatchNorms; in train() mode features depend on the rest of the batch.
    """

    def __init__(self):
        shape = {"groups": 32, "width_per_group": 4, "num_classes": DIMENSION}
        super().__init__(Bottleneck, [3, 4, 6, 3], norm_layer=BatchNorm2d, **shape)  # resnext50_32x4d
        self.register_buffer("window", frontend.window())
        self.fbsp = FrequencyBSplines()
        for name, attention in ATTENTION.items():
            setattr(self, name, Attention(*attention))
        self.to(memory_format=torch.channels_last)
        self._kernels: tuple[tuple[int, ...], tuple[Tensor, Tensor]] | None = None

    def forward(self, samples: Tensor) -> Tensor:
        """Return L2-normalised features [B, DIMENSION] of samples [B, channels, L] on the CPU.

        Raises ValueError for a single sound in train() mode.
        """
        return F.normalize(self.trunk(self.front_end(samples).to(self.conv1.weight.device)))

    @torch.no_grad()
    def front_end(self, samples: Tensor) -> Tensor:
        """Return the power in dB [B, channels, 3, 341, N] of samples [B, channels, L], always computed on the CPU."""
        return frontend.spectrogram(samples.cpu(), self.window.cpu(), *self.kernels())

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Return the kernels of the current parameters, cached until these change."""
        parameters = (self.fbsp.m, self.fbsp.fb, self.fbsp.fc)
        state = tuple(parameter._version for parameter in parameters)
        if self._kernels is None or self._kernels[0] != state:
            self._kernels = state, frontend.kernels(*(parameter.detach().cpu() for parameter in parameters))
        return self._kernels[1]

    def trunk(self, levels: Tensor) -> Tensor:
        """Return outputs [B, DIMENSION], not normalised, for spectrograms [B, channels, 3, 341, N]."""
        x = levels.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in "1234":
            y = getattr(self, f"layer{stage}")(x)
            x = y * getattr(self, f"att{stage}")(x, y.shape[-2:])
        z = self.avgpool(x) * self.att5(x, (1, 1))
        return self.fc(z.view(*levels.shape[:2], -1).sum(1))
