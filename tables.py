"""Make tables of the paper from run records, beside the paper's own numbers.

    python tables.py --table 1
    python tables.py --table 10 --plot table_10.png
    python tables.py --table all --datasets demo --clip-encoder demo-RN

Writes average_results/table_<n>.csv, .md and .tex. Numbers without complete
runs are blank; the commands that train the missing runs are listed below the
table. By default our numbers cover the same datasets, encoders and shots as the
paper's. --plot draws accuracy against shots; the paper's numbers are markers.
"""

import argparse
import shutil
from pathlib import Path

from engine import config
from engine.config import commands
from engine.paper import compare, layout, render

SHOWN = 12
"""The maximum number of suggested commands on the screen; the files have all."""


def main() -> None:
    args = config.parser(__doc__, "tables.py").parse_args()
    numbers = list(layout.TABLES) if "all" in args.table else list(dict.fromkeys(args.table))
    if args.plot:
        layout.require_plot(numbers)
    for number in numbers:
        made = compare.compare(number, config.scope(args, number), args.result_dir, args.esc_result_dir)
        show(made, args)
        if args.plot:
            from engine.paper.plots import table_against_shots  # imports matplotlib, which takes a second

            table_against_shots(made, args.title, Path(args.plot))
            print(f"plot: {args.plot}")


def show(made: compare.Comparison, args: argparse.Namespace) -> None:
    """Write a table, and print it without deviations, in the width of the terminal."""
    below = commands.table_commands(made, args)
    paths = render.write(made, below, Path(args.avg_dir))
    left_out = len(below) - 1 - SHOWN
    if left_out > 0:
        below = [*below[: 1 + SHOWN], f"... and {left_out} more, listed in {paths[1]}"]
    print(render.on_screen(made, below, shutil.get_terminal_size((0, 0)).columns))
    print(*paths, sep=", ", end="\n\n")


if __name__ == "__main__":
    config.run(main)
