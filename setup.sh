# Sourced by demo.sh, test.sh and sweep.sh: sets $PYTHON to a Python with the requirements.
# The active Python (a conda environment, say) is used if it has them; otherwise they are installed into .venv.
# A shard uses $PYTHON as it is: the check takes seconds, and shards that start at once would install at once.

if [ "${SHARD:-}" ] && [ "${PYTHON:-}" ]; then return; fi
PYTHON=${PYTHON:-python3}
# Versions are compared with requirements.txt. torchvision is imported, as it fails with the wrong torch.
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
        echo "creating .venv: $PYTHON lacks packages of requirements.txt ..."
        "$PYTHON" -m venv .venv
    fi
    PYTHON=.venv/bin/python
    echo "using .venv; activate it before you run other commands: source .venv/bin/activate"
    if ! "$PYTHON" -c "$HAS_REQUIREMENTS" 2>/dev/null; then
        echo "installing requirements.txt into .venv (a few minutes, once) ..."
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    fi
fi
