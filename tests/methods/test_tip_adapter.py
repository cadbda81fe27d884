"""Tip-Adapter and Tip-Adapter-F: the values of the original program, the search of alpha and beta, cross-modal keys."""

from dataclasses import replace

import pytest
import torch
from fits import fit, fit_all, losses, module_after
from torch.nn import functional as F

from engine.errors import UserError
from engine.methods import METHODS, tip_adapter
from engine.methods.build import restore
from engine.model import cache as cache_module
from engine.model.cache import Cache, count_correct
from engine.training.grid import Hparams
from engine.training.task import Run

ROWS = [0, 50, 100, 150, 200, 250, 300, 399]
EXECUTORS = ["sequential", "stacked"]
NAMES = ["tip_adapter", "tip_adapter_f"]


@pytest.fixture
def expect_test(golden_features, expect_golden):
    """A function that compares logits of some test images, and the accuracy on all, with a method's golden."""
    test, labels = golden_features["test"]

    def expect(method, prefix, classify):
        with torch.no_grad():
            logits = classify((F.normalize(test),))
        expect_golden(method, f"{prefix}test_logits", logits[ROWS])
        expect_golden(method, f"{prefix}test_acc", 100 * (logits.argmax(1) == labels).double().mean())

    return expect


def counts(task, cache, betas, alphas):
    """How many validation images are predicted correctly, [betas, alphas]."""
    features, labels = task.val.bank[0], task.val.labels
    return count_correct(cache, task.scale * (features @ task.zeroshot.T), features, labels, betas, alphas)


def test_keys_are_means_of_raw_views(golden_task, expect_golden):
    cache = tip_adapter.build_cache(golden_task())
    expect_golden("tip_adapter", "key0_first5", cache.keys[0, :5].detach())
    assert cache.keys.shape == (40, 1024)


