"""Training: both executors against the protocol's formulas in float64, and against each other."""

import copy
import threading
import time
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from engine.clip.split import unstackable
from engine.errors import UserError
from engine.methods import METHODS
from engine.model import LinearClassifier, LinearHead
from engine.sweep.sweep import batch_size_fits
from engine.training import graphs, sequential, stacked
from engine.training import plan as plan_module
from engine.training.batches import streams
from engine.training.evaluate import accuracies
from engine.training.grid import Hparams
from engine.training.plan import plan, run_bytes
from engine.training.problem import Job
from engine.training.schedule import EVAL_FREQ, Steps, warmed_up_cosine
from engine.training.task import Samples
from made_up import MADE_UP
from problems import CLASSES, DIMENSION, KINDS, STACKABLE

EXECUTORS = {"sequential": sequential.train, "stacked": stacked.train}


def silent(steps):
    """A progress callback that nobody watches."""


def point(lr, weight_decay, batch_size):
    return Hparams(lr=lr, weight_decay=weight_decay, batch_size=batch_size)


def jobs_of(*problems):
    return [Job(p, hparams) for p in problems for hparams in METHODS["linear"].grid if fits(p, hparams)]


def fits(problem, hparams):
    return batch_size_fits([len(samples) for samples in problem.modalities], hparams)


def lasting(jobs, steps):
    """The jobs with another number of steps."""
    problems = {problem: replace(problem, max_iter=steps) for problem, _ in jobs}
    return [Job(problems[problem], hparams) for problem, hparams in jobs]


def run(executor, jobs, max_iter, progress=silent, **options):
    """What all jobs end in, in their order."""
    outcomes, jobs = {}, lasting(jobs, max_iter)
    for trained in EXECUTORS[executor](jobs, progress=progress, **options):
        outcomes |= trained
    assert outcomes.keys() == set(jobs)
    return [outcomes[job] for job in jobs]


def same(one, other):
    """Whether two outcomes are bit for bit the same, but for the time they took."""
    state, others = (outcome.classifier.state_dict() for outcome in (one, other))
    return (one.step, one.val_accuracy, one.diverged) == (other.step, other.val_accuracy, other.diverged) and all(
        torch.equal(state[name], others[name]) for name in state | others
    )


def close(one, other, tolerance=1e-4):
    """Whether two outcomes agree: same accuracy, same step, weights within a tolerance."""
    states = (outcome.classifier.state_dict() for outcome in (one, other))
    return (one.step, one.val_accuracy) == (other.step, other.val_accuracy) and off(*states) < tolerance


def off(state, other):
    """The largest difference between two states, biases of attention's keys apart.

    Such a bias adds the same to all scores of a query, so its gradient is zero but for rounding, and Adam takes steps
    of the learning rate's size in whatever direction that has.
    """
    differences = [0.0]
    for name, value in state.items():
        difference = (value.double() - other[name].double()).abs()
        if name.endswith("in_proj_bias"):
            queries, _, values = difference.chunk(3)
            difference = torch.cat([queries, values])
        if not name.endswith("k_proj.bias"):
            differences.append(difference.max().item())
    return max(differences)


def reference(job, max_iter, last_step):
    """The state after 0-based `last_step`, by the formulas of sections 4 and 5 of the protocol, in float64."""
    problem, hparams = job
    lr, decay = hparams["lr"], hparams["weight_decay"]
    model = copy.deepcopy(problem.model).double().requires_grad_(True).train()
    weights = list(model.parameters())
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]
    drawn = [stream.take(max_iter) for stream in streams(problem, hparams)]
    for step in range(last_step + 1):
        picked = [samples.pick(indices[step]) for samples, indices in zip(problem.modalities, drawn, strict=True)]
        inputs = [tuple(t.double() if t.is_floating_point() else t for t in own) for own, _ in picked]
        log_probabilities = torch.log_softmax(model(*inputs), 1)
        labels = torch.cat([labels for _, labels in picked])
        loss = -log_probabilities[torch.arange(len(labels)), labels].mean()
        rate = warmed_up_cosine(step, lr, Steps(max_iter))
        with torch.no_grad():
            for weight, (mean, square), gradient in zip(
                weights, moments, torch.autograd.grad(loss, weights), strict=True
            ):
                mean.mul_(0.9).add_(0.1 * gradient)
                square.mul_(0.999).add_(0.001 * gradient**2)
                unbiased_mean, unbiased_square = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
                weight.mul_(1 - rate * decay).sub_(rate * unbiased_mean / (unbiased_square.sqrt() + 1e-8))
    return model.state_dict()


