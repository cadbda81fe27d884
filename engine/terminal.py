"""All that is printed: notes, progress, and the standard streams, in any encoding, closed, a file or a terminal."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

SPELT = {"±": "+-", "†": "*"}
"""What our tables write in place of these where the encoding lacks them; all else is escaped as Python does it."""

_CONTROL = re.compile(r"(?!\A\r|\A\x1b\[1m|\x1b\[3\dm(?:ok   |note |WRONG)\x1b|\x1b\[0m)[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, which a terminal obeys: all but line ends, tabs, check.py's own colours (a name of a file may
have others), and the return with which a progress bar begins."""


class _Printable(io.TextIOWrapper):
    """Text for a person: control characters, which names of files may have, are escaped.

    It takes the place of `stream`, and keeps it: without it the file below would be closed.
    """

    def __init__(self, stream: io.TextIOWrapper):
        super().__init__(stream.buffer, stream.encoding, "spelt", line_buffering=stream.line_buffering)
        self.stream = stream

    def write(self, text: str) -> int:
        super().write(_CONTROL.sub(lambda found: _escaped(found[0]), text))
        return len(text)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _spelt(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks, as `codecs.register_error` has it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELT.get(character) or _escaped(character) for character in lacking), error.end


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace the lone surrogates of a file's name by the bytes that they stand for, and spell other characters."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        return _spelt(error)


codecs.register_error("spelt", _spelt)
codecs.register_error("as_bytes", _as_bytes)


def say(text: object) -> None:
    """Print a result or a note, at once."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Print what a person should look at on stderr."""
    print(text, file=sys.stderr)


def bar(things: Iterable | None = None, **settings: Any) -> tqdm:
    """Return a progress bar with tqdm's `settings`, over `things` if given."""
    from tqdm import tqdm  # 30 ms, which most scripts need not wait for

    return tqdm(things, **settings)


class Bars:
    """A progress bar for one download after another."""

    def __init__(self):
        self.what, self.bar = None, None

    def show(self, what: str, done: int, total: int | None) -> None:
        """Show that `done` bytes of `what` are here, of `total` if that is known."""
        if what != self.what:
            self.close()
            self.what, self.bar = what, bar(desc=what, unit="B", unit_scale=True, unit_divisor=1024, initial=done)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Leave it as it stands."""
        if self.bar is not None:
            self.bar.close()


def prepare() -> None:
    """Make the standard streams such that nothing printed fails, and no file that is opened later takes their place.

    A closed one is the null device from here on. Characters that an encoding lacks are spelt or escaped, and control
    characters are escaped on stderr and on terminals.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free: 0, 1 or 2 where it is closed
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # notebooks have streams of their own
        sys.stdout.reconfigure(errors="spelt")
        sys.stdout = _Printable(sys.stdout) if sys.stdout.isatty() else sys.stdout
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Printable(sys.stderr)


def prepare_data_output() -> None:
    """Make stdout UTF-8, and names of files the bytes that they are, unless a person reads it on a terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="as_bytes")


def run_and_flush(main: Callable[[], int | None]) -> int | None:
    """Run `main`, and print what is buffered still: that the disk is full shows here, not when Python has ended."""
    try:
        return main()
    finally:
        sys.stdout.flush()


def discard_unwritten() -> None:
    """Let go of what stdout and stderr cannot take any more, or Python complains when it flushes at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def read_file_list(path: str) -> list[str]:
    """The lines of a file, or of stdin (-), that are not empty, as names of files: bytes that are no text included."""
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]
