"""Arguments for the classifier: the method and its parts, and the classifier that predict.py loads."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from engine.config import types
from engine.config.arguments.declare import EVAL, EVAL_DOMAIN_SHIFT, PREDICT, REPORT, TABULATING, TRAINING, Argument
from engine.methods import DEFAULT, HEADS, METHODS, REGISTRY

_argument = partial(Argument, group="classifier")


def method_arguments(name: str) -> dict[str, Any]:
    """Return the values that a method sets, by name of the parsed argument."""
    method = METHODS[name]
    init = {"classifier_init": method.inits[0]} if len(method.inits) == 1 else {}
    return init | {
        "classifier_head": REGISTRY[name],
        "image_layer_idx": method.image_layer,
        "hyperparams": name,
        "logit": method.log_logit_scale,
    }


class _SetMethod(argparse.Action):
    """Set all arguments that a method fixes; later arguments on the command line override them."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, name: Any, *_: Any) -> None:
        vars(namespace).update(method_arguments(name))


ARGUMENTS = [
    _argument(
        "--run",
        scripts=(PREDICT, REPORT),
        required=True,
        metavar="PATH",
        help="a run trained with train.py --save-heads: its record.json, or a folder with one in or below it",
        overrides={REPORT: {"nargs": "+", "help": "runs trained with train.py --save-heads: record.json, or a folder"}},
    ),
    _argument(
        "--clip-weights",
        scripts=(PREDICT, REPORT),
        metavar="FILE",
        help="file of the encoder's weights, if features.py used one",
    ),
    _argument(
        "--mode",
        "--method",
        scripts=TABULATING,
        choices=list(METHODS),
        default=HEADS[0],
        help=f"method to tabulate: {', '.join(METHODS)}",
    ),
    _argument(
        "--modality",
        scripts=(*TRAINING, *TABULATING),
        choices=["cross_modal", "uni_modal"],
        default="cross_modal",
        help="training batches: cross_modal (half prompts, half images) or uni_modal (images only)",
    ),
    _argument(
        "--method",
        "--mode",
        scripts=TRAINING,
        dest=argparse.SUPPRESS,
        action=_SetMethod,
        choices=list(METHODS),
        help="set --classifier_head, --hyperparams, --logit and --image-layer-idx for a method:"
        f" {', '.join(METHODS)} (default: {HEADS[0]})",
    ),
    _argument(
        "--classifier_head",
        scripts=TRAINING,
        choices=HEADS,
        default=HEADS[0],
        help=f"layers to train: {', '.join(HEADS)}; methods of one head build the same layers",
    ),
    _argument(
        "--classifier_init",
        scripts=(*TRAINING, *TABULATING),
        choices=["zeroshot", "random"],
        default="zeroshot",
        help="initial weights: zeroshot (the mean prompt feature of each class) or random. Use random for a uni-modal"
        " baseline: zeroshot already uses text",
    ),
    _argument(
        "--logit",
        scripts=TRAINING,
        type=types.logit,
        metavar="X",
        default=DEFAULT.log_logit_scale,
        help="logarithm of the scale of the logits; 4.60517 is a scale of 100",
    ),
    _argument(
        "--hyperparams",
        scripts=TRAINING,
        choices=list(METHODS),
        default=HEADS[0],
        help=f"grid of hyper-parameters: {', '.join(METHODS)}",
    ),
    _argument(
        "--wise_ft",
        scripts=(EVAL, EVAL_DOMAIN_SHIFT, PREDICT, REPORT),
        type=types.wise_ft,
        default=0.0,
        metavar="RATIO",
        help="use WiSE-FT instead of the trained classifier: the share of the zero-shot weights, from 0 (the trained"
        " classifier; false) to 1.0 (zero-shot); true is 0.5 (default: false)",
        overrides={
            EVAL: {
                "nargs": "+",
                "default": [0.0],
                "help": "tabulate WiSE-FT instead of the trained classifier: the share of the zero-shot weights, from 0"
                " (the trained classifier; false) to 1.0 (zero-shot); true is 0.5. Several ratios make a table each."
                " Other ratios than 0 and 0.5 need classifiers saved by train.py --save-heads (default: false)",
            },
            EVAL_DOMAIN_SHIFT: {
                "help": "tabulate WiSE-FT instead of the trained classifier: the share of the zero-shot weights, from 0"
                " (the trained classifier; false) to 1.0 (zero-shot); true is 0.5. Other ratios than 0 and 0.5 need"
                " classifiers saved by domain_shift.py --save-heads (default: false)",
            },
        },
    ),
]
