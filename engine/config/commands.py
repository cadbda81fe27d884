"""The commands that scripts suggest: any script's, and those that make runs which are missing, as few as will do."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import datasets, templates
from engine.clip import names
from engine.config import default
from engine.config.arguments import DOMAIN_SHIFT, FEATURES, TRAIN, declared
from engine.datasets.checks import pluralize
from engine.datasets.few_shot import shots_sort_key
from engine.paper.layout import TABLES
from engine.results.runs import Cell

if TYPE_CHECKING:
    from engine.paper.compare import Comparison  # which imports pandas

_TYPED = {"dataset": datasets.cli_name, "text_augmentation": templates.cli_name}
"""What to type for values of arguments whose types give paths a name, by where argparse keeps them."""


def command(script: str, arguments: list[str], args: argparse.Namespace, **changes: Any) -> str:
    """The command line that runs `script`, which takes `arguments`, as `args` say, with `changes` to their values.

    Arguments at their default are left out, but for those that say what to run on.
    """
    values = vars(args) | changes
    words = ["python", script]
    for name in arguments:
        flags, settings = declared(name)
        key = settings.get("dest", flags[0].lstrip("-").replace("-", "_"))  # where argparse keeps it
        value = values.get(key, settings.get("default"))
        if settings.get("action") == "store_true":
            words += [flags[0]] * bool(value)
            continue
        if settings.get("nargs") and value is not None and not isinstance(value, list):
            value = [value]  # train.py takes one of what features.py takes several of
        if value != settings.get("default") or (key in ("dataset", "train_shot", "seed", "clip_encoder") and value):
            typed = _TYPED.get(key, str)
            words += [flags[0], *map(typed, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def training(
    args: argparse.Namespace, cells: Iterable[Cell], encoders: dict[str, str], script: str = "train.py"
) -> list[str]:
    """Command lines that train `cells`: datasets for which a method lacks the same shots and seeds share one.

    `encoders` are names with their folders. `args` say where things lie.
    """
    arguments = DOMAIN_SHIFT if script == "domain_shift.py" else TRAIN
    return _commands(script, arguments, args, cells, encoders)


def missing_runs(args: argparse.Namespace, missing: list[Cell], without: str, script: str = "train.py") -> str:
    """What cells are `without`, and the commands that make it, for all of the encoders that were asked for."""
    lines = [f"{pluralize(len(missing), 'cell')} without {without}:"]
    lines += [f"  {cell}" for cell in missing[:20]] + ["  ..."] * (len(missing) > 20)
    encoders = {name: names.folder(name, args.clip_weights) for name in args.clip_encoder}
    commands = training(args, missing, encoders, script)
    return "\n".join([*lines, "make them with", *(f"  {command}" for command in commands)])


def extraction(
    args: argparse.Namespace, cells: Iterable[Cell], encoders: dict[str, str], *, shifted: bool = False
) -> list[str]:
    """Command lines that extract the features which `cells` are trained on, of their shifted test sets too if asked."""
    one = next(iter(cells := list(cells)), None)
    same = {"modality": "", "head": "", "init": "", "logit": 0.0, "hyperparams": ""}  # what features do not depend on
    alike = dict.fromkeys(replace(cell, **same, max_iter=one.max_iter) for cell in cells)
    return _commands("features.py", FEATURES, args, alike, encoders, shifted=shifted)


def _commands(
    script: str,
    arguments: list[str],
    args: argparse.Namespace,
    cells: Iterable[Cell],
    encoders: dict[str, str],
    shifted: bool = False,
) -> list[str]:
    typed = {folder: name for name, folder in encoders.items()}
    lacking: dict[Cell, dict[str, list[Cell]]] = {}
    for cell in cells:
        method = replace(cell, dataset="", shots=0, seed=0)
        lacking.setdefault(method, {}).setdefault(cell.dataset, []).append(cell)
    lines = []
    for method, by_dataset in lacking.items():
        sharing: dict[tuple[tuple[int, ...], ...], list[str]] = {}
        for dataset, own in by_dataset.items():
            shots, seeds = ({getattr(cell, name) for cell in own} for name in ("shots", "seed"))
            sharing.setdefault((tuple(sorted(shots, key=shots_sort_key)), tuple(sorted(seeds))), []).append(dataset)
        for (shots, seeds), together in sharing.items():
            if shifted:
                together += [variant for dataset in together for variant in datasets.variants(dataset)]
            changes = {"dataset": together, "train_shot": list(shots), "seed": list(seeds)}
            changes |= _as_arguments(method) | {"clip_encoder": [typed[method.encoder]]}
            if tested := getattr(args, "shifted", None):  # which may be of several datasets
                changes["shifted"] = [name for name in tested if datasets.parent(name) in together]
            lines.append(command(script, arguments, args, **changes))
    return lines


def _as_arguments(method: Cell) -> dict:
    """What a cell's method is as arguments of train.py, by name."""
    return {
        "modality": method.modality,
        "classifier_head": method.head,
        "classifier_init": method.init,
        "logit": method.logit,
        "hyperparams": method.hyperparams,
        "max_val_shot": method.max_val_shot,
        "image_layer_idx": method.image_layer,
        "text_layer_idx": method.text_layer,
        "text_augmentation": method.text_augmentation,
        "image_augmentation": method.image_augmentation,
        "image_views": method.image_views,
        "max_iter": method.max_iter,
    }


def filling(made: Comparison, args: argparse.Namespace) -> list[str]:
    """What a table lacks, then the commands that fill it; nothing for a complete one."""
    if not made.incomplete:
        return []
    kind, missing, encoders = TABLES[made.number].kind, made.missing, made.scope.encoders
    if kind == "esc":
        demo = made.scope.datasets[0].startswith("demo")
        return [
            f"Runs of {'the demo' if demo else 'ImageNet-ESC'} are missing; this makes them:",
            command("imagenet_esc.py", ["demo", "max_iter", "esc_result_dir"], args, demo=demo),
        ]
    shift = kind == "shift"
    cells = pluralize(len(missing), "cell")
    first = (
        f"{cells} (a dataset, shots and seed of a method) without a complete, tested grid; these commands fill them:"
    )
    if shift:
        first = (
            f"{cells} (shots and seed of a method) not trained, or not tested on every test set; these commands do it:"
        )
    train = training(args, missing, encoders, "domain_shift.py" if shift else "train.py")
    return [first, *extraction(args, missing, encoders, shifted=shift), *train]


def keeping(args: argparse.Namespace, cells: dict[Cell, Path | None]) -> list[str]:
    """Command lines that keep the classifiers of cells whose results lie in these folders, None where that is unknown.

    Runs say names alone of files of weights and of templates, and of images of one's own: paths are for the user to
    fill in.
    """
    lines = []
    for results in dict.fromkeys(cells.values()):
        own = [cell for cell, folder in cells.items() if folder == results]
        usual = results in (None, Path(default.RESULT_DIR).absolute())
        changed = vars(args) | {"save_heads": True, "result_dir": default.RESULT_DIR if usual else str(results)}
        for folder in dict.fromkeys(cell.encoder for cell in own):
            name, weights = names.parse_folder(folder)
            changed["clip_weights"] = args.clip_weights or (weights and f"FILE-OF-{weights}")
            of_encoder = [cell for cell in own if cell.encoder == folder]
            lines += training(argparse.Namespace(**changed), of_encoder, {name: folder})
    return lines
