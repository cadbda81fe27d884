"""Start and end of a script: its parser, and `run`, which reports a user's mistake in one line."""

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
from engine.config.arguments import arguments_of
from engine.config.commands import command
from engine.datasets.few_shot import MissingSplits
from engine.errors import UserError

NO_MEMORY = re.compile("^OutOfMemoryError:|DefaultCPUAllocator: can't allocate memory")
"""How torch reports that memory ran out, on a GPU and on a CPU: in subclasses of RuntimeError."""


class _Parser(argparse.ArgumentParser):
    """A parser that keeps the parsed arguments, for the command that `run` suggests after an error."""

    arguments = argparse.Namespace()

    def parse_args(self, *words: Any, **settings: Any) -> argparse.Namespace:
        _Parser.arguments = super().parse_args(*words, **settings)
        return _Parser.arguments


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the layout of the description, and append defaults to help texts that do not state them."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if action.nargs == 0 or default in (None, "", argparse.SUPPRESS) or "(default: " in action.help:
            return action.help
        if isinstance(default, bool):
            default = str(default).lower()
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        return f"{action.help} (default: {shown})"


def parser(description: str, script: str) -> argparse.ArgumentParser:
    """Return the parser of a script (`train.py`), with its arguments in groups; `description` is its docstring."""
    made = _Parser(description=description, formatter_class=_HelpFormatter)
    groups: dict[str, Any] = {}
    required, positional = [], []
    for argument in arguments_of(script):
        if argument.group not in groups:
            groups[argument.group] = made.add_argument_group(argument.group)
        action = groups[argument.group].add_argument(*argument.flags, **argument.settings(script))
        if not action.option_strings:
            positional.append(f"[{action.metavar} ...]")
        elif action.required:
            required.append(f"{action.option_strings[0]} {action.metavar}{' ...' * (action.nargs == '+')}")
    made.usage = " ".join(["%(prog)s", *required, "[options]", *positional])
    return made


def run(
    main: Callable[[], int | None], kept: str = "completed work is saved; rerun the same command to resume"
) -> None:
    """Run a script's `main` and exit: 0 or its return value, 1 after a user's mistake, 130 after Ctrl-C.

    `kept` is printed after Ctrl-C. If the reader of stdout is gone (`| head`), the script ends silently.
    """
    terminal.prepare()
    try:
        sys.exit(terminal.run_and_flush(main) or 0)
    except MissingSplits as error:  # only the command line knows the folder of the splits
        sys.exit(f"error: {error}:\n  {command('few_shot_split.py', _Parser.arguments, **error.wanted)}")
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        terminal.discard_unwritten()
        sys.exit(128 + signal.SIGPIPE)
    except (OSError, RuntimeError, MemoryError) as error:
        if (message := _system_error(error, vars(_Parser.arguments))) is None:
            raise
        terminal.discard_unwritten()
        sys.exit(f"error: {message}")
    except KeyboardInterrupt:
        terminal.warn(f"\ninterrupted: {kept}")
        sys.exit(130)


def _system_error(error: Exception, arguments: Collection[str]) -> str | None:
    """Return a message with the cause and the remedy of an error; None for a bug in the program.

    `arguments` are the names of the script's parsed arguments.
    """
    number, name = getattr(error, "errno", None), type(error).__name__
    if isinstance(error, RecursionError):
        return f"the input is nested too deeply ({error})"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or NO_MEMORY.search(f"{name}: {error}"):
        smaller = [f"a smaller {flag}" for flag in _flags(("max_memory", "test_batch_size", "batch_size"), arguments)]
        return "memory ran out" + _advice([*smaller, *_no_workers(arguments)])
    if number == errno.EAGAIN or str(error) == "can't start new thread":
        cause = "the system starts no more processes or threads for this user (ulimit -u, or a container's limit)"
        return cause + _advice(_no_workers(arguments))
    if not isinstance(error, OSError) or (error.filename is None and number is None):
        return None
    named = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes)]
    return ": ".join([*[" and ".join(named)] * bool(named), error.strerror or str(error)])


def _flags(names: Collection[str], arguments: Collection[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if name in arguments]


def _no_workers(arguments: Collection[str]) -> list[str]:
    return [f"{flag} 0" for flag in _flags(["num_workers"], arguments)]


def _advice(suggestions: list[str]) -> str:
    return f"; try {' or '.join(suggestions)}" if suggestions else ""
