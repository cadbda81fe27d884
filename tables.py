"""Make tables of the paper from run records, beside the paper's own numbers.

    python tables.py --table 1
    python tables.py --table 10 --plot table_10.png
    python tables.py --table all --datasets demo --clip-encoder demo-RN
    python tables.py --table methods

Writes average_results/table_<n>.csv, .md and .tex. Numbers without complete
runs are blank; the commands that train the missing runs are listed below the
table. By default our numbers cover the same datasets, encoders and shots as the
paper's. --plot draws accuracy against shots; the paper's numbers are markers.

--table methods has all methods beside published averages, and a second table
with their ranks and the gain of cross-modal training.
"""

import argparse
import shutil
from pathlib import Path

from engine import config
from engine.config import commands
from engine.paper import compare, layout, render
from engine.paper.methods import published_methods
from engine.results import methods_scope, methods_text
from engine.results.methods_table import MethodsTable

SHOWN = 12
"""The maximum number of suggested commands on the screen; the files have all."""


def main() -> None:
    args = config.parser(__doc__, "tables.py").parse_args()
    numbers = list(layout.TABLES) if "all" in args.table else list(dict.fromkeys(args.table))
    if args.plot and numbers != [methods_scope.NAME]:
        layout.require_plot(numbers)
    for number in numbers:
        show_methods(args) if number == methods_scope.NAME else show_paper(number, args)
    if args.plot:
        print(f"plot: {args.plot}")


def show_methods(args: argparse.Namespace) -> None:
    """Write the tables of all methods, and print them without deviations."""
    scope, published = config.methods_scope(args), published_methods()
    if args.plot:
        methods_scope.require_plot(scope)
    table = MethodsTable(scope, args.result_dir)
    below = commands.cells_commands(args, table.missing, scope.encoders)
    paths = methods_text.write(table, published, below, Path(args.avg_dir))
    print(methods_text.on_screen(table, published, shorten(below, paths[1])))
    print(*paths, sep=", ", end="\n\n")
    if args.plot:
        from engine.results.methods_plot import methods_against_shots  # imports matplotlib, which takes a second

        methods_against_shots(table, args.title, Path(args.plot))


def show_paper(number: int, args: argparse.Namespace) -> None:
    """Write a table of the paper, and print it without deviations, in the width of the terminal."""
    made = compare.compare(number, config.scope(args, number), args.result_dir, args.esc_result_dir)
    below = commands.table_commands(made, args)
    paths = render.write(made, below, Path(args.avg_dir))
    print(render.on_screen(made, shorten(below, paths[1]), shutil.get_terminal_size((0, 0)).columns))
    print(*paths, sep=", ", end="\n\n")
    if args.plot:
        from engine.paper.plots import table_against_shots  # imports matplotlib, which takes a second

        table_against_shots(made, args.title, Path(args.plot))


def shorten(below: list[str], path: Path) -> list[str]:
    """Return a line and the first of the commands below it; the file at `path` has them all."""
    left_out = len(below) - 1 - SHOWN
    return [*below[: 1 + SHOWN], f"... and {left_out} more, listed in {path}"] if left_out > 0 else below


if __name__ == "__main__":
    config.run(main)
