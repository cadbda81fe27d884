"""Training: both executors against the protocol's formulas in float64, and against each other."""

import dataclasses

import pytest
import torch

from engine.optimizer import GRIDS, Hyperparameters, learning_rate
from engine.training import EXECUTORS, sequential, stacked
from engine.training.batches import streams
from engine.training.evaluate import accuracies
from engine.training.problem import Job, Samples, admits


def silent(steps):
    """A progress callback that nobody watches."""


def jobs_of(*problems):
    return [Job(p, point) for p in problems for point in GRIDS["linear"] if fits(p, point.batch_size)]


def fits(problem, batch_size):
    return admits([len(source) for source in problem.sources], batch_size)


def reference(job, max_iter, last_step):
    """Weights after 0-based `last_step`, by the formulas of sections 4 and 5 of the protocol, in float64."""
    problem, (lr, decay, batch_size) = job
    weight = problem.initial.double()
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    drawn = [stream.take(max_iter) for stream in streams(problem, batch_size)]
    for step in range(last_step + 1):
        picked = [(source, indices[step]) for source, indices in zip(problem.sources, drawn, strict=True)]
        features = torch.cat([source.features[index] for source, index in picked]).double()
        labels = torch.cat([source.labels[index] for source, index in picked])
        residual = torch.softmax(problem.scale * features @ weight.T, 1)
        residual[torch.arange(len(labels)), labels] -= 1
        gradient = problem.scale * residual.T @ features / len(labels)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        rate = learning_rate(step, lr, max_iter)
        weight = weight * (1 - rate * decay)
        unbiased_mean, unbiased_square = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
        weight = weight - rate * unbiased_mean / (unbiased_square.sqrt() + 1e-8)
    return weight


@pytest.mark.parametrize("cross_modal", [True, False])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_training_follows_the_formulas(executor, cross_modal, make_problem):
    # a low scale: softmax - 1 of a sample that is right beyond doubt is rounding noise, which Adam makes large
    problem = dataclasses.replace(make_problem(cross_modal=cross_modal), scale=10.0)
    jobs = [Job(problem, Hyperparameters(lr, decay, batch)) for lr, decay, batch in [(1e-3, 0.01, 8), (1e-4, 0.0, 16)]]
    for job, outcome in zip(jobs, EXECUTORS[executor](jobs, max_iter=301, progress=silent), strict=True):
        expected = reference(job, 301, outcome.step)
        assert torch.allclose(outcome.weight.double(), expected, atol=1e-5)
        (accuracy,) = accuracies([expected.float()], problem.val.features, problem.val.labels)
        assert outcome.val_accuracy == accuracy


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_first_best_step_is_kept(executor, make_problem):
    """A validation set of one class that every step gets right ties at 100 %: step 0 must win."""
    problem = make_problem()
    easy = Samples(problem.val.bank, torch.tensor([0]), torch.tensor([0]))
    (outcome,) = EXECUTORS[executor](
        [Job(dataclasses.replace(problem, val=easy), Hyperparameters(1e-3, 0.0, 8))], max_iter=201, progress=silent
    )
    assert (outcome.step, outcome.val_accuracy) == (0, 1.0)


def test_validation_is_after_step_0_and_every_100_and_not_after_the_last(make_problem, monkeypatch):
    """With a validation set that nothing gets right the first is kept; count how often it is asked."""
    asked = []
    monkeypatch.setattr(sequential, "accuracies", lambda *_: asked.append(1) or [len(asked) / 1000])
    (outcome,) = sequential.train([Job(make_problem(), Hyperparameters(1e-3, 0.0, 8))], max_iter=300, progress=silent)
    assert len(asked) == 3
    assert outcome.step == 200


def test_executors_agree(make_problem):
    """Uni- and cross-modal problems of different shots, the whole grid with both batch sizes, validation ties."""
    problems = [make_problem(shots, cross) for shots in (1, 2, 4, 16) for cross in (True, False)]
    jobs = jobs_of(*problems)
    assert {job.hyperparameters.batch_size for job in jobs} == {8, 32}
    stack = stacked.train(jobs, max_iter=350, progress=silent)
    plain = sequential.train(jobs, max_iter=350, progress=silent)
    for one, other in zip(stack, plain, strict=True):
        assert (one.step, one.val_accuracy) == (other.step, other.val_accuracy)
        assert torch.allclose(one.weight, other.weight, atol=1e-4)
    by_problem = [outcome.val_accuracy for outcome in plain[:12]]
    assert len(set(by_problem)) < len(by_problem), "no ties: the test does not show what it is meant to"


