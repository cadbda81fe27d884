"""Train classifiers over a grid of hyper-parameters and test the best one.

    python train.py --modality cross_modal --classifier_head linear \\
        --classifier_init zeroshot --logit 4.60517 --hyperparams linear \\
        --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 \\
        --image-layer-idx 0 --text-augmentation hand_crafted \\
        --image-augmentation flip --image-views 1

The best run is the one with the highest accuracy on the few-shot validation
set. All combinations of datasets, shots, seeds and encoders are trained,
together where their shapes agree. Each run writes a record. Complete runs are
skipped: rerun the same command to resume a killed sweep. Needs the features of
features.py.
"""

import sys
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from engine import config, files


def main() -> None:
    args = config.parser(__doc__, "train.py").parse_args()
    config.check_encoders(args)
    cells = config.cells(args)
    files.require_writable(Path(args.result_dir))
    # the slow imports (torch) come after the arguments are known to make sense
    from engine.sweep import sweep
    from engine.sweep.arguments import load_features

    how = args.executor, args.test == "all", config.device(args), args.max_memory, args.save_heads
    options = sweep.Options(args.result_dir, *how)
    loaded = load_features(args, cells, options.device)
    for reason in sweep.reasons_not_to_stack(loaded, options):
        print(f"note: runs train one after another, because {reason}")
    while loaded:
        sweep_dataset(loaded.pop(0), options)  # and let go of it before the next one


def sweep_dataset(data, options) -> None:
    """Train what the cells of one dataset lack."""
    from engine.sweep import sweep

    grids = [sweep.CellSweep(cell, data, options) for cell in data.cells]
    title, steps = sweep.outstanding(grids, options)
    print(title, flush=True)
    if warning := sweep.chance_warning(grids):
        print(warning, file=sys.stderr)
    bar = tqdm(total=steps, unit="step", unit_scale=True, disable=not steps)
    with bar, closing(sweep.run(grids, options, bar.update)) as completed:
        for grid in completed:
            bar.write(grid.summary())


if __name__ == "__main__":
    config.run(main)
