"""Arguments for how a script runs: training, testing, memory, device and processes."""

from __future__ import annotations

from functools import partial

from engine.config import types
from engine.config.arguments.declare import (
    AUDIO_FEATURES,
    FEATURES,
    IMAGENET_ESC,
    PREDICT,
    REPORT,
    TABLES,
    TABULATING,
    TRAINING,
    Argument,
)
from engine.training.schedule import MAX_ITER

_argument = partial(Argument, group="run")

ARGUMENTS = [
    _argument(
        "--shard",
        scripts=(FEATURES, *TRAINING, IMAGENET_ESC),
        type=types.shard,
        metavar="I/N",
        help="do part I of N equal parts of the work of the other arguments, I from 1 to N. Processes and machines that"
        " share the folders may do the parts at the same time or one after another",
    ),
    _argument(
        "--max-iter",
        scripts=(*TRAINING, IMAGENET_ESC, *TABULATING, TABLES),
        type=types.positive,
        metavar="N",
        default=MAX_ITER,
        help="training steps",
    ),
    _argument(
        "--test",
        scripts=TRAINING,
        choices=["selected", "all"],
        default="selected",
        help="runs to test: selected (the run with the best validation accuracy) or all",
    ),
    _argument(
        "--save-heads",
        scripts=TRAINING,
        action="store_true",
        help="save the classifier of the selected run for predict.py. Needs the encoder's weights; in a complete sweep"
        " only the selected run is trained again",
    ),
    _argument(
        "--executor",
        scripts=(*TRAINING, IMAGENET_ESC),
        choices=["stacked", "sequential"],
        default="stacked",
        help="stacked (train all runs of a sweep at once) or sequential (one after another); the results are the same",
    ),
    _argument(
        "--max-memory",
        scripts=(*TRAINING, IMAGENET_ESC),
        type=types.size,
        metavar="SIZE",
        help="memory limit for runs that train at once, such as 8G (default: most of the free memory)",
    ),
    _argument(
        "--store-dtype",
        scripts=(FEATURES,),
        choices=["fp32", "fp16"],
        default="fp32",
        metavar="TYPE",
        help="stored type of the inputs of trainable layers: fp32, or fp16 (half the disk space). Final features are"
        " small and always fp32",
    ),
    _argument(
        "--test-batch-size",
        scripts=(FEATURES, PREDICT),
        type=types.positive,
        default=32,
        metavar="N",
        help="images per batch of the encoder",
    ),
    _argument(
        "--num-workers",
        scripts=(FEATURES, PREDICT),
        type=types.workers,
        metavar="N",
        help="processes that decode images (default: one per core, at most 16; one per 8 cores if the CPU also"
        " encodes)",
    ),
    _argument(
        "--device",
        scripts=(FEATURES, *TRAINING, IMAGENET_ESC, *TABULATING, PREDICT, REPORT, AUDIO_FEATURES),
        default="auto",
        metavar="NAME",
        help="auto (CUDA if available), cpu, cuda, cuda:1, ...",
    ),
    _argument(
        "--dry-run",
        scripts=(FEATURES,),
        action="store_true",
        help="print the missing features and their size, and stop; custom datasets are still split",
    ),
    _argument(
        "--verify",
        scripts=(FEATURES,),
        action="store_true",
        help="check the stored features of these datasets and encoders, and stop: no images or weights needed. Lists"
        " every bad file; the exit status is 1 if there are any",
    ),
    _argument(
        "--repair",
        scripts=(FEATURES,),
        action="store_true",
        help="as --verify, and remove bad files; the next run extracts them again",
    ),
    _argument(
        "--export",
        scripts=(FEATURES,),
        metavar="FOLDER",
        help="write the stored final features as .npz files to FOLDER/<encoder>/<dataset>, and stop: no images or"
        " weights needed",
    ),
    _argument(
        "--import",
        scripts=(FEATURES,),
        dest="import_from",
        metavar="FOLDER",
        help="store the features of such .npz files, made by any program, under a new name of --clip-encoder",
    ),
]
