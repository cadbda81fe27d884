"""Slurm, through sbatch, squeue, scontrol and scancel. Accounting (sacct) is not needed, as many sites lack it."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterable

from engine.cluster.submission import DONE, FAILED, LIVE, PENDING, RUNNING, State, States, Submission, Task
from engine.datasets.checks import pluralize
from engine.errors import UserError

COMPLETED = "COMPLETED"
ENDED = {
    COMPLETED, "BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
"""States of jobs that have ended. squeue lists them for MinJobAge, 300 seconds by default."""
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
NEVER = "DependencyNeverSatisfied"
MAX_ARRAY_SIZE = 1001
"""Slurm's default, for a configuration that cannot be read."""
BEFORE_LIMIT = 120
"""Seconds before a job's time limit at which it is told to start again; a tenth of short limits."""


def run(*words: str) -> str:
    """Return the output of a command of Slurm. Raises UserError, with its message, if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise UserError(
            f"{words[0]} is not on the PATH: Slurm is not installed here. Go to a machine that submits jobs, or run the"
            " shards as processes of this one: --cluster local --parallel 2"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{words[0]} did not answer in two minutes; does `scontrol ping`?") from error
    if done.returncode:
        raise UserError(f"{words[0]} failed: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def configuration() -> dict[str, str]:
    """Return Slurm's configuration."""
    pairs = re.findall(r"^(\w+)\s*= (.*)$", run("scontrol", "show", "config"), re.MULTILINE)
    return dict(pairs)


def queue(submission: Submission) -> dict[Task, State]:
    """Return the tasks of a submission that Slurm knows; it forgets those that ended minutes ago."""
    ids = ",".join(job.id for job in submission.jobs)
    if not ids:
        return {}
    try:
        lines = run("squeue", "--noheader", "--array", "--states=all", f"--jobs={ids}", "--format=%i|%T|%r")
    except UserError as error:
        if "Invalid job id" in str(error):  # all of them are forgotten
            return {}
        raise
    found = re.findall(r"^\s*(\d+)_(\d+)\|(\w+)\|(.*)$", lines, re.MULTILINE)
    return {Task(job, int(number)): _state(state, reason.strip()) for job, number, state, reason in found}


def _state(state: str, reason: str) -> State:
    if state == COMPLETED:
        return State(DONE)
    if state in ENDED:
        return State(FAILED, state.lower().replace("_", " "))
    if reason == NEVER:
        return State(FAILED, "not started, as an earlier stage failed")
    return State(PENDING if state in WAITING else RUNNING)


def submit_failed(submission: Submission, states: States) -> None:
    """Submit each failed shard, after the shards of the stage before that are not complete.

    A shard that waits for a job which is replaced now is replaced too. Each job is saved as soon as it is accepted.
    """
    after: list[str] = []
    tasks, replaced = submission.tasks(), False
    for stage, found in states.items():
        shards = [shard for shard, state in found.items() if state.kind == FAILED]
        waiting = [shard for shard, state in found.items() if state.kind == PENDING] if replaced else []
        if waiting:
            run("scancel", *dict.fromkeys(str(tasks[stage, shard][1]) for shard in waiting))
        live = [shard for shard, state in found.items() if state.kind in LIVE and shard not in waiting]
        again = sorted(shards + waiting)
        after, before = [str(task) for task in dict.fromkeys(tasks[stage, shard][1] for shard in live)], after
        after += _submit(submission, stage, again, before)
        replaced |= bool(again)


def _submit(submission: Submission, stage: str, shards: list[int], after: list[str]) -> list[str]:
    """Submit shards of a stage, as arrays that Slurm accepts, and return the numbers of these."""
    size = submission.options.shards_at_once
    tasks = [shards[start : start + size] for start in range(0, len(shards), size)]
    if not tasks:
        return []
    limit = _largest_array()
    jobs = []
    for start in range(0, len(tasks), limit):
        part = tasks[start : start + limit]
        script = submission.write_script(stage, part)
        words = ["sbatch", "--parsable", *_arguments(submission, stage, len(part), after), str(script)]
        job = run(*words).strip().split(";")[0]  # the cluster may follow
        submission.add(stage, part, job)
        jobs.append(job)
    return jobs


def _largest_array() -> int:
    """Return the largest number of tasks of an array, whose numbers start with 1. Raises UserError if it is none."""
    try:
        size = int(configuration().get("MaxArraySize", MAX_ARRAY_SIZE))
    except UserError:  # sbatch may work all the same
        size = MAX_ARRAY_SIZE
    if size < 2:
        raise UserError(f"this Slurm has no job arrays (MaxArraySize={size})")
    return size - 1


def _arguments(submission: Submission, stage: str, tasks: int, after: Iterable[str]) -> list[str]:
    """Return sbatch's arguments for an array."""
    options = submission.options
    at_once = f"%{options.at_once}" if options.at_once else ""
    limit = math.inf if options.hours is None else options.hours * 3600
    log = str(submission.folder).replace("%", "%%") + "/logs/slurm-%A_%a.out"
    words = [f"--array=1-{tasks}{at_once}", f"--job-name={submission.folder.name}-{stage}", f"--output={log}"]
    words += ["--open-mode=append", "--requeue", f"--signal=B:USR1@{int(min(BEFORE_LIMIT, limit / 10))}"]
    named = {"partition": options.partition, "gres": options.gpus and f"gpu:{options.gpus}"}
    named |= {"cpus-per-task": options.cpus, "mem": options.mem}
    named |= {"time": None if options.hours is None else math.ceil(options.hours * 60)}
    named |= {"account": options.account, "qos": options.qos}
    words += [f"--{name}={value}" for name, value in named.items() if value is not None]
    words += [f"--{option.lstrip('-')}" for option in options.sbatch or ()]
    if dependency := ":".join(after):
        words += [f"--dependency=afterok:{dependency}", "--kill-on-invalid-dep=yes"]
    return words


def is_installed() -> bool:
    """Return whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None


def describe() -> str:
    """Return a line about this machine's Slurm. Raises UserError if it does not answer."""
    found = configuration()
    partitions = re.findall(r"^(\S+) (\S+) (\d+)$", run("sinfo", "--noheader", "--format=%P %a %D"), re.MULTILINE)
    named = ", ".join(f"{name} ({pluralize(int(nodes), 'node')}, {state})" for name, state, nodes in partitions)
    accounting = "off" if found.get("AccountingStorageType", "").endswith("none") else "on"
    version, size = found.get("SLURM_VERSION", "?"), found.get("MaxArraySize", "?")
    return f"Slurm {version}: partitions {named or 'none'}; MaxArraySize {size}; accounting {accounting} (not needed)"
