"""Gradient methods as a description, which both executors run; closed forms as a function of one run.

Importing this takes no torch: methods are declared before command lines are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from engine.training.grid import Hparams
from engine.training.schedule import BETAS, EPS, Steps, warmed_up_cosine

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.model import LinearClassifier
    from engine.training.task import Fitted, Run, Task


class Fit(Protocol):
    """How a method fits classifiers."""

    def __call__(
        self,
        runs: Sequence[Run],
        *,
        max_iter: int,
        progress: Callable[[int], object],
        executor: str = "stacked",
        budget: int | None = None,
    ) -> Iterator[dict[Run, Fitted]]:
        """Fit `runs` and yield the results, some at a time.

        `max_iter` is the number of steps of methods that have no length of their own. `progress` is called with the
        number of steps since its last call. `budget` is how many bytes fits may take at a time; None is no limit.
        """
        ...

    def steps(self, task: Task, hparams: Hparams, max_iter: int) -> int:
        """Return how many steps `progress` counts for a run."""
        ...

    @property
    def takes_max_iter(self) -> bool:
        """Whether `--max-iter` is the number of its steps."""
        ...


class Optimizer(NamedTuple):
    """torch's AdamW (decoupled weight decay), Adam (L2 penalty) or SGD (momentum, L2 penalty).

    `lr` and `weight_decay` are for runs whose hyper-parameters do not name these.
    """

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 0.0
    weight_decay: float = 0.0
    eps: float = EPS
    betas: tuple[float, float] = BETAS
    momentum: float = 0.9

    def lr_of(self, hparams: Hparams) -> float:
        """Return the learning rate of a run."""
        return hparams.get("lr", self.lr)

    def weight_decay_of(self, hparams: Hparams) -> float:
        """Return the weight decay of a run."""
        return hparams.get("weight_decay", self.weight_decay)


ADAMW = Optimizer()


def linear_classifier(task: Task, phi: nn.Module | None = None) -> LinearClassifier:
    """Return the linear classifier that training starts from, on the trainable layers of the task and `phi`."""
    from engine.model import Embedding, LinearClassifier, LinearHead

    embedding = Embedding(task.trainable_layers[: len(task.samples)], phi)
    return LinearClassifier(embedding, LinearHead(task.initial, task.scale)).to(task.device).eval()


def as_it_is(task: Task, model: LinearClassifier) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the trained model, which is a linear classifier already, and no tuned values."""
    return model, {}


@dataclass(frozen=True)
class GradientDescent:
    """Training by gradient steps: a `Fit`.

    `build(task)` returns the module that is trained, in eval mode: logits [B, C] of the samples of all modalities. A
    buffer without dimensions that has the name of a hyper-parameter takes the run's value.
    `epochs(task)` is the number of passes over the training images; None is `--max-iter` steps. A batch has
    `batch_size` samples, or fewer where an epoch has not as many; a hyper-parameter of that name comes first. Half of
    it are texts in cross-modal training. With `batch_size` None all samples of all modalities are one batch.
    With `views_in_turn` an epoch sees one view of each image, the next epoch the next view.
    `penalty` returns a scalar of the module's parameters and buffers by name, which is added to the cross-entropy.
    `keep` is the state that counts: the first `best` on validation (every 100 steps), or the `last`.
    `finish(task, module)` returns the linear classifier of a trained module, and values tuned on validation by name.
    """

    build: Callable[[Task], nn.Module] = linear_classifier
    optimizer: Optimizer = ADAMW
    schedule: Callable[[int, float, Steps], float] = warmed_up_cosine
    epochs: Callable[[Task], int] | None = None
    batch_size: int | None = None
    views_in_turn: bool = False
    penalty: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    keep: Literal["best", "last"] = "best"
    finish: Callable[[Task, nn.Module], tuple[LinearClassifier, dict[str, float]]] = as_it_is

    @property
    def takes_max_iter(self) -> bool:
        """Whether `--max-iter` is the number of its steps."""
        return self.epochs is None

    def shares(self, task: Task, hparams: Hparams) -> tuple[int, ...]:
        """Return how many samples of each modality a batch has."""
        sizes = self.epoch_sizes(task)
        asked = hparams.get("batch_size", self.batch_size)
        if asked is None:
            return tuple(sizes)
        share = int(asked) // len(sizes)
        return (share if self.epochs is None else min(share, *sizes),) * len(sizes)

    def length(self, task: Task, hparams: Hparams, max_iter: int) -> Steps:
        """Return the number of steps of a run, and of its epochs where it has epochs."""
        if self.epochs is None:
            return Steps(max_iter)
        per_epoch = max(1, self.epoch_sizes(task)[0] // self.shares(task, hparams)[0])
        return Steps(self.epochs(task) * per_epoch, per_epoch)

    def steps(self, task: Task, hparams: Hparams, max_iter: int) -> int:
        """Return the number of steps of a run."""
        return self.length(task, hparams, max_iter).total

    def epoch_sizes(self, task: Task) -> list[int]:
        """Return how many samples of each modality an epoch has."""
        sizes = list(map(len, task.samples.values()))
        return [sizes[0] // task.views, *sizes[1:]] if self.views_in_turn else sizes

    def within(self, budget: int | None, runs: Sequence[Run]) -> tuple[GradientDescent, int | None]:
        """Return the description that trains `runs` in `budget` bytes (None: no limit), and the bytes for stacks.

        A method whose steps can save memory overrides this.
        """
        return self, budget

    def __call__(
        self,
        runs: Sequence[Run],
        *,
        max_iter: int,
        progress: Callable[[int], object],
        executor: str = "stacked",
        budget: int | None = None,
    ) -> Iterator[dict[Run, Fitted]]:
        """Train `runs`; see `Fit`. Raises UserError for a budget that is too small for the smallest stack."""
        from engine.training import sequential, stacked
        from engine.training.problem import Job, Problem

        descent, budget = self.within(budget, runs)
        tasks = dict.fromkeys(run.task for run in runs)
        built = {task: Problem(task, descent, descent.build(task), max_iter) for task in tasks}
        jobs = {Job(built[run.task], run.hparams): run for run in runs}
        train = {"sequential": sequential.train, "stacked": stacked.train}[executor]
        with closing(train(list(jobs), progress=progress, budget=budget)) as trained:
            for outcomes in trained:
                fitted = {jobs[job]: one for job, one in outcomes.items()}
                outcomes.clear()  # the caller alone holds the weights of a stack while the next one trains
                yield fitted


@dataclass(frozen=True)
class ClosedForm:
    """A fit without steps: `solve(task, hparams)` returns the classifier and values tuned on validation by name."""

    solve: Callable[[Task, Hparams], tuple[LinearClassifier, dict[str, float]]]
    takes_max_iter = False

    def steps(self, task: Task, hparams: Hparams, max_iter: int) -> int:
        """Return 1: a run is one step of progress."""
        return 1

    def __call__(
        self, runs: Sequence[Run], *, progress: Callable[[int], object], executor: str = "stacked", **_: object
    ) -> Iterator[dict[Run, Fitted]]:
        """Solve `runs`, side by side with the stacked executor; see `Fit`."""
        from engine.training.side_by_side import fit_each

        return fit_each(runs, self._fit, progress=progress, in_turn=executor == "sequential")

    def _fit(self, run: Run) -> Fitted:
        from engine.training.evaluate import val_accuracy
        from engine.training.task import Fitted

        began = time.perf_counter()
        classifier, tuned = self.solve(*run)
        accuracy = val_accuracy(run.task, classifier)
        return Fitted(classifier, accuracy, tuned=tuned, seconds=time.perf_counter() - began)
