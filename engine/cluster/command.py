"""From a command to its stages, and to the command line of a shard."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from engine import config
from engine.config.arguments import ARGUMENTS
from engine.errors import UserError

FEATURES, TRAIN = "features", "train"
SETTINGS = (
    "DATASETS", "SHOTS", "SEEDS", "ENCODER", "IMAGE_LAYERS", "METHODS", "MAX_ITER", "VIEWS", "FEATURES_ARGS",
)  # fmt: skip
"""The environment variables that sweeps read. A submission keeps them for its jobs, and for when it is resumed."""
EXAMPLE = "python submit.py --shards 16 -- python train.py ..., or -- bash linear_probe.sh"


def require_dashes(words: Sequence[str]) -> None:
    """Raise UserError for a command line with a command that does not follow --."""
    first = next((word for word in words if word in ("--", "python", "python3", "bash")), "--")
    if first != "--":
        raise UserError(f"-- is missing before the command: write -- {first} ...")


def stages_of(words: Sequence[str]) -> list[str]:
    """Return the stages of a command, in order: the script's name, or for a sweep `features` and perhaps `train`.

    A Python script parses its arguments now rather than in N jobs, which exits with its usage if they are wrong.
    Raises UserError for a command that is missing, does not exist or has no shards.
    """
    if len(words) < 2 or Path(words[0]).name not in ("python", "python3", "bash"):
        raise UserError(f"the command to run in shards comes last, after --: {EXAMPLE}")
    script = Path(words[1])
    if not script.is_file():
        raise UserError(f"{script} does not exist in {Path.cwd()}; go to the project's folder or write the path")
    if Path(words[0]).name == "bash":
        return _stages_of_sweep(script, words)
    scripts = dict.fromkeys(name for argument in ARGUMENTS if "--shard" in argument.flags for name in argument.scripts)
    if script.name not in scripts:
        raise UserError(f"{script} takes no --shard; scripts that do: {', '.join(scripts)}, and sweeps (bash *.sh)")
    parser = config.parser("", script.name)
    parser.prog = script.name
    if parser.parse_args(words[2:]).shard is not None:
        raise UserError("--shard is added to the command by submit.py; remove it")
    return [script.stem]


def _stages_of_sweep(script: Path, words: Sequence[str]) -> list[str]:
    text = script.read_text(encoding="utf-8")
    if not re.search(r"^source .*/sweep\.sh", text, re.MULTILINE):
        raise UserError(f"{script} is no sweep: it does not source sweep.sh, which divides the work into shards")
    if any(re.match("--(dataset|shard)(=|$)", word) for word in words[2:]):
        raise UserError('a sweep takes neither --dataset (set DATASETS="..." instead) nor --shard (submit.py adds it)')
    for name in ("SHARD", "GPUS"):
        if os.environ.get(name):
            raise UserError(f"unset {name}: submit.py divides the work, and --gpus says how many GPUs a job has")
    stages = [FEATURES, TRAIN] if re.search(r"^train\(\)", text, re.MULTILINE) else [FEATURES]
    stage = os.environ.get("STAGE")
    if stage and stage not in stages:
        raise UserError(f"{script} has no stage '{stage}' (STAGE); it has: {', '.join(stages)}")
    return [stage] if stage else stages


def shard_function(words: Sequence[str], stage: str) -> str:
    """Return a bash function `run_shard` that runs the command for the shard `$1`, I/N, with the present Python."""
    if Path(words[0]).name == "bash":
        return f"run_shard() {{ SHARD=$1 STAGE={stage} PYTHON={shlex.quote(sys.executable)} {shlex.join(words)}; }}"
    return f'run_shard() {{ {shlex.join([sys.executable, *words[1:]])} --shard "$1"; }}'
