"""demo.sh and setup.sh, with fake Pythons that only record their command lines."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ACTIVATE = "source .venv/bin/activate"
PYTHON_WITH_REQUIREMENTS = f"""#!/bin/sh
case "$2" in
*requirements.txt*) exit 0 ;;
esac
[ "$1" = -c ] && exec {sys.executable} "$@"
echo "$@" >> commands.txt
"""
"""Runs only `-c`; records the command lines of scripts in commands.txt."""
PYTHON_WITHOUT_REQUIREMENTS = "#!/bin/sh\nexit 1\n"


@pytest.fixture
def project(tmp_path):
    """Return a copy of the files that the shell scripts read."""
    for name in ("demo.sh", "setup.sh", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "engine", tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__", "models"))
    return tmp_path


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def demo(project, python):
    """Return the output of demo.sh with `python` active."""
    environment = os.environ | {"PYTHON": str(executable(project / "python", python))}
    done = subprocess.run(["bash", project / "demo.sh"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_venv_is_announced_once_with_its_activation(project):
    executable(project / ".venv" / "bin" / "pip", "")
    executable(project / ".venv" / "bin" / "python", PYTHON_WITH_REQUIREMENTS)
    assert demo(project, PYTHON_WITHOUT_REQUIREMENTS).count(ACTIVATE) == 1
    assert "train.py" in (project / "commands.txt").read_text()


def test_a_python_with_the_requirements_needs_no_venv(project):
    assert ACTIVATE not in demo(project, PYTHON_WITH_REQUIREMENTS)


def test_the_plot_lies_with_the_averages(project):
    paths = project / "engine" / "config" / "default.py"
    paths.write_text(paths.read_text().replace('"average_results"', '"averages of mine"'))
    demo(project, PYTHON_WITH_REQUIREMENTS)
    assert "average.py --plot averages of mine/demo_demo-RN.png" in (project / "commands.txt").read_text()


def test_the_readme_says_how_before_it_shows_a_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ACTIVATE in readme[: readme.index("\npython ")]
