"""The linear classifier that every method returns, and its modules (section 4 of the protocol).

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
"""The weight of the zero-shot classifier in WiSE-FT (Table 1 of the paper uses the mean)."""
ADAPTER_RATIO = 0.2
"""The weight of the adapter's output in an adapted feature (CLIP-Adapter's residual ratio)."""
ADAPTER_REDUCTION = 4
"""The ratio of the feature's dimension to the adapter's hidden dimension."""


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

    The output is not normalised again. W1 and W2 have the default initialisation of torch's Linear.
    """

    def __init__(self, dimension: int, generator: torch.Generator):
        """Initialise W1 and W2. Raises UserError if the dimension is below the reduction."""
        super().__init__()
        hidden = dimension // ADAPTER_REDUCTION
        if not hidden:
            raise UserError(
                f"an adapter needs features of {ADAPTER_REDUCTION} dimensions or more, but these have {dimension}; use"
                " --classifier_head linear"
            )
        self.down = nn.Parameter(random_weight(hidden, dimension, generator))
        self.up = nn.Parameter(random_weight(dimension, hidden, generator))

    def forward(self, x: Tensor) -> Tensor:
        adapted = F.relu(F.linear(F.relu(F.linear(x, self.down)), self.up))
        return ADAPTER_RATIO * adapted + (1 - ADAPTER_RATIO) * x


class TrainableEncoder(nn.Module):
    """The trainable layers of an encoder (`engine.clip.split`), then L2 normalisation; returns [B, D]."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part  # the attribute is in the tensor names of saved classifiers

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.normalize(self.part(*inputs))


class Embedding(nn.Module):
    """The layers before the linear one: trainable layers of an encoder per modality, and a shared module `phi`.

    The modalities are images, then texts. Each has a tuple of tensors: the inputs of its trainable layers, or
    L2-normalised features if it has none (None). `embedding(images)` returns features [B, D] of images;
    `embedding(images, texts)` concatenates the features of both.
    """

    def __init__(self, trainable_layers: Sequence[nn.Module | None], phi: nn.Module | None = None):
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Identity() if layers is None else TrainableEncoder(layers) for layers in trainable_layers
        )
        self.phi = phi or nn.Identity()

    def forward(self, *modalities: tuple[Tensor, ...]) -> Tensor:
        features = [encoder(*inputs) for encoder, inputs in zip(self.encoders, modalities, strict=False)]
        return self.phi(torch.cat(features) if len(features) > 1 else features[0])

    @property
    def is_identity(self) -> bool:
        """Whether features reach the linear layer unchanged."""
        return not any(True for _ in (*self.parameters(), *self.buffers()))


class LinearClassifier(nn.Module):
    """logits = scale * (phi(x) @ W.T + b): the result of every method, complete for predictions."""

    def __init__(self, embedding: Embedding, head: LinearHead):
        super().__init__()
        self.embedding, self.head = embedding, head

    def forward(self, *modalities: tuple[Tensor, ...]) -> Tensor:
        """Return logits [B, C] of the samples of all modalities, concatenated."""
        return self.head(self.embedding(*modalities))

    @property
    def weight(self) -> Tensor:
        """The weight [C, D] of the linear layer, detached."""
        return self.head.weight.detach()

    def copied(self) -> LinearClassifier:
        """Return the classifier with copies of all its tensors."""
        return with_state(self, {name: tensor.clone() for name, tensor in self.state_dict().items()})

    def with_weight(self, weight: Tensor) -> LinearClassifier:
        """Return a classifier with another `weight` [C, D] that shares the embedding."""
        return LinearClassifier(self.embedding, LinearHead(weight, self.head.scale, self.head.bias)).eval()


def with_state(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `module` in eval mode with the tensors of `state`, parameters and buffers by name.

    Tensors that are missing in `state` are shared with `module`. Raises RuntimeError for wrong names or shapes.
    """
    copied = copy_sharing_parameters(module)
    unknown = copied.load_state_dict(state, strict=False, assign=True).unexpected_keys
    if unknown:
        raise RuntimeError(f"unexpected tensors: {', '.join(unknown)}")
    return copied.eval()


def copy_sharing_parameters(module: nn.Module) -> nn.Module:
    """Return a copy of a module that shares its parameters and buffers.

    torch.func.functional_call replaces the tensors of a module while it runs. Call it on such a copy if other threads
    may use the module at the same time.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def random_weight(classes: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Return float32 weights [classes, dimension] with torch's default initialisation of a Linear layer."""
    return nn.init.kaiming_uniform_(torch.empty(classes, dimension), a=math.sqrt(5), generator=generator)


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean [classes, D] of the features [n, D] of each class, given their labels [n]."""
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / labels.bincount(minlength=classes).unsqueeze(1)


def zeroshot_weight(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return CLIP's zero-shot classifier [classes, D]: L2-normalised class means of *raw* text features [n, D]."""
    return F.normalize(class_means(features, labels, classes), dim=1)


def wise_ft(weight: Tensor, zeroshot: Tensor, ratio: float = WISE_FT_RATIO) -> Tensor:
    """Return the weight-space ensemble (1 - ratio) * weight + ratio * zeroshot, without normalisation."""
    return torch.lerp(weight, zeroshot, ratio)
