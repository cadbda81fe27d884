"""The one place where a saved classifier is built again, whatever the method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from engine.methods import METHODS
from engine.model import Embedding, LinearClassifier, LinearHead

PHI = "embedding.phi."


def restore(
    head: str, log_logit_scale: float, trainable_layers: Sequence[nn.Module | None], tensors: Mapping[str, Tensor]
) -> LinearClassifier:
    """Return the classifier of a `--classifier_head` with the saved `tensors`, in eval mode.

    `trainable_layers` are layers of the image encoder, None for none. Raises RuntimeError, KeyError or
    ValueError for tensors that do not fit.
    """
    of_phi = {name.removeprefix(PHI): tensor for name, tensor in tensors.items() if name.startswith(PHI)}
    phi = METHODS[head].phi(of_phi) if METHODS[head].phi else None
    linear = LinearHead(tensors["head.weight"], math.exp(log_logit_scale), tensors.get("head.bias"))
    classifier = LinearClassifier(Embedding(trainable_layers, phi), linear)
    classifier.load_state_dict(tensors)
    return classifier.eval()
