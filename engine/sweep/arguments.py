"""From parsed arguments to trained runs, for train.py and domain_shift.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import closing
from itertools import groupby
from typing import TYPE_CHECKING

from engine import config, datasets, templates, terminal
from engine.clip import names
from engine.datasets.checks import pluralize
from engine.errors import UserError
from engine.features.arrays import is_imported
from engine.features.listing import changes, listing_of, require_same
from engine.features.opened import OpenedFeatures
from engine.features.prompts import prompts_digest
from engine.features.shifted import MissingShifted, open_sets
from engine.features.store import FeaturePaths, MissingFeatures
from engine.results.runs import Cell, RecordFiles
from engine.sweep import sweep
from engine.sweep.costs import cost
from engine.tasks.images import ImageTasks, wanted_by

if TYPE_CHECKING:
    from engine.clip.load import Encoder


SHIFTED_ARGUMENTS = (
    "dataset clip_encoder clip_weights image_layer_idx precision decode store_dtype device data_dir feature_dir"
).split()
"""Arguments of features.py that apply to test-only datasets, which need no prompts."""


def train(args: argparse.Namespace, cells: list[Cell], shifted: dict[str, list[str]] | None = None) -> None:
    """Train the missing runs of `cells`, dataset after dataset, and also test on the `shifted` sets of each dataset.

    Raises UserError before training if features are missing, with the commands that extract them.
    """
    how = args.executor, args.test == "all", config.device(args), args.max_memory, args.save_heads
    options = sweep.Options(args.result_dir, *how)
    if args.shard and not (cells := part_of(args, cells)):
        return
    loaded = load_features(args, cells, options.device, shifted)
    for reason in dict.fromkeys(data.unstackable for data in loaded if args.executor == "stacked" and data.unstackable):
        terminal.say(f"note: runs train one after another, because {reason}")
    if reason := cells[0].untested_new:
        terminal.say(f"note: {reason}; tests are of the base classes alone")
    refused = 0
    while loaded:
        refused += _train_dataset(loaded.pop(0), options)  # pop: free the features before the next dataset
    if refused:
        raise UserError(
            f"{pluralize(refused, 'cell')} cannot be trained, for the reasons above; all others are complete"
        )


def part_of(args: argparse.Namespace, cells: list[Cell]) -> list[Cell]:
    """Return the cells of `--shard`, and print how many they are."""
    mine = args.shard.part(cells, [cost(cell, args.indices_dir) for cell in cells])
    terminal.say(f"shard {args.shard}: {len(mine)} of {pluralize(len(cells), 'cell')}")
    return mine


def _train_dataset(data: ImageTasks, options: sweep.Options) -> int:
    """Train the missing runs of one dataset and print each cell's result; return the number of untrainable cells."""
    records = RecordFiles(options.result_dir)
    sweeps = [sweep.CellSweep(cell, data, records, options) for cell in data.cells]
    terminal.say(sweep.outstanding(sweeps, options))
    if warning := sweep.chance_warning(sweeps):
        terminal.warn(warning)
    refusals = [one.refusal for one in sweeps if len(one.records) < len(one.grid) and one.refusal]
    for refusal in refusals:
        terminal.warn(f"skipped: {refusal}")
    follow(sweeps, options, sweep.CellSweep.summary)
    return len(refusals)


def follow(sweeps: list[sweep.CellSweep], options: sweep.Options, summary: Callable[[sweep.CellSweep], str]) -> None:
    """Train the missing runs with a progress bar; print the `summary` of each complete cell, unless it is empty."""
    steps = sum(cell_sweep.steps for cell_sweep in sweeps)
    bar = terminal.bar(total=steps, unit="step", unit_scale=True, disable=not steps)
    with bar, closing(sweep.run(sweeps, options, bar.update)) as completed:
        for cell_sweep in completed:
            if line := summary(cell_sweep):
                bar.write(line)


