"""The contract of a method: what its file declares, and everything else derives from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.training.descent import Fit
from engine.training.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.model import LinearClassifier
    from engine.training.task import Task

SCALE_100 = 4.60517
"""The logarithm of CLIP's scale of logits, 100, as the authors' scripts have it."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way of fitting a classifier.

    - `title`: its name in tables
    - `grid`: the hyper-parameters that validation selects among
    - `fit`: `GradientDescent(...)`, `ClosedForm(solve)` or another `Fit`
    - `log_logit_scale`, `image_layer` (trainable layers of the image encoder, or `projection`): defaults of `--logit`
      and `--image-layer-idx`
    - `phi(tensors)`: returns the module before the linear layer, into which its saved `tensors` are loaded by name;
      None is the identity
    - `wise_ft`: whether the weights [C, D] can be averaged with the zero-shot classifier's
    - `inits`: the values of `--classifier_init` that it takes
    - `check(task)`: raises UserError, with the remedy, if the method cannot be fitted to the task; the sweep skips it
    - `text_encoder`: whether training uses the text encoder, `Task.prompts`
    - `new_classes(task, classifier)`: returns the linear classifier of the classes of a task, from a fitted classifier
      of other classes; None if all that is learnt belongs to single classes
    """

    title: str
    grid: Grid
    fit: Fit
    log_logit_scale: float = SCALE_100
    image_layer: int | str = 0
    phi: Callable[[Mapping[str, Tensor]], nn.Module] | None = None
    wise_ft: bool = True
    inits: tuple[str, ...] = ("zeroshot", "random")
    check: Callable[[Task], None] | None = None
    text_encoder: bool = False
    new_classes: Callable[[Task, LinearClassifier], LinearClassifier] | None = None
