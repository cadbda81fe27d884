"""ZS-LP, CLAP and TaskRes: the values of the original programs, both executors, both modalities."""

import pytest
import torch
from fits import TEST_ROWS, fit, fit_all, losses, module_after
from torch.nn import functional as F

from engine.methods import METHODS
from engine.methods.build import restore
from engine.training.grid import Hparams
from engine.training.task import Run

EXECUTORS = ["sequential", "stacked"]
POINTS = {"zs_lp": {}, "clap": {}, "taskres": {"lr": 2e-3, "alpha": 0.5}}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", POINTS)
def test_it_is_the_original_program(golden_task, golden_features, expect_golden, name, executor):
    task, descent, point = golden_task(), METHODS[name].fit, POINTS[name]
    fitted = fit(descent, task, executor, **point)
    test, labels = golden_features["test"]
    logits = fitted.classifier((F.normalize(test),)).detach()
    expect_golden(name, "test_logits", logits[TEST_ROWS])
    expect_golden(name, "test_acc", 100 * (logits.argmax(1) == labels).double().mean())

    total = descent.steps(task, Hparams(point), 0)
    module = module_after(descent, task, executor, total, **point)
    residual = module.residual.detach()
    moved = "residual" if name == "taskres" else "move"
    expect_golden(name, f"{moved}_fro", residual.norm())
    expect_golden(name, f"{moved}_row_norms", residual.norm(dim=1))
    expect_golden(name, f"{moved}_0_first5", residual[0, :5])
    expect_golden(name, "weight_fro", (module.base + module.alpha * residual).norm())
    if name == "clap":
        expect_golden(name, "multipliers", module.multipliers)


@pytest.mark.parametrize("name", POINTS)
def test_losses_are_those_of_the_original_program(golden_task, expect_golden, name):
    steps = expect_golden.goldens[name]["loss_epochs"]
    found = torch.tensor(losses(METHODS[name].fit, golden_task(), "stacked", steps, **POINTS[name]))
    expect_golden(name, "loss", found.sum(1))
    if name == "clap":
        expect_golden(name, "penalty", found[:, 1])


@pytest.mark.parametrize("name", POINTS)
def test_learning_rates_are_those_of_the_original_program(golden_task, expect_golden, name):
    descent, point = METHODS[name].fit, Hparams(POINTS[name])
    length, lr = descent.length(golden_task(), point, 0), descent.optimizer.lr_of(point)
    steps = expect_golden.goldens[name]["loss_epochs"]
    expect_golden(name, "lr", [descent.schedule(step - 1, lr, length) for step in steps])


@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
@pytest.mark.parametrize("name", POINTS)
def test_executors_agree(golden_task, name, cross_modal):
    """On tasks of several shots, whose texts differ, with the whole grid."""
    text = golden_task().text
    tasks = [golden_task(cross_modal, shots=shots, text=text * (1 + 0.1 * shots)) for shots in (1, 2)]
    runs = [Run(task, point) for task in tasks for point in METHODS[name].grid]
    found = {executor: fit_all(METHODS[name].fit, runs, executor) for executor in EXECUTORS}
    for one, other in zip(*found.values(), strict=True):
        assert torch.allclose(one.classifier.weight, other.classifier.weight, rtol=0, atol=2e-6)
        assert (one.step, one.val_accuracy, one.diverged) == (other.step, other.val_accuracy, False)


def test_autograd_has_the_closed_gradient(golden_task, monkeypatch):
    """What `FunctionalModel` makes of the same description."""
    from engine.training.problem import Problem

    closed = module_after(METHODS["clap"].fit, golden_task(True), "stacked", 24)
    monkeypatch.setattr(Problem, "is_residual", False)
    by_autograd = module_after(METHODS["clap"].fit, golden_task(True), "stacked", 24)
    assert torch.allclose(closed.residual, by_autograd.residual, rtol=0, atol=2e-6)
    assert closed.residual.abs().max() > 0.01


@pytest.mark.parametrize("name", POINTS)
def test_a_classifier_is_restored_from_its_tensors(golden_task, golden_features, name):
    task = golden_task(True, shots=1)
    classifier = fit(METHODS[name].fit, task, "stacked", **POINTS[name]).classifier
    again = restore(name, METHODS[name].log_logit_scale, [None], classifier.state_dict())
    test = (F.normalize(golden_features["test"][0]),)
    assert torch.allclose(again(test), classifier(test), rtol=1e-5)


def test_the_last_state_counts(golden_task):
    fitted = fit(METHODS["zs_lp"].fit, golden_task(), "stacked")
    assert fitted.step == 299
    assert torch.allclose(fitted.classifier.weight.norm(dim=1), torch.ones(10))


def test_taskres_takes_more_epochs_from_8_shots_on(golden_task):
    epochs = METHODS["taskres"].fit.epochs
    assert [epochs(golden_task(shots=shots)) for shots in (1, 2, 4)] == [100, 100, 100]
    assert epochs(golden_task(shots=4, views=1)) == 100
    task = golden_task()
    assert epochs(golden_task(samples={"image": task.own}, views=1)) == 200  # 8 images a class
