"""ProLIP and the linear adapter: goldens, executors, modalities, and where the projection is split off."""

from dataclasses import replace

import pytest
import torch
from fits import TEST_ROWS, fit, fit_all, losses, module_after
from open_clip.model import CLIP
from torch.nn import functional as F

from engine.clip.frozen import FrozenImageEncoder
from engine.clip.names import PROJECTION
from engine.clip.split import Projection, image_stages, trainable_image
from engine.errors import UserError
from engine.methods import METHODS
from engine.methods.build import restore
from engine.training.grid import Hparams
from engine.training.task import Run, Samples
from problems import TEXT, TOWERS

EXECUTORS = ["sequential", "stacked"]
ALL_VIEWS = replace(METHODS["linear_adapter"].fit, views_in_turn=False)
"""The goldens are of steps on both views."""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_linear_adapter_is_the_original_program(golden_task, golden_features, expect_golden, executor):
    name = "reg_linear_adapter"
    fitted = fit(ALL_VIEWS, golden_task(), executor)
    test, labels = golden_features["test"]
    logits = fitted.classifier((F.normalize(test),)).detach()
    expect_golden(name, "test_logits", logits[TEST_ROWS])
    expect_golden(name, "test_acc", 100 * (logits.argmax(1) == labels).double().mean())
    offset = fitted.classifier.embedding.phi.offset.detach()
    expect_golden(name, "A_minus_I_fro", offset.norm())
    expect_golden(name, "A_trace", 1024 + offset.double().trace())
    expect_golden(name, "A_00_to_03", offset[0, :4] + torch.tensor([1.0, 0, 0, 0]))


def test_losses_are_those_of_the_original_program(golden_task, expect_golden):
    name, task = "reg_linear_adapter", golden_task()
    steps = expect_golden.goldens[name]["loss_epochs"]
    found = torch.tensor(losses(ALL_VIEWS, task, "stacked", steps))
    for key, values in (("ce", found[:, 0]), ("sum_sq", found[:, 1] * 4), ("loss", found.sum(1))):
        expect_golden(name, key, values)


def test_learning_rates_are_those_of_the_original_program(golden_task, expect_golden):
    descent = METHODS["linear_adapter"].fit
    length, lr = descent.length(golden_task(), Hparams(), 0), descent.optimizer.lr_of(Hparams())
    steps = expect_golden.goldens["reg_linear_adapter"]["loss_epochs"]
    assert length == (300, 1)
    expect_golden("reg_linear_adapter", "lr", [descent.schedule(step - 1, lr, length) for step in steps])


# --- projections ------------------------------------------------------------------------------------------------------