def accuracy(model, samples):
    """The accuracy of a classifier in eval mode."""
    inputs, labels = samples.pick(torch.arange(len(samples)))
    with torch.no_grad():
        return (model.eval()(inputs).argmax(1) == labels).double().mean().item()


EXECUTORS_AND_KINDS = [("sequential", kind) for kind in KINDS] + [("stacked", kind) for kind in STACKABLE]


@pytest.mark.parametrize("cross_modal", [True, False])
@pytest.mark.parametrize(("executor", "kind"), EXECUTORS_AND_KINDS)
def test_training_follows_the_formulas(executor, kind, cross_modal, make_problem):
    # a low scale: softmax - 1 of a sample that is right beyond doubt is rounding noise, which Adam makes large
    problem = make_problem(cross_modal=cross_modal, kind=kind, scale=10.0)
    settings = [(1e-3, 0.01, 8), (1e-4, 0.0, 16)] if kind != "BatchNorm" else [(1e-5, 0.01, 8)]
    jobs = [Job(problem, point(*setting)) for setting in settings]
    for job, outcome in zip(jobs, run(executor, jobs, 121), strict=True):
        assert off(outcome.classifier.state_dict(), reference(job, 121, outcome.step)) < 1e-5
        assert outcome.val_accuracy == accuracy(outcome.classifier, problem.val)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_first_best_step_is_kept(executor, make_problem):
    """A validation set of one class that every step gets right ties at 100 %: step 0 must win."""
    problem = make_problem()
    easy = Samples(problem.val.bank, torch.tensor([0]), torch.tensor([0]))
    problem = replace(problem, task=replace(problem.task, val=easy))
    (outcome,) = run(executor, [Job(problem, point(1e-3, 0.0, 8))], 201)
    assert (outcome.step, outcome.val_accuracy) == (0, 1.0)


def test_validation_is_after_step_0_and_every_100_and_not_after_the_last(make_problem, monkeypatch):
    """With a validation set that nothing gets right the first is kept; count how often it is asked."""
    asked = []
    monkeypatch.setattr(sequential, "val_accuracy", lambda *_: asked.append(1) or len(asked) / 1000)
    (outcome,) = run("sequential", [Job(make_problem(), point(1e-3, 0.0, 8))], 300)
    assert len(asked) == 3
    assert outcome.step == 200


def test_executors_agree(make_problem):
    """Uni- and cross-modal problems of different shots, the whole grid with both batch sizes, validation ties."""
    problems = [make_problem(shots, cross) for shots in (1, 2, 4, 16) for cross in (True, False)]
    jobs = jobs_of(*problems)
    assert {job.hparams["batch_size"] for job in jobs} == {8, 32}
    stack, plain = (run(executor, jobs, 350) for executor in ("stacked", "sequential"))
    assert all(map(close, stack, plain))
    by_problem = [outcome.val_accuracy for outcome in plain[:12]]
    assert len(set(by_problem)) < len(by_problem), "no ties: the test does not show what it is meant to"


