"""GDA: the values of the original program, in float64; tasks without scatter within classes."""

import pytest
import torch
from fits import expect_alike, fit
from torch.nn import functional as F

from engine.errors import UserError
from engine.methods import METHODS, gda
from engine.methods.build import restore
from engine.training.grid import Hparams
from engine.training.task import Run

ROWS = [0, 50, 100, 150, 200, 250, 300, 399]
METHOD = METHODS["gda"]


@pytest.fixture
def test_logits(golden_features):
    """A function that returns a classifier's logits of all test images, and their labels."""
    test, labels = golden_features["test"]

    def logits(classify):
        with torch.no_grad():
            return classify(F.normalize(test)), labels

    return logits


def test_weights_are_those_of_the_original_program(golden_task, expect_golden, test_logits):
    task = golden_task()
    gaussians = gda.Gaussians(*task.rows(), 10)
    weight, bias = gaussians.linear()
    expect_golden("gda", "W_fro", weight.norm())
    expect_golden("gda", "W_col_norms", weight.norm(dim=1))
    expect_golden("gda", "W_0_first5", weight[0, :5])
    expect_golden("gda", "b", bias)
    expect_golden("gda", "cov_inv_trace", gaussians.precision(torch.eye(1024, dtype=torch.float64)).trace())
    features, labels = task.val.bank[0].double(), task.val.labels
    given, found = 100 * features @ task.zeroshot.double().T, features @ weight.T + bias
    grid = [100 * ((given + alpha * found).argmax(1) == labels).double().mean() for alpha in gda.ALPHAS]
    expect_golden("gda", "val_acc_grid", grid)
    logits, labels = test_logits(lambda test: 100 * test @ task.zeroshot.T + (test.double() @ weight.T + bias))
    expect_golden("gda", "alpha1.test_logits", logits[ROWS])
    expect_golden("gda", "alpha1.test_acc", 100 * (logits.argmax(1) == labels).double().mean())


@pytest.mark.parametrize("executor", ["sequential", "stacked"])
def test_it_is_the_original_program(golden_task, expect_golden, test_logits, executor):
    fitted = fit(METHOD.fit, golden_task(), executor)
    expect_golden("gda", "chosen_alpha", fitted.tuned["alpha"])
    assert fitted.val_accuracy == 0.55
    logits, labels = test_logits(lambda test: fitted.classifier((test,)))
    expect_golden("gda", "chosen.test_logits", logits[ROWS])
    expect_golden("gda", "chosen.test_acc", 100 * (logits.argmax(1) == labels).double().mean())


def test_texts_are_rows(golden_task):
    """Of the class means and of the covariance."""
    task = golden_task(True)
    features, labels = task.rows()
    assert torch.equal(features[80:], task.zeroshot)
    means = gda.Gaussians(features, labels, 10).means
    own = torch.cat([features[labels == 3]]).double()
    assert len(own) == 9
    assert torch.allclose(means[3], own.mean(0))


@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
def test_side_by_side_or_in_turn_all_is_alike(golden_task, cross_modal):
    runs = [Run(golden_task(cross_modal, shots=shots), Hparams()) for shots in (1, 2, 4)]
    expect_alike(METHOD.fit, runs, "tuned")


def test_a_classifier_is_restored_from_its_tensors(golden_task, golden_features):
    classifier = fit(METHOD.fit, golden_task(True), "stacked").classifier
    assert classifier.state_dict().keys() == {"head.weight", "head.bias"}
    again = restore("gda", METHOD.log_logit_scale, [None], classifier.state_dict())
    test = (F.normalize(golden_features["test"][0]),)
    assert torch.allclose(again(test), classifier(test), rtol=1e-5)


def test_one_row_a_class_has_no_covariance(golden_task):
    """A flipped view or texts help, but for a view that is the same again."""
    METHOD.check(golden_task(shots=1, views=2))
    METHOD.check(golden_task(cross_modal=True, shots=1, views=1))
    with pytest.raises(UserError, match=r"two different rows.*--image-augmentation flip.*--modality cross_modal"):
        METHOD.check(golden_task(shots=1, views=1))
    task = golden_task(shots=1, views=1)
    own = task.own
    twice = type(own)(own.bank, own.rows.repeat(2), own.labels.repeat(2), own.norms)
    with pytest.raises(UserError, match="two different rows"):
        METHOD.check(golden_task(shots=1, samples={"image": twice}))
