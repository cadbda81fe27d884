"""From arguments to trained runs: what train.py and domain_shift.py share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from engine import config, datasets, templates, terminal
from engine.clip import names
from engine.datasets.checks import pluralize
from engine.errors import UserError
from engine.features.listing import changes, listing_of, require_same
from engine.features.opened import OpenedFeatures
from engine.features.prompts import prompts_digest
from engine.features.shifted import MissingShifted, open_sets
from engine.features.store import FeaturePaths, MissingFeatures
from engine.results.runs import Cell, RecordFiles
from engine.sweep import sweep
from engine.tasks.images import ImageTasks, wanted_by

if TYPE_CHECKING:
    from engine.clip.load import Encoder


OF_SHIFTED = (
    "dataset clip_encoder clip_weights image_layer_idx precision decode store_dtype device data_dir feature_dir"
).split()
"""Arguments of features.py that matter for test-only datasets, whose prompts nobody needs."""


def train(args: argparse.Namespace, cells: list[Cell], shifted: dict[str, list[str]] | None = None) -> None:
    """Train what `cells` lack, dataset after dataset, and test on the `shifted` sets of each dataset too.

    Raises UserError, before anything is trained, when features are missing, with the commands that make them.
    """
    how = args.executor, args.test == "all", config.device(args), args.max_memory, args.save_heads
    options = sweep.Options(args.result_dir, *how)
    loaded = load_features(args, cells, options.device, shifted)
    for reason in sweep.reasons_not_to_stack(loaded, options):
        terminal.say(f"note: runs train one after another, because {reason}")
    refused = 0
    while loaded:
        refused += _train_dataset(loaded.pop(0), options)  # and let go of it before the next one
    if refused:
        raise UserError(f"{pluralize(refused, 'cell')} cannot be trained, as said above; all others are complete")


def _train_dataset(data: ImageTasks, options: sweep.Options) -> int:
    """Train what the cells of one dataset lack, and print the result of each; return how many cannot be trained."""
    records = RecordFiles(options.result_dir)
    grids = [sweep.CellSweep(cell, data, records, options) for cell in data.cells]
    terminal.say(sweep.outstanding(grids, options))
    if warning := sweep.chance_warning(grids):
        terminal.warn(warning)
    refusals = [grid.refusal for grid in grids if len(grid.records) < len(grid.grid) and grid.refusal]
    for refusal in refusals:
        terminal.warn(f"skipped: {refusal}")
    follow(grids, options, lambda grid: grid.summary())
    return len(refusals)


def follow(grids: list[sweep.CellSweep], options: sweep.Options, summary: Callable[[sweep.CellSweep], str]) -> None:
    """Train what `grids` lack with a progress bar; print the `summary` of each complete one, unless it is empty."""
    steps = sum(grid.steps for grid in grids)
    bar = terminal.bar(total=steps, unit="step", unit_scale=True, disable=not steps)
    with bar, closing(sweep.run(grids, options, bar.update)) as completed:
        for grid in completed:
            if line := summary(grid):
                bar.write(line)


def load_features(
    args: argparse.Namespace, cells: list[Cell], device: str, shifted: dict[str, list[str]] | None = None
) -> list[ImageTasks]:
    """The cached features of each encoder and dataset, with those of the `shifted` test sets of each dataset.

    Raises UserError, when some are missing, that says how to make them all.
    """
    loaded, missing = [], []
    for encoder in args.clip_encoder:
        layers = trainable_layers(args, encoder, device)
        for dataset in args.dataset:
            place = (names.folder(encoder, args.clip_weights), dataset)
            own = [cell for cell in cells if (cell.encoder, cell.dataset) == place]
            same = {"clip_encoder": [encoder], **_as_made(FeaturePaths.of(args.feature_dir, *place), own[0])}
            tests = []
            try:
                asked = (shifted or {}).get(dataset, [])
                tests = open_sets(asked, args.feature_dir, own[0].encoder, own[0].image_layer)
            except MissingShifted as error:
                make = config.command("features.py", args, OF_SHIFTED, dataset=error.names, **same)
                missing.append(f"{error}\nmake them with\n  {make}")
            try:
                features = OpenedFeatures(wanted_by(own), args.feature_dir, args.indices_dir, layers, tests)
                prepared = layers and (layers.name, layers.preprocessing)
                loaded.append(ImageTasks(own, features, device, prepared))
                _check_paths(loaded[-1], own[0], args)
                _check_images(loaded[-1], FeaturePaths.of(args.feature_dir, *place))
            except MissingFeatures as error:
                hint = "" if args.clip_weights else names.hint(encoder)
                make = config.command("features.py", args, dataset=[dataset], **same)
                missing.append(f"{error}{hint}; make them with\n  {make}")
    if missing:
        raise UserError("\n".join(missing))
    return loaded


def _check_images(data: ImageTasks, place: FeaturePaths) -> None:
    """Raise MissingFeatures if the images of a custom dataset are on this machine and changed since the features."""
    images = datasets.cli_name(data.cells[0].dataset)
    if not data.is_custom or not os.path.exists(images):
        return  # features are enough to train
    now = listing_of(datasets.load(data.cells[0].dataset, "", write=False))
    require_same(place, images, now)
    if changed := changes(data.features.listing, now):
        raise MissingFeatures(
            f"{images} changed since its features were made: {', '.join(changed)}; features.py makes these anew"
        )


def _check_paths(data: ImageTasks, cell: Cell, args: argparse.Namespace) -> None:
    """Refuse features of other templates than lie at a path, of which a store has the name alone.

    Raises MissingFeatures where classifiers are kept, or templates compared, and the store does not know class names.
    """
    file = templates.cli_name(cell.text_augmentation)
    is_file = cell.text_augmentation not in templates.AUGMENTATIONS and os.path.exists(file)
    names = data.classnames if is_file or args.save_heads else []
    today = templates.templates(cell.text_augmentation, cell.dataset) if is_file else []
    if is_file and prompts_digest(*templates.prompts(today, names)) != data.inputs(cell)["text"]:
        raise UserError(
            f"the features of {cell.dataset} in {args.feature_dir} were made with other templates than {file} has now;"
            " rename one of the two, or make features anew with another --feature_dir, --indices_dir and --result_dir"
        )


def _as_made(place: FeaturePaths, cell: Cell) -> dict[str, str]:
    """How the features at a place that a cell takes were made, as arguments of features.py: the others must match."""
    arguments = {"precision": "precision", "decode": "decode", "dtype": "store_dtype"}
    return {
        arguments[name]: value for name, value in place.non_default_settings(cell.image_layer, cell.text_layer).items()
    }


def trainable_layers(args: argparse.Namespace, name: str, device: str) -> Encoder | None:
    """The encoder, split before the layers that stay trainable; None when there are none, and no weights are needed.

    A classifier that is kept says what its encoder's inputs look like.
    """
    if args.image_layer_idx == args.text_layer_idx == 0 and not args.save_heads:
        return None
    from engine.clip.load import load_encoder

    return load_encoder(name, args.clip_weights, device, [args.image_layer_idx], [args.text_layer_idx])
