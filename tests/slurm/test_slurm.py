"""submit.py on a real Slurm on this machine: `SLURM_TESTS=1 bash test.sh tests/slurm -n 0 -s` shows what it prints."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo", "munged")
MISSING = [name for name in COMMANDS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
pytestmark = [
    pytest.mark.skipif(not os.environ.get("SLURM_TESTS"), reason="starts a real Slurm: only with SLURM_TESTS=1"),
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed, or not all of it: no {', '.join(MISSING)}"),
]
SETTINGS = {"DATASETS": "demo", "SHOTS": "1 2", "SEEDS": "1 2"}
STEPS = ["--max-iter", "2000"]
SWEEP = ["bash", "linear_probe.sh", *STEPS]
NOT_COPIED = "data features experiments results average_results submissions .git .venv".split()


@pytest.fixture
def slurm(monkeypatch):
    """A Slurm, which the environment names."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # short: it has a socket
        script = ROOT / "tests" / "slurm" / "one_machine.sh"
        try:
            subprocess.run(["bash", script, "start", folder], check=True, timeout=60)
            monkeypatch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
            yield
        finally:
            subprocess.run(["scancel", "--user", str(os.getuid())], timeout=60, check=False)
            subprocess.run(["bash", script, "stop", folder], check=True, timeout=60)


@pytest.fixture
def project(tmp_path):
    """A copy of the project, without data."""

    def ignore(folder, names):
        return NOT_COPIED if Path(folder) == ROOT else ["__pycache__"]

    return Path(shutil.copytree(ROOT, tmp_path / "project", ignore=ignore))


class Submit:
    """A running submit.py, with what it prints."""

    def __init__(self, project, *words):
        print("$ python submit.py", *words, flush=True)
        self.path = project.parent / f"submit-{time.monotonic_ns()}"
        with self.path.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "submit.py", *map(str, words)],
                cwd=project, env=os.environ | SETTINGS, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def said(self):
        return self.path.read_text()

    def wait(self, check):
        code = self.process.wait(timeout=300)
        print(self.said, flush=True)
        assert code == check
        return self.said


def training(project):
    """Return a task that trains, by its log."""
    for log in project.glob("submissions/*/logs/train-*.log"):
        text = log.read_text()
        if "to train on cpu" in text and "exit status" not in text:
            return re.search(r"job (\S+),", text)[1]
    return None


def test_the_demos_sweep_of_which_a_job_is_cancelled(slurm, project):
    """Features, then training, in arrays of three tasks at most. A cancelled task is resubmitted alone."""
    first = Submit(project, "--shards", 4, "--wait", "--", *SWEEP)
    while not (cancelled := training(project)):
        assert first.process.poll() is None, first.said
        time.sleep(0.02)
    print("$ scancel", cancelled, flush=True)
    subprocess.run(["scancel", cancelled], check=True)
    said = first.wait(check=1)
    (folder,) = (project / "submissions").iterdir()
    assert "features: 4 done; train: 3 done, 1 failed\n" in said
    assert ": cancelled\n" in said
    assert "CANCELLED AT" in said
    resumed = Submit(project, "--resume", folder, "--wait").wait(check=0)
    assert resumed.endswith("features: 4 done; train: 4 done\n")
    assert len(list(folder.glob("0*.sh"))) == 5, "two arrays a stage, and the task that was cancelled"

    alone = [*STEPS, "--result_dir", "alone"]
    environment = os.environ | SETTINGS | {"PYTHON": sys.executable}
    subprocess.run(["bash", "linear_probe.sh", *alone], cwd=project, env=environment, check=True, timeout=300)
    compare = [sys.executable, "bench/same_records.py", "experiments", "alone"]
    done = subprocess.run(compare, cwd=project, capture_output=True, text=True, timeout=60)
    print(done.stdout, flush=True)
    assert done.returncode == 0, done.stderr