def load_features(
    args: argparse.Namespace, cells: list[Cell], device: str, shifted: dict[str, list[str]] | None = None
) -> list[ImageTasks]:
    """Return the tasks of each encoder and dataset, on cached features and with the dataset's `shifted` test sets.

    Raises UserError for missing features, with the commands that extract all of them.
    """
    loaded, missing = [], []
    encoder_names = {names.folder(name, args.clip_weights): name for name in args.clip_encoder}
    for folder, of_encoder in groupby(cells, key=lambda cell: cell.encoder):
        name = encoder_names[folder]
        by_dataset = {dataset: list(group) for dataset, group in groupby(of_encoder, key=lambda cell: cell.dataset)}
        places = {dataset: FeaturePaths.of(args.feature_dir, folder, dataset) for dataset in by_dataset}
        imported = [paths for paths in places.values() if is_imported(paths)]
        text_encoder = cells[0].method.text_encoder
        if imported and text_encoder:
            raise UserError(
                f"{imported[0].folder} has imported features; {cells[0].method.title} needs their text encoder"
            )
        encoder = None if imported else load_trainable_encoder(args, name, device, text_encoder)
        for dataset, of_dataset in by_dataset.items():
            paths = places[dataset]
            first = of_dataset[0]
            same = {"clip_encoder": [name], **_extraction_arguments(paths, first)}
            tests = []
            try:
                tests = open_sets((shifted or {}).get(dataset, []), args.feature_dir, folder, first.image_layer)
            except MissingShifted as error:
                make = config.command("features.py", args, SHIFTED_ARGUMENTS, dataset=error.names, **same)
                extract = f"extract them with\n  {make}" if paths not in imported else "such sets cannot be imported"
                missing.append(f"{error}\n{extract}")
            try:
                features = OpenedFeatures(wanted_by(of_dataset), args.feature_dir, args.indices_dir, encoder, tests)
                loaded.append(ImageTasks(of_dataset, features, device, encoder))
                _check_templates(loaded[-1], first, args)
                check_images(loaded[-1], paths, args.indices_dir)
            except MissingFeatures as error:
                if paths in imported:
                    missing.append(f"{error}; add them with features.py --import, which takes final features (layer 0)")
                    continue
                hint = "" if args.clip_weights else names.hint(name)
                make = config.command("features.py", args, dataset=[dataset], **same)
                missing.append(f"{error}{hint}; extract them with\n  {make}")
    if missing:
        raise UserError("\n".join(missing))
    return loaded


def check_images(data: ImageTasks, paths: FeaturePaths, indices_dir: str) -> None:
    """Raise MissingFeatures if the images of a custom dataset are present and changed after extraction."""
    images = datasets.cli_name(data.cells[0].dataset)
    if not data.is_custom or not os.path.exists(images):
        return  # training needs only features
    now = listing_of(datasets.load(data.cells[0].dataset, "", write=False, indices_dir=indices_dir))
    require_same(paths, images, now)
    if changed := changes(data.features.listing, now):
        raise MissingFeatures(
            f"{images} changed since its features were extracted: {', '.join(changed)}; run features.py to extract them"
        )


def _check_templates(data: ImageTasks, cell: Cell, args: argparse.Namespace) -> None:
    """Raise UserError if a template file, of which the store has only the name, changed after extraction.

    Raises MissingFeatures if class names, to compare templates or save classifiers, are not in the store.
    """
    file = templates.cli_name(cell.text_augmentation)
    is_file = cell.text_augmentation not in templates.AUGMENTATIONS and os.path.exists(file)
    is_file = is_file and data.features.texts is not None
    names = data.features.classnames if is_file or args.save_heads else []
    today = templates.templates(cell.text_augmentation, cell.dataset) if is_file else []
    if is_file and prompts_digest(*templates.prompts(today, names)) != data.inputs(cell)["text"]:
        raise UserError(
            f"the features of {cell.dataset} in {args.feature_dir} were extracted with templates that differ from"
            f" {file}; rename the file, or extract features with another --feature_dir, --indices_dir and --result_dir"
        )


def _extraction_arguments(paths: FeaturePaths, cell: Cell) -> dict[str, str]:
    """Return the arguments of features.py that reproduce the settings of a cell's present features."""
    arguments = {"precision": "precision", "decode": "decode", "dtype": "store_dtype"}
    settings = paths.non_default_settings(cell.image_layer, cell.text_layer)
    return {arguments[name]: value for name, value in settings.items()}


def load_trainable_encoder(
    args: argparse.Namespace, name: str, device: str, text_encoder: bool = False
) -> Encoder | None:
    """Return the encoder, split before its trainable layers, or None if the encoder is not needed.

    Saved classifiers need it for the description of its preprocessing, and some methods for its `text_encoder`.
    """
    if args.image_layer_idx == args.text_layer_idx == 0 and not (args.save_heads or text_encoder):
        return None
    from engine.clip.load import load_encoder

    return load_encoder(name, args.clip_weights, device, [args.image_layer_idx], [args.text_layer_idx])
