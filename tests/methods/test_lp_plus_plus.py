"""LP++: the values of the original program at each step, with few samples and with many."""

import pytest
import torch
from fits import expect_alike, fit
from torch.nn import functional as F

from engine.methods import METHODS, lp_plus_plus
from engine.methods.build import restore
from engine.methods.lp_plus_plus import Data, State, StepSizes, descend
from engine.training.grid import Hparams
from engine.training.task import Run

ROWS = [0, 50, 100, 150, 200, 250, 300, 399]
STEPS = [1, 2, 5, 10, 11, 50, 100, 200, 299, 300]
METHOD = METHODS["lp_plus_plus"]


@pytest.fixture(params=["few samples", "many samples"])
def task(request, golden_task, monkeypatch):
    """The golden task, as weights in the span of the features and as weights for each feature."""
    if request.param == "many samples":
        monkeypatch.setattr(lp_plus_plus, "SPAN", 0)
    return golden_task(scale=1.0)


def test_steps_are_those_of_the_original_program(task, expect_golden):
    data = Data.of(task)
    sizes = StepSizes.of(data)
    expect_golden("lp_plus_plus", "lr_w", sizes.weight)
    expect_golden("lp_plus_plus", "lr_alpha", sizes.blend)
    expect_golden("lp_plus_plus", "alpha0", sizes.initial)
    state = State.first(data, sizes)

    def loss():
        return F.cross_entropy(state.logits(data.rows, data.similar), data.labels).item()

    losses, accuracies, blends = [loss()], [], []
    for correct in descend(data, sizes, state):
        losses.append(loss())
        accuracies.append(100 * correct / len(task.val))
        blends.append(state.blend.clone())
    expect_golden("lp_plus_plus", "loss", [losses[step - 1] for step in STEPS])
    expect_golden("lp_plus_plus", "val_acc", [accuracies[step - 1] for step in STEPS])
    expect_golden("lp_plus_plus", "alpha_after_10", blends[9])
    expect_golden("lp_plus_plus", "alpha_end", blends[-1])
    expect_golden("lp_plus_plus", "kept_alpha", blends[298])
    expect_golden("lp_plus_plus", "best_val_acc", max(accuracies))


@pytest.mark.parametrize("executor", ["sequential", "stacked"])
def test_it_is_the_original_program(task, golden_features, expect_golden, executor):
    fitted = fit(METHOD.fit, task, executor)
    expect_golden("lp_plus_plus", "kept_step_1based", fitted.step + 1)
    expect_golden("lp_plus_plus", "best_val_acc", 100 * fitted.val_accuracy)
    head = fitted.classifier.head
    expect_golden("lp_plus_plus", "kept_bias", head.bias.detach())
    blend = torch.tensor(expect_golden.goldens["lp_plus_plus"]["values"]["kept_alpha"]["value64"]).unsqueeze(1)
    expect_golden("lp_plus_plus", "kept_weight_fro", (head.weight.detach() - blend * task.zeroshot).norm())
    test, labels = golden_features["test"]
    with torch.no_grad():
        logits = fitted.classifier((F.normalize(test),))
    expect_golden("lp_plus_plus", "test_logits", logits[ROWS])
    expect_golden("lp_plus_plus", "test_acc", 100 * (logits.argmax(1) == labels).double().mean())


@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
def test_side_by_side_or_in_turn_all_is_alike(golden_task, cross_modal):
    runs = [Run(golden_task(cross_modal, shots=shots, scale=1.0), Hparams()) for shots in (1, 2, 4)]
    expect_alike(METHOD.fit, runs, "step")


def test_the_last_of_equal_steps_counts(golden_task):
    """Where everything is right from the start on, that is the very last one."""
    task = golden_task(scale=1.0)
    easy = golden_task(scale=1.0, val=task.own)
    fitted = fit(METHOD.fit, easy, "stacked")
    assert (fitted.step, fitted.val_accuracy) == (299, 1.0)


def test_another_scale_changes_no_logit(golden_task, golden_features):
    test = (F.normalize(golden_features["test"][0]),)
    plain, scaled = (fit(METHOD.fit, golden_task(scale=scale), "stacked").classifier for scale in (1.0, 50.0))
    assert torch.allclose(plain(test), scaled(test), rtol=1e-4, atol=1e-5)
    assert METHOD.log_logit_scale == 0.0


def test_a_classifier_is_restored_from_its_tensors(golden_task, golden_features):
    classifier = fit(METHOD.fit, golden_task(True, scale=1.0), "stacked").classifier
    again = restore("lp_plus_plus", METHOD.log_logit_scale, [None], classifier.state_dict())
    test = (F.normalize(golden_features["test"][0]),)
    assert torch.equal(again(test), classifier(test))


def test_progress_is_in_steps(golden_task):
    told = []
    list(METHOD.fit([Run(golden_task(scale=1.0), Hparams())], max_iter=0, progress=told.append))
    assert sum(told) == METHOD.fit.steps(None, Hparams(), 0) == 300
