"""Every command-line argument of every script. A new argument is one entry in the module of its subject."""

from __future__ import annotations

import functools

from engine.config.arguments import classifier, cluster, data, encoder, folders, results, run, sounds
from engine.config.arguments.declare import Argument

ARGUMENTS: list[Argument] = [
    *classifier.ARGUMENTS,
    *data.ARGUMENTS,
    *encoder.ARGUMENTS,
    *sounds.ARGUMENTS,
    *results.ARGUMENTS,
    *run.ARGUMENTS,
    *cluster.ARGUMENTS,
    *folders.ARGUMENTS,
]
"""In the order of `--help` and of suggested commands."""


@functools.cache
def arguments_of(script: str) -> tuple[Argument, ...]:
    """Return the arguments of a script, by its file name. Raises KeyError if no argument names the script."""
    found = tuple(argument for argument in ARGUMENTS if script in argument.scripts)
    if not found:
        raise KeyError(script)
    return found
