"""Classifiers: heads, the adapter, zero-shot weights and WiSE-FT (section 4 of the protocol)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import UserError

WISE_FT_RATIO = 0.5
"""How far WiSE-FT goes back to the zero-shot classifier (Table 1 of the paper uses the middle)."""
ADAPTER_RATIO = 0.2
"""How much of an adapted feature is the adapter's output (CLIP-Adapter's residual ratio)."""
ADAPTER_REDUCTION = 4
"""How much narrower the adapter's hidden layer is than the feature."""


class LinearHead(nn.Module):
    """Logits = scale * features @ weight.T, for features [B, D] and `weight` [C, D]; no bias."""

    def __init__(self, weight: Tensor, scale: float):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(features, self.weight)


class Adapter(nn.Module):
    """x -> 0.2 * relu(W2 relu(W1 x)) + 0.8 * x, with W1 [D/4, D] and W2 [D, D/4], for L2-normalised x [B, D].

    The output is not normalised again. W1 and W2 are initialised as torch's Linear is by default.
    """

    def __init__(self, dimension: int, generator: torch.Generator):
        """Raises UserError for a dimension too small to be divided."""
        super().__init__()
        hidden = dimension // ADAPTER_REDUCTION
        if not hidden:
            raise UserError(
                f"an adapter needs features of {ADAPTER_REDUCTION} numbers or more, and these have {dimension}; use"
                " --classifier_head linear"
            )
        self.down = nn.Parameter(random_weight(hidden, dimension, generator))
        self.up = nn.Parameter(random_weight(dimension, hidden, generator))

    def forward(self, x: Tensor) -> Tensor:
        adapted = F.relu(F.linear(F.relu(F.linear(x, self.down)), self.up))
        return ADAPTER_RATIO * adapted + (1 - ADAPTER_RATIO) * x


class TrainableEncoder(nn.Module):
    """The trainable part of an encoder (`engine.clip.split`), and L2 normalisation: [B, D]."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.normalize(self.part(*inputs))


class Embedding(nn.Module):
    """What comes before the linear layer: an encoder per source (images, then texts), and the adapter they share.

    A source is the tuple of an encoder's inputs. Where nothing of the encoder is trained (None) that is the
    L2-normalised feature alone. `embedding(images)` embeds images, `embedding(images, texts)` both, concatenated.
    """

    def __init__(self, encoders: Sequence[nn.Module | None], adapter: Adapter | None = None):
        super().__init__()
        self.encoders = nn.ModuleList(nn.Identity() if part is None else TrainableEncoder(part) for part in encoders)
        self.adapter = adapter or nn.Identity()

    def forward(self, *sources: tuple[Tensor, ...]) -> Tensor:
        features = [encoder(*inputs) for encoder, inputs in zip(self.encoders, sources, strict=False)]
        return self.adapter(torch.cat(features) if len(features) > 1 else features[0])

    @property
    def trainable(self) -> bool:
        """Whether anything before the linear layer is trained."""
        return any(True for _ in self.parameters())


class Classifier(nn.Module):
    """An embedding and a linear head: what is trained, with all its parameters."""

    def __init__(self, embedding: Embedding, head: LinearHead):
        super().__init__()
        self.embedding, self.head = embedding, head

    def forward(self, *sources: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, C] of the samples of all sources together."""
        return self.head(self.embedding(*sources))


def twin(module: nn.Module) -> nn.Module:
    """A copy of a module around the very same parameters and buffers.

    torch.func.functional_call puts other tensors into a module while it runs. Whoever uses it, on modules that somebody
    else may use at the same time, does so on a copy.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def random_weight(classes: int, dimension: int, generator: torch.Generator) -> Tensor:
    """torch's default initialisation of a Linear layer without bias, float32 [classes, dimension]."""
    return nn.init.kaiming_uniform_(torch.empty(classes, dimension), a=math.sqrt(5), generator=generator)


def zeroshot_weight(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """CLIP's zero-shot classifier [classes, D] from raw text features [n, D] with classes [n].

    A row is the L2-normalised mean of the *raw* features of a class over its templates.
    """
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return F.normalize(sums / labels.bincount(minlength=classes).unsqueeze(1), dim=1)


def wise_ft(weight: Tensor, zeroshot: Tensor, ratio: float = WISE_FT_RATIO) -> Tensor:
    """The weight-space ensemble (1 - ratio) * weight + ratio * zeroshot; neither is normalised."""
    return torch.lerp(weight, zeroshot, ratio)
