# Sourced by demo.sh and test.sh: sets $PYTHON to a Python that has the requirements.
# The active Python is kept when it has them (a conda environment, say); else .venv is made and they are installed there.

PYTHON=${PYTHON:-python3}
# Versions are compared with requirements.txt; torchvision is imported for good, as it fails to beside a torch that it
# does not belong to.
HAS_REQUIREMENTS='
import importlib.metadata, sys
from packaging.requirements import Requirement
for line in open("requirements.txt"):
    if wanted := line.split("#")[0].strip():
        wanted = Requirement(wanted)
        if not wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True):
            sys.exit(1)
import torchvision
'

if ! "$PYTHON" -c "$HAS_REQUIREMENTS" 2>/dev/null; then
    if [ ! -x .venv/bin/pip ]; then
        echo "making .venv, as $PYTHON lacks some of requirements.txt ..."
        "$PYTHON" -m venv .venv
    fi
    PYTHON=.venv/bin/python
    echo "using .venv; for commands that you type yourself, activate it first: source .venv/bin/activate"
    if ! "$PYTHON" -c "$HAS_REQUIREMENTS" 2>/dev/null; then
        echo "installing requirements.txt into .venv (a few minutes, once) ..."
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    fi
fi
