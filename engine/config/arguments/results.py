"""Arguments for results: tables, plots and predictions."""

from __future__ import annotations

from functools import partial

from engine.config import types
from engine.config.arguments.declare import AVERAGE, EVAL, NAMES, NUMBERS, PREDICT, REPORT, TABLES, Argument
from engine.paper.layout import TABLES as PAPER_TABLES
from engine.results.predictions import OUTPUT_FORMATS

_argument = partial(Argument, group="output")

ARGUMENTS = [
    _argument(
        "--name",
        group="data",
        scripts=(AVERAGE,),
        type=types.table_name,
        **NAMES,
        required=True,
        help="tables that eval.py wrote, by file name",
    ),
    _argument(
        "--table",
        scripts=(TABLES,),
        type=types.table_number,
        **NUMBERS,
        required=True,
        help=f"tables of the paper: {' '.join(map(str, PAPER_TABLES))}, or all; methods for all methods",
    ),
    _argument(
        "--plot",
        scripts=(AVERAGE, EVAL, TABLES),
        type=types.png,
        metavar="FILE.png",
        help="plot accuracy against shots into this file",
        overrides={EVAL: {"help": "plot accuracy against the ratios of --wise_ft into this file"}},
    ),
    _argument("--title", scripts=(AVERAGE, EVAL, TABLES), default="", metavar="TEXT", help="title of the plot"),
    _argument(
        "--explain",
        scripts=(EVAL,),
        type=types.named_cell,
        metavar="DATASET,SHOTS,SEED",
        help="instead of a table, list all runs of one cell and show which run validation selects",
    ),
    _argument(
        "--output",
        scripts=(REPORT,),
        metavar="DIR",
        help="folder of the report (default: in --report_dir, named after the runs)",
    ),
    _argument(
        "--top-k",
        scripts=(PREDICT, EVAL),
        type=types.positive,
        default=1,
        metavar="K",
        help="number of most probable classes to print for each image",
        overrides={EVAL: {"default": None, "help": "number of most probable classes in --predictions (default: 1)"}},
    ),
    _argument(
        "--per-class",
        scripts=(EVAL,),
        action="store_true",
        help="write a table of accuracies by class beside each table. Needs classifiers saved by train.py --save-heads",
    ),
    _argument(
        "--predictions",
        scripts=(EVAL,),
        type=types.predictions,
        metavar="FILE",
        help="write label, predicted class and probabilities of each test image, for every selected run: a .csv or"
        " .jsonl file. Needs classifiers saved by train.py --save-heads",
    ),
    _argument("--format", scripts=(PREDICT,), choices=OUTPUT_FORMATS, default="csv", help="csv, or jsonl (JSON lines)"),
    _argument(
        "--raw",
        scripts=(PREDICT,),
        action="store_true",
        help="print uncalibrated probabilities; train.py --save-heads fits a temperature on the validation images",
    ),
    _argument(
        "--reject",
        scripts=(PREDICT,),
        type=types.share,
        metavar="P",
        help="mark images as rejected if their top probability is below a threshold that a share P, 0 to 1, of the"
        " validation images is below",
    ),
    _argument(
        "--export",
        scripts=(PREDICT,),
        metavar="FILE.onnx",
        help="write the classifier as an ONNX model; takes no images",
    ),
]
