"""Start and end of a script: its parser, and `run`, which turns every mistake of a user's into one line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any

from engine import terminal
from engine.config import refusals
from engine.config.arguments import SPLITS, declared
from engine.config.commands import command
from engine.datasets.few_shot import MissingSplits
from engine.errors import UserError


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
        sys.exit(terminal.flushed(main) or 0)
    except MissingSplits as error:  # whatever the script, its command line says where they belong
        sys.exit(f"error: {error}:\n  {command('few_shot_split.py', SPLITS, _Parser.arguments, **error.wanted)}")
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        terminal.discard_unwritten()
        sys.exit(128 + signal.SIGPIPE)
    except (OSError, RuntimeError, MemoryError) as error:
        if (said := refusals.said(error, vars(_Parser.arguments))) is None:
            raise
        terminal.discard_unwritten()
        sys.exit(f"error: {said}")
    except KeyboardInterrupt:
        terminal.warn(f"\ninterrupted: {kept}")
        sys.exit(130)