def test_a_cache_is_that_of_the_original_program(golden_task, expect_golden, expect_test):
    task = golden_task()
    cache = tip_adapter.build_cache(task)
    expect_test("tip_adapter", "fixed.", tip_adapter.with_constants(task, cache, beta=5.5, alpha=1.0))
    found = counts(task, cache, [1.0, 2.0, 5.5, 10.0], [0.5, 1.0, 2.0, 5.0, 10.0])
    expect_golden("tip_adapter", "grid.val_acc_grid", 100 * found / len(task.val))
    expect_golden("tip_adapter", "grid.best_beta", [1.0, 2.0, 5.5, 10.0][int(found.argmax()) // 5])
    expect_golden("tip_adapter", "grid.best_alpha", [0.5, 1.0, 2.0, 5.0, 10.0][int(found.argmax()) % 5])
    expect_test("tip_adapter", "grid.", tip_adapter.with_constants(task, cache, beta=1.0, alpha=10.0))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_search_is_that_of_the_original_program(golden_task, expect_golden, expect_test, executor):
    fitted = fit(METHODS["tip_adapter"].fit, golden_task(dataset="dtd"), executor)
    expect_golden("tip_adapter", "own_grid.best_beta", fitted.tuned["beta"])
    expect_golden("tip_adapter", "own_grid.best_alpha", fitted.tuned["alpha"])
    expect_golden("tip_adapter", "own_grid.best_val_acc", 100 * fitted.val_accuracy)
    expect_test("tip_adapter", "own_grid.", fitted.classifier)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_trained_keys_are_those_of_the_original_program(golden_task, expect_golden, expect_test, executor):
    task, descent = golden_task(dataset="oxford_pets"), METHODS["tip_adapter_f"].fit  # alpha 1.17 while training
    trained = module_after(descent, task, executor, 20)
    keys, start = trained.cache.keys.detach(), tip_adapter.build_cache(task).keys
    expect_golden("tip_adapter_f", "key_move_fro", (keys - start).norm().item())
    expect_golden("tip_adapter_f", "keys_fro", keys.norm())
    expect_test("tip_adapter_f", "", trained)


def test_losses_and_rates_are_those_of_the_original_program(golden_task, golden_features, expect_golden):
    task, descent = golden_task(dataset="oxford_pets"), METHODS["tip_adapter_f"].fit
    found = losses(descent, task, "sequential", range(1, 21))
    expect_golden("tip_adapter_f", "loss", [cross_entropy for cross_entropy, _ in found])
    length = descent.length(task, Hparams(), 0)
    expect_golden("tip_adapter_f", "lr", [descent.schedule(step, 1e-3, length) for step in range(20)])
    test, labels = golden_features["test"]
    after = [module_after(descent, task, "sequential", step)((F.normalize(test),)) for step in (1, 10, 20)]
    curve = expect_golden.goldens["tip_adapter_f"]["values"]["test_acc_curve"]["value64"]
    found = [100 * (logits.argmax(1) == labels).double().mean().item() for logits in after]
    assert found == [curve[step - 1] for step in (1, 10, 20)]


def test_ties_go_to_the_first_beta_then_the_first_alpha(golden_task):
    """All pairs are alike where the cache agrees with the texts."""
    task = golden_task()
    task = replace(task, val=replace(task.val, bank=(task.zeroshot,), rows=torch.arange(10), labels=torch.arange(10)))
    cache = Cache(task.zeroshot, torch.arange(10), 1.0)
    _, found = tip_adapter.search(task, cache)
    assert found == {"beta": 0.1, "alpha": 0.1}


@pytest.mark.parametrize("dataset", ["oxford_flowers", "a dataset of my own"])
def test_values_of_the_search(golden_task, dataset):
    found = tip_adapter.constants(golden_task(dataset=dataset))
    assert found == {"oxford_flowers": (50, 50, 10)}.get(dataset, (12, 10, 2))
    values = tip_adapter.values(found.beta, 200)
    assert len(values) == 200
    assert values[0] == 0.1
    assert values[1] - values[0] == pytest.approx((found.beta - 0.1) / 200)
    assert values[-1] < found.beta


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
def test_executors_agree(golden_task, name, cross_modal):
    """On tasks whose texts, shots and constants differ, in one stack or beside each other."""
    text = golden_task().text
    changes = [{"dataset": "dtd"}, {"dataset": "fgvc_aircraft", "text": 1.1 * text}, {"shots": 2}]
    runs = [Run(golden_task(cross_modal, **of_task), Hparams()) for of_task in changes]
    found = {executor: fit_all(METHODS[name].fit, runs, executor) for executor in EXECUTORS}
    for one, other in zip(*found.values(), strict=True):
        assert torch.allclose(one.classifier.embedding.phi.keys, other.classifier.embedding.phi.keys, atol=2e-6)
        assert (one.tuned, one.val_accuracy, one.step) == (other.tuned, other.val_accuracy, other.step)
    keys = [len(one.classifier.embedding.phi.keys) for one in found["stacked"]]
    assert keys == [50, 50, 30] if cross_modal else keys == [40, 40, 20]


def test_texts_are_keys_of_their_classes(golden_task):
    images, both = (tip_adapter.build_cache(golden_task(cross_modal)) for cross_modal in (False, True))
    assert torch.equal(both.keys[40:], golden_task().zeroshot)
    assert torch.equal(both.labels[40:], torch.arange(10))
    x = golden_task().val.bank[0]
    text = (golden_task().zeroshot @ x.T - 1).exp().T
    assert torch.allclose(both.evidence(x), images.evidence(x) + text, atol=1e-6)


def test_keys_and_features_in_chunks(golden_task, monkeypatch):
    """32 000 keys do not fit at a time: the evidence and the search are the same in parts."""
    task = golden_task(True)
    cache, x = tip_adapter.build_cache(task, 3.0), task.val.bank[0]
    whole, found = cache(x), counts(task, cache, [1.0, 30.0], [0.5, 20.0])
    monkeypatch.setattr(cache_module, "AFFINITIES", 300)  # 7 keys of 40 images, or 6 images of 50 keys
    assert torch.allclose(cache(x), whole, atol=1e-6)
    assert torch.equal(counts(task, cache, [1.0, 30.0], [0.5, 20.0]), found)


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_is_restored_from_its_tensors(golden_task, golden_features, name):
    fitted = fit(METHODS[name].fit, golden_task(True, shots=1, dataset="dtd"), "stacked")
    tensors = fitted.classifier.state_dict()
    assert {key for key in tensors if "phi" in key} == {f"embedding.phi.{k}" for k in ("keys", "labels", "beta")}
    again = restore(name, METHODS[name].log_logit_scale, [None], tensors)
    test = (F.normalize(golden_features["test"][0]),)
    assert torch.allclose(again(test), fitted.classifier(test), rtol=1e-5)


def test_a_cache_can_be_exported(golden_task, tmp_path):
    """As ONNX, for any number of images."""
    onnxruntime = pytest.importorskip("onnxruntime")

    class OfImages(torch.nn.Module):
        def __init__(self, classifier):
            super().__init__()
            self.classifier = classifier

        def forward(self, images):
            return self.classifier((images,))

    module = OfImages(fit(METHODS["tip_adapter"].fit, golden_task(True, dataset="dtd"), "stacked").classifier)
    images = golden_task().val.bank[0]
    traced = torch.export.export(module.eval(), (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    path = tmp_path / "model.onnx"
    torch.onnx.export(traced, input_names=["images"], dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    for number in (1, 3, 40):
        (found,) = session.run(None, {"images": images[:number].numpy()})
        assert torch.allclose(torch.from_numpy(found), module(images[:number]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tip_adapter", "tip_adapter_f", "gda", "lp_plus_plus"])
def test_tasks_that_they_are_not_for(golden_task, name):
    check = METHODS[name].check
    check(golden_task())
    with pytest.raises(UserError, match="needs text features of the classes"):
        check(golden_task(text=None, zeroshot=None))
    with pytest.raises(UserError, match=r"trains no layer of an encoder.*--image-layer-idx 0"):
        check(golden_task(trainable_layers=(torch.nn.Linear(4, 4), None)))
    assert not METHODS[name].wise_ft
