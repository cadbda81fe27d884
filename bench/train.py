"""Measure speed and memory of training, compared with a plain loop and with a hardware bound.

    python bench/train.py                                   # everything, about ten minutes on two cores
    python bench/train.py --classes 47 100 --parts steps    # only some parts

Random features, D = 1024, 16 shots and 3 seeds (on a GPU 5 shots x 3 seeds), the linear grid. Prints medians of several
rounds; each round measures all contenders in turn. Parts:

steps   ms per run-step of the sequential and the stacked executor, set-up and validation included, and their ratio;
        ms of a stacked step with minimal validation, and its ratio to the floor. On a CPU the floor is two matrix
        products (logits; weight gradient) and one fused AdamW step, each timed alone, on the shapes of the same stacks
        and on as many concurrent threads. On a GPU it is the bytes of one AdamW step (7 floats per parameter) over the
        bandwidth of a copy.
partial the same ratio for the last layers of RN50 (attention pool) and ViT-B/16 (a block), 9 configurations x 3 seeds
test    testing the heads of a stack on 50 000 features of 1000 classes: FLOP/s, against a large matrix product
memory  peak memory of a stacked sweep against the plan
start   seconds of `train.py` if everything is complete
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engine.methods import METHODS  # noqa: E402
from engine.model import Embedding, LinearClassifier, LinearHead  # noqa: E402
from engine.sweep.sweep import batch_size_fits  # noqa: E402
from engine.training import plan, sequential, stacked  # noqa: E402
from engine.training.evaluate import accuracies  # noqa: E402
from engine.training.gradients import plain_attention  # noqa: E402
from engine.training.problem import Job, Problem  # noqa: E402
from engine.training.schedule import MAX_ITER  # noqa: E402
from engine.training.task import Samples, Task  # noqa: E402

EXECUTORS = {"sequential": sequential.train, "stacked": stacked.train}
DIMENSION = 1024
CLASSES = [10, 47, 100, 397, 1000]
SECONDS = 3.0
"""The minimum duration of a measurement."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES, help="numbers of classes")
    parts = {"steps": steps, "partial": partial, "test": test, "memory": memory, "start": start}
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts), help="parts to measure")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    threads = f"{torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name(args.device) if args.device != "cpu" else f"{cpu_name()}, {threads}"
    print(f"{machine}; Python {platform.python_version()}, torch {torch.__version__}")
    for name in args.parts:
        print(f"\n{name}")
        parts[name](args)


# --- problems --------------------------------------------------------------------------------------------------------


def problem(classes: int, shots: int, seed: int, device: str, bank: dict[str, Tensor]) -> Problem:
    """Return a cross-modal problem on random features: two views per image, four validation images a class."""

    def samples(name: str, per_class: int) -> Samples:
        rows = torch.arange(classes * per_class, device=device)
        return Samples((bank[name],), rows, rows % classes)

    task = Task(
        name=f"bench/{classes}/{shots}/{seed}",
        samples={"image": samples("images", 2 * shots), "text": samples("texts", 1)},
        val=samples("val", min(shots, 4)),
        initial=bank["texts"][:classes],
        scale=100.0,
        views=2,
    )
    return problem_of("linear", task)


def problem_of(method: str, task: Task) -> Problem:
    """What a method trains on a task."""
    descent = METHODS[method].fit
    return Problem(task, descent, descent.build(task), MAX_ITER)


def random_banks(classes: int, device: str) -> dict[str, Tensor]:
    """Return L2-normalised features that all problems share."""
    sizes = {"images": 32 * classes, "val": 4 * classes, "texts": classes}
    return {name: F.normalize(torch.randn(size, DIMENSION, device=device)) for name, size in sizes.items()}


def linear_jobs(classes: int, device: str, shots: list[int]) -> list[Job]:
    """Return the linear grid on cross-modal problems of these shots and three seeds."""
    banks = random_banks(classes, device)
    problems = [problem(classes, s, seed, device, banks) for s in shots for seed in (1, 2, 3)]
    return [
        Job(p, point)
        for p in problems
        for point in METHODS["linear"].grid
        if batch_size_fits([len(samples) for samples in p.modalities], point)
    ]


