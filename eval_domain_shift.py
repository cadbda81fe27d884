"""Tabulate domain shift: accuracy on a dataset's test set and its shifted ones.

    python eval_domain_shift.py --mode linear --modality cross_modal \\
        --classifier_init zeroshot --clip-encoder RN50 --wise_ft True \\
        --text-augmentation hand_crafted --image-augmentation none

Each number is the mean and the standard deviation, over seeds, of the run with
the best few-shot validation accuracy on the training dataset. Missing runs are
listed with the commands that train them. With --seed, all of these seeds must
be complete, else the exit status is 1; without it, the table covers the
complete seeds among 1 2 3.

Writes a file in results/ with a row per test set:
domain_shift_<dataset>_<encoder>_<mode>_<text>_<image>_<views>_<modality>_<init>
_wiseft_<ratio>.csv (one name; <ratio> is False, True (0.5) or a number). With
--class_subset false, it ends in _all_classes.
"""

import argparse
from pathlib import Path

from engine import config, selected
from engine.config import commands
from engine.errors import UserError
from engine.results import domain_shift, tables
from engine.results.runs import Cell


def main() -> None:
    args = config.parser(__doc__, "eval_domain_shift.py").parse_args()
    config.check_encoders(args)
    config.apply_mode(args)
    complete, args.seed = args.seed is not None, args.seed or config.SEEDS
    shifted = config.shifted_sets(args)
    for encoder in args.clip_encoder:
        args.clip_encoder = [encoder]
        cells = config.cells(args)
        for dataset in dict.fromkeys(args.dataset):
            tabulate(args, [cell for cell in cells if cell.dataset == dataset], shifted[dataset], complete)


def tabulate(args: argparse.Namespace, cells: list[Cell], shifted: list[str], complete: bool) -> None:
    """Print and write the table of `cells`, which share a dataset; if `complete`, raise UserError for missing runs."""
    runs, missing = domain_shift.shifted_runs(cells, args.result_dir, shifted)
    without = f"a complete grid under {args.result_dir} that was tested on {', '.join(shifted)}"
    message = commands.missing_runs(args, missing, without, "domain_shift.py") if missing else None
    if message and (complete or not runs):
        raise UserError(message)
    found = selected.accuracies(args, runs, [args.wise_ft], shifted, "domain_shift.py")[args.wise_ft]
    runs, found = domain_shift.by_test_set(runs, found, shifted, args.class_subset)
    tables.check_inputs(runs)
    method = cells[0], args.mode, args.wise_ft, args.class_subset
    label = domain_shift.shift_label(*method)
    table = tables.method_table(runs, label, found)
    path = Path(args.eval_dir) / f"{domain_shift.shift_name(*method)}.csv"
    for note in tables.write_method(table, path):
        print(note)
    print(
        f"{label}, {cells[0].encoder}, trained on {cells[0].dataset}: test accuracy (%) by training images per class,"
    )
    print(f"mean ± standard deviation over seeds ({', '.join(dict.fromkeys(table['seeds']))})")
    by_set = tables.by_shots(table)
    by_set.insert(0, "zero-shot", [f"{z:.2f}" for z in table.groupby("dataset", sort=False)["zeroshot"].mean()])
    print(by_set.to_string())
    print(path)
    if message:
        print(f"note: {message}")


if __name__ == "__main__":
    config.run(main)