def test_executors_agree_after_all_steps_of_the_protocol(make_problem):
    """12 800 steps, with validation sets that make the last steps the best: errors have had time to grow."""
    problem = make_problem(shots=16, cross_modal=False)
    jobs = [Job(problem, Hyperparameters(1e-3, 0.01, 8))]
    (one,), (other,) = (train(jobs, max_iter=12_800, progress=silent) for train in EXECUTORS.values())
    assert (one.step, one.val_accuracy) == (other.step, other.val_accuracy)
    assert torch.allclose(one.weight, other.weight, atol=1e-4)


def test_a_run_does_not_depend_on_its_stack(make_problem):
    """Bit for bit: what a killed sweep still has to train is another stack than the whole."""
    jobs = jobs_of(*[make_problem(shots) for shots in (1, 2, 4, 8, 16)])
    whole = stacked.train(jobs, max_iter=150, progress=silent)
    for part in (slice(0, 1), slice(3, 5), slice(7, None, 3)):
        for one, other in zip(stacked.train(jobs[part], max_iter=150, progress=silent), whole[part], strict=True):
            assert torch.equal(one.weight, other.weight)
            assert (one.step, one.val_accuracy) == (other.step, other.val_accuracy)


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_cores_do_not_matter(cores, make_problem, monkeypatch):
    jobs = jobs_of(*[make_problem(shots) for shots in (1, 2, 4)])
    expected = stacked.train(jobs, max_iter=120, progress=silent)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    for one, other in zip(stacked.train(jobs, max_iter=120, progress=silent), expected, strict=True):
        assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_progress_counts_all_run_steps(executor, make_problem):
    jobs = jobs_of(make_problem(1), make_problem(2))
    heard = []
    EXECUTORS[executor](jobs, max_iter=150, progress=heard.append)
    assert sum(heard) == 150 * len(jobs)


def test_an_error_in_progress_stops_all_stacks(make_problem, monkeypatch):
    """Ctrl-C comes out of wherever the main thread is; the other stacks must not go on for their 12 800 steps."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    heard = []

    def interrupt(steps):
        heard.append(steps)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stacked.train(jobs_of(make_problem()), max_iter=10**7, progress=interrupt)
    assert len(heard) <= 2


def test_a_stack_that_fails_stops_the_others(make_problem, monkeypatch):
    """The error comes at once, and not when the stacks before it have done their ten million steps."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    step = stacked._Stack._step

    def fail(self, *args):
        if self.batch_size == 16:
            raise MemoryError("the second stack")
        step(self, *args)

    monkeypatch.setattr(stacked._Stack, "_step", fail)
    problem = make_problem(cross_modal=False)
    jobs = [Job(problem, Hyperparameters(1e-3, 0.0, batch_size)) for batch_size in (8, 16)]
    with pytest.raises(MemoryError, match="the second stack"):
        stacked.train(jobs, max_iter=10**7, progress=silent)


def test_training_leaves_the_problem_as_it_was(make_problem):
    problem = make_problem()
    before = problem.initial.clone(), problem.sources[0].bank.clone()
    for train in EXECUTORS.values():
        train(jobs_of(problem)[:2], max_iter=5, progress=silent)
    assert torch.equal(problem.initial, before[0])
    assert torch.equal(problem.sources[0].bank, before[1])


def test_a_batch_must_be_smaller_than_its_sources(make_problem):
    """12 classes: 12 texts take shares of 4 and not of 16; one shot gives 12 images, two give 24."""
    assert fits(make_problem(1, cross_modal=True), 8)
    assert not fits(make_problem(16, cross_modal=True), 32)
    assert not fits(make_problem(1, cross_modal=False), 32)
    assert fits(make_problem(4, cross_modal=False), 32)
    assert not fits(make_problem(1, cross_modal=False), 12)