def hardly_validated(jobs: list[Job]) -> list[Job]:
    """The same jobs with eight validation images each, which leaves their steps."""

    def cut(whole: Problem) -> Problem:
        val = replace(whole.val, rows=whole.val.rows[:8], labels=whole.val.labels[:8])
        return replace(whole, task=replace(whole.task, val=val))

    return on_others(jobs, cut)


def lasting(jobs: list[Job], steps: int) -> list[Job]:
    """The same jobs with another number of steps."""
    return on_others(jobs, lambda whole: replace(whole, max_iter=steps))


def on_others(jobs: list[Job], change: Callable[[Problem], Problem]) -> list[Job]:
    """The same jobs on problems that are changed."""
    changed = {problem: change(problem) for problem in dict.fromkeys(problem for problem, _ in jobs)}
    return [Job(changed[problem], hparams) for problem, hparams in jobs]


# --- timing ----------------------------------------------------------------------------------------------------------


def seconds_per_run_step(executor: str, jobs: list[Job], steps: int) -> float:
    """Return the seconds of one step of one run, from training `jobs` for `steps` steps, set-up included."""
    began = time.perf_counter()
    for _ in EXECUTORS[executor](lasting(jobs, steps), progress=lambda done: None):
        pass
    synchronize(jobs)
    return (time.perf_counter() - began) / steps / len(jobs)


def synchronize(jobs: list[Job]) -> None:
    if jobs[0].problem.device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str = "cpu", at_least: float = 0.2) -> float:
    """Return the mean seconds of a call of `work`, measured over `at_least` seconds."""
    work()
    calls = 0
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < at_least:
        work()
        calls += 1
        if device != "cpu":
            torch.cuda.synchronize()
    return passed / calls


