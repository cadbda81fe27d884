"""The commands that scripts suggest: any script's, and as few as possible for missing runs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import datasets, templates
from engine.clip import names
from engine.config import default
from engine.config.arguments import arguments_of
from engine.datasets.checks import pluralize
from engine.datasets.few_shot import shots_sort_key
from engine.paper.layout import TABLES
from engine.results.runs import Cell

if TYPE_CHECKING:
    from engine.paper.compare import Comparison  # which imports pandas
    from engine.results.saved_classifiers import MissingClassifier  # which imports torch

CLI_NAMES = {"dataset": datasets.cli_name, "text_augmentation": templates.cli_name}
"""Functions from a value to its spelling on the command line, by argument: values of these may stand for paths."""
SELECTING = ("dataset", "train_shot", "seed", "clip_encoder")
"""Arguments that select the work; suggested commands always state them."""
NEVER = ("shard",)
"""Arguments that suggested commands leave out: they do all that is missing."""


def command(script: str, args: argparse.Namespace, only: Collection[str] | None = None, **changes: Any) -> str:
    """Return the command line that runs `script` with the values of `args`, after `changes` to these.

    Arguments with their default value are left out, except those that select the work (dataset, shots, seed, encoder).
    `only` restricts the command to arguments of these names.
    """
    values = vars(args) | changes
    words = ["python", script]
    for argument in arguments_of(script):
        name, settings = argument.name, argument.settings(script)
        if name in NEVER or (only is not None and name not in only):
            continue
        value = values.get(name, settings.get("default"))
        if settings.get("action") == "store_true":
            words += [argument.flags[0]] * bool(value)
            continue
        if settings.get("nargs") and value is not None and not isinstance(value, list):
            value = [value]  # train.py takes one value where features.py takes several
        if value != settings.get("default") or (name in SELECTING and value):
            typed = CLI_NAMES.get(name, str)
            words += [argument.flags[0], *map(typed, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def training_commands(
    args: argparse.Namespace, cells: Iterable[Cell], encoders: dict[str, str], script: str = "train.py"
) -> list[str]:
    """Return command lines that train `cells`; datasets that lack the same shots and seeds share a command.

    `encoders` maps encoder names to their folders. `args` states the folders of data and results.
    """
    return _commands(script, args, cells, encoders)


def missing_runs(args: argparse.Namespace, missing: list[Cell], without: str, script: str = "train.py") -> str:
    """Return an error message that lists the cells `without` something, and the commands that create it."""
    lines = [f"{pluralize(len(missing), 'cell')} without {without}:"]
    lines += [f"  {cell}" for cell in missing[:20]] + ["  ..."] * (len(missing) > 20)
    encoders = {name: names.folder(name, args.clip_weights) for name in args.clip_encoder}
    commands = training_commands(args, missing, encoders, script)
    return "\n".join([*lines, "create them with", *(f"  {command}" for command in commands)])


def extraction_commands(
    args: argparse.Namespace, cells: Iterable[Cell], encoders: dict[str, str], *, shifted: bool = False
) -> list[str]:
    """Return command lines that extract the features of `cells`; with `shifted`, of their shifted test sets too."""
    first = next(iter(cells := list(cells)), None)
    same = {
        "modality": "",
        "head": "",
        "init": "",
        "log_logit_scale": 0.0,
        "hyperparams": "",
    }  # features do not depend on these
    alike = dict.fromkeys(replace(cell, **same, max_iter=first.max_iter) for cell in cells)
    return _commands("features.py", args, alike, encoders, shifted=shifted)


def _commands(
    script: str, args: argparse.Namespace, cells: Iterable[Cell], encoders: dict[str, str], shifted: bool = False
) -> list[str]:
    names_of_folders = {folder: name for name, folder in encoders.items()}
    missing: dict[Cell, dict[str, list[Cell]]] = {}
    for cell in cells:
        method = replace(cell, dataset="", shots=0, seed=0)
        missing.setdefault(method, {}).setdefault(cell.dataset, []).append(cell)
    lines = []
    for method, by_dataset in missing.items():
        grouped: dict[tuple[tuple[int, ...], ...], list[str]] = {}
        for dataset, of_dataset in by_dataset.items():
            shots, seeds = ({getattr(cell, name) for cell in of_dataset} for name in ("shots", "seed"))
            grouped.setdefault((tuple(sorted(shots, key=shots_sort_key)), tuple(sorted(seeds))), []).append(dataset)
        for (shots, seeds), together in grouped.items():
            if shifted:
                together += [variant for dataset in together for variant in datasets.variants(dataset)]
            changes = {"dataset": together, "train_shot": list(shots), "seed": list(seeds)}
            changes |= _method_arguments(method) | {"clip_encoder": [names_of_folders[method.encoder]]}
            if tested := getattr(args, "shifted", None):  # may name test sets of several datasets
                changes["shifted"] = [name for name in tested if datasets.parent(name) in together]
            lines.append(command(script, args, **changes))
    return lines


def _method_arguments(method: Cell) -> dict[str, Any]:
    """Return the arguments of train.py that describe a cell's method, by name."""
    return {
        "modality": method.modality,
        "classifier_head": method.head,
        "classifier_init": method.init,
        "logit": method.log_logit_scale,
        "hyperparams": method.hyperparams,
        "max_val_shot": method.max_val_shot,
        "image_layer_idx": method.image_layer,
        "text_layer_idx": method.text_layer,
        "text_augmentation": method.text_augmentation,
        "image_augmentation": method.image_augmentation,
        "image_views": method.image_views,
        "max_iter": method.max_iter,
        "classes": method.classes,
    }


