"""The command line: arguments, their types and meaning, suggested commands, and the start and end of a script.

args = config.parser(__doc__, "train.py").parse_args()
...
config.run(main)
"""

from engine.config.arguments.data import SEEDS
from engine.config.arguments.encoder import PROMPTS
from engine.config.commands import command
from engine.config.resolve import (
    apply_mode,
    cells,
    check_encoders,
    check_extraction,
    check_files,
    device,
    image_views,
    methods_scope,
    scope,
    shifted_sets,
    workers,
)
from engine.config.script import parser, run

__all__ = [
    "PROMPTS", "SEEDS", "apply_mode", "cells", "check_encoders", "check_extraction", "check_files", "command", "device",
    "image_views", "methods_scope", "parser", "run", "scope", "shifted_sets", "workers",
]  # fmt: skip