def in_threads(works: list[Callable[[], object]]) -> list[float]:
    """Return the seconds of a call of each of `works`, all concurrently, each on a separate thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(len(works)) as pool:
        timed = list(pool.map(seconds, works))
    torch.set_num_threads(threads)
    return timed


# --- measurements ----------------------------------------------------------------------------------------------------


def steps(args: argparse.Namespace) -> None:
    """Measure sequential, stacked and floor by number of classes."""
    on_gpu = args.device != "cpu"
    print("classes  runs  stacks  sequential ms  stacked ms  ratio  step ms  floor ms  step/floor", end="")
    print("  12 800 steps of all runs" if on_gpu else "")
    for classes in args.classes:
        jobs = linear_jobs(classes, args.device, [1, 2, 4, 8, 16] if on_gpu else [16])
        stacks, _ = plan.plan(jobs, 1 if on_gpu else torch.get_num_threads())
        few, steps_alone = [jobs[0], jobs[len(jobs) // 2 - 1]], hardly_validated(jobs)
        number = steps_for("stacked", jobs), steps_for("sequential", few)
        times = [
            (
                seconds_per_run_step("sequential", few, number[1]),
                seconds_per_run_step("stacked", jobs, number[0]),
                seconds_per_run_step("stacked", steps_alone, number[0]),
                gpu_floor(classes, args.device) if on_gpu else cpu_floor(stacks),
            )
            for _ in range(args.rounds)
        ]
        plain, stacked, step, floor = map(statistics.median, zip(*times, strict=True))
        print(
            f"{classes:7d}  {len(jobs):4d}  {len(stacks):6d}  {1e3 * plain:13.4f}  {1e3 * stacked:10.4f}"
            f"  {plain / stacked:5.1f}  {1e3 * step:7.4f}  {1e3 * floor:8.4f}  {step / floor:10.2f}",
            f" {12_800 * len(jobs) * stacked:8.1f} s" if on_gpu else "",
            flush=True,
        )


def steps_for(executor: str, jobs: list[Job]) -> int:
    """Return the number of steps for a measurement of `SECONDS`, in whole blocks between validations."""
    once = seconds_per_run_step(executor, jobs, 100) * 100 * len(jobs)
    return 100 * min(128, max(1, round(SECONDS / once)))


def cpu_floor(stacks: list) -> float:
    """Return the seconds of a run-step of only two matrix products and a fused AdamW step, on all cores."""
    workers = torch.get_num_threads()
    total = 0.0
    for kind in {(s.copies * len(s.problems), len(s.settings), s.shares): s for s in stacks}.values():
        alike = sum(s.shares == kind.shares and s.runs == kind.runs for s in stacks)
        works = [floor_of(kind) for _ in range(workers)]
        for of_workers in zip(*works, strict=True):
            total += alike * statistics.mean(in_threads(list(of_workers))) / workers
    return total / sum(stack.runs for stack in stacks)


def floor_of(stack) -> list[Callable[[], object]]:
    """Return the two products and the optimizer step on the shapes of a stack, as functions."""
    classes = stack.problems[0].model.head.weight.shape[0]
    runs, batch_size = stack.copies * stack.runs, sum(stack.shares)
    features, residual = torch.randn(runs, batch_size, DIMENSION), torch.randn(runs, batch_size, classes)
    weight = torch.randn(runs, classes, DIMENSION)
    weight.grad, logits = torch.randn_like(weight), torch.empty_like(residual)
    optimizer = torch.optim.AdamW([weight], fused=True)
    return [
        lambda: torch.bmm(features, weight.transpose(1, 2), out=logits),
        lambda: torch.bmm(residual.transpose(1, 2), features, out=weight.grad),
        optimizer.step,
    ]


def gpu_floor(classes: int, device: str) -> float:
    """Return the seconds to move the bytes of one AdamW step: weight, gradient and moments read; three written."""
    block = torch.empty(1 << 28, device=device)  # 1 GiB
    target = torch.empty_like(block)
    bandwidth = 2 * block.numel() * 4 / seconds(lambda: target.copy_(block), device)
    return 7 * 4 * classes * DIMENSION / bandwidth


def partial(args: argparse.Namespace) -> None:
    """Measure the last layer of two encoders with random weights, on random inputs of their shapes."""
    from open_clip import create_model

    from engine.clip.split import trainable_image

    for name, shape in (("RN50", (2048, 7, 7)), ("ViT-B-16", (197, 768))):
        part = trainable_image(create_model(name, precision="fp32").eval().requires_grad_(False), 1)
        jobs = partial_jobs(part.to(args.device), shape, args.device)
        with plain_attention():  # as training plans
            stacks, workers = plan.plan(jobs, torch.get_num_threads() if args.device == "cpu" else 1)
        number = 100 if args.device != "cpu" else 10
        times = []
        for _ in range(min(3, args.rounds)):
            plain = seconds_per_run_step("sequential", jobs[:2], number)
            with Peak(args.device) as peak:
                times.append((plain, seconds_per_run_step("stacked", jobs, number)))
        plain, stacked = map(statistics.median, zip(*times, strict=True))
        print(
            f"{name}, {sum(p.numel() for p in part.parameters()) / 1e6:.1f} M parameters, {len(jobs)} runs: sequential"
            f" {1e3 * plain:.2f} ms, stacked {1e3 * stacked:.2f} ms, ratio {plain / stacked:.1f};"
            f" {peak.against(stacks, workers)}"
        )


def partial_jobs(part: torch.nn.Module, shape: tuple[int, ...], device: str) -> list[Job]:
    """Return the partial grid on three uni-modal problems of 47 classes, with inputs of trainable layers as images."""
    classes = 47
    images, val = (torch.randn(n, *shape, device=device) for n in (4 * classes, classes))
    rows = torch.arange(len(images), device=device)
    samples, of_val = Samples((images,), rows, rows % classes), Samples((val,), rows[:classes], rows[:classes])
    with torch.no_grad():
        dimension = part(val[:1]).shape[1]
    weight = F.normalize(torch.randn(classes, dimension, device=device))
    tasks = [Task(f"bench/partial/{seed}", {"image": samples}, of_val, weight, 54.6, [part]) for seed in (1, 2, 3)]
    problems = [problem_of("partial", task) for task in tasks]
    return [Job(p, point) for p in problems for point in METHODS["partial"].grid]


def test(args: argparse.Namespace) -> None:
    """Measure tests of twelve runs and their WiSE-FT in one pass, against a large matrix product."""
    rows, classes, heads = 50_000, 1000, 24
    features, labels = F.normalize(torch.randn(rows, DIMENSION, device=args.device)), torch.arange(rows) % classes
    batch = [((features,), labels.to(args.device))]
    weights = [F.normalize(torch.randn(classes, DIMENSION, device=args.device)) for _ in range(heads)]
    classifiers = [LinearClassifier(Embedding([None]), LinearHead(weight, 1.0)) for weight in weights]
    left, right = (torch.randn(4096, 4096, device=args.device) for _ in range(2))
    times = []
    for _ in range(min(3, args.rounds)):
        began = time.perf_counter()
        found = [found for (found,) in accuracies(classifiers, batch)]
        passed = time.perf_counter() - began
        times.append((passed, seconds(lambda: left @ right, args.device, 1.0)))
    passed, product = map(statistics.median, zip(*times, strict=True))
    reached, peak = 2 * rows * classes * heads * DIMENSION / passed, 2 * 4096**3 / product
    plain = [((features @ w.T).argmax(1).cpu() == labels).double().mean().item() for w in weights]
    print(
        f"{heads} heads on {rows} x {DIMENSION}: {passed:.2f} s, {reached / 1e12:.3f} TFLOP/s,"
        f" {reached / peak:.0%} of a 4096 x 4096 product's {peak / 1e12:.3f};"
        f" accuracies {'equal' if found == plain else 'DIFFER FROM'} one head at a time in float32"
    )


def memory(args: argparse.Namespace) -> None:
    """What a sweep takes beyond its problems, at its peak."""
    for _ in EXECUTORS["stacked"](lasting(linear_jobs(47, args.device, [16]), 5), progress=lambda done: None):
        pass  # libraries make their workspaces
    for classes, budget in ((397, None), (1000, 400 << 20)):
        jobs = linear_jobs(classes, args.device, [16])
        stacks, workers = plan.plan(jobs, torch.get_num_threads() if args.device == "cpu" else 1, budget)
        with Peak(args.device) as peak:
            for _ in EXECUTORS["stacked"](lasting(jobs, 200), progress=lambda done: None, budget=budget):
                pass
        limit = f", limit {budget / 2**20:.0f} MiB" if budget else ""
        print(f"{classes} classes, {len(jobs)} runs in {len(stacks)} stacks{limit}: {peak.against(stacks, workers)}")


class Peak:
    """Peak memory within a `with` block above the memory before it: of a GPU, or of this process."""

    def __init__(self, device: str):
        self.device, self.bytes, self._done = device, 0, threading.Event()

    def __enter__(self) -> Peak:
        if self.device == "cpu":
            self._before = resident()
            self._watch = threading.Thread(target=self._sample)
            self._watch.start()
        else:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_reserved()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, resident() - self._before)

    def against(self, stacks: list, workers: int) -> str:
        """Return the peak as text, with the planned memory of the `workers` largest stacks."""
        planned = sum(sorted((stack.bytes for stack in stacks), reverse=True)[:workers])
        ratio = self.bytes / planned
        return f"memory planned {planned / 2**20:.0f} MiB, used {self.bytes / 2**20:.0f}, {ratio:.2f} of it"

    def __exit__(self, *exception: object) -> None:
        if self.device == "cpu":
            self._done.set()
            self._watch.join()
        else:
            self.bytes = torch.cuda.max_memory_reserved() - self._before


def resident() -> int:
    """Return the resident memory of this process in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def start(args: argparse.Namespace) -> None:
    """Measure the second run of a sweep of one cell on random features, which is complete."""
    from stores import store_of_random_features

    with tempfile.TemporaryDirectory() as folder:
        store = store_of_random_features(Path(folder), classes=20)
        command = [sys.executable, "train.py", "--dataset", "demo", "--clip-encoder", "fake", "--max-iter", "1"]
        command += ["--train-shot", "1", "--seed", "1", "--device", args.device, *store.flags]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times = []
        for _ in range(args.rounds):
            began = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
    print(f"train.py on a complete sweep takes {statistics.median(times):.1f} s")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
