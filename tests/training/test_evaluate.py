"""Accuracies of many classifiers at once, against one at a time in float64."""

import torch

from engine.training import evaluate


def test_accuracies_equal_one_classifier_at_a_time(monkeypatch):
    monkeypatch.setattr(evaluate, "LOGITS", 100)  # many passes over few rows
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(57, 16, generator=generator)
    labels = torch.randint(5, (57,), generator=generator)
    weights = [torch.randn(5, 16, generator=generator) for _ in range(4)]
    expected = [((features.double() @ w.double().T).argmax(1) == labels).double().mean().item() for w in weights]
    assert evaluate.accuracies(weights, features, labels) == expected
