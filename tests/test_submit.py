"""submit.py as a user meets it: its jobs, on a made-up Slurm and as processes of this machine.

tests/slurm runs it on a real Slurm.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from engine.cluster.command import SETTINGS
from forks import ROOT, Fork

TOOL = """#!/bin/bash
# A made-up Slurm: it records command lines, numbers jobs and knows nothing of their states but the file `queue`.
name=$(basename "$0")
printf '%q ' "$name" "$@" >>"$FAKE/calls"
echo >>"$FAKE/calls"
case $name in
    sbatch)
        job=$(($(grep -c ^sbatch "$FAKE/calls") + 100))
        if [ "$(cat "$FAKE/refused")" = $job ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi
        echo "$job;cluster" ;;
    squeue) cat "$FAKE/queue" ;;
    scontrol) echo "MaxArraySize            = $(cat "$FAKE/size")" ;;
    sacct) echo "Slurm accounting storage is disabled" >&2; exit 1 ;;
esac
"""
PYTHON = """#!/bin/bash
# A made-up Python: it records command lines, and fails or sleeps for those that match a pattern.
printf '%s ' "${CUDA_VISIBLE_DEVICES:-none}" "$@" >>"$FAKE/python"
echo >>"$FAKE/python"
[[ "$*" != *$(cat "$FAKE/sleeps")* ]] || exec sleep 300
if [[ "$*" == *$(cat "$FAKE/fails")* ]]; then echo "error: made up" >&2; exit 3; fi
"""

WAITING = "".join(f"102_{number}|PENDING|Dependency\n" for number in (1, 2, 3))
"""The queue's lines of a training stage of three tasks."""