def test_executors_agree_after_all_steps_of_the_protocol(make_problem):
    """12 800 steps, with validation sets that make the last steps the best: errors have had time to grow."""
    problem = make_problem(shots=16, cross_modal=False)
    jobs = [Job(problem, point(1e-3, 0.01, 8))]
    (one,), (other,) = (run(executor, jobs, 12_800) for executor in EXECUTORS)
    assert close(one, other)


@pytest.mark.parametrize("kind", STACKABLE[1:])
def test_executors_agree_on_whatever_is_trained(kind, make_problem):
    """Problems of different shots, so of different validation sets, uni- and cross-modal, with several settings."""
    problems = [make_problem(shots, cross, kind=kind, scale=10.0) for shots in (1, 4) for cross in (True, False)]
    settings = [point(1e-3, 0.0, 8), point(1e-4, 0.01, 8)]
    jobs = [Job(problem, hparams) for problem in problems for hparams in settings]
    stack, plain = (run(executor, jobs, 220) for executor in ("stacked", "sequential"))
    assert all(map(close, stack, plain))
    assert sum(outcome.step > 0 for outcome in plain) > len(plain) / 2, "most are best at step 0: the test shows little"


@pytest.mark.parametrize("name", MADE_UP)
def test_executors_agree_on_buffers_of_tasks_and_of_hyper_parameters(name, make_problem):
    """Side by side in one stack, with what each description asks for."""
    method, generator = MADE_UP[name], torch.Generator().manual_seed(5)
    zeroshots = [F.normalize(torch.randn(CLASSES, DIMENSION, generator=generator)) for _ in range(3)]
    problems = [
        make_problem(4, name=str(number), kind=method.fit, scale=10.0, views=2, zeroshot=own)
        for number, own in enumerate(zeroshots)
    ]
    jobs = [Job(problem, hparams) for problem in problems for hparams in method.grid]
    assert len(plan(jobs, 1)[0]) == 1
    stack, plain = (run(executor, jobs, 120) for executor in ("stacked", "sequential"))
    assert all(map(close, stack, plain))
    assert [outcome.tuned for outcome in stack] == [outcome.tuned for outcome in plain]
    weights = [outcome.classifier.weight for outcome in stack]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


def test_batchnorm_trains_with_the_statistics_of_its_batches(make_problem):
    """As a plain PyTorch loop would: the running statistics move, and are kept with the weights."""
    problem = make_problem(kind="BatchNorm")
    (outcome,) = run("sequential", [Job(problem, point(1e-5, 0.0, 8))], 150)
    state = outcome.classifier.state_dict()
    name = next(name for name in state if name.endswith("running_mean"))
    assert not torch.equal(state[name], problem.model.state_dict()[name])
    assert unstackable(problem.model.embedding.encoders[0].part) == "it has Conv2d layers"


@pytest.mark.parametrize("kind", STACKABLE)
def test_a_run_does_not_depend_on_its_stack(kind, make_problem):
    """Bit for bit: what a killed sweep still has to train is another stack than the whole."""
    jobs = jobs_of(*[make_problem(shots, kind=kind) for shots in (1, 2, 4, 8, 16)])
    whole = run("stacked", jobs, 110)
    for part in (slice(0, 1), slice(3, 5), slice(7, None, 3)):
        assert all(map(same, run("stacked", jobs[part], 110), whole[part]))


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_cores_do_not_matter(cores, make_problem, monkeypatch):
    jobs = jobs_of(*[make_problem(shots) for shots in (1, 2, 4)])
    expected = run("stacked", jobs, 120)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert all(map(same, run("stacked", jobs, 120), expected))


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 64])
def test_every_run_is_in_one_stack_whatever_the_cores(cores, make_problem):
    jobs = jobs_of(*[make_problem(shots) for shots in (2, 4, 8)])
    stacks, workers = plan(jobs, cores)
    assert workers == cores
    assert sorted(map(id, (job.problem for stack in stacks for job in stack.jobs))) == sorted(
        id(job.problem) for job in jobs
    )
    assert {job for stack in stacks for job in stack.jobs} == set(jobs)
    assert len(stacks) >= min(cores, 3)


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_memory_does_not_matter(kind, make_problem):
    """Room for two runs a stack, for six, and for all."""
    jobs = jobs_of(*[make_problem(shots, kind=kind) for shots in (1, 2, 4)])
    one = max(run_bytes(*job) for job in jobs)
    expected = run("stacked", jobs, 110)
    sizes = [2 * one, 6 * one, None]
    most, fewer, fewest = (len(plan(jobs, 1, size)[0]) for size in sizes)
    assert most > fewer > fewest
    for memory in sizes[:2]:
        stacks, workers = plan(jobs, 8, memory)
        assert workers * max(stack.bytes for stack in stacks) <= memory
        assert all(map(same, run("stacked", jobs, 110, budget=memory), expected))


