"""From parsed arguments to what they mean: the device, views of images, shifted test sets, and cells of runs."""

from __future__ import annotations

import argparse
import itertools
import os
import warnings

from engine import datasets
from engine.clip import names
from engine.config.arguments import SEEDS, method_arguments
from engine.datasets.few_shot import ALL
from engine.errors import UserError
from engine.methods import METHODS
from engine.paper import layout
from engine.paper.layout import TABLES, Scope
from engine.results.runs import Cell
from engine.training.schedule import MAX_ITER


def image_views(args: argparse.Namespace) -> int:
    """`--image-views` made whole: 0 with `none`, 1 with `flip`, at least 1 with `randomcrop`.

    Raises UserError for a number that its augmentation cannot have.
    """
    augmentation, views = args.image_augmentation, args.image_views
    if views is None:
        return 0 if augmentation == "none" else 1
    allowed = {"none": views == 0, "flip": views == 1, "randomcrop": views >= 1}
    if not allowed[augmentation]:
        needed = {"none": "0", "flip": "1 (a second flip is the first again)", "randomcrop": "1 or more"}[augmentation]
        raise UserError(f"--image-augmentation {augmentation} takes --image-views {needed}, not {views}")
    return views


def check_encoders(args: argparse.Namespace) -> None:
    """Raise UserError for local weights that would have to serve several encoders."""
    if args.clip_weights and len(args.clip_encoder) > 1:
        raise UserError(f"--clip-weights is one file, and --clip-encoder names {len(args.clip_encoder)} encoders")


def device(args: argparse.Namespace) -> str:
    """`--device`, where `auto` is cuda if there is one, else cpu. Raises UserError for a device that is not there."""
    import torch  # seconds to import, which --help and few_shot_split.py need not wait for

    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that torch knows from former times
            torch.ones(1, device=args.device).cpu()  # `meta` can make tensors, but has no numbers
    except Exception as error:  # torch has an exception for each kind of device that it was not built for
        there = "cpu" + ", cuda" * torch.cuda.is_available() + ", mps" * torch.backends.mps.is_available()
        raise UserError(
            f"--device {args.device} cannot be used: PyTorch has no such device on this machine; it has {there}"
        ) from error
    return args.device


def workers(args: argparse.Namespace, device: str) -> int:
    """`--num-workers`; by default one per core, 16 at most, and an eighth of that where the CPU encodes too.

    There encoding takes all cores, and ten times as long as decoding or more.
    """
    if args.num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // 8) if device == "cpu" else min(16, cores)
    return args.num_workers


def shifted_sets(args: argparse.Namespace) -> dict[str, list[str]]:
    """The shifted test sets by each dataset of `--dataset`: `--shifted`, or all there are.

    Raises UserError for one that belongs to none of the datasets, and for a dataset to which none of them belongs.
    """
    of = {dataset: datasets.variants(dataset) for dataset in args.dataset}
    if args.shifted is None:
        return of
    for name in args.shifted:
        if not any(name in variants for variants in of.values()):
            there = ", ".join(variant for variants in of.values() for variant in variants)
            raise UserError(f"{name} is no shifted test set of {', '.join(of)}; there are: {there}")
    chosen = {dataset: [name for name in variants if name in args.shifted] for dataset, variants in of.items()}
    if without := [dataset for dataset, variants in chosen.items() if not variants]:
        raise UserError(f"--shifted names no shifted test set of {', '.join(without)}")
    return chosen


def apply_mode(args: argparse.Namespace) -> None:
    """Set what `--mode` fixes, under the names that train.py's arguments have. The text encoder stays whole."""
    vars(args).update(method_arguments(args.mode), text_layer_idx=0)
    if args.wise_ft and not METHODS[args.mode].wise_ft:
        raise UserError(
            f"{args.mode} has weights that cannot be averaged with the zero-shot classifier's: --wise_ft false"
        )


def cells(args: argparse.Namespace) -> list[Cell]:
    """The cells that arguments of train.py mean: all combinations of encoders, datasets, shots and seeds, each once.

    Raises UserError for a dataset that has only a test set.
    """
    views = image_views(args)
    for dataset in args.dataset:
        trained_on(dataset)
    check_method(args)
    asked = (args.clip_encoder, args.dataset, args.train_shot, args.seed)
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
            logit=args.logit,
            hyperparams=args.hyperparams,
            max_iter=args.max_iter,
            max_val_shot=args.max_val_shot,
        )
        for encoder, dataset, per_class, seed in itertools.product(*map(dict.fromkeys, asked))
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
    """What arguments of tables.py make a table of; what is None there is as in the paper's table.

    ImageNet-ESC is as the protocol has it, or the demo's. Raises UserError for datasets that the table cannot be made
    of.
    """
    if TABLES[table].kind == "esc":
        return layout.scope_of_esc(table, args.dataset == ["demo"], args.max_iter)
    of_paper = layout.scope_of_paper(table, args.seed or SEEDS)
    own = {name: names.folder(name, args.clip_weights) for name in args.clip_encoder or of_paper.encoders}
    if args.clip_weights and len(own) > 1:
        raise UserError(
            f"--clip-weights is one file, and Table {table} is of {len(own)} encoders; choose with --clip-encoder"
        )
    asked = tuple(dict.fromkeys(args.dataset or of_paper.datasets))
    for dataset in asked:
        trained_on(dataset)
    if TABLES[table].kind == "shift":
        layout.require_shifts(asked)
    if ALL in (args.train_shot or []):
        raise UserError("the paper's tables are of numbers of shots, not of --train-shot all; eval.py tabulates that")
    by, seeds = (tuple(dict.fromkeys(values)) for values in (args.train_shot or of_paper.shots, of_paper.seeds))
    return Scope(asked, by, seeds, own, args.max_iter)


def trained_on(dataset: str) -> str:
    """The name of a dataset that classifiers are trained on. Raises UserError for one that has only a test set."""
    if parent := datasets.parent(dataset):
        raise UserError(f"{dataset} has only a test set; classifiers for it are trained on --dataset {parent}")
    return dataset
