"""Arguments for running a command in shards: what to run, and the jobs of the cluster."""

from __future__ import annotations

from functools import partial

from engine.config import default, types
from engine.config.arguments.declare import SUBMIT, Argument

_argument = partial(Argument, group="cluster", scripts=(SUBMIT,))

ARGUMENTS = [
    _argument(
        "command",
        nargs="*",
        metavar="COMMAND",
        help="after --: the command that each shard runs, a Python script that takes --shard or a sweep (bash *.sh)",
    ),
    _argument("--shards", type=types.positive, metavar="N", help="the number of parts of the work"),
    _argument(
        "--cluster",
        choices=["slurm", "local"],
        default="slurm",
        help="slurm, or local (processes of this machine, which submit.py waits for)",
    ),
    _argument("--partition", metavar="NAME", help="the partition"),
    _argument(
        "--gpus",
        type=types.gpus,
        metavar="N",
        help="GPUs of a job, also with their type (a100:4); each runs a shard. With local, of this machine",
    ),
    _argument(
        "--parallel",
        type=types.positive,
        metavar="N",
        help="shards that run at once in a job; with local, on this machine (default: one for each GPU, at least one)",
    ),
    _argument("--cpus", type=types.positive, metavar="N", help="CPU cores of a job"),
    _argument("--mem", type=types.slurm_size, metavar="SIZE", help="memory of a job, such as 32G"),
    _argument(
        "--hours",
        type=types.hours,
        metavar="H",
        help="time limit of a job, such as 2 or 0.5. A job that reaches it starts again by itself and continues, three"
        " times at most",
    ),
    _argument("--account", metavar="NAME", help="the account that is charged"),
    _argument("--qos", metavar="NAME", help="the quality of service"),
    _argument(
        "--sbatch",
        nargs="+",
        metavar="OPTION",
        help="more options of sbatch, without their dashes: constraint=a100 exclusive",
    ),
    _argument("--at-once", type=types.positive, metavar="N", help="the most jobs of a stage that run at once"),
    _argument("--name", metavar="NAME", help="the end of the folder's name (default: the command's script)"),
    _argument(
        "--wait",
        action="store_true",
        help="show the progress until the end, then what failed. Ctrl-C ends the wait and leaves the jobs running",
    ),
    _argument("--status", metavar="FOLDER", help="print the state of a submission and its failures, and stop"),
    _argument(
        "--resume",
        metavar="FOLDER",
        help="submit the failed shards of a submission again; options that are given replace its own",
    ),
    Argument(
        "--submission_dir",
        group="folders",
        scripts=(SUBMIT,),
        default=default.SUBMISSION_DIR,
        metavar="DIR",
        help="submissions: scripts, logs and states, on the file system that all machines share",
    ),
]