def test_a_batch_that_is_larger_than_a_block_of_validation_images_counts(make_problem):
    """Of two classes a block has 8 images."""
    problem = make_problem()
    head = LinearHead(torch.zeros(2, DIMENSION), 100.0)
    task = replace(problem.task, initial=head.weight.detach())
    problem = replace(problem, task=task, model=LinearClassifier(problem.model.embedding, head))
    order = 2 * 8 * EVAL_FREQ  # rows and labels of a block of steps, int64
    more = run_bytes(problem, point(1e-3, 0.0, 64)) - run_bytes(problem, point(1e-3, 0.0, 32))
    assert more >= 32 * (order + 4 * DIMENSION)


@pytest.mark.parametrize("kind", ["adapter", "block"])
def test_what_the_caller_does_with_outcomes_does_not_matter(kind, make_problem, monkeypatch):
    """Runs are tested while others train, on another thread, with modules that they share."""
    monkeypatch.setattr(plan_module, "CPU_CACHE", 1)  # many small stacks
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    jobs = jobs_of(*[make_problem(shots, kind=kind) for shots in (1, 2, 4)])
    expected, found = run("stacked", jobs, 3), {}
    jobs = lasting(jobs, 3)
    for outcomes in stacked.train(jobs, progress=silent):
        for job, outcome in outcomes.items():
            found[job] = outcome
            for _ in range(5):
                ((accuracy,),) = accuracies([outcome.classifier], job.problem.val.batches(16))
            assert accuracy == pytest.approx(outcome.val_accuracy)
    assert all(same(found[job], outcome) for job, outcome in zip(jobs, expected, strict=True))
    assert torch.backends.cuda.flash_sdp_enabled(), "a switch of the whole process is not as it was"


@pytest.mark.parametrize("kind", STACKABLE)
@pytest.mark.parametrize("max_iter", [1, 130])
def test_steps_taken_to_warm_up_leave_no_trace(kind, max_iter, make_problem, monkeypatch):
    """What a CUDA graph's capture does to a step, but for the capture."""
    jobs = jobs_of(make_problem(4, kind=kind), make_problem(2, kind=kind))
    expected = run("stacked", jobs, max_iter)

    def capture_cuda_graph(step, reset, device):
        for _ in range(graphs.WARM_UP):
            step()
        reset()
        return step

    monkeypatch.setattr(stacked, "capture_cuda_graph", capture_cuda_graph)
    assert all(map(same, run("stacked", jobs, max_iter), expected))


def test_too_little_memory_for_a_stack_is_said(make_problem):
    with pytest.raises(UserError, match=r"--max-memory.*--executor sequential"):
        run("stacked", jobs_of(make_problem()), 10, budget=1000)


