"""Tabulate a method: test accuracy by dataset and shots, averaged over seeds.

    python eval.py --mode linear --modality cross_modal \\
        --classifier_init zeroshot --clip-encoder RN50 --image-views 1 \\
        --text-augmentation hand_crafted --image-augmentation flip

Each number is the mean and the standard deviation, over seeds, of the run with
the best few-shot validation accuracy. Test accuracy selects nothing. If runs
are missing, they are listed with the commands that train them, and the exit
status is 1.

Writes a file in results/, with <bool> True or False:
all_<encoder>_<mode>_<text>_<image>_<views>_<modality>_<init>_wiseft_<bool>.csv
The name contains no datasets, shots or seeds: a table of fewer of them replaces
the whole table, and the lost rows are printed.

    python eval.py --explain dtd,16,1

--explain lists all runs of one cell (dataset, shots, seed) instead, and shows
which run is selected and why.
"""

from pathlib import Path

from engine import config
from engine.config import commands
from engine.datasets import halves
from engine.datasets.checks import list_preview
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
    for encoder in args.clip_encoder:
        args.clip_encoder = [encoder]
        cells = config.cells(args)
        runs, missing = tables.selected_runs(cells, args.result_dir)
        if missing:
            without = f"a complete, tested grid under {args.result_dir}"
            raise UserError(commands.missing_runs(args, missing, without))
        tables.check_inputs(runs)
        label = tables.method_label(cells[0], args.mode, args.wise_ft)
        table = tables.method_table(runs, label, args.wise_ft)
        path = Path(args.eval_dir) / f"{tables.method_name(cells[0], args.mode, args.wise_ft)}.csv"
        if lost := tables.not_covered(path, table):
            print(f"{path}: replaces a table that also had {list_preview(lost)}")
        tables.write_csv(table, path)
        print(f"{label}, {encoder}: test accuracy (%), mean ± standard deviation over seeds")
        print(base_to_new.on_screen(table) if args.classes == halves.BASE else tables.on_screen(table))
        if reason := cells[0].untested_new:
            print(f"note: {reason}")
        print(path)


if __name__ == "__main__":
    config.run(main)
