"""Errors that no one place foresees: a file, or the machine, refuses what a script asks of it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection

NO_MEMORY = re.compile("^OutOfMemoryError:|DefaultCPUAllocator: can't allocate memory")
"""How torch says that there is no more, on a GPU and on a CPU: in kinds of RuntimeError."""


def said(error: Exception, arguments: Collection[str]) -> str | None:
    """Return a sentence about an error and its remedy; None for what is a fault of the program.

    `arguments` are the names of those that the script has, as argparse keeps them.
    """
    number, name = getattr(error, "errno", None), type(error).__name__
    if isinstance(error, RecursionError):
        return f"what was read is nested too deeply ({error})"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or NO_MEMORY.search(f"{name}: {error}"):
        less = [f"a smaller {flag}" for flag in _flags(("max_memory", "test_batch_size", "batch_size"), arguments)]
        return "memory ran out" + _advice([*less, *_no_workers(arguments)])
    if number == errno.EAGAIN or str(error) == "can't start new thread":
        what = "the system starts no more processes or threads for this user (ulimit -u, or a container's limit)"
        return what + _advice(_no_workers(arguments))
    if not isinstance(error, OSError) or (error.filename is None and number is None):
        return None
    named = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes)]
    return ": ".join([*[" and ".join(named)] * bool(named), error.strerror or str(error)])


def _flags(names: Collection[str], arguments: Collection[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if name in arguments]


def _no_workers(arguments: Collection[str]) -> list[str]:
    return [f"{flag} 0" for flag in _flags(["num_workers"], arguments)]


def _advice(remedies: list[str]) -> str:
    return f"; try {' or '.join(remedies)}" if remedies else ""
