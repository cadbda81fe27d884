"""Run ImageNet-ESC: few-shot classification of images with sounds, and vice versa.

    python imagenet_esc.py
    python imagenet_esc.py --demo

Trains all tasks, class sets, splits, draws, shots and probes over their grids.
Complete runs are skipped: rerun the same command to resume. Needs features of
ImageNet (RN50, class names as prompts) and ESC-50 (AudioCLIP); if some are
missing, the commands that create them are listed. --demo needs nothing: it
first creates its own images, sounds and features. Writes Tables 4, 5, 15, 16 to
average_results/table_<n> (.csv, .md, .tex), or to average_results/demo_esc.
"""

import argparse
import shutil
from pathlib import Path

from engine import config, files, terminal
from engine.clip import names
from engine.config import commands
from engine.errors import UserError
from engine.paper import compare, layout, render


def main() -> None:
    args = config.parser(__doc__, "imagenet_esc.py").parse_args()
    files.require_writable(Path(args.esc_result_dir))
    device = config.device(args)
    # slow imports (torch), after the arguments are checked
    from engine.esc import inputs
    from engine.esc.benchmark import imagenet_esc
    from engine.esc.sweep import train

    if args.demo and args.clip_weights:
        raise UserError("--demo has a separate encoder: remove --clip-weights")
    benchmark = prepare_demo(args, device) if args.demo else imagenet_esc(names.folder("RN50", args.clip_weights))
    train(args, inputs.load(args, benchmark, device))
    scopes = {number: layout.esc_scope(number, args.demo, args.max_iter) for number in (4, 5, 15, 16)}
    tables = [compare.compare(number, scope, "", args.esc_result_dir) for number, scope in scopes.items()]
    if args.shard and any(table.incomplete for table in tables):
        print("no tables yet: the shard that ends last writes them, and so does this command without --shard")
        return
    for table in tables:
        show(args, table)


def prepare_demo(args: argparse.Namespace, device: str):
    """Create missing pictures, sounds and features of the demo: one process, the first of several."""
    from engine.demo import esc as demo

    for step in demo.steps(args.data_dir, args.indices_dir, args.feature_dir, device):
        if args.shard and args.shard.index > 1:
            first = config.command("imagenet_esc.py", args) + f" --shard 1/{args.shard.count}"
            raise UserError(f"the demo's features are missing; shard 1 creates them before it trains:\n  {first}")
        with terminal.bar(total=step.total, desc=step.title, unit=step.unit) as bar:
            step.run(bar.update)
    return demo.demo_esc()


def show(args: argparse.Namespace, made: compare.Comparison) -> None:
    """Write a table; print it without deviations, to fit the width of the screen."""
    below = commands.table_commands(made, args)
    paths = render.write(made, below, Path(args.avg_dir, *["demo_esc"] * args.demo))
    print(render.on_screen(made, below, shutil.get_terminal_size((0, 0)).columns))
    print(*paths, sep=", ", end="\n\n")


if __name__ == "__main__":
    config.run(main)
