"""Seconds and memory of GDA, Tip-Adapter and LP++, which take no gradient steps or few.

    python bench/methods_closed.py                  # 47 classes, 15 cells a method
    python bench/methods_closed.py --parts memory   # 1000 classes; minutes, and up to 4 GiB

The features are random, with 1024 dimensions: one centre per class, shared by images and texts, plus noise. Output:

seconds  for 1, 2, 4, 8 and 16 shots and 3 seeds, two views: all 15 fits of a method, wall clock and CPU, uni- and
         cross-modal. Wanted: at most 5 s of wall clock on two cores
memory   the peak of a process that fits 1000 classes of 32 images, each a key, in cross-modal training, with two steps
         and two values of beta. Wanted: at most 4 GiB
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engine.methods import METHODS, lp_plus_plus, tip_adapter  # noqa: E402
from engine.training.grid import Hparams  # noqa: E402
from engine.training.task import Run, Samples, Task  # noqa: E402

DIMENSION = 1024
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
CLOSED = ["gda", "tip_adapter", "lp_plus_plus"]
BATCHED = ["tip_adapter_f"]
IMAGENET, STEPS = 1000, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=47)
    parser.add_argument("--parts", nargs="+", choices=["seconds", "memory"], default=["seconds"])
    parser.add_argument("--peak-of", choices=[*CLOSED, *BATCHED], help="print the peak of one method and end")
    args = parser.parse_args()
    if args.peak_of:
        return peak(args.peak_of)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if "seconds" in args.parts:
        seconds(args.classes)
    if "memory" in args.parts:
        for name in [*CLOSED, *BATCHED]:
            subprocess.run([sys.executable, __file__, "--peak-of", name], check=True)


def seconds(classes: int) -> None:
    """Print how long all cells of each method take."""
    print(f"{classes} classes, {len(SHOTS) * len(SEEDS)} cells\n\nmethod         modality     wall s   CPU s")
    for name in CLOSED:
        for modality in ("uni-modal", "cross-modal"):
            tasks = [make_task(classes, shots, seed, modality, scale(name)) for shots in SHOTS for seed in SEEDS]
            fit(name, tasks[:1])  # to warm up
            began, cpu = time.perf_counter(), time.process_time()
            fit(name, tasks)
            print(f"{name:14} {modality:11} {time.perf_counter() - began:7.2f} {time.process_time() - cpu:7.2f}")


def peak(name: str) -> None:
    """Print the peak of this process's memory after one fit of ImageNet's size, cut short."""
    tip_adapter.BETAS = lp_plus_plus.STEPS = STEPS
    task = make_task(IMAGENET, 16, 1, "cross-modal", scale(name))
    before, began = used(), time.perf_counter()
    fit(name, [dataclasses.replace(task, views=1)])
    print(f"{name:14} {used():5.2f} GiB, {before:.2f} of them before; {time.perf_counter() - began:.0f} s")


def used() -> float:
    """Return the peak of this process's memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def fit(name: str, tasks: list[Task]) -> None:
    """Fit a method to tasks; where it has epochs, take two steps."""
    how = METHODS[name].fit
    if name in BATCHED:
        how = dataclasses.replace(how, epochs=None)
    for _ in how([Run(task, Hparams()) for task in tasks], max_iter=STEPS, progress=lambda steps: None):
        pass


def scale(name: str) -> float:
    """Return the scale of a method's logits."""
    return math.exp(METHODS[name].log_logit_scale)


def make_task(classes: int, shots: int, seed: int, modality: str, scale: float) -> Task:
    """Return a task with two views of each image."""
    generator = torch.Generator().manual_seed(100 * shots + seed)
    centres = torch.randn(classes, DIMENSION, generator=generator)

    def noisy(count: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(classes).repeat(count)
        rows = centres[labels] + noise * torch.randn(len(labels), DIMENSION, generator=generator)
        return rows, labels

    def samples(rows: torch.Tensor, labels: torch.Tensor) -> Samples:
        return Samples((F.normalize(rows),), torch.arange(len(labels)), labels, rows.norm(dim=1))

    text, labels = noisy(1, 1.0)
    images = samples(*noisy(2 * shots, 4.0))
    return Task(
        name=f"{classes} classes/shot {shots}/seed {seed}/{modality}",
        samples={"image": images} | ({"text": samples(text, labels)} if modality == "cross-modal" else {}),
        val=samples(*noisy(min(shots, 4), 4.0)),
        initial=F.normalize(text),
        scale=scale,
        text=text,
        zeroshot=F.normalize(text),
        views=2,
    )


if __name__ == "__main__":
    main()
