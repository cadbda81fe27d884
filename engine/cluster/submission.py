"""A submission is a folder with the jobs of a command, their logs and the exit status of each shard."""

from __future__ import annotations

import itertools
import shlex
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from engine import files
from engine.errors import UserError

SLURM, LOCAL = "slurm", "local"
PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"
KINDS = (PENDING, RUNNING, DONE, FAILED)
LIVE = (PENDING, RUNNING)
TASK = Path(__file__).with_name("task.sh")
"""The end of every job's script."""


class State(NamedTuple):
    """The state of a shard or task: one of KINDS, and the reason for it, such as `exit status 1`."""

    kind: str
    reason: str = ""


class Task(NamedTuple):
    """A task of a job: the job's identifier, and the task's number, from 1."""

    job: str
    number: int

    def __str__(self) -> str:
        return f"{self.job}_{self.number}"


States = dict[str, dict[int, State]]
"""The state of each shard, from 1, by stage."""


@dataclass
class Job:
    """Tasks of a stage, which run one or more shards each: an array of Slurm, or processes of this machine.

    `id` is Slurm's number of the array; for processes, see `engine.cluster.local`.
    """

    stage: str
    tasks: list[list[int]]
    id: str


@dataclass
class Options:
    """What a job asks for; submit.py's arguments have the same names. Its `parallel` shards run at once."""

    partition: str | None = None
    gpus: str | None = None
    cpus: int | None = None
    mem: str | None = None
    hours: float | None = None
    account: str | None = None
    qos: str | None = None
    sbatch: list[str] | None = None
    at_once: int | None = None
    parallel: int | None = None

    @property
    def gpu_count(self) -> int:
        """The number of GPUs of a job, which is 2 for `a100:2`."""
        return int(self.gpus.rpartition(":")[2]) if self.gpus else 0

    @property
    def shards_at_once(self) -> int:
        """The number of shards that run at once in a task, by default one on each GPU."""
        return self.parallel or max(1, self.gpu_count)


@dataclass
class Submission:
    """A command in N shards, and the jobs started so far. A later job replaces earlier ones of the same shards.

    `stages` are bash functions that run a shard, by the names of the stages, which follow one another. `machine` is
    where the submission was made; there run the processes of a local one.
    """

    folder: Path
    command: str
    cwd: str
    environment: dict[str, str]
    stages: dict[str, str]
    shards: int
    cluster: str
    options: Options
    machine: str = field(default_factory=socket.gethostname)
    jobs: list[Job] = field(default_factory=list)

    def save(self) -> None:
        """Write the submission to its folder."""
        files.write_json(self.folder / "submission.json", asdict(self) | {"folder": str(self.folder)})

    def log(self, stage: str, shard: int) -> Path:
        """Return the path of a shard's log, to which each of its jobs appends."""
        return self.folder / "logs" / f"{stage}-{shard}.log"

    def write_script(self, stage: str, tasks: list[list[int]]) -> Path:
        """Write the bash script of the next job and return its path. It runs a task, SLURM_ARRAY_TASK_ID."""
        path = self.folder / f"{_job_name(len(self.jobs) + 1, stage)}.sh"
        variables = {"FOLDER": str(self.folder), "JOB": path.stem, "STAGE": stage}
        variables |= {"SHARDS": str(self.shards), "PARALLEL": str(self.options.shards_at_once)}
        lines = [
            "#!/bin/bash",
            *(f"{name}={shlex.quote(value)}" for name, value in variables.items()),
            f"TASKS=({' '.join(shlex.quote(' '.join(map(str, shards))) for shards in tasks)})",
            *(f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()),
            f"cd {shlex.quote(self.cwd)} || exit 1",
            self.stages[stage],
        ]
        files.write_text(path, "\n".join(lines) + "\n" + TASK.read_text(encoding="utf-8"))
        return path

    def add(self, stage: str, tasks: list[list[int]], job_id: str) -> None:
        """Add a job that was started, and save the submission."""
        self.jobs.append(Job(stage, tasks, job_id))
        self.save()

    def tasks(self) -> dict[tuple[str, int], tuple[int, Task]]:
        """Return the newest job, by its number from 1, and the task in it that runs a shard, by stage and shard."""
        return {
            (job.stage, shard): (number, Task(job.id, place))
            for number, job in enumerate(self.jobs, start=1)
            for place, shards in enumerate(job.tasks, start=1)
            for shard in shards
        }

    def read_status(self, job: int, stage: str, shard: int) -> str:
        """Return what a job reports of a shard: an exit status, `running`, or nothing."""
        try:
            return (self.folder / "status" / f"{_job_name(job, stage)}-{shard}").read_text().strip()
        except FileNotFoundError:
            return ""

    def states(self, queue: Mapping[Task, State]) -> States:
        """Return the state of every shard. `queue` has the tasks that the scheduler knows, ended ones perhaps too.

        A task in the queue is pending or running, whatever an earlier start of it reported.
        """
        found: States = {stage: {} for stage in self.stages}
        tasks = self.tasks()
        for stage in self.stages:
            for shard in range(1, self.shards + 1):
                number, task = tasks.get((stage, shard), (0, None))
                known = queue.get(task) if task else None
                status = self.read_status(number, stage, shard)
                if known is None or known.kind not in LIVE:
                    known = _ended(status, known)
                found[stage][shard] = known
        return found


def new_folder(root: Path, name: str) -> Path:
    """Create the folder of a submission, named by the time and `name`, and return its absolute path."""
    files.require_writable(root)
    stem = f"{time.strftime('%Y-%m-%d_%H%M%S')}-{name}"
    for number in itertools.count(1):
        folder = root.absolute() / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):  # another submission of this second
            folder.mkdir()
            for part in ("logs", "status"):
                (folder / part).mkdir()
            return folder
    raise AssertionError


def _job_name(number: int, stage: str) -> str:
    return f"{number:02d}-{stage}"


def _ended(status: str, known: State | None) -> State:
    """Return the state of a shard whose task has ended, from its report and from the scheduler's state, if any."""
    if status == "0":
        return State(DONE)
    if status.isdecimal():
        return State(FAILED, f"exit status {status}")
    if known is not None:
        return known
    return State(FAILED, "ended without an exit status: killed, or its machine failed" if status else "not started")


def load(folder: Path) -> Submission:
    """Return the submission in a folder. Raises UserError if the folder is none."""
    path = folder / "submission.json"
    if not path.is_file():
        raise UserError(f"{folder} is not the folder of a submission: it has no submission.json")
    found = files.read_json(path)
    try:
        found |= {"options": Options(**found["options"]), "jobs": [Job(**job) for job in found["jobs"]]}
        return Submission(**found | {"folder": folder.absolute()})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged or of another version of submit.py ({error})") from error
