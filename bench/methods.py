"""Speed of the methods beside linear probing.

    python bench/methods.py                                       # everything
    python bench/methods.py --parts executors --methods zs_lp     # a part of it

Medians of several rounds; on a machine that others use too, look at the seconds of CPU:

executors   ms per run-step of the sequential and of the stacked executor, and their ratio, in time and in CPU time, on
            random features of 47 classes, D = 1024, two views, 1, 2, 4, 8 and 16 shots and 3 seeds: whole runs, but
            for the sequential executor one seed of each number of shots
demo        seconds of `train.py`, and of CPU, for all methods, 5 shots x 3 seeds x both modalities, on the features of
            the demo that `demo.sh` and, for prolip, `features.py --image-layer-idx projection` left
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engine.methods import METHODS  # noqa: E402
from engine.training.task import Run, Samples, Task  # noqa: E402

CLASSES, DIMENSION, SHOTS, SEEDS = 47, 1024, (1, 2, 4, 8, 16), (1, 2, 3)
BEFORE = ("linear", "adapter", "partial")
"""Methods that bench/train.py measures."""
NEW = [name for name, method in METHODS.items() if name not in BEFORE and not method.text_encoder]
MODALITIES = {"uni_modal": False, "cross_modal": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"executors": executors, "demo": demo}
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts), help="what to measure")
    parser.add_argument("--methods", nargs="+", choices=NEW, default=NEW, help="methods to measure")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that a median is taken of")
    parser.add_argument("--encoder", default="demo-RN", help="encoder of the demo")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; Python {platform.python_version()}, torch {torch.__version__}")
    for name in args.parts:
        print(f"\n{name}")
        parts[name](args)


def tasks(cross_modal: bool) -> list[Task]:
    """Tasks on random features, three of each number of shots."""
    made = torch.Generator().manual_seed(0)

    def samples(count: int) -> Samples:
        labels = torch.arange(count) % CLASSES
        features = texts[labels] + 3 * torch.randn(count, DIMENSION, generator=made)
        return Samples((F.normalize(features),), torch.arange(count), labels, features.norm(dim=1))

    texts = torch.randn(CLASSES, DIMENSION, generator=made)
    zeroshot = F.normalize(texts)
    images, val = samples(2 * max(SHOTS) * CLASSES), samples(4 * CLASSES)

    def first(all_: Samples, count: int) -> Samples:
        return Samples(all_.bank, all_.rows[:count], all_.labels[:count], all_.norms)

    return [
        Task(
            name=f"bench/{shots}/{seed}/{cross_modal}",
            samples={"image": first(images, 2 * shots * CLASSES)}
            | ({"text": Samples((zeroshot,), torch.arange(CLASSES), torch.arange(CLASSES))} if cross_modal else {}),
            val=first(val, min(shots, 4) * CLASSES),
            initial=zeroshot,
            scale=100.0,
            text=texts,
            zeroshot=zeroshot,
            views=2,
        )
        for shots in SHOTS
        for seed in SEEDS
    ]


def seconds(name: str, of: list[Task], executor: str) -> tuple[float, float, int]:
    """Return the wall seconds and CPU seconds of a method on tasks, and the total number of steps of its runs."""
    method = METHODS[name]
    runs = [Run(task, point) for task in of for point in method.grid]
    steps = sum(method.fit.steps(*run, 12_800) for run in runs)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in method.fit(runs, max_iter=12_800, progress=lambda done: None, executor=executor):
        pass
    return time.perf_counter() - began, time.process_time() - cpu, steps


def executors(args: argparse.Namespace) -> None:
    print("method          modality      runs   steps  sequential ms  stacked ms  ratio  ratio of CPU  stacked s")
    for name in args.methods:
        for modality, cross_modal in MODALITIES.items():
            if name == "prolip":
                continue  # takes what goes into a projection
            of = tasks(cross_modal)
            found = []
            for _ in range(args.rounds):
                plain, plain_cpu, own = seconds(name, of[:: len(SEEDS)], "sequential")
                stacked, stacked_cpu, steps = seconds(name, of, "stacked")
                of_cpu = (plain_cpu / own) / (stacked_cpu / steps)
                found.append((1e3 * plain / own, 1e3 * stacked / steps, of_cpu, stacked))
            plain, each, of_cpu, stacked = map(statistics.median, zip(*found, strict=True))
            runs = len(of) * sum(1 for _ in METHODS[name].grid)
            print(
                f"{name:14}  {modality:11}  {runs:5d}  {steps:6d}  {plain:13.3f}  {each:10.3f}  {plain / each:5.1f}"
                f"  {of_cpu:12.1f}  {stacked:9.1f}",
                flush=True,
            )


def demo(args: argparse.Namespace) -> None:
    sweep = ["--dataset", "demo", "--train-shot", *map(str, SHOTS), "--seed", *map(str, SEEDS)]
    whole = whole_cpu = 0.0
    for name in args.methods:
        for modality in MODALITIES:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "train.py", "--method", name, "--modality", modality, *sweep]
                command += ["--clip-encoder", args.encoder, "--result_dir", folder]
                began, cpu = time.perf_counter(), children()
                subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            passed = time.perf_counter() - began
            whole, whole_cpu = whole + passed, whole_cpu + children() - cpu
            print(f"{name:14}  {modality:11}  {passed:6.1f} s, {children() - cpu:6.1f} s of CPU", flush=True)
    print(f"all of them: {whole:.0f} s, {whole_cpu:.0f} s of CPU")


def children() -> float:
    """Return the seconds of CPU that finished processes took."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
