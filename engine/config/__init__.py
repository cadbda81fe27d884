"""What scripts use: arguments, their values, what these mean, suggested commands, and the start and end of a script.

parser = config.parser(__doc__, "dataset", "train_shot", "seed")
args = parser.parse_args()
...
config.run(main)
"""

from engine.config.arguments import (
    AUDIO,
    CHECK,
    DOMAIN_SHIFT,
    EVAL,
    EVAL_DOMAIN_SHIFT,
    FEATURES,
    IMAGENET_ESC,
    PREDICT,
    PROMPTS,
    SEEDS,
    SPLITS,
    TABLES_OF_PAPER,
    TRAIN,
)
from engine.config.commands import command
from engine.config.resolve import (
    apply_mode,
    cells,
    check_encoders,
    device,
    image_views,
    scope,
    shifted_sets,
    workers,
)
from engine.config.script import parser, run

__all__ = [
    "AUDIO", "CHECK", "DOMAIN_SHIFT", "EVAL", "EVAL_DOMAIN_SHIFT", "FEATURES", "IMAGENET_ESC", "PREDICT", "PROMPTS",
    "SEEDS", "SPLITS", "TABLES_OF_PAPER", "TRAIN", "apply_mode", "cells", "check_encoders", "command", "device",
    "image_views", "parser", "run", "scope", "shifted_sets", "workers",
]  # fmt: skip
