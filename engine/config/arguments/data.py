"""Arguments for the data: datasets, few-shot splits, shifted test sets, and the images to classify."""

from __future__ import annotations

from functools import partial

from engine import datasets
from engine.config import types
from engine.config.arguments.declare import (
    CHECK,
    DOMAIN_SHIFT,
    EVAL,
    EVAL_DOMAIN_SHIFT,
    FEATURES,
    FEW_SHOT_SPLIT,
    IMAGENET_ESC,
    NAMES,
    NUMBERS,
    PREDICT,
    REPORT,
    TABLES,
    TRAIN,
    Argument,
)
from engine.datasets import halves
from engine.datasets.few_shot import MAX_VAL_SHOT

_argument = partial(Argument, group="data")
SHIFTS = (DOMAIN_SHIFT, EVAL_DOMAIN_SHIFT)

SHOTS = [1, 2, 4, 8, 16]
SEEDS = [1, 2, 3]
"""The paper's shots and seeds (section 9 of its appendix)."""
SHIFT_SHOTS = [16]
"""The paper's shots for domain shift (section 6 of the protocol)."""

ARGUMENTS = [
    _argument(
        "--demo",
        scripts=(IMAGENET_ESC,),
        action="store_true",
        help="create the demo's images and sounds, and use them instead of ImageNet and ESC-50",
    ),
    _argument(
        "--dataset",
        scripts=(FEW_SHOT_SPLIT, FEATURES, TRAIN),
        type=types.dataset,
        **NAMES,
        default=datasets.TARGETS,
        help="datasets: names, or paths of custom datasets (a folder or a CSV file) (default: all eleven)",
    ),
    _argument(
        "--dataset",
        scripts=SHIFTS,
        type=types.source_dataset,
        **NAMES,
        default=[datasets.SOURCES[0]],
        help=f"training datasets, among those with shifted test sets: {', '.join(datasets.SOURCES)}",
    ),
    _argument(
        "--dataset",
        scripts=(CHECK,),
        type=types.dataset,
        **NAMES,
        help="datasets that must be installed (default: check all; any may be missing)",
    ),
    _argument(
        "--dataset",
        scripts=(REPORT,),
        type=types.dataset,
        metavar="PATH",
        help="the custom dataset of the runs, a folder or a CSV file: to show its images (default: the folder of its"
        " name, if it is here)",
    ),
    _argument(
        "--datasets",
        "--dataset",
        scripts=(EVAL, TABLES),
        dest="dataset",
        type=types.dataset,
        **NAMES,
        default=datasets.TARGETS,
        help="datasets to tabulate: names, or paths of custom datasets (default: all eleven)",
        overrides={TABLES: {"default": None, "help": "datasets to tabulate (default: as in the paper's table)"}},
    ),
    _argument(
        "--train-shot",
        scripts=(FEW_SHOT_SPLIT, FEATURES, TRAIN, EVAL, TABLES),
        type=types.shots,
        **NUMBERS,
        default=SHOTS,
        help="training images per class, or all (every training and validation image)",
        overrides={TABLES: {"default": None, "help": "training images per class (default: as in the paper's table)"}},
    ),
    _argument(
        "--train-shot",
        scripts=SHIFTS,
        type=types.positive,
        **NUMBERS,
        default=SHIFT_SHOTS,
        help="training images per class",
    ),
    _argument(
        "--max-val-shot",
        scripts=(FEW_SHOT_SPLIT, FEATURES, TRAIN, DOMAIN_SHIFT, EVAL, EVAL_DOMAIN_SHIFT),
        type=types.positive,
        metavar="N",
        default=MAX_VAL_SHOT,
        help="validation images per class: at most N, and at most as many as training images",
    ),
    _argument(
        "--seed",
        scripts=(FEW_SHOT_SPLIT, FEATURES, TRAIN, DOMAIN_SHIFT, EVAL, EVAL_DOMAIN_SHIFT, TABLES),
        type=types.seed,
        **NUMBERS,
        default=SEEDS,
        help="seeds of the few-shot splits",
        overrides={
            EVAL_DOMAIN_SHIFT: {
                "default": None,
                "help": "seeds to tabulate; all of them must be complete (default: the complete ones among 1 2 3)",
            },
            TABLES: {"default": None, "help": "seeds to average over (default: 1 2 3)"},
        },
    ),
    _argument(
        "--classes",
        scripts=(TRAIN, EVAL),
        choices=halves.HALVES,
        default=halves.ALL,
        help="classes of training and test: all, base (the first half in label order; methods that can are also tested"
        " on the other half) or new (the second half)",
    ),
    _argument(
        "--class_subset",
        scripts=(EVAL_DOMAIN_SHIFT,),
        type=types.boolean,
        default=True,
        metavar="BOOL",
        help="for test sets with a subset of the classes: predict among the subset (true) or among all classes (false)",
    ),
    _argument(
        "--shifted",
        scripts=SHIFTS,
        type=types.dataset,
        **NAMES,
        help="shifted test sets (default: all of the training dataset)",
    ),
    _argument(
        "--download",
        scripts=(CHECK,),
        type=types.dataset,
        **NAMES,
        help="download the missing files of these datasets (resumable), check only these, and print any manual steps",
    ),
    _argument(
        "images", scripts=(PREDICT,), nargs="*", metavar="IMAGE", help="image files, or folders to search for images"
    ),
    _argument(
        "--list", scripts=(PREDICT,), metavar="FILE", help="text file with more image paths, one a line; - reads stdin"
    ),
]
