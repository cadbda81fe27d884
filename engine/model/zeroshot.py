"""Is a zero-shot classifier any better than guessing? Where it is not, prompts and images do not belong together."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import bdtrc

SIGNIFICANCE = 0.05
"""Accuracies that guessing reaches more often than that are no evidence of anything better: the usual level."""


@dataclass(frozen=True)
class ZeroShot:
    """How many of `images` validation images a zero-shot classifier of so many `classes` gets right."""

    correct: int
    images: int
    classes: int

    @property
    def accuracy(self) -> float:
        """From 0 to 1."""
        return self.correct / self.images

    @property
    def chance(self) -> float:
        """The accuracy that guessing is expected to have."""
        return 1 / self.classes

    @property
    def p_value(self) -> float:
        """How likely guessing is to get as many images right or more: the tail of a binomial distribution."""
        return float(bdtrc(self.correct - 1, self.images, self.chance))

    @property
    def is_at_chance(self) -> bool:
        """Whether it is not significantly better than guessing.

        A single class leaves nothing to guess. All right is not, though four guesses of two classes may be.
        """
        return self.classes > 1 and self.correct < self.images and self.p_value > SIGNIFICANCE

    def __str__(self) -> str:
        return (
            f"zero-shot accuracy {self.accuracy:.1%} on {self.images} validation images (guessing among {self.classes}"
            f" classes: {self.chance:.1%})"
        )

    def warning(self, what: str) -> str | None:
        """What may be wrong with `what`, a dataset under an encoder, where accuracy is at chance; None where not."""
        if not self.is_at_chance:
            return None
        few = self.images <= self.classes or self.accuracy > self.chance
        return (
            f"warning: {what}: {self} may be chance alone (p = {self.p_value:.2f}). Likely causes: class names in"
            " another order than the labels (the dataset's split file or classnames.txt); prompts that do not fit the"
            " images (--text-augmentation); an encoder whose texts and images share no space, or whose weights are not"
            f" its own (--clip-encoder, --clip-weights){'; or too few images to tell' * few}"
        )