class Cluster:
    """A folder with a made-up Slurm and Python, and where submissions go."""

    def __init__(self, folder, **environment):
        self.folder, self.environment = folder, environment
        for name, text in {"size": "1001", "refused": "", "queue": "", "fails": "never", "sleeps": "never"}.items():
            self.set(name, text)
        (folder / "bin").mkdir()
        for name in ("sbatch", "squeue", "scontrol", "scancel", "sacct", "made_up_python"):
            path = folder / "bin" / name
            path.write_text(PYTHON if name == "made_up_python" else TOOL)
            path.chmod(0o755)

    def set(self, name, text):
        (self.folder / name).write_text(text)

    def start(self, *words):
        def prepare():
            os.environ |= {"FAKE": str(self.folder), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
            os.environ |= self.environment
            sys.executable = str(self.folder / "bin" / "made_up_python")

        words = ["--submission_dir", self.folder / "submissions", *words]
        return Fork("submit.py", words, self.folder, prepare)

    def run(self, *words, check=0):
        return self.start(*words).wait(check)

    def calls(self, name):
        """Return the words of a tool's calls so far."""
        path = self.folder / "calls"
        lines = map(shlex.split, path.read_text().splitlines()) if path.exists() else []
        return [words[1:] for words in lines if words[0] == name]

    def ran(self):
        """Return the command lines of Python so far, each after its GPUs."""
        path = self.folder / "python"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def submission(self):
        (folder,) = (self.folder / "submissions").iterdir()
        return folder

    def run_task(self, script, number, check=0, **environment):
        """Run a task of a job as Slurm does."""
        environment = os.environ | {"FAKE": str(self.folder), "SLURM_ARRAY_TASK_ID": str(number)} | environment
        done = subprocess.run(["bash", self.submission / script], env=environment, timeout=60)
        assert done.returncode == check


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def test_a_sweep_on_slurm_whose_features_fail_once(tmp_path):
    """Features, then training; what fails is named with its log, and runs again alone, before the training."""
    cluster = Cluster(tmp_path, DATASETS="dtd my/photos", SHOTS="1", FEATURES_ARGS="--num-workers 0")
    asked = "--partition gpu --gpus 1 --cpus 8 --mem 32G --hours 1.5 --account lab --qos low --at-once 8".split()
    sweep = "--sbatch constraint=a100 exclusive --shards 3 -- bash linear_probe.sh --device cuda".split()
    done = cluster.run(*asked, *sweep)
    folder = cluster.submission
    features, train = cluster.calls("sbatch")
    assert features[-1] == str(folder / "01-features.sh")
    options = (
        f"--parsable --array=1-3%8 --job-name={folder.name}-features --output={folder}/logs/slurm-%A_%a.out"
        " --open-mode=append --requeue --signal=B:USR1@120 --partition=gpu --gres=gpu:1 --cpus-per-task=8 --mem=32G"
        " --time=90 --account=lab --qos=low --constraint=a100 --exclusive"
    )
    assert features[:-1] == options.split()
    after = ["--dependency=afterok:101", "--kill-on-invalid-dep=yes"]
    assert train == [*options.replace("-features", "-train").split(), *after, str(folder / "02-train.sh")]
    assert f"features: job 101, 3 tasks\ntrain: job 102, 3 tasks\nlogs: {folder}/logs\n" in done.out
    assert done.out.endswith(f"python submit.py --status {folder}\nto cancel it: scancel 101 102\n")

    cluster.set("queue", "101_1|PENDING|Priority\n101_2|RUNNING|None\n101_3|RUNNING|None\n" + WAITING)
    assert cluster.run("--status", folder).out == "features: 1 pending, 2 running; train: 3 pending\n"
    cluster.set("fails", "features.py*2/3")
    for number, code in ((1, 0), (2, 1), (3, 0)):
        cluster.run_task("01-features.sh", number, code)
    words = "--train-shot 1 --seed 1 2 3 --clip-encoder RN50 --text-augmentation hand_crafted"
    words += " --image-augmentation flip --image-views 1 --image-layer-idx 0 --shard 2/3 --num-workers 0"
    assert f"none features.py --dataset dtd my/photos {words} " in cluster.ran()
    cluster.set("queue", WAITING)
    done = cluster.run("--status", folder, check=1)
    log = folder / "logs" / "features-2.log"
    assert done.out.startswith(
        f"features: 2 done, 1 failed; train: 3 pending\nfeatures 2/3: exit status 1\n  {log}: error: made up\n"
    )
    assert done.out.endswith(f"python submit.py --resume {folder}\n")

    cluster.set("fails", "never")
    cluster.environment = {}  # another shell: the submission knows its settings
    cluster.run("--resume", folder, "--mem", "64G")
    assert cluster.calls("scancel") == [["102_1", "102_2", "102_3"]]
    features, train = cluster.calls("sbatch")[2:]
    assert {"--array=1-1%8", "--mem=64G"} < set(features)
    assert {"--array=1-3%8", "--dependency=afterok:103"} < set(train)
    cluster.run_task("03-features.sh", 1)
    for number in (1, 2, 3):
        cluster.run_task("04-train.sh", number)
    assert sum("features.py" in line and "--shard 2/3" in line for line in cluster.ran()) == 2
    assert sum("train.py --dataset dtd my/photos " in line for line in cluster.ran()) == 6
    cluster.set("queue", "")
    assert cluster.run("--status", folder).out == "features: 3 done; train: 3 done\n"
    assert cluster.calls("sacct") == []


def test_more_tasks_than_an_array_may_have(cluster):
    """MaxArraySize is one more than the largest index. Each task runs a shard on each of its GPUs."""
    cluster.set("size", "4")
    command = ["--", "python", "train.py", "--dataset", "dtd"]
    cluster.set("refused", "102")
    failed = cluster.run("--shards", 9, "--gpus", "a100:2", *command, check=1)
    folder = cluster.submission
    assert failed.err.startswith("error: sbatch failed: sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
    assert f"python submit.py --resume {folder}" in failed.err
    assert "2 failed" not in cluster.run("--status", folder, check=1).out
    cluster.set("queue", "".join(f"101_{number}|RUNNING|None\n" for number in (1, 2, 3)))
    assert "train: 6 running, 3 failed\n" in cluster.run("--status", folder, check=1).out
    cluster.set("refused", "")
    cluster.run("--resume", folder)
    arrays = ["1-3", "1-2", "1-2"]
    assert [set(words) >= {f"--array={array}", "--gres=gpu:a100:2"} for array, words in
            zip(arrays, cluster.calls("sbatch"), strict=True)] == [True] * 3  # fmt: skip
    cluster.run_task("01-train.sh", 3, CUDA_VISIBLE_DEVICES="4,6")
    cluster.run_task("02-train.sh", 2, CUDA_VISIBLE_DEVICES="4,6")
    assert sorted(cluster.ran()) == [
        f"{gpu} train.py --dataset dtd --shard {shard}/9 " for gpu, shard in ((4, 5), (4, 9), (6, 6))
    ]


def test_waiting_for_tasks_that_leave_no_exit_status(cluster):
    """Of a lost node, or a job that was cancelled, only the queue knows, for a while. Exit statuses outlast it."""
    cluster.set("queue", "".join(f"101_{number}|PENDING|Priority\n" for number in range(1, 6)))
    waiting = cluster.start("--shards", 5, "--wait", "--", "python", "train.py", "--dataset", "dtd")
    wait_until(lambda: cluster.calls("squeue"))
    cluster.run_task("01-train.sh", 1)
    cluster.run_task("01-train.sh", 2)
    states = ("COMPLETED|None", "RUNNING|None", "NODE_FAIL|NodeDown", "COMPLETED|None", "CANCELLED|None")
    cluster.set("queue", "".join(f"101_{number}|{state}\n" for number, state in enumerate(states, start=1)))
    wait_until(lambda: "1 running" in waiting.files[1].read_text())
    cluster.set("queue", cluster.folder.joinpath("queue").read_text().replace("RUNNING", "COMPLETED"))
    done = waiting.wait(check=1)
    assert done.err.endswith("train: 3 done, 2 failed\n")
    assert "\ntrain 3/5: node fail\ntrain 5/5: cancelled\nto run what failed" in done.out
    cluster.set("queue", "")
    assert "train 3/5: not started\n" in cluster.run("--status", cluster.submission, check=1).out


def test_ctrl_c_leaves_jobs_running(cluster):
    cluster.set("queue", "101_1|RUNNING|None\n")
    waiting = cluster.start("--shards", 1, "--wait", "--", "python", "train.py", "--dataset", "dtd")
    wait_until(lambda: waiting.files[1].exists() and "1 running" in waiting.files[1].read_text())
    os.kill(waiting.pid, signal.SIGINT)
    done = waiting.wait(check=130)
    assert "interrupted: the jobs keep running\n" in done.err
    assert done.err.endswith(f"--status {cluster.submission}\nto cancel it: scancel 101\n")
    assert cluster.calls("scancel") == []


def test_a_task_starts_again_before_its_time_limit(cluster):
    """Slurm tells it by USR1; the fourth start runs into the limit."""
    cluster.run("--shards", 1, "--hours", 0.1, "--", "python", "train.py", "--dataset", "dtd")
    assert "--signal=B:USR1@36" in cluster.calls("sbatch")[0]
    cluster.set("sleeps", "*")
    for restarts in range(4):
        environment = os.environ | {"FAKE": str(cluster.folder), "PATH": f"{cluster.folder}/bin:{os.environ['PATH']}"}
        environment |= {"SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": str(restarts)}
        task = subprocess.Popen(["bash", cluster.submission / "01-train.sh"], env=environment, start_new_session=True)
        wait_until(lambda: len(cluster.ran()) > restarts)  # noqa: B023
        task.send_signal(signal.SIGUSR1)
        wanted = [["show", "config"], *[["requeue", "101_1"]] * min(3, restarts + 1)]
        wait_until(lambda: cluster.calls("scontrol") == wanted)  # noqa: B023
        os.killpg(task.pid, signal.SIGTERM)  # Slurm ends it
        task.wait(timeout=10)
    assert cluster.run("--status", cluster.submission, check=1).out.startswith("train: 1 failed\n")


def test_processes_of_this_machine(cluster):
    """Two at once; training starts if all features are there, and what failed runs again alone."""
    cluster.set("fails", "features.py*3/3")
    command = ["--cluster", "local", "--shards", 3, "--parallel", 2, "--", "bash", "adapter.sh"]
    cluster.environment = {"DATASETS": "dtd"}
    done = cluster.run(*command, check=1)
    assert "features: 2 done, 1 failed; train: 3 failed\nfeatures 3/3: exit status 1\n" in done.out
    assert "\ntrain: not started, as features failed\nto run what failed" in done.out
    assert all(line.endswith("; train: 3 pending") for line in done.err.splitlines())
    assert len(cluster.ran()) == 3
    cluster.set("fails", "never")
    done = cluster.run("--resume", cluster.submission)
    assert done.out == "features: 3 done; train: 3 done\n"
    assert len(cluster.ran()) == 3 + 1 + 2 * 3
    assert cluster.run("--resume", cluster.submission).out == done.out
    assert cluster.run("--status", cluster.submission).out == done.out
    assert (len(cluster.ran()), cluster.calls("sbatch")) == (10, [])


def test_ctrl_c_ends_processes_of_this_machine(cluster):
    cluster.set("sleeps", "*")
    command = ["--cluster", "local", "--shards", 4, "--parallel", 2, "--", "python", "train.py", "--dataset", "dtd"]
    running = cluster.start(*command)
    wait_until(lambda: len(cluster.ran()) == 2)
    assert cluster.run("--status", cluster.submission).out == "train: 2 pending, 2 running\n"
    assert "still runs" in cluster.run("--resume", cluster.submission, check=1).err
    os.kill(running.pid, signal.SIGINT)
    done = running.wait(check=130)
    assert "the processes were stopped, completed work is saved\n" in done.err
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(cluster.folder) not in left
    assert "train: 4 failed\n" in cluster.run("--status", cluster.submission, check=1).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--shards", "4", "python", "train.py", "--dataset", "dtd"],
            "-- is missing before the command: write -- ",
        ),
        (["--shards", "4"], "the command to run in shards comes last, after --: python submit.py --shards 16 -- pyth"),
        (["--", "python", "train.py"], "--shards is missing"),
        (
            ["--shards", "2", "--", "python", "eval.py"],
            "eval.py takes no --shard; scripts that do: features.py",
        ),
        (["--shards", "2", "--", "python", "no.py"], "no.py does not exist"),
        (
            ["--shards", "2", "--", "python", "train.py", "--shard", "1/2"],
            "--shard is added to the command",
        ),
        (["--shards", "2", "--", "bash", "demo.sh"], "demo.sh is no sweep"),
        (
            ["--shards", "2", "--", "bash", "adapter.sh", "--dataset", "dtd"],
            "a sweep takes neither --dataset ",
        ),
        (["--status", "docs"], "docs is not the folder of a submission"),
        (["--shards", "2", "--", "python", "train.py"], "sbatch is not on the PATH: Slurm is not installed here."),
        (["--cluster", "local", "--shards", "2", "--gpus", "9", "--", "python", "train.py"], "this machine has 0 GPUs"),
    ],
)
def test_mistakes(cluster, words, message):
    for path in (cluster.folder / "bin").iterdir():
        path.unlink()
    cluster.environment = {"PATH": str(cluster.folder)}
    assert cluster.run(*words, check=1).err.startswith(f"error: {message}")
    assert list(cluster.folder.glob("submissions/*")) == []


def test_usage_errors_of_the_command_come_before_its_jobs(cluster):
    done = cluster.run("--shards", 2, "--", "python", "train.py", "--shot", 3, check=2)
    assert "train.py: error: unrecognized arguments: --shot 3" in done.err
    assert "--shards: 0 is not 1 or more" in cluster.run("--shards", 0, "--", "python", "train.py", check=2).err
    assert cluster.calls("sbatch") == []


def test_a_submission_keeps_all_settings_of_sweeps():
    text = "".join(path.read_text() for path in ROOT.glob("*.sh") if path.name not in ("setup.sh", "demo.sh"))
    read = set(re.findall(r"\$\{([A-Z_]+):?[-+]", text)) - {"SHARD", "STAGE", "GPUS", "TABLES_ARGS", "PYTHON", "MSYS"}
    assert read == set(SETTINGS)
