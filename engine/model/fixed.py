"""A classifier of fixed weights: only the embedding before them is trained."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from engine.model import Embedding, LinearClassifier, LinearHead


class FixedClassifier(nn.Module):
    """Logits = scale * z @ weight.T, where z [B, D] is the trained `embedding` of the samples of all modalities.

    `weight` [C, D] is a buffer, and so is the factor `strength` of the penalty of its training.
    """

    def __init__(self, embedding: nn.Module, weight: Tensor, scale: float, strength: float):
        super().__init__()
        self.embedding, self.scale = embedding, scale
        self.register_buffer("weight", weight)
        self.register_buffer("strength", weight.new_tensor(strength))

    def forward(self, *modalities: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, C] of the samples of all modalities together."""
        return self.scale * F.linear(self.embedding(*modalities), self.weight)

    def linear(self, embedding: Embedding) -> LinearClassifier:
        """Return the linear classifier that this is on an `embedding` of images."""
        return LinearClassifier(embedding, LinearHead(self.weight, self.scale)).eval()
