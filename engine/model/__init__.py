"""The linear classifier that every method ends in, and its parts (section 4 of the protocol).

logits = scale * (phi(x) @ W.T + b)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

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
    """Logits = scale * (features @ weight.T + bias), for features [B, D], `weight` [C, D] and `bias` [C] or None."""

    def __init__(self, weight: Tensor, scale: float, bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = None if bias is None else nn.Parameter(bias.clone())
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(features, self.weight, self.bias)


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
    """The layers before the linear one: an encoder per modality (images, then texts), and the `phi` that they share.

    A modality's samples are the tuple of an encoder's inputs. Where nothing of the encoder is trained (None) they are
    L2-normalised features. `embedding(images)` embeds images, `embedding(images, texts)` both, concatenated.
    """

    def __init__(self, encoders: Sequence[nn.Module | None], phi: nn.Module | None = None):
        super().__init__()
        self.encoders = nn.ModuleList(nn.Identity() if part is None else TrainableEncoder(part) for part in encoders)
        self.phi = phi or nn.Identity()

    def forward(self, *modalities: tuple[Tensor, ...]) -> Tensor:
        features = [encoder(*inputs) for encoder, inputs in zip(self.encoders, modalities, strict=False)]
        return self.phi(torch.cat(features) if len(features) > 1 else features[0])

    @property
    def is_identity(self) -> bool:
        """Whether features reach the linear layer as they are."""
        return not any(True for _ in (*self.parameters(), *self.buffers()))


class LinearClassifier(nn.Module):
    """logits = scale * (phi(x) @ W.T + b): what every method fits, with all that a prediction takes."""

    def __init__(self, embedding: Embedding, head: LinearHead):
        super().__init__()
        self.embedding, self.head = embedding, head

    def forward(self, *modalities: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, C] of the samples of all modalities together."""
        return self.head(self.embedding(*modalities))

    @property
    def weight(self) -> Tensor:
        """The weight [C, D] of the linear layer."""
        return self.head.weight.detach()

    def copied(self) -> LinearClassifier:
        """Return the classifier with copies of all its tensors."""
        return with_state(self, {name: tensor.clone() for name, tensor in self.state_dict().items()})

    def with_weight(self, weight: Tensor) -> LinearClassifier:
        """Return a classifier with another `weight` on the very same embedding."""
        return LinearClassifier(self.embedding, LinearHead(weight, self.head.scale, self.head.bias)).eval()


def with_state(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `module` in eval mode around the tensors of `state`, its parameters and buffers by name.

    Tensors that `state` lacks are shared with `module`. Raises RuntimeError for names or shapes that do not fit.
    """
    copied = copy_sharing_parameters(module)
    unknown = copied.load_state_dict(state, strict=False, assign=True).unexpected_keys
    if unknown:
        raise RuntimeError(f"unexpected tensors: {', '.join(unknown)}")
    return copied.eval()


def copy_sharing_parameters(module: nn.Module) -> nn.Module:
    """A copy of a module around the very same parameters and buffers.

    torch.func.functional_call puts other tensors into a module while it runs. Whoever uses it, on modules that somebody
    else may use at the same time, does so on a copy.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def random_weight(classes: int, dimension: int, generator: torch.Generator) -> Tensor:
    """torch's default initialisation of a Linear layer without bias, float32 [classes, dimension]."""
    return nn.init.kaiming_uniform_(torch.empty(classes, dimension), a=math.sqrt(5), generator=generator)


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean [classes, D] of the features [n, D] of each class, given their labels [n]."""
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / labels.bincount(minlength=classes).unsqueeze(1)


def zeroshot_weight(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return CLIP's zero-shot classifier [classes, D]: the L2-normalised means of the *raw* text features [n, D]."""
    return F.normalize(class_means(features, labels, classes), dim=1)


def wise_ft(weight: Tensor, zeroshot: Tensor, ratio: float = WISE_FT_RATIO) -> Tensor:
    """The weight-space ensemble (1 - ratio) * weight + ratio * zeroshot; neither is normalised."""
    return torch.lerp(weight, zeroshot, ratio)
