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

from tqdm import tqdm

from engine import config, files
from engine.clip import names
from engine.config import commands
from engine.errors import UserError
from engine.paper import compare, layout, render
from engine.results import esc


def main() -> None:
    args = config.parser(__doc__, "imagenet_esc.py").parse_args()
    files.require_writable(Path(args.esc_result_dir))
    device = config.device(args)
    # the slow imports (torch) come after the arguments are known to make sense
    from engine.esc import inputs
    from engine.esc.benchmark import imagenet_esc

    if args.demo and args.clip_weights:
        raise UserError("--demo has an encoder of its own, and takes no --clip-weights")
    benchmark = prepare_demo(args, device) if args.demo else imagenet_esc(names.folder("RN50", args.clip_weights))
    train(args, inputs.load(args, benchmark, device))
    for number in (4, 5, 15, 16):
        scope = layout.esc_scope(number, args.demo, args.max_iter)
        show(args, compare.compare(number, scope, "", args.esc_result_dir))


def prepare_demo(args: argparse.Namespace, device: str):
    """Make the demo's pictures, sounds and features, as far as they are not there."""
    from engine.demo import esc as demo

    for step in demo.steps(args.data_dir, args.indices_dir, args.feature_dir, device):
        with tqdm(total=step.total, desc=step.title, unit=step.unit) as bar:
            step.run(bar.update)
    return demo.demo_esc()


def train(args: argparse.Namespace, data) -> None:
    """Train and test what is missing."""
    from engine.esc.sweep import add_zero_shot, grids_of, title
    from engine.sweep.arguments import follow
    from engine.sweep.sweep import Options

    records = esc.EscRecords(esc.esc_dir(args.esc_result_dir, data.benchmark.name, args.max_iter))
    options = Options(records.folder, args.executor, False, str(data.bank.device), args.max_memory)
    grids = grids_of(data, records, args.max_iter, options)
    print(title(data, grids), *(f"note: {note}" for note in data.notes), sep="\n", flush=True)
    add_zero_shot(data, records, args.max_iter)
    follow(grids, options, lambda grid: "")


def show(args: argparse.Namespace, made: compare.Comparison) -> None:
    """Write a table, and print it as narrow as the screen is, without deviations."""
    below = commands.table_commands(made, args)
    paths = render.write(made, below, Path(args.avg_dir, *["demo_esc"] * args.demo))
    print(render.on_screen(made, below, shutil.get_terminal_size((0, 0)).columns))
    print(*paths, sep=", ", end="\n\n")


if __name__ == "__main__":
    config.run(main)