@pytest.mark.parametrize(("executor", "kind"), EXECUTORS_AND_KINDS)
def test_a_run_that_diverges_keeps_its_best_step_and_leaves_the_others_alone(executor, kind, make_problem):
    """A learning rate of 1e38 leaves step 0, which the warm-up gives a rate of its own, and ends in NaN soon after."""
    problems = [make_problem(shots, kind=kind) for shots in (1, 4)]
    sound = [Job(problem, point(1e-4, 0.0, 8)) for problem in problems]
    mad = [Job(problem, point(1e38, 0.0, 8)) for problem in problems]
    alone, together = run(executor, sound, 110), run(executor, sound + mad, 110)
    assert all(map(same, together[:2], alone))
    for outcome in together[2:]:
        assert outcome.diverged
        assert outcome.step == 0
        assert all(value.isfinite().all() for value in outcome.classifier.state_dict().values())
    assert not any(outcome.diverged for outcome in together[:2])
    assert [outcome.val_accuracy for outcome in together[2:]] == [
        run(executor, [Job(job.problem, point(1e-4, 0.0, 8))], 1)[0].val_accuracy for job in mad
    ]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_progress_counts_all_run_steps(executor, make_problem):
    jobs = jobs_of(make_problem(1), make_problem(2))
    heard = []
    run(executor, jobs, 150, heard.append)
    assert sum(heard) == 150 * len(jobs)


def test_an_error_in_progress_stops_all_stacks(make_problem, monkeypatch):
    """Ctrl-C comes out of wherever the main thread is; the other stacks must not go on for their 12 800 steps."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    heard = []

    def interrupt(steps):
        heard.append(steps)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("stacked", jobs_of(make_problem()), 10**5, interrupt)
    assert len(heard) <= 2


def test_ctrl_c_while_threads_start_ends_them(make_problem, monkeypatch):
    """It may come when a thread runs and the pool does not know of it yet: then nobody waits for it but the process."""
    begun, start = [], threading.Thread.start

    def interrupted(thread):
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("stacked", jobs_of(make_problem()), 10**5)
    (thread,) = begun
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_a_stack_that_fails_stops_the_others(make_problem, monkeypatch):
    """The error comes at once, and not when the stacks before it have done their ten million steps."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    step = stacked._StackTrainer._step

    def fail(self):
        if sum(self.stack.shares) == 16:
            raise MemoryError("the second stack")
        step(self)

    monkeypatch.setattr(stacked._StackTrainer, "_step", fail)
    problem = make_problem(cross_modal=False)
    jobs = [Job(problem, point(1e-3, 0.0, batch_size)) for batch_size in (8, 16)]
    with pytest.raises(MemoryError, match="the second stack"):
        run("stacked", jobs, 10**5)


def test_a_caller_that_stops_asking_stops_all_stacks(make_problem, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    jobs = jobs_of(*[make_problem(shots) for shots in (1, 2, 4)])
    short = [job for job in jobs if job.hparams["batch_size"] == 8]
    began = time.perf_counter()
    outcomes = stacked.train(lasting(short, 100), progress=silent)
    next(outcomes)
    outcomes.close()
    assert time.perf_counter() - began < 60
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("kind", STACKABLE)
def test_training_leaves_the_problem_as_it_was(kind, make_problem):
    problem = make_problem(kind=kind)
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    bank = problem.modalities[0].bank[0].clone()
    for executor in EXECUTORS:
        run(executor, jobs_of(problem)[:2], 5)
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())
    assert torch.equal(problem.modalities[0].bank[0], bank)
    assert not problem.model.training


def test_a_batch_must_be_smaller_than_its_samples(make_problem):
    """12 classes: 12 texts take shares of 4 and not of 16; one shot gives 12 images, two give 24."""
    assert fits(make_problem(1, cross_modal=True), Hparams(batch_size=8))
    assert not fits(make_problem(16, cross_modal=True), Hparams(batch_size=32))
    assert not fits(make_problem(1, cross_modal=False), Hparams(batch_size=32))
    assert fits(make_problem(4, cross_modal=False), Hparams(batch_size=32))
    assert not fits(make_problem(1, cross_modal=False), Hparams(batch_size=12))
