"""ProLIP: the projection at the end of the image encoder, kept close to the pretrained one.

Image features unit(W x + b) are compared with the zero-shot weights; x goes into the projection, and b stays frozen.
In cross-modal training texts t are rows too: unit(W W0^+ t), with the pseudo-inverse of the pretrained W0. The map
W W0^+ is what a change of W is to final features, and starts as the identity on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.clip.names import PROJECTION
from engine.errors import UserError
from engine.methods import linear_adapter
from engine.model import Embedding, LinearClassifier, TrainableEncoder
from engine.model.fixed import FixedClassifier
from engine.training.grid import Grid
from engine.training.task import Task

_FIXED: WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor]] = WeakKeyDictionary()
"""Results of `_fixed`: stacks hold one copy of what tasks share, and a pseudo-inverse takes seconds."""


class ProjectedSamples(nn.Module):
    """The embedding that ProLIP trains: images through the projection, texts through what it was changed by.

    `pretrained` is the weight that the penalty pulls to, and `inverse` [D, width] maps texts to inputs of it.
    """

    def __init__(self, projection: nn.Module):
        super().__init__()
        self.image = TrainableEncoder(projection)
        pretrained, inverse = _fixed(projection)
        self.register_buffer("pretrained", pretrained)
        self.register_buffer("inverse", inverse)

    def forward(self, images: tuple[Tensor, ...], texts: tuple[Tensor, ...] | None = None) -> Tensor:
        features, projection = self.image(*images), self.image.part
        if texts is None:
            return features
        mapped = projection(texts[0] @ self.inverse)
        return torch.cat([features, F.normalize(mapped if projection.bias is None else mapped - projection.bias)])


def _fixed(projection: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weight of a projection before training, and its transposed pseudo-inverse [D, width]."""
    if projection not in _FIXED:
        weight = projection.weight.detach().clone()
        matrix = weight.T if projection.transposed else weight  # [D, width]
        _FIXED[projection] = weight, torch.linalg.pinv(matrix.double()).T.to(weight.dtype).contiguous()
    return _FIXED[projection]


def build(task: Task) -> FixedClassifier:
    """Return the classifier that training starts from, which is the zero-shot one."""
    embedding = ProjectedSamples(task.trainable_layers[0])
    return FixedClassifier(embedding, task.zeroshot, task.scale, 1 / task.shots).to(task.device).eval()


def penalty(named: Mapping[str, Tensor]) -> Tensor:
    """Return the squared distance of the projection to the pretrained one, times 1 / shots."""
    moved = named["embedding.image.part.weight"] - named["embedding.pretrained"]
    return named["strength"] * moved.square().sum()


def finish(task: Task, module: FixedClassifier) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the linear classifier of a trained module, and no tuned values."""
    return module.linear(Embedding([module.embedding.image.part])), {}


def check(task: Task) -> None:
    """Raise UserError for a task whose image features are not the inputs of a projection, or texts not final."""
    if not hasattr(
        task.trainable_layers[0], "transposed"
    ):  # of `engine.clip.split.Projection`, which takes seconds to import
        raise UserError(
            "trains the projection of the image encoder: give features.py and train.py --image-layer-idx"
            f" {PROJECTION}, or take --method linear_adapter, which takes final features"
        )
    if len(task.samples) > 1 and task.trainable_layers[1] is not None:
        raise UserError("trains no layers of the text encoder: --text-layer-idx 0")


METHOD = replace(
    linear_adapter.METHOD,
    title="ProLIP",
    grid=Grid(lr=(1e-3, 1e-4, 1e-5, 1e-6)),
    fit=replace(linear_adapter.METHOD.fit, build=build, penalty=penalty, finish=finish),
    image_layer=PROJECTION,
    phi=None,
    check=check,
)
