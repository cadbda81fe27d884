"""Print notes and progress, to standard streams of any encoding, be they closed, a file or a terminal."""

from __future__ import annotations

import codecs
import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

SPELT = {"±": "+-", "†": "*"}
"""Replacements for characters of our tables that an encoding lacks; others are escaped as in Python."""

_CONTROL = re.compile(r"(?!\A\r|\A\x1b\[1m|\x1b\[3\dm(?:ok   |note |WRONG)\x1b|\x1b\[0m)[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, which a terminal executes: all but line ends, tabs, the colours of check.py (file names may have
others), and the return at the start of a progress bar."""


class _Printable(io.TextIOWrapper):
    """A text stream that escapes control characters, which file names may have.

    It replaces `stream`, but keeps a reference to it: without one, the underlying file would be closed.
    """

    def __init__(self, stream: io.TextIOWrapper):
        super().__init__(stream.buffer, stream.encoding, "spelt", line_buffering=stream.line_buffering)
        self.stream = stream

    def write(self, text: str) -> int:
        super().write(_CONTROL.sub(lambda found: _escape(found[0]), text))
        return len(text)


def _escape(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks, with the interface of `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELT.get(character) or _escape(character) for character in lacking), error.end


def _restore_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace the lone surrogates of a file name by the bytes they stand for, and other characters as `_spell`."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        return _spell(error)


codecs.register_error("spelt", _spell)
codecs.register_error("as_bytes", _restore_bytes)


def say(text: object) -> None:
    """Print a result or a note immediately."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(text, file=sys.stderr)


def bar(things: Iterable | None = None, **settings: Any) -> tqdm:
    """Return a progress bar with tqdm's `settings`, over `things` if given."""
    return _bar_class()(things, **settings)


@functools.cache
def _bar_class() -> type[tqdm]:
    from tqdm import tqdm  # takes 30 ms, and most scripts do not need it

    class Bar(tqdm):
        def __del__(self):
            if hasattr(self, "pos"):  # Ctrl-C inside of __init__ leaves a bar that cannot be closed
                super().__del__()

    return Bar


class Bars:
    """A progress bar for consecutive downloads."""

    def __init__(self):
        self.label, self.bar = None, None

    def show(self, label: str, done: int, total: int | None) -> None:
        """Show `done` bytes of `label`, of `total` if known."""
        if label != self.label:
            self.close()
            self.label, self.bar = label, bar(desc=label, unit="B", unit_scale=True, unit_divisor=1024, initial=done)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Close the current bar."""
        if self.bar is not None:
            self.bar.close()


class StatusLine:
    """A line on stderr that replaces itself on a terminal; elsewhere each change is a new line."""

    def __init__(self):
        self.shown = ""

    def show(self, text: str) -> None:
        """Show `text` instead of the present line."""
        if text == self.shown:
            return
        if sys.stderr.isatty():
            text = text[: shutil.get_terminal_size().columns - 1]
            print(f"\r{text.ljust(len(self.shown))}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
        self.shown = text

    def close(self) -> None:
        """End the line."""
        if self.shown and sys.stderr.isatty():
            warn("")


def prepare() -> None:
    """Prepare the standard streams so that no print fails, and no file opened later takes their place.

    A closed stream becomes the null device. Characters that an encoding lacks are replaced or escaped. Control
    characters are escaped on stderr and on terminals.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free one: 0, 1 or 2 if it is closed
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # notebooks replace the streams
        sys.stdout.reconfigure(errors="spelt")
        sys.stdout = _Printable(sys.stdout) if sys.stdout.isatty() else sys.stdout
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Printable(sys.stderr)


def prepare_data_output() -> None:
    """Set stdout to UTF-8, with file names as their original bytes, unless it is a terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="as_bytes")


def run_and_flush(main: Callable[[], int | None]) -> int | None:
    """Run `main`, then flush stdout: a full disk raises here, not when Python exits."""
    try:
        return main()
    finally:
        sys.stdout.flush()


def discard_unwritten() -> None:
    """Discard output that stdout and stderr cannot take any more; otherwise Python reports an error at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def read_file_list(path: str) -> list[str]:
    """Return the non-empty lines of a file, or of stdin (-), as file names, which may have undecodable bytes."""
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]
