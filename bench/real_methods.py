"""All methods, uni- and cross-modal, on real features: a table of test accuracy.

    python bench/real_methods.py path/to/pets20_vit_b32.safetensors

The file has L2-normalised `images` [n, D] with `labels`, `test_images` with `test_labels`, and `texts` [C, D], one a
class. Some methods start from raw texts: where the file's are L2-normalised, --text-length is a length for them.
Few-shot sets are drawn from `images`, class by class, so that training and validation images differ. There is one view
of an image, and no input of a layer of the encoder: methods that train such layers are gaps, and so are tasks that a
method refuses. Without the file it prints why it skips. All runs train as in a sweep: the full grids, 12 800 steps
where a method has no length of its own, selection on min(shots, 4) validation images a class.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engine.datasets.few_shot import MAX_VAL_SHOT  # noqa: E402
from engine.errors import UserError  # noqa: E402
from engine.methods import METHODS  # noqa: E402
from engine.model import Embedding, LinearClassifier, LinearHead, random_weight  # noqa: E402
from engine.results.methods_scope import CROSS, MODALITIES, UNI  # noqa: E402
from engine.results.runs import select, spell_modality  # noqa: E402
from engine.sweep.sweep import batch_size_fits  # noqa: E402
from engine.training.batches import generator  # noqa: E402
from engine.training.evaluate import accuracies  # noqa: E402
from engine.training.schedule import MAX_ITER  # noqa: E402
from engine.training.task import Run, Samples, Task  # noqa: E402

FELL = 3.0
"""Points below zero-shot at the fewest shots from which a row is listed below the table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, nargs="?", help="the file of features")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--draws", type=int, default=3, help="few-shot sets of each number of shots")
    parser.add_argument("--dataset", default="oxford_pets", help="the name that methods with constants by dataset see")
    parser.add_argument("--text-length", type=float, help="the length of all texts (as in the file)")
    args = parser.parse_args()
    if args.features is None or not args.features.is_file():
        print(f"skipped: no file of real features ({args.features or 'none was named'})")
        return
    real = Real(load_file(args.features), args.dataset, args.text_length)
    zeroshot = real.test([LinearClassifier(Embedding([None]), LinearHead(real.zeroshot, 1.0))])[0]
    lengths = real.texts.norm(dim=1)
    print(f"{len(real.texts)} classes, {len(real.test_labels)} test images, {args.draws} draws", end="; ")
    print(f"lengths of the texts {lengths.min():.2f} to {lengths.max():.2f}; zero-shot {zeroshot:.2f}\n")
    print("| method | modality |" + "".join(f" {shots}-shot |" for shots in args.shots) + " s |")
    print("|---|---|" + "--:|" * (len(args.shots) + 1))
    print("| zero-shot | |" + f" {zeroshot:.2f} |" * len(args.shots) + " |", flush=True)
    gaps, fell = [], []
    for name in args.methods:
        for modality in MODALITIES:
            began = time.perf_counter()
            found, refusals = row(real, name, modality, args.shots, args.draws)
            cells = [f"{statistics.fmean(v):.2f} ± {statistics.pstdev(v):.2f}" if v else "-" for v in found]
            title = f"{METHODS[name].title} | {spell_modality(modality)}"
            print(f"| {title} | {' | '.join(cells)} | {time.perf_counter() - began:.1f} |", flush=True)
            gaps += [f"{title.replace(' |', ',')}: {reason}" for reason in refusals]
            if found[0] and statistics.fmean(found[0]) < zeroshot - FELL:
                fell.append(title.replace(" |", ","))
    print("\n" + "\n".join(gaps))
    if fell:
        print(f"more than {FELL:g} points below zero-shot at {args.shots[0]} shot: {'; '.join(fell)}")


class Real:
    """The features, and the tasks drawn from them."""

    def __init__(self, tensors: dict[str, Tensor], dataset: str, text_length: float | None):
        self.images, self.test_images = (F.normalize(tensors[n].float()) for n in ("images", "test_images"))
        self.labels, self.test_labels = tensors["labels"].long(), tensors["test_labels"].long()
        self.texts, self.dataset = tensors["texts"].float(), dataset
        self.zeroshot = F.normalize(self.texts)
        if text_length is not None:
            self.texts = text_length * self.zeroshot

    def task(self, name: str, modality: str, shots: int, draw: int) -> Task:
        """Return a task; tasks of one draw share their first images, whatever the method and the shots."""
        classes = [(self.labels == c).nonzero().squeeze(1) for c in range(len(self.texts))]
        stream = generator(f"{self.dataset}/draw {draw}")
        shuffled = [own[torch.randperm(len(own), generator=stream)] for own in classes]
        train = torch.cat([own[:shots] for own in shuffled])
        val = torch.cat([own[-min(shots, MAX_VAL_SHOT) :] for own in shuffled])
        method, of_task = METHODS[name], f"{self.dataset}/shot {shots}/seed {draw}/{modality}"
        is_random = modality == UNI and "random" in method.inits
        samples = {"image": Samples((self.images,), train, self.labels[train])}
        if modality == CROSS:
            rows = torch.arange(len(self.texts))
            samples["text"] = Samples((self.zeroshot,), rows, rows)
        return Task(
            name=of_task,
            samples=samples,
            val=Samples((self.images,), val, self.labels[val]),
            initial=random_weight(*self.texts.shape, generator(f"{of_task}/init")) if is_random else self.zeroshot,
            scale=math.exp(method.log_logit_scale),
            text=self.texts,
            zeroshot=self.zeroshot,
            dataset=self.dataset,
        )

    def test(self, classifiers: list[LinearClassifier]) -> list[float]:
        """Return test accuracies in percent."""
        found = accuracies(classifiers, [((self.test_images,), self.test_labels)])
        return [100 * accuracy for (accuracy,) in found]


def row(real: Real, name: str, modality: str, shots: list[int], draws: int) -> tuple[list[list[float]], list[str]]:
    """Return a method's test accuracies by shots, then draw, and why there are none."""
    method = METHODS[name]
    if method.image_layer != 0:
        return [[] for _ in shots], ["it trains a layer of the encoder, whose inputs are not among these features"]
    tasks = {(s, draw): real.task(name, modality, s, draw) for s in shots for draw in range(1, draws + 1)}
    runs: dict[tuple[int, int], list[Run]] = {}
    refusals: dict[str, str] = {}
    for at, task in tasks.items():
        try:
            if method.check is not None:
                method.check(task)
        except UserError as error:
            refusals.setdefault(str(error), f"{at[0]}-shot: it {error}")
            continue
        sizes = [len(samples) for samples in task.samples.values()]
        runs[at] = [Run(task, point) for point in method.grid if batch_size_fits(sizes, point)]
    fitted = {}
    asked = [run for of_task in runs.values() for run in of_task]
    for some in method.fit(asked, max_iter=MAX_ITER, progress=lambda steps: None, executor="stacked") if asked else ():
        fitted |= some
    accuracy = {}
    for at, of_task in runs.items():
        val = {run.hparams: fitted[run].val_accuracy for run in of_task}
        (accuracy[at],) = real.test([fitted[Run(tasks[at], select(val, val))].classifier])
    return [[accuracy[s, d] for d in range(1, draws + 1) if (s, d) in accuracy] for s in shots], [*refusals.values()]


if __name__ == "__main__":
    main()
