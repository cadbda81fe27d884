"""Sweeps as a user starts them, with a Python that records each command line and then runs it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from forks import run_fork

ROOT = Path(__file__).parents[1]
SMALL = {"ENCODER": "demo-RN", "SEEDS": "1"}
"""Settings of a sweep over an `installation`; of SHOTS it has splits of 1, 2 and 16."""
PYTHON = """#!/bin/bash
[ "$1" = -c ] && exit 0 # setup.sh's look at the requirements
printf '%s %s %s\\n' "$$" "${CUDA_VISIBLE_DEVICES:-none}" "$(printf '%q ' "$@")" >> "$CALLS"
exec "$RUNS" "$@"
"""


class Call(NamedTuple):
    """A command line that a sweep ran, with its process id and GPU."""

    pid: int
    gpu: str
    words: list[str]

    @property
    def dataset(self):
        return self.words[self.words.index("--dataset") + 1]


def run_calls(calls, folder):
    """Run the recorded command lines of a sweep in forks, which start seconds faster."""
    import engine.features.steps
    import engine.sweep.arguments  # noqa: F401 (both once here, not in each fork)

    for call in calls:
        run_fork(*call.words, folder=folder, check=0)


class Sweep:
    """A running sweep in a separate session, as in a terminal; `kill_session` sends Ctrl-C.

    `runs` replaces Python; `true` only records the command lines. Output goes to files in `folder`.
    """

    def __init__(self, script, *words, folder, runs=sys.executable, cwd=ROOT, **settings):
        folder.mkdir(parents=True, exist_ok=True)
        self.calls_file, python = folder / "calls", folder / "python"
        self.calls_file.touch()
        python.write_text(PYTHON)
        python.chmod(0o755)
        environment = os.environ | SMALL | settings
        environment |= {"PYTHON": str(python), "CALLS": str(self.calls_file), "RUNS": str(runs)}
        self.said = [folder / "stdout", folder / "stderr"]
        with self.said[0].open("w") as out, self.said[1].open("w") as err:
            self.process = subprocess.Popen(
                ["bash", str(ROOT / script), *map(str, words)],
                env=environment,
                cwd=cwd,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def calls(self):
        lines = [line.split(" ", 2) for line in self.calls_file.read_text().splitlines()]
        return [Call(int(pid), gpu, shlex.split(words)) for pid, gpu, words in lines]

    def wait(self, check=None, timeout=170):
        """Wait for its end; its exit status must be `check`."""
        self.returncode = self.process.wait(timeout)
        self.stdout, self.stderr = (path.read_text() for path in self.said)
        assert "Traceback" not in self.stderr, self.stderr
        if check is not None:
            assert self.returncode == check, f"{self.returncode}\n{self.stdout}\n{self.stderr}"
        return self
