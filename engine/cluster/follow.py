"""Follow a submission: its progress in a line, and at the end what failed."""

from __future__ import annotations

import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from engine import terminal
from engine.cluster import local, slurm
from engine.cluster.submission import FAILED, KINDS, LIVE, SLURM, State, States, Submission
from engine.datasets.checks import pluralize
from engine.errors import UserError

SHOWN = 20
"""The most failed shards of a stage that are listed."""
LONGEST_WAIT = 10
"""Seconds between two looks at Slurm's queue; the first ones follow sooner."""


def read_states(submission: Submission) -> States:
    """Return the present state of every shard."""
    return submission.states((slurm if submission.cluster == SLURM else local).queue(submission))


def progress(states: States) -> str:
    """Return the number of shards in each state, by stage: `features: 4 done; train: 1 pending, 3 running`."""
    stages = []
    for stage, found in states.items():
        counts = Counter(state.kind for state in found.values())
        stages.append(f"{stage}: {', '.join(f'{counts[kind]} {kind}' for kind in KINDS if counts[kind])}")
    return "; ".join(stages)


def is_live(states: States) -> bool:
    """Return whether shards wait or run."""
    return any(state.kind in LIVE for found in states.values() for state in found.values())


def start_failed(submission: Submission) -> bool:
    """Start each shard that is neither complete nor waiting nor running, and return whether there was one.

    Returns at once for Slurm, else at the end. The folder of a submission of which no job was accepted is removed.
    """
    before = len(submission.jobs)
    try:
        states = read_states(submission)
        if submission.cluster == SLURM:
            slurm.submit_failed(submission, states)
        elif is_live(states):
            raise UserError(f"{submission.folder}: its submit.py still runs; stop it with Ctrl-C, or wait")
        else:
            with closing(terminal.StatusLine()) as line:
                local.run_failed(submission, states, lambda: line.show(progress(read_states(submission))))
    except BaseException as error:
        if not submission.jobs:
            shutil.rmtree(submission.folder)
        if not submission.jobs or not isinstance(error, UserError):
            raise
        raise UserError(f"{error}\n{_how_to_resume(submission)}") from error
    return len(submission.jobs) > before


def wait(submission: Submission) -> None:
    """Show the progress until no shard waits or runs. A queue that does not answer is asked again."""
    pause = 1.0
    with closing(terminal.StatusLine()) as line:
        while True:
            try:
                states = read_states(submission)
                line.show(progress(states))
                if not is_live(states):
                    return
            except UserError as error:
                line.show(f"{error}; asking again")
            time.sleep(pause)
            pause = min(LONGEST_WAIT, pause * 1.5)


def describe(submission: Submission) -> list[str]:
    """Return lines about the jobs of a submission, and how to look at them and cancel them."""
    numbers = {number for number, _ in submission.tasks().values()}
    jobs = [submission.jobs[number - 1] for number in sorted(numbers)]  # without those that later ones replace
    return [
        *(f"{job.stage}: job {job.id}, {pluralize(len(job.tasks), 'task')}" for job in jobs),
        f"logs: {_shown(submission.folder / 'logs')}",
        f"to look at it: python submit.py --status {_shown(submission.folder)}",
        f"to cancel it: scancel {' '.join(job.id for job in jobs)}",
    ]


def describe_interrupted(submission: Submission) -> list[str]:
    """Return lines about a submission after Ctrl-C."""
    if not submission.jobs:
        return ["interrupted: nothing was started"]
    if submission.cluster == SLURM:
        return ["interrupted: the jobs keep running", *describe(submission)]
    return ["interrupted: the processes were stopped, completed work is saved", _how_to_resume(submission)]


def _how_to_resume(submission: Submission) -> str:
    resume = f"python submit.py --resume {_shown(submission.folder)}"
    return f"to run what failed or did not start, which continues where it stopped: {resume}"


def _shown(path: Path) -> str:
    """Return a path for the command line, relative if it is below the present folder."""
    present = Path.cwd()
    return shlex.quote(str(path.relative_to(present) if path.is_relative_to(present) else path))


def report(submission: Submission, states: States) -> list[str]:
    """Return lines about the failed shards, each with the reason and its log, and the command that runs them again."""
    lines, failed = [], ""
    for stage, found in states.items():
        of_stage = {shard: state for shard, state in found.items() if state.kind == FAILED}
        if failed and of_stage and not any(_logs(submission, stage, shard) for shard in of_stage):
            lines.append(f"{stage}: not started, as {failed} failed")
            continue
        for shard, state in list(of_stage.items())[:SHOWN]:
            lines += _describe_failure(submission, stage, shard, state)
        lines += [f"  ... and {len(of_stage) - SHOWN} more"] * (len(of_stage) > SHOWN)
        failed = failed or (stage if of_stage else "")
    if lines:
        lines.append(_how_to_resume(submission))
    return lines


def _describe_failure(submission: Submission, stage: str, shard: int, state: State) -> Iterator[str]:
    yield f"{stage} {shard}/{submission.shards}: {state.reason}"
    for path in _logs(submission, stage, shard):
        yield f"  {_shown(path)}: {_last_line(path)}".rstrip(": ")


def _logs(submission: Submission, stage: str, shard: int) -> list[Path]:
    """Return the log of a shard and Slurm's log of its task, as far as they have content."""
    _, task = submission.tasks().get((stage, shard), (0, None))
    paths = [submission.log(stage, shard), submission.folder / "logs" / f"slurm-{task}.out"]
    return [path for path in paths if path.is_file() and path.stat().st_size]


def _last_line(path: Path) -> str:
    """Return the last error in the newest part of a log, or else its last line."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 5000))
        lines = file.read().decode(errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("== ") and " on " in line]
    newest = [line.strip() for line in lines[starts[-1] if starts else 0 :] if line.strip()[:3] not in ("", "== ")]
    errors = [line for line in newest if line.startswith("error: ")]
    return (errors or newest or [""])[-1]
