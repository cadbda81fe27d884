"""Accuracies of many classifiers at once, against one at a time in float64."""

import pytest
import torch

from engine.training import evaluate
from engine.training.evaluate import Heads


@pytest.mark.parametrize("rows", [57, 10])
def test_accuracies_equal_one_classifier_at_a_time(rows, monkeypatch):
    monkeypatch.setattr(evaluate, "LOGITS", 100)  # many passes over few rows
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(57, 16, generator=generator)
    labels = torch.randint(5, (57,), generator=generator)
    weights = [torch.randn(5, 16, generator=generator) for _ in range(4)]
    matrix = torch.randn(16, 16, generator=generator)

    def expected(images):
        return [((images @ w.double().T).argmax(1) == labels).double().mean().item() for w in weights]

    classifiers = [Heads(lambda images: images[0], weights), Heads(lambda images: images[0] @ matrix, weights[1:])]
    batches = [((some,), truth) for some, truth in zip(features.split(rows), labels.split(rows), strict=True)]
    plain, mapped = evaluate.accuracies(classifiers, batches)
    assert plain == expected(features.double())
    assert mapped == expected(features.double() @ matrix.double())[1:]


@pytest.mark.parametrize("kind", ["adapter", "attention pool"])
def test_a_state_embeds_as_the_model_that_has_it(kind, make_problem):
    problem, other = make_problem(kind=kind), make_problem(kind=kind)
    state = {name: value + 0.1 for name, value in other.model.state_dict().items()}
    (images, _) = problem.val.pick(torch.arange(5))
    with torch.no_grad():
        found = evaluate.embedder(problem.model.embedding, state)(images)
        assert not torch.equal(found, problem.model.embedding(images))
        own = problem.model.state_dict()
        other.model.load_state_dict(state)
        assert torch.equal(found, other.model.embedding(images))
        problem.model.load_state_dict(own)
