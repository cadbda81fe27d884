"""Train like train.py, and also test on the shifted test sets of the dataset.

    python domain_shift.py --modality cross_modal --classifier_head linear \\
        --classifier_init zeroshot --logit 4.60517 --hyperparams linear \\
        --dataset imagenet --train-shot 16 --clip-encoder RN50 \\
        --image-layer-idx 0 --text-augmentation hand_crafted \\
        --image-augmentation none --seed 1

Runs and records are shared with train.py. In a complete sweep only the
selected run is trained again, with the same result, and its record is
completed.

Shifted test sets: imagenetv2, imagenet_sketch, imagenet_a and imagenet_r for
imagenet; demo_v2, demo_sketch, demo_a and demo_r for demo. For test sets with
a subset of the classes, two accuracies are recorded: predictions among the
subset, and among all classes.
"""

import sys
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from engine import config, files


def main() -> None:
    args = config.parser(__doc__, "domain_shift.py").parse_args()
    config.check_encoders(args)
    cells, shifted = config.cells(args), config.shifted_sets(args)
    files.require_writable(Path(args.result_dir))
    # the slow imports (torch) come after the arguments are known to make sense
    from engine.sweep import sweep
    from engine.sweep.arguments import load_features

    how = args.executor, args.test == "all", config.device(args), args.max_memory, args.save_heads
    options = sweep.Options(args.result_dir, *how)
    loaded = load_features(args, cells, options.device, shifted)
    for reason in sweep.reasons_not_to_stack(loaded, options):
        print(f"note: runs train one after another, because {reason}")
    while loaded:
        sweep_dataset(loaded.pop(0), options)  # and let go of it before the next one


def sweep_dataset(data, options) -> None:
    """Train and test what the cells of one dataset lack."""
    from engine.sweep import sweep

    grids = [sweep.CellSweep(cell, data, options) for cell in data.cells]
    title, steps = sweep.outstanding(grids, options)
    print(f"{title}; shifted test sets: {', '.join(data.shifted_digests)}", flush=True)
    if warning := sweep.chance_warning(grids):
        print(warning, file=sys.stderr)
    bar = tqdm(total=steps, unit="step", unit_scale=True, disable=not steps)
    with bar, closing(sweep.run(grids, options, bar.update)) as completed:
        for grid in completed:
            bar.write(grid.summary())


if __name__ == "__main__":
    config.run(main)
