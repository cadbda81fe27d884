"""Run a command in N shards: as jobs of Slurm, or as processes of this machine.

    python submit.py --shards 16 --gpus 1 --hours 2 -- python train.py
    python submit.py --shards 16 --gpus 1 --wait -- bash linear_probe.sh
    python submit.py --cluster local --shards 8 -- bash linear_probe.sh
    python submit.py --status submissions/2026-11-26_081500-linear_probe
    python submit.py --resume submissions/2026-11-26_081500-linear_probe

A script gets --shard 1/N to N/N. A sweep has two stages: the features that it
needs, then the training. A submission is a folder with scripts, a log for each
shard and exit statuses. --status prints its state; --resume runs failed shards
again. Completed work is never repeated.
"""

import argparse
import os
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path

from engine import config, terminal
from engine.cluster import follow
from engine.cluster.command import SETTINGS, require_dashes, shard_function, stages_of
from engine.cluster.submission import SLURM, Options, Submission, load, new_folder
from engine.errors import UserError


def main() -> int:
    require_dashes(sys.argv[1:])
    args = config.parser(__doc__, "submit.py").parse_args()
    if args.status:
        return print_report(load(Path(args.status)))
    if args.resume and args.command:
        raise UserError("--resume has a command already; remove the one after --")
    submission = load(Path(args.resume)) if args.resume else new(args)
    given = {field.name: getattr(args, field.name) for field in fields(Options)}
    submission.options = replace(submission.options, **{name: value for name, value in given.items() if value})
    try:
        started = follow.start_failed(submission)
        if submission.cluster == SLURM:
            print(*follow.describe(submission), sep="\n", flush=True)
            if args.wait:
                follow.wait(submission)
            elif started:
                return 0
    except KeyboardInterrupt:
        terminal.warn("\n".join(["", *follow.describe_interrupted(submission)]))
        return 130
    return print_report(submission)


def new(args: argparse.Namespace) -> Submission:
    """Return a new submission, in a new folder, of which nothing has started."""
    stages = stages_of(args.command)
    if args.shards is None:
        raise UserError("--shards is missing: the number of parts of the work, such as one for each GPU")
    name = args.name or Path(args.command[1]).stem
    return Submission(
        folder=new_folder(Path(args.submission_dir), name.replace("/", "-")),
        command=shlex.join(args.command),
        cwd=os.getcwd(),
        environment={name: os.environ[name] for name in SETTINGS if name in os.environ},
        stages={stage: shard_function(args.command, stage) for stage in stages},
        shards=args.shards,
        cluster=args.cluster,
        options=Options(),
    )


def print_report(submission: Submission) -> int:
    """Print the state of all shards and the failures; return the exit status."""
    states = follow.read_states(submission)
    failures = follow.report(submission, states)
    print(follow.progress(states), *failures, sep="\n", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    config.run(main)
