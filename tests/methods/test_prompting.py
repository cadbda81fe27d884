"""Prompting equals a plain program written from METHODS.md's words, with both executors and within any memory."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from fits import fit, fit_all
from text_towers import NAMES, encoder_of
from torch.nn import functional as F

from engine.clip.prompting import PromptEncoder
from engine.errors import UserError
from engine.methods import prompting
from engine.methods.build import restore
from engine.training.batches import generator, streams
from engine.training.grid import Hparams
from engine.training.problem import Problem
from engine.training.task import Run, Samples, Task

METHOD, SCALE, SHOTS, VIEWS = prompting.METHOD, math.exp(prompting.METHOD.log_logit_scale), 2, 3
SHORT = replace(METHOD.fit, epochs=lambda task: 6)
EXECUTORS = ["sequential", "stacked"]
ENCODER = encoder_of("CLIP", context_length=30)
PROMPTS = cache(lambda length: PromptEncoder(ENCODER, NAMES, length))


def make_task(cross_modal=False, seed=0, shots=SHOTS, views=VIEWS, **changes):
    """A task whose images are near the text features of their classes."""
    draw = torch.Generator().manual_seed(seed)
    tokens = ENCODER.tokenize([f"a photo of a {name}." for name in NAMES], 30)
    text = ENCODER.model.encode_text(tokens)

    def noisy(labels):
        features = F.normalize(F.normalize(text)[labels] + 0.1 * torch.randn(len(labels), 12, generator=draw))
        return Samples((features,), torch.arange(len(labels)), labels)

    classes = torch.arange(len(NAMES))
    texts = Samples((F.normalize(text),), classes, classes)
    task = {
        "name": f"prompted/{seed}/{cross_modal}",
        "samples": {"image": noisy(classes.repeat(shots * views))} | ({"text": texts} if cross_modal else {}),
        "val": noisy(classes.repeat(4)),
        "initial": F.normalize(text),
        "scale": SCALE,
        "text": text,
        "zeroshot": F.normalize(text),
        "views": views,
        "classnames": NAMES,
        "prompts": PROMPTS,
    }
    return Task(**task | changes)


def class_weights(context):
    """The text features of each class alone, through the model's own modules."""
    model, rows = ENCODER.model, []
    for name in NAMES:
        tokens = ENCODER.tokenize([f"{name}."], 30 - len(context))
        words = model.token_embedding(tokens)[0]
        x = torch.cat([words[:1], context, words[1:]]) + model.positional_embedding
        x = model.ln_final(model.transformer(x.unsqueeze(0), attn_mask=model.attn_mask))[0]
        rows.append(x[int(tokens.argmax()) + len(context)] @ model.text_projection)
    return F.normalize(torch.stack(rows))


