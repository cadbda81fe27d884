"""What README.md shows must work as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.clip.names import DEMO
from forks import run_fork
from stores import store_of_random_features

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python (\w+\.py .*)$", README, re.MULTILINE)
SHIFT = {"domain_shift.py", "eval_domain_shift.py"}


def test_there_are_commands_for_each_step():
    scripts = {command.split()[0] for command in COMMANDS}
    steps = {"few_shot_split.py", "features.py", "train.py", "eval.py", "average.py", "tables.py", "imagenet_esc.py"}
    assert scripts == steps | SHIFT | {"check.py", "predict.py"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--demo" not in command])
def test_commands_are_understood(command, tmp_path):
    """In an empty folder only splits can be made, and tables with gaps; all else must say what is missing.

    The demo of ImageNet-ESC makes what it needs: tests/test_imagenet_esc.py runs it.
    """
    name, *words = shlex.split(command)
    code = 0 if name in ("few_shot_split.py", "tables.py") else 1
    done = run_fork(name, *words, folder=tmp_path, cwd=tmp_path, check=code)
    assert not code or done.stderr.startswith("error: ") or "WRONG dtd is not installed" in done.stdout


def test_the_method_in_fifteen_lines(tmp_path):
    """The block runs on a feature store and ends above its zero-shot accuracy."""
    store_of_random_features(tmp_path, classes=20)
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if DEMO[0] in block)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + block.replace(DEMO[0], "fake")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    accuracy = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()}
    assert accuracy["trained"] >= accuracy["zero-shot"] > 0.3
    assert accuracy["WiSE-FT"] > 0.3
