"""Values derived from parsed arguments: device, image views, shifted test sets, cells of runs, scope of a table."""

from __future__ import annotations

import argparse
import itertools
import os
import warnings

from engine import datasets
from engine.clip import names
from engine.config.arguments.classifier import method_arguments
from engine.config.arguments.data import SEEDS, SHOTS
from engine.datasets import halves
from engine.datasets.few_shot import ALL
from engine.errors import UserError
from engine.methods import METHODS, require_wise_ft
from engine.paper import layout
from engine.paper.layout import TABLES, Scope
from engine.results.methods_scope import MethodsScope
from engine.results.runs import Cell
from engine.templates import MINING
from engine.training.schedule import MAX_ITER

ENCODER = "RN50"
"""The encoder of the table of all methods, unless another one is given: the encoder of the published averages."""


def image_views(args: argparse.Namespace) -> int:
    """Return `--image-views`, or its default: 0 with `none`, 1 with `flip`, otherwise at least 1.

    Raises UserError for a number that the augmentation does not allow.
    """
    augmentation, views = args.image_augmentation, args.image_views
    if views is None:
        return 0 if augmentation == "none" else 1
    allowed, is_allowed = {
        "none": ("0", views == 0),
        "flip": ("1 (a second flip would equal the first)", views == 1),
    }.get(augmentation, ("1 or more", views >= 1))
    if not is_allowed:
        raise UserError(f"--image-augmentation {augmentation} takes --image-views {allowed}, not {views}")
    return views


def check_encoders(args: argparse.Namespace) -> None:
    """Raise UserError if `--clip-weights` is combined with several encoders."""
    if args.clip_weights and len(args.clip_encoder) > 1:
        raise UserError(
            f"--clip-weights is one file, but --clip-encoder names {len(args.clip_encoder)} encoders; name one encoder"
        )


def check_extraction(args: argparse.Namespace) -> None:
    """Raise UserError for arguments of features.py that exclude each other, and as `check_encoders` does."""
    check_encoders(args)
    extracting, checking = args.dry_run or args.shard, args.verify or args.repair
    steps = {"--dry-run or --shard": extracting, "--verify or --repair": checking}
    steps |= {"--export": args.export, "--import": args.import_from}
    if len(given := [flags for flags, value in steps.items() if value]) > 1:
        raise UserError(f"{' and '.join(given)} cannot be used at once; remove one")


def device(args: argparse.Namespace) -> str:
    """Return `--device`; `auto` is cuda if available, else cpu. Raises UserError for a device that is not available."""
    import torch  # takes seconds; --help and few_shot_split.py do without it

    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about device names that torch has deprecated
            torch.ones(1, device=args.device).cpu()  # `meta` can create tensors, but they hold no numbers
    except Exception as error:  # torch raises a different exception for each kind of device it lacks
        available = "cpu" + ", cuda" * torch.cuda.is_available() + ", mps" * torch.backends.mps.is_available()
        raise UserError(
            f"--device {args.device} cannot be used: PyTorch has no such device on this machine; it has {available}"
        ) from error
    return args.device


def workers(args: argparse.Namespace, device: str) -> int:
    """Return `--num-workers`; by default one per core, at most 16, or one per 8 cores if the CPU also encodes.

    Encoding on the CPU uses all cores, and takes at least ten times as long as decoding.
    """
    if args.num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // 8) if device == "cpu" else min(16, cores)
    return args.num_workers


