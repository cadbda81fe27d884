"""Tabulate a method: test accuracy by dataset and shots, averaged over seeds.

    python eval.py --mode linear --modality cross_modal \\
        --classifier_init zeroshot --clip-encoder RN50 --image-views 1 \\
        --text-augmentation hand_crafted --image-augmentation flip

Each number is the mean and the standard deviation, over seeds, of the run with
the best few-shot validation accuracy. Test accuracy selects nothing. If runs
are missing, they are listed with the commands that train them, and the exit
status is 1.

Writes a file in results/, with <ratio> False, True (0.5) or the number:
all_<encoder>_<mode>_<text>_<image>_<views>_<modality>_<init>_wiseft_<ratio>.csv
The name contains no datasets, shots or seeds: a table of fewer of them replaces
the whole table, and the lost rows are printed.

    python eval.py --wise_ft 0 0.25 0.5 0.75 1.0 --plot ratios.png

Several ratios of WiSE-FT make a table each, and --plot draws their curve.
--per-class writes per_class_....csv beside each table.

    python eval.py --explain dtd,16,1

--explain lists all runs of one cell instead, and why one of them is selected.
"""

import argparse
from pathlib import Path

from engine import config, selected
from engine.config import commands
from engine.datasets import halves
from engine.errors import UserError
from engine.results import base_to_new, tables
from engine.results.explain import explain


def main() -> None:
    args = config.parser(__doc__, "eval.py").parse_args()
    config.check_encoders(args)
    config.apply_mode(args)
    if args.explain:
        args.dataset, args.train_shot, args.seed = ([value] for value in args.explain)
        print(*(explain(cell, args.result_dir) for cell in config.cells(args)), sep="\n\n")
        return
    config.check_files(args)
    for encoder in args.clip_encoder:
        args.clip_encoder = [encoder]
        tabulate(args)


def tabulate(args: argparse.Namespace) -> None:
    """Print and write the tables of one encoder, and the files that are asked for; raise UserError for missing runs."""
    cells = config.cells(args)
    runs, missing = tables.selected_runs(cells, args.result_dir)
    if missing:
        raise UserError(commands.missing_runs(args, missing, f"a complete, tested grid under {args.result_dir}"))
    tables.check_inputs(runs)
    made, names = {}, {}
    for ratio, found in selected.accuracies(args, runs, args.wise_ft).items():
        label, names[ratio] = (of(cells[0], args.mode, ratio) for of in (tables.method_label, tables.method_name))
        made[ratio] = tables.method_table(runs, label, found)
        path = Path(args.eval_dir) / f"{names[ratio]}.csv"
        for note in tables.write_method(made[ratio], path):
            print(note)
        print(f"{label}, {args.clip_encoder[0]}: test accuracy (%), mean ± standard deviation over seeds")
        print((base_to_new if args.classes == halves.BASE else tables).on_screen(made[ratio]))
        if reason := cells[0].untested_new:
            print(f"note: {reason}")
        print(path)
    if len(made) > 1:
        print("test accuracy (%), average over datasets, by ratio of WiSE-FT (0: trained, 1: zero-shot weights)")
        print(tables.by_ratio(made).to_string(float_format="{:.2f}".format))
    for path in selected.write_files(args, runs, made, names):
        print(path)


if __name__ == "__main__":
    config.run(main)
