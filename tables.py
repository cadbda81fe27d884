"""Make tables of the paper from run records: ours, the paper's number and the difference, side by side.

    python tables.py --table 1
    python tables.py --table 10 --plot table_10.png
    python tables.py --table all --datasets demo --clip-encoder demo-RN

Writes average_results/table_<n>.csv, .md and .tex. What is not trained yet stays blank, and the commands that fill it
are listed below the table. --datasets, --clip-encoder, --train-shot, --seed and --max-iter say what ours is made of
where that is not what the paper's table is made of; --plot draws accuracy against shots, the paper's as markers.
"""

import argparse
import shutil
from pathlib import Path

from engine import config
from engine.config import commands
from engine.paper import compare, layout, render

SHOWN = 12
"""How many of the commands that fill a table are printed; its files have them all."""


def main() -> None:
    parser = config.parser(__doc__, *config.TABLES_OF_PAPER)
    parser.set_defaults(dataset=None, clip_encoder=None, train_shot=None, seed=None)
    args = parser.parse_args()
    numbers = list(layout.TABLES) if "all" in args.table else list(dict.fromkeys(args.table))
    if args.plot:
        layout.require_plot(numbers)
    for number in numbers:
        made = compare.compare(number, config.scope(args, number), args.result_dir, args.esc_result_dir)
        show(made, args)
        if args.plot:
            from engine.paper.plots import table_against_shots  # matplotlib takes a second to import

            table_against_shots(made, args.title, Path(args.plot))
            print(f"plot: {args.plot}")


def show(made: compare.Comparison, args: argparse.Namespace) -> None:
    """Write a table, and print it as narrow as the screen is, without deviations."""
    below = commands.filling(made, args)
    paths = render.write(made, below, Path(args.avg_dir))
    left_out = len(below) - 1 - SHOWN
    if left_out > 0:
        below = [*below[: 1 + SHOWN], f"... and {left_out} more, listed in {paths[1]}"]
    print(render.on_screen(made, below, shutil.get_terminal_size((0, 0)).columns))
    print(*paths, sep=", ", end="\n\n")


if __name__ == "__main__":
    config.run(main)