def shifted_sets(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the shifted test sets of each dataset in `--dataset`: those in `--shifted`, or all.

    Raises UserError for a test set of none of the datasets, and for a dataset without any of the test sets.
    """
    available = {dataset: datasets.variants(dataset) for dataset in args.dataset}
    if args.shifted is None:
        return available
    for name in args.shifted:
        if not any(name in variants for variants in available.values()):
            choices = ", ".join(variant for variants in available.values() for variant in variants)
            raise UserError(
                f"--shifted: {name} is not a shifted test set of {', '.join(available)}; there are: {choices}"
            )
    chosen = {dataset: [name for name in variants if name in args.shifted] for dataset, variants in available.items()}
    if without := [dataset for dataset, variants in chosen.items() if not variants]:
        raise UserError(
            f"--shifted names no shifted test set of {', '.join(without)}; add one, or remove it from --dataset"
        )
    return chosen


def check_files(args: argparse.Namespace) -> None:
    """Raise UserError for a file of eval.py with several encoders, and for arguments of files not asked for."""
    for flag in ("--plot", "--predictions"):
        if getattr(args, flag[2:]) and len(set(args.clip_encoder)) > 1:
            raise UserError(f"{flag} is one file, but --clip-encoder names {len(args.clip_encoder)} encoders; name one")
    if args.plot and len(set(args.wise_ft)) < 2:
        raise UserError("--plot draws accuracy against --wise_ft: name several ratios, such as 0 0.25 0.5 0.75 1.0")
    if args.top_k and not args.predictions:
        raise UserError("--top-k is for the predictions of images: add --predictions FILE.csv")


def apply_mode(args: argparse.Namespace) -> None:
    """Set the arguments of train.py that `--mode` fixes. No layer of the text encoder is trained."""
    vars(args).update(method_arguments(args.mode), text_layer_idx=0)
    if args.wise_ft not in (0.0, [0.0]):
        require_wise_ft(args.mode)


def cells(args: argparse.Namespace) -> list[Cell]:
    """Return the cells for arguments of train.py: each combination of encoder, dataset, shots and seed, once.

    Raises UserError for a dataset with only a test set, and for prompts that were selected on classes not asked for.
    """
    views = image_views(args)
    for dataset in args.dataset:
        require_trainable(dataset)
    check_method(args)
    classes = vars(args).get("classes", halves.ALL)  # train.py and eval.py alone have the argument
    if classes != halves.ALL and args.text_augmentation == MINING:
        raise UserError(f"{MINING} selects prompts on all classes: take other --templates with --classes {classes}")
    combined = (args.clip_encoder, args.dataset, args.train_shot, args.seed)
    return [
        Cell(
            dataset=dataset,
            shots=per_class,
            seed=seed,
            encoder=names.folder(encoder, args.clip_weights),
            image_layer=args.image_layer_idx,
            text_layer=args.text_layer_idx,
            text_augmentation=args.text_augmentation,
            image_augmentation=args.image_augmentation,
            image_views=views,
            modality=args.modality,
            head=args.classifier_head,
            init=args.classifier_init,
            log_logit_scale=args.logit,
            hyperparams=args.hyperparams,
            max_iter=args.max_iter,
            max_val_shot=args.max_val_shot,
            classes=classes,
        )
        for encoder, dataset, per_class, seed in itertools.product(*map(dict.fromkeys, combined))
    ]


def check_method(args: argparse.Namespace) -> None:
    """Raise UserError for a grid, a start or a number of steps that the method of `--classifier_head` does not take."""
    name = args.classifier_head
    method, grid = METHODS[name], METHODS[args.hyperparams].grid
    if grid.axes.keys() != method.grid.axes.keys():
        raise UserError(f"--classifier_head {name} takes no --hyperparams {args.hyperparams}; name both with --method")
    if args.classifier_init not in method.inits:
        raise UserError(f"{name} starts from {method.inits[0]} weights: --classifier_init {method.inits[0]}")
    if args.max_iter != MAX_ITER and not method.fit.takes_max_iter:
        raise UserError(f"{name} has a number of steps of its own, and takes no --max-iter")


def scope(args: argparse.Namespace, table: int) -> Scope:
    """Return the scope of a table for arguments of tables.py; an argument that is None is as in the paper's table.

    A table of ImageNet-ESC follows the protocol, or the demo. Raises UserError for datasets that the table cannot have.
    """
    if TABLES[table].kind == "esc":
        return layout.esc_scope(table, args.dataset == ["demo"], args.max_iter)
    paper = layout.paper_scope(table, args.seed or SEEDS)
    encoders = {name: names.folder(name, args.clip_weights) for name in args.clip_encoder or paper.encoders}
    if args.clip_weights and len(encoders) > 1:
        raise UserError(
            f"--clip-weights is one file, but Table {table} has {len(encoders)} encoders; choose one with"
            " --clip-encoder"
        )
    chosen = tuple(dict.fromkeys(args.dataset or paper.datasets))
    for dataset in chosen:
        require_trainable(dataset)
    if TABLES[table].kind == "shift":
        layout.require_shifts(chosen)
    if ALL in (args.train_shot or []):
        raise UserError("--train-shot all is in no table of the paper; use eval.py to tabulate it")
    shots, seeds = (tuple(dict.fromkeys(values)) for values in (args.train_shot or paper.shots, paper.seeds))
    return Scope(chosen, shots, seeds, encoders, args.max_iter)


def methods_scope(args: argparse.Namespace) -> MethodsScope:
    """Return the scope of the table of all methods for arguments of tables.py; None is the paper's value.

    Raises UserError for a dataset with only a test set, and for `--clip-weights` with several encoders.
    """
    if ALL in (args.train_shot or []):
        raise UserError("--train-shot all is not in the table of methods; use eval.py to tabulate it")
    args.clip_encoder = args.clip_encoder or [ENCODER]
    check_encoders(args)
    chosen = args.dataset or datasets.TARGETS, args.train_shot or SHOTS, args.seed or SEEDS
    for dataset in chosen[0]:
        require_trainable(dataset)
    encoders = {name: names.folder(name, args.clip_weights) for name in args.clip_encoder}
    return MethodsScope(*(tuple(dict.fromkeys(values)) for values in chosen), encoders, args.max_iter)


def require_trainable(dataset: str) -> None:
    """Raise UserError for a dataset with only a test set."""
    if parent := datasets.parent(dataset):
        raise UserError(f"{dataset} has only a test set; classifiers for it are trained on --dataset {parent}")