def table_commands(made: Comparison, args: argparse.Namespace) -> list[str]:
    """Return a line about the gaps of a table, then the commands that fill them; nothing for a complete table."""
    if not made.incomplete:
        return []
    kind, missing, encoders = TABLES[made.number].kind, made.missing, made.scope.encoders
    if kind == "esc":
        demo = made.scope.datasets[0].startswith("demo")
        return [
            f"Runs of {'the demo' if demo else 'ImageNet-ESC'} are missing. This command trains them:",
            command("imagenet_esc.py", args, only=("demo", "max_iter", "esc_result_dir"), demo=demo),
        ]
    if kind != "shift":
        return cells_commands(args, missing, encoders)
    cells = pluralize(len(missing), "cell")
    heading = f"{cells} (shots and seed of a method) not trained, or not tested on every test set. To fill them:"
    train = training_commands(args, missing, encoders, "domain_shift.py")
    return [heading, *extraction_commands(args, missing, encoders, shifted=True), *train]


def cells_commands(args: argparse.Namespace, missing: list[Cell], encoders: dict[str, str]) -> list[str]:
    """Return a line about the cells that a table lacks, then the commands that fill the gaps; nothing for no cells."""
    if not missing:
        return []
    cells = pluralize(len(missing), "cell")
    heading = f"{cells} (dataset, shots and seed of a method) without a complete, tested grid. To fill them:"
    return [heading, *extraction_commands(args, missing, encoders), *training_commands(args, missing, encoders)]


def missing_classifier(args: argparse.Namespace, error: MissingClassifier) -> str:
    """Return an error message about runs without a saved classifier, and the commands that save it."""
    message = f"{error}; train.py saves the classifier of the selected run and prints its path:"
    return "\n  ".join([message, *save_heads_commands(args, error.cells)])


def save_heads_commands(args: argparse.Namespace, cells: dict[Cell, Path | None]) -> list[str]:
    """Return command lines that save the classifiers of `cells`, which map to their result folders (None: unknown).

    Records hold only the names of weight files, template files and custom datasets: the user fills in the paths.
    """
    lines = []
    for results in dict.fromkeys(cells.values()):
        in_folder = [cell for cell, folder in cells.items() if folder == results]
        is_default = results in (None, Path(default.RESULT_DIR).absolute())
        changed = vars(args) | {"save_heads": True, "result_dir": default.RESULT_DIR if is_default else str(results)}
        for folder in dict.fromkeys(cell.encoder for cell in in_folder):
            name, weights = names.parse_folder(folder)
            changed["clip_weights"] = args.clip_weights or (weights and f"FILE-OF-{weights}")
            of_encoder = [cell for cell in in_folder if cell.encoder == folder]
            lines += training_commands(argparse.Namespace(**changed), of_encoder, {name: folder})
    return lines
