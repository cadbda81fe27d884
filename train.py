"""Train classifiers over a grid of hyper-parameters, select by few-shot validation accuracy, test the selected one.

    python train.py --modality cross_modal --classifier_head linear --classifier_init zeroshot --logit 4.60517 \\
        --hyperparams linear --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation flip --image-views 1

Several datasets, shots, seeds and encoders mean all combinations, trained at once where their shapes agree. Each run
leaves a record; complete runs are skipped, so a killed sweep goes on where it stopped. Needs what features.py made.
"""

import argparse
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from engine import config, files
from engine.clip import names
from engine.errors import UserError
from engine.results.runs import Cell


def main() -> None:
    args = config.parser(__doc__, *config.TRAIN).parse_args()
    config.check_encoders(args)
    cells = config.cells(args)
    files.require_writable(Path(args.result_dir))
    # the slow imports (torch) come after the arguments are known to make sense
    from engine.sweep import sweep

    options = sweep.Options(args.result_dir, args.executor, args.test == "all", config.device(args), args.max_memory)
    loaded = load_features(args, cells, options.device)
    for reason in {data.unstackable: None for data in loaded if data.unstackable and args.executor == "stacked"}:
        print(f"note: runs train one after another, because {reason}")
    while loaded:
        sweep_dataset(loaded.pop(0), options)  # and let go of it before the next one


def sweep_dataset(data, options) -> None:
    """Train what the cells of one dataset lack."""
    from engine.sweep import sweep

    grids = [sweep.CellSweep(cell, data, options) for cell in data.cells]
    runs, missing = sum(len(grid.points) for grid in grids), sum(len(grid.to_train()) for grid in grids)
    cell = data.cells[0]
    title = f"{cell.encoder} {cell.dataset}: {len(grids)} cells, {runs} runs"
    print(f"{title}, {missing} to train on {options.device}", flush=True)
    bar = tqdm(total=missing * cell.max_iter, unit="step", unit_scale=True, disable=not missing)
    with bar, closing(sweep.run(grids, options, bar.update)) as completed:
        for grid in completed:
            bar.write(grid.summary())


def load_features(args: argparse.Namespace, cells: list[Cell], device: str) -> list:
    """The cached features of each encoder and dataset; when some are missing, one error says how to make them all."""
    from engine.features.store import MissingFeatures
    from engine.sweep.data import DatasetFeatures

    loaded, missing = [], []
    for encoder in args.clip_encoder:
        layers = trainable_layers(args, encoder, device)
        for dataset in args.dataset:
            place = (names.folder(encoder, args.clip_weights), dataset)
            own = [cell for cell in cells if (cell.encoder, cell.dataset) == place]
            try:
                loaded.append(DatasetFeatures(own, args.feature_dir, args.indices_dir, device, layers))
            except MissingFeatures as error:
                make = config.command("features.py", config.FEATURES, args, dataset=[dataset], clip_encoder=[encoder])
                hint = "" if args.clip_weights else names.hint(encoder)
                missing.append(f"{error}{hint}; make them with\n  {make}")
    if missing:
        raise UserError("\n".join(missing))
    return loaded


def trainable_layers(args: argparse.Namespace, name: str, device: str):
    """The encoder, split before the layers that stay trainable; None when there are none, and no weights are needed."""
    if args.image_layer_idx == args.text_layer_idx == 0:
        return None
    from engine.clip.load import load_encoder

    return load_encoder(name, args.clip_weights, device, [args.image_layer_idx], [args.text_layer_idx])


if __name__ == "__main__":
    config.run(main)
