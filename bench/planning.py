"""Time the planning of sweeps that are complete: all features and records are there, and nothing is left to train.

    python bench/planning.py [--folder DIR] [--shard I/N]

Makes up features of 16 numbers of the eleven datasets (real splits and counts of images) and the records of all methods
on final features, in a temporary folder, or in DIR, where a second call finds them. Prints the CPU time of each
method's 165 cells.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from engine import config, datasets  # noqa: E402
from engine.datasets import few_shot  # noqa: E402
from engine.features.prompts import Texts, prompts_digest, write_texts  # noqa: E402
from engine.features.store import FeaturePaths, Provenance, write_shard  # noqa: E402
from engine.methods import METHODS  # noqa: E402
from engine.results.runs import TEST, TRAINED, VAL, Record, RecordFiles  # noqa: E402
from engine.sweep import arguments, sweep  # noqa: E402

DIMENSION, FILE = 16, 1024
FROZEN = [name for name, method in METHODS.items() if not (method.image_layer or method.text_encoder)]
"""The methods on final features, which need no encoder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder")
    parser.add_argument("--shard", default="1/1")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.folder or temporary)
        words = ["--feature_dir", folder / "features", "--result_dir", folder / "experiments", "--device", "cpu"]
        parse = config.parser("", "train.py").parse_args
        sweeps = {name: parse(["--method", name, "--shard", asked.shard, *map(str, words)]) for name in FROZEN}
        if not (folder / "features").exists():
            for dataset in datasets.TARGETS:
                make_features(FeaturePaths.of(folder / "features", "RN50", dataset), dataset)
            for args in sweeps.values():
                make_records(args)
        times = {name: timed(args) for name, args in sweeps.items()}
    for name, seconds in times.items():
        print(f"{name:20} {seconds:5.2f} s")
    print(f"{'all':20} {sum(times.values()):5.2f} s")


def timed(args: argparse.Namespace) -> float:
    began = time.process_time()
    arguments.train(args, config.cells(args))
    return time.process_time() - began


def make_features(paths: FeaturePaths, dataset: str) -> None:
    counts = few_shot.class_counts()[dataset]
    classes = len(counts["labels"])
    splits = few_shot.load_splits(few_shot.PUBLISHED, dataset, itertools.product((1, 2, 4, 8, 16), (1, 2, 3)))
    for part, views in {"train": ["none", "flip"], "val": ["none"], "test": ["none"]}.items():
        if part == "test":
            labels = torch.arange(counts[part]) % classes
            positions = list(range(len(labels)))
        else:
            labels = torch.tensor(counts["labels"]).repeat_interleave(torch.tensor(counts[part]))
            positions = sorted({position for split in splits for position in getattr(split, part)})
        source = Provenance("RN50", "weights", f"{dataset} {part}", len(labels))
        for view, at in itertools.product(views, range(0, len(positions), FILE)):
            rows = positions[at : at + FILE]
            bank = paths.bank(part, 0, view)
            write_shard(bank, source, rows, labels[rows], torch.randn(len(rows), DIMENSION), ["0" * 32] * len(rows))
    prompts, labels = [f"a photo of a {label}." for label in range(classes)], list(range(classes))
    source = Provenance("RN50", "weights", prompts_digest(prompts, labels), classes)
    texts = Texts(
        torch.randn(classes, DIMENSION), torch.tensor(labels), prompts, source, classnames=list(map(str, labels))
    )
    write_texts(paths.texts(0, "hand_crafted"), texts)


def make_records(args: argparse.Namespace) -> None:
    records, options = RecordFiles(args.result_dir), sweep.Options(args.result_dir, args.executor, False, "cpu")
    for data in arguments.load_features(args, config.cells(args), "cpu"):
        for cell in data.cells:
            one = sweep.CellSweep(cell, data, records, options)
            for hparams in one.grid:
                accuracies = {TRAINED: {VAL: 0.5, TEST: 0.5}}
                records.write(Record(cell, hparams, one.inputs, one.grid, 0, accuracies, 1.0, {}))


if __name__ == "__main__":
    main()