def clip(tower):
    """A small random model with biases that are not 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = CLIP(embed_dim=12, vision_cfg=TOWERS[tower], text_cfg=TEXT).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
        return model, torch.randn(3, 3, TOWERS[tower]["image_size"], TOWERS[tower]["image_size"])


@pytest.mark.parametrize("tower", TOWERS)
def test_a_projection_makes_features_of_what_goes_into_it(tower):
    model, pixels = clip(tower)
    outputs = FrozenImageEncoder(model, [0, 1, PROJECTION])(pixels, [PROJECTION, 0, 1])
    part = trainable_image(model, PROJECTION)
    (pooled,) = outputs[PROJECTION]
    assert pooled.shape == (3, part.weight.shape[0 if part.transposed else 1])
    assert torch.allclose(part(pooled), model.encode_image(pixels), atol=1e-5)
    assert torch.allclose(part(pooled), outputs[0][0], atol=1e-6)
    assert [name for name, _ in part.named_parameters()] == ["weight"]
    assert (part.bias is None) == (tower == "block")


@pytest.mark.parametrize("tower", TOWERS)
def test_other_layers_are_the_same_beside_a_projection(tower):
    """Bit for bit: features of other layers do not depend on what else is asked for."""
    model, pixels = clip(tower)
    alone = FrozenImageEncoder(model, [0, 1, -1])(pixels, [0, 1, -1])
    beside = FrozenImageEncoder(model, [0, PROJECTION, 1, -1])(pixels, [0, PROJECTION, 1, -1])
    assert all(torch.equal(alone[layers][0], beside[layers][0]) for layers in (0, 1, -1))
    only = FrozenImageEncoder(model, [PROJECTION])(pixels, [PROJECTION])
    assert torch.equal(only[PROJECTION][0], beside[PROJECTION][0])


def test_a_tower_without_projection_is_an_error():
    model, _ = clip("block")
    model.visual.proj = None
    assert image_stages(model.visual)
    with pytest.raises(UserError, match=r"projection: the image tower \(VisionTransformer\).*linear_adapter"):
        trainable_image(model, PROJECTION)


@pytest.fixture(params=["RN", "ViT"])
def projected_task(golden_task, request):
    """A function that makes tasks on a random projection of 96 to 32 numbers, whose features are near 10 texts."""
    made = torch.Generator().manual_seed(3)
    weight = torch.nn.Parameter(torch.randn(32, 96, generator=made) / 10, requires_grad=False)
    part = Projection(weight, torch.randn(32, generator=made))
    if request.param == "ViT":
        part = Projection(torch.nn.Parameter(weight.T.contiguous(), requires_grad=False), transposed=True)
    centres = torch.randn(10, 96, generator=made)
    text = part(centres) + 2 * torch.randn(10, 32, generator=made)

    def samples(labels):
        return Samples(
            (centres[labels] + torch.randn(len(labels), 96, generator=made),), torch.arange(len(labels)), labels
        )

    def make(cross_modal=False, shots=2):
        zeroshot, classes = F.normalize(text), torch.arange(10)
        images = {"image": samples(classes.repeat_interleave(shots).repeat(2))}
        texts = {"text": Samples((zeroshot,), classes, classes)} if cross_modal else {}
        return replace(
            golden_task(),
            name=f"projected/{shots}/{cross_modal}",
            samples=images | texts,
            val=samples(classes),
            trainable_layers=(part, None),
            initial=zeroshot,
            zeroshot=zeroshot,
            text=text,
        )

    make.part = part
    return make


@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
def test_executors_agree_on_prolip(projected_task, cross_modal):
    tasks = [projected_task(cross_modal, shots) for shots in (1, 2)]
    runs = [Run(task, point) for task in tasks for point in METHODS["prolip"].grid]
    before = projected_task.part.weight.clone()
    found = {executor: fit_all(METHODS["prolip"].fit, runs, executor) for executor in EXECUTORS}
    for run, one, other in zip(runs, *found.values(), strict=True):
        (name, weight), *rest = one.classifier.embedding.named_parameters()
        assert (name, rest) == ("encoders.0.part.weight", [])
        assert torch.allclose(weight, other.classifier.embedding.encoders[0].part.weight, rtol=0, atol=2e-6)
        assert (one.val_accuracy, one.step) == (other.val_accuracy, 299)
        assert not torch.equal(weight, before)
        assert torch.equal(one.classifier.weight, run.task.zeroshot)
        if projected_task.part.bias is not None:
            assert torch.equal(one.classifier.embedding.encoders[0].part.bias, projected_task.part.bias)
    assert torch.equal(projected_task.part.weight, before)


@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
def test_executors_agree_on_the_linear_adapter(golden_task, cross_modal):
    runs = [Run(golden_task(cross_modal, shots=shots), Hparams()) for shots in (1, 2)]
    short = replace(METHODS["linear_adapter"].fit, epochs=lambda task: 30)
    found = {executor: fit_all(short, runs, executor) for executor in EXECUTORS}
    for one, other in zip(*found.values(), strict=True):
        offsets = [fitted.classifier.embedding.phi.offset for fitted in (one, other)]
        assert torch.allclose(*offsets, rtol=0, atol=2e-6)
        assert offsets[0].abs().max() > 1e-4


def test_the_first_step_of_prolip_is_adam_on_one_view(projected_task):
    """All entries move by almost the learning rate, by the gradient of the first view's cross-entropy alone."""
    task = projected_task(shots=1)
    module = module_after(METHODS["prolip"].fit, task, "sequential", 1, lr=1e-3)
    part = projected_task.part
    weight = part.weight.clone().requires_grad_()
    inputs, labels = task.own.pick(torch.arange(10))
    features = inputs[0] @ weight if part.transposed else (weight @ inputs[0].T).T
    features = F.normalize(features if part.bias is None else features + part.bias)
    (gradient,) = torch.autograd.grad(F.cross_entropy(100 * features @ task.zeroshot.T, labels), weight)
    expected = part.weight - 1e-3 * gradient / (gradient.abs() + 1e-4)
    assert torch.allclose(module.embedding.image.part.weight, expected, rtol=0, atol=1e-6)


def test_texts_start_as_they_are_and_train_the_projection(projected_task):
    task = projected_task(cross_modal=True)
    module = METHODS["prolip"].fit.build(task)
    (images, _), (texts, _) = (samples.pick(samples.rows) for samples in task.samples.values())
    assert torch.allclose(module.embedding(images, texts)[len(task.own) :], task.zeroshot, atol=1e-5)
    module.requires_grad_(True)
    module.embedding(images, texts)[len(task.own) :, 0].sum().backward()
    assert module.embedding.image.part.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["prolip", "linear_adapter"])
def test_a_classifier_is_restored_from_its_tensors(golden_task, projected_task, name):
    task = projected_task() if name == "prolip" else golden_task(shots=1)
    short = replace(METHODS[name].fit, epochs=lambda task: 5)
    classifier = fit(short, task, "stacked", lr=1e-3).classifier
    again = restore(name, METHODS[name].log_logit_scale, [task.trainable_layers[0]], classifier.state_dict())
    inputs, _ = task.val.pick(task.val.rows)
    assert torch.allclose(again(inputs), classifier(inputs), rtol=1e-5, atol=1e-4)


def test_prolip_needs_a_projection(golden_task, projected_task):
    with pytest.raises(UserError, match="--image-layer-idx projection, or take --method linear_adapter"):
        METHODS["prolip"].check(golden_task())
    METHODS["prolip"].check(projected_task(True))
    with pytest.raises(UserError, match="--text-layer-idx 0"):
        METHODS["prolip"].check(
            replace(projected_task(True), trainable_layers=[projected_task.part, torch.nn.Identity()])
        )
