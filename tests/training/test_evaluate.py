"""Accuracies of many classifiers at once, against one at a time in float64."""

import pytest
import torch
from torch import nn

from engine.model import Embedding, LinearClassifier, LinearHead
from engine.training import evaluate


class Matrix(nn.Module):
    """A product with a matrix, as layers before the linear one."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x):
        return x @ self.matrix


@pytest.mark.parametrize("rows", [57, 10])
def test_accuracies_equal_one_classifier_at_a_time(rows, monkeypatch):
    """Of several embeddings, with and without a bias, of different scales, among all classes and among some."""
    monkeypatch.setattr(evaluate, "LOGITS", 100)  # many passes over few rows
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(57, 16, generator=generator)
    labels = torch.randint(5, (57,), generator=generator)
    some = torch.tensor([1, 2, 4])
    shared = Embedding([None], Matrix(torch.randn(16, 16, generator=generator)))
    embeddings = [Embedding([None]), shared, Embedding([None], Matrix(torch.eye(16))), shared, Embedding([None])]
    biases = [torch.randn(5, generator=generator), None, None, torch.randn(5, generator=generator), None]
    heads = [
        LinearHead(torch.randn(5, 16, generator=generator), scale, bias)
        for scale, bias in zip((1.0, 100.0, 2.0, 7.0, 0.1), biases, strict=True)
    ]
    classifiers = list(map(LinearClassifier, embeddings, heads))

    def expected(classifier, classes):
        x = features.double()
        if not classifier.embedding.is_identity:
            x = x @ classifier.embedding.phi.matrix.double()
        logits = x @ classifier.weight.double().T
        if classifier.head.bias is not None:
            logits += classifier.head.bias.double()
        return (classes[logits[:, classes].argmax(1)] == labels).double().mean().item()

    batches = [((some,), truth) for some, truth in zip(features.split(rows), labels.split(rows), strict=True)]
    found = evaluate.accuracies(classifiers, batches, [None, some])
    assert found == [[expected(one, torch.arange(5)), expected(one, some)] for one in classifiers]
    assert evaluate.accuracies(classifiers, batches) == [[among_all] for among_all, _ in found]


def test_wise_ft_is_measured_on_the_embedding_that_it_shares(make_problem):
    problem = make_problem(kind="adapter")
    other = problem.model.with_weight(torch.randn_like(problem.model.weight))
    with torch.no_grad():
        problem.model.embedding.phi.up += 0.5
        inputs, labels = problem.val.pick(torch.arange(len(problem.val)))
        expected = [(one(inputs).argmax(1) == labels).double().mean().item() for one in (problem.model, other)]
    assert evaluate.val_accuracies(problem.task, [problem.model, other]) == expected