def plain(task, epochs):
    """The context after training: SGD with momentum and L2 penalty, written out."""
    problem = Problem(task, SHORT, SHORT.build(task), 0)
    context = 0.02 * torch.randn(16, 16, generator=generator(f"{task.name}/context"))
    shares = problem.shares(Hparams())
    per_epoch = (len(task.own) // task.views) // shares[0]
    batches = [stream.take(epochs * per_epoch) for stream in streams(problem, Hparams())]
    moved = torch.zeros_like(context)
    for step in range(epochs * per_epoch):
        epoch, context = step // per_epoch, context.detach().requires_grad_()
        picked = [samples.pick(rows[step]) for samples, rows in zip(task.samples.values(), batches, strict=True)]
        images = len(task.own) // task.views
        assert ((batches[0][step] // images) == epoch % task.views).all()  # one view an epoch
        features, labels = torch.cat([own[0][0] for own in picked]), torch.cat([own[1] for own in picked])
        loss = F.cross_entropy(SCALE * features @ class_weights(context).T, labels)
        lr = 1e-5 if epoch == 0 else 2e-3 * (1 + torch.cos(torch.tensor(torch.pi * (epoch - 1) / epochs)).item()) / 2
        moved = 0.9 * moved + torch.autograd.grad(loss, context)[0] + 5e-4 * context.detach()
        context = context.detach() - lr * moved
    return context


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
def test_a_plain_program_gives_the_same(executor, cross_modal):
    task = make_task(cross_modal)
    found, wanted = fit(SHORT, task, executor), plain(task, 6)
    start = prompting.build(task).context
    assert (wanted - start).norm() > 0.05 * start.norm()
    state = found.classifier.state_dict()
    assert torch.allclose(state["embedding.phi.context"], wanted, atol=1e-5)
    assert torch.allclose(state["head.weight"], class_weights(wanted), atol=1e-4)
    assert (found.step, found.diverged, found.tuned) == (6 * (2 if cross_modal else 1) - 1, False, {})


def test_half_of_a_batch_are_texts():
    """Or as many of both as there are of the fewer."""
    shares = [METHOD.fit.shares(make_task(cross, shots=16), Hparams()) for cross in (False, True)]
    assert shares == [(32,), (3, 3)]
    assert METHOD.fit.shares(make_task(shots=2), Hparams()) == (6,)


@pytest.mark.parametrize("cross_modal", [False, True], ids=["uni", "cross"])
def test_any_memory_gives_the_same(cross_modal, monkeypatch):
    """Stacks of several runs, and chunks of one class at a time."""
    runs = [Run(make_task(cross_modal, seed), Hparams()) for seed in range(3)]
    whole = fit_all(SHORT, runs, "stacked")
    monkeypatch.setattr(prompting, "classes_at_once", lambda runs, budget: 1)
    for executor in EXECUTORS:
        found = {}
        for fitted in SHORT(runs, max_iter=0, progress=lambda steps: None, executor=executor, budget=1 << 30):
            found |= fitted
        for run, wanted in zip(runs, whole, strict=True):
            assert torch.allclose(found[run].classifier.weight, wanted.classifier.weight, atol=1e-4)


def test_the_text_tower_runs_in_chunks_where_memory_is_short():
    runs = [Run(make_task(), Hparams())]
    of_class = prompting.bytes_of_class(PROMPTS(16))
    assert 10_000 < of_class < 1_000_000
    torch.set_num_threads(1)
    assert prompting.classes_at_once(runs, 4 * 3 * of_class) is None
    assert prompting.classes_at_once(runs, 4 * 3 * of_class - 1) == 2
    assert prompting.classes_at_once(runs, of_class) == 1
    chunked = prompting.build(runs[0].task, at_once=1)
    assert torch.equal(chunked.context, prompting.build(runs[0].task).context)


def test_classifiers_are_restored_with_their_context():
    task = make_task()
    classifier = fit(SHORT, task, "sequential").classifier
    again = restore("prompting", METHOD.log_logit_scale, [None], classifier.state_dict())
    inputs, _ = task.val.pick(torch.arange(len(task.val)))
    assert torch.equal(again(inputs), classifier(inputs))
    assert torch.equal(again.embedding.phi.context, classifier.embedding.phi.context)


def test_epochs():
    epochs = [prompting.epochs(make_task(shots=shots)) for shots in (1, 2, 4, 8, 16)]
    assert epochs == [50, 100, 100, 200, 200]
    assert prompting.epochs(make_task(shots=16, dataset="imagenet")) == 50


def test_tasks_that_cannot_be_prompted():
    METHOD.check(make_task())
    for changes, message in (
        ({"prompts": None}, "needs the text encoder"),
        ({"zeroshot": None}, "needs text features"),
        ({"trainable_layers": (torch.nn.Linear(2, 2), None)}, "--image-layer-idx 0"),
        ({"prompts": lambda length: PromptEncoder(ENCODER, ["x " * 20], length)}, "has no room for 16 context vectors"),
    ):
        with pytest.raises(UserError, match=message):
            METHOD.check(make_task(**changes))
