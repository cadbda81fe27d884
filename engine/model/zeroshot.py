"""Test whether a zero-shot classifier is better than guessing; if not, prompts and images may not match."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import bdtrc

SIGNIFICANCE = 0.05
"""The usual significance level: the largest p-value of an accuracy that is better than guessing."""


@dataclass(frozen=True)
class ZeroShot:
    """The result of a zero-shot classifier: `correct` of `images` validation images, among `classes` classes."""

    correct: int
    images: int
    classes: int

    @property
    def accuracy(self) -> float:
        """The accuracy, from 0 to 1."""
        return self.correct / self.images

    @property
    def chance(self) -> float:
        """The expected accuracy of guessing, from 0 to 1."""
        return 1 / self.classes

    @property
    def p_value(self) -> float:
        """The probability that guessing has at least as many correct images: the tail of a binomial distribution."""
        return float(bdtrc(self.correct - 1, self.images, self.chance))

    @property
    def is_at_chance(self) -> bool:
        """Whether the classifier is not significantly better than guessing.

        False for a single class, which leaves nothing to guess, and if all images are correct, although a few guesses
        among two classes may be.
        """
        return self.classes > 1 and self.correct < self.images and self.p_value > SIGNIFICANCE

    def __str__(self) -> str:
        return (
            f"zero-shot accuracy {self.accuracy:.1%} on {self.images} validation images (guessing among {self.classes}"
            f" classes: {self.chance:.1%})"
        )

    def warning(self, subject: str) -> str | None:
        """Return a warning with likely causes if accuracy is at chance, else None; `subject` is its beginning."""
        if not self.is_at_chance:
            return None
        few = self.images <= self.classes or self.accuracy > self.chance
        return (
            f"warning: {subject}: {self} may be chance alone (p = {self.p_value:.2f}). Likely causes: class names in"
            " another order than the labels (the dataset's split file or classnames.txt); prompts that do not fit the"
            " images (--text-augmentation); an encoder whose texts and images have no common space, or wrong weights"
            f" (--clip-encoder, --clip-weights){'; or too few images for a conclusion' * few}"
        )
