"""Draw few-shot splits with CoOp's protocol.

    python few_shot_split.py --dataset imagenet --train-shot 1 --seed 6
    python few_shot_split.py --dataset dtd eurosat --train-shot 1 2 4 --seed 1 2

Writes indices/<dataset>/shot_<s>-seed_<k>.json for every combination:
positions in the dataset's lists. Existing files are kept; in splits of a
custom dataset, deleted images are drawn again.

The published splits come with the project: eleven datasets, shots 1 2 4 8 16,
seeds 1 2 3 (ImageNet 1 to 5). These datasets need not be installed; others are
read from --data_dir or from the path of a custom dataset.
"""

import argparse
from collections.abc import Iterator
from itertools import product

from engine import config, datasets
from engine.datasets import few_shot
from engine.datasets.custom.splits import print_notes, update_splits


def main() -> None:
    """Create the requested splits and print the result for each file."""
    args = config.parser(__doc__, "few_shot_split.py").parse_args()
    for dataset in args.dataset:
        for drawn, state in make_splits(dataset, args):
            path = few_shot.split_path(args.indices_dir, dataset, drawn.shots, drawn.seed, args.max_val_shot)
            print(f"{path}: {state}, {len(drawn.train)} train, {len(drawn.val)} val")


def make_splits(dataset: str, args: argparse.Namespace) -> Iterator[tuple[few_shot.FewShotSplit, str]]:
    """Draw the few-shot splits of a dataset; yield each with its state ("written", "exists", ...)."""
    if datasets.is_custom(dataset):
        loaded = datasets.load(dataset, args.data_dir, indices_dir=args.indices_dir)
        print_notes(loaded, args.train_shot, args.max_val_shot)
        yield from update_splits(loaded, args.indices_dir, args.train_shot, args.seed, args.max_val_shot)
        return
    train, val = few_shot.positions_by_class(dataset, args.data_dir, args.indices_dir)
    for shots, seed in product(args.train_shot, args.seed):
        positions = few_shot.draw(train, val, shots, seed, args.max_val_shot)
        drawn = few_shot.FewShotSplit(dataset, shots, seed, *positions, max_val_shot=args.max_val_shot)
        yield drawn, "written" if few_shot.save(drawn, args.indices_dir) else "exists"


if __name__ == "__main__":
    config.run(main)
