"""The shards of a submission as processes of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engine import files
from engine.cluster.submission import DONE, FAILED, PENDING, RUNNING, Options, State, States, Submission, Task
from engine.errors import UserError

ENDED = "ended"
"""The identifier of a job after its end; before, the process that runs it, and the stage."""
POLL, GRACE = 0.2, 10
"""Seconds between looks at the processes, and from SIGTERM to SIGKILL."""


def queue(submission: Submission) -> dict[Task, State]:
    """Return the tasks that have not ended, as long as the submit.py that starts them runs."""
    if submission.machine != socket.gethostname() and submission.jobs:
        raise UserError(f"{submission.folder} has processes of another machine, {submission.machine}; look there")
    live = {job.id for job in submission.jobs if _is_live(job.id)}
    found = {}
    for (stage, shard), (number, task) in submission.tasks().items():
        status = submission.read_status(number, stage, shard)
        if task.job in live and not status.isdecimal():
            found[task] = State(RUNNING if status else PENDING)
    return found


def _is_live(job: str) -> bool:
    """Return whether the process that runs a job lives, by its process id and, where /proc tells it, its start time."""
    if job == ENDED:
        return False
    pid, start = job.partition("-")[0].split(".")
    return files.is_live(int(pid)) and _start_time(int(pid)) == start


def _start_time(pid: int) -> str:
    """Return when a process started, in ticks; an empty string where /proc is missing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def devices(options: Options) -> list[str]:
    """Return the value of CUDA_VISIBLE_DEVICES for each process that runs at once; empty ones leave it unset.

    Raises UserError if this machine has fewer GPUs than `options` ask for.
    """
    if not options.gpu_count:
        return [""] * options.shards_at_once
    import torch

    if (present := torch.cuda.device_count()) < options.gpu_count:
        raise UserError(f"this machine has {present} GPUs that torch can use, not {options.gpu_count}; see check.py")
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(number) for number in range(present)]
    return [names[place % options.gpu_count] for place in range(options.shards_at_once)]


def run_failed(submission: Submission, states: States, show: Callable[[], object]) -> None:
    """Run each failed shard, stage after stage; the next stage starts if all shards of the last one are complete.

    `show` is called time and again. However this ends, no process is left.
    """
    slots, scripts = devices(submission.options), []
    for stage, found in states.items():
        if tasks := [[shard] for shard, state in found.items() if state.kind == FAILED]:
            scripts.append((stage, submission.write_script(stage, tasks), len(tasks)))
            submission.add(stage, tasks, f"{os.getpid()}.{_start_time(os.getpid())}-{stage}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        for stage, script, count in scripts:
            _run(script, count, list(slots), show)
            if any(state.kind != DONE for state in submission.states({})[stage].values()):
                break
    finally:
        for job in submission.jobs:
            job.id = ENDED
        submission.save()


def _run(script: Path, count: int, free: list[str], show: Callable[[], object]) -> None:
    """Run the tasks of a job's script, one at a time on each of the `free` devices."""
    waiting, running = list(range(1, count + 1)), {}
    try:
        while waiting or running:
            while waiting and free:
                device = free.pop(0)
                process = _start(script, waiting.pop(0), device)
                running[process] = device
            for process in [process for process in running if process.poll() is not None]:
                free.append(running.pop(process))
            show()
            if running:
                time.sleep(POLL)
    finally:
        _stop(list(running))


def _start(script: Path, task: int, device: str) -> subprocess.Popen:
    """Start a task in a process group of its own, which Ctrl-C in the terminal does not reach."""
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task)}
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    return subprocess.Popen(["bash", str(script)], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)


def _stop(processes: list[subprocess.Popen]) -> None:
    """End processes and their children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + GRACE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
