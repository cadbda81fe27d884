"""The one place where a saved classifier is built again, whatever the method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from engine.methods import METHODS
from engine.model import Embedding, LinearClassifier, LinearHead

PHI = "embedding.phi."


def restore(
    head: str, logit: float, parts: Sequence[nn.Module | None], tensors: Mapping[str, Tensor]
) -> LinearClassifier:
    """Return the classifier of a `--classifier_head` with the saved `tensors`, in eval mode.

    `parts` are the layers of the image encoder that were trained, None for none. Raises RuntimeError, KeyError or
    ValueError for tensors that do not fit.
    """
    of_phi = {name.removeprefix(PHI): tensor for name, tensor in tensors.items() if name.startswith(PHI)}
    phi = METHODS[head].phi(of_phi) if METHODS[head].phi else None
    linear = LinearHead(tensors["head.weight"], math.exp(logit), tensors.get("head.bias"))
    classifier = LinearClassifier(Embedding(parts, phi), linear)
    classifier.load_state_dict(tensors)
    return classifier.eval()
