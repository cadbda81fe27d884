"""Start and end of a script: its parser, and `run`, which turns every mistake of a user's into one line."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Collection
from typing import Any

from engine import terminal
from engine.config.arguments import SPLITS, declared
from engine.config.commands import command
from engine.datasets.few_shot import MissingSplits
from engine.errors import UserError

NO_MEMORY = re.compile("^OutOfMemoryError:|DefaultCPUAllocator: can't allocate memory")
"""How torch says that there is no more, on a GPU and on a CPU: in kinds of RuntimeError."""


class _Parser(argparse.ArgumentParser):
    """Keeps the arguments that it read, for the command with which `run` ends an error."""

    arguments = argparse.Namespace()

    def parse_args(self, *words: Any, **settings: Any) -> argparse.Namespace:
        _Parser.arguments = super().parse_args(*words, **settings)
        return _Parser.arguments


def parser(description: str, *names: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of these `names`: keys of `ARGUMENTS`, which may end in `SEVERAL`.

    `description` is the script's docstring.
    """
    made = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        flags, settings = declared(name)
        made.add_argument(*flags, **settings)
    return made


def run(
    main: Callable[[], int | None], kept: str = "what is complete is kept; the same command goes on from there"
) -> None:
    """Run a script's `main` and exit: 0 or what it returns, 1 after a mistake of the user's, 130 after Ctrl-C.

    `kept` is said after Ctrl-C. When nobody reads what is printed any more (`| head`), the script ends without a word.
    """
    terminal.prepare()
    try:
        sys.exit(terminal.run_and_flush(main) or 0)
    except MissingSplits as error:  # whatever the script, its command line says where they belong
        sys.exit(f"error: {error}:\n  {command('few_shot_split.py', SPLITS, _Parser.arguments, **error.wanted)}")
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        terminal.discard_unwritten()
        sys.exit(128 + signal.SIGPIPE)
    except (OSError, RuntimeError, MemoryError) as error:
        if (said := _refusal(error, vars(_Parser.arguments))) is None:
            raise
        terminal.discard_unwritten()
        sys.exit(f"error: {said}")
    except KeyboardInterrupt:
        terminal.warn(f"\ninterrupted: {kept}")
        sys.exit(130)


def _refusal(error: Exception, arguments: Collection[str]) -> str | None:
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
