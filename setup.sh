# Sourced by demo.sh and test.sh: sets $PYTHON to a Python that has the requirements.
# The active Python is kept when it has them (a conda environment, say); else .venv is made and they are installed there.

PYTHON=${PYTHON:-python3}
# torchvision is imported for good, as it fails to beside a torch that it does not belong to; the others are looked up.
HAS_REQUIREMENTS='
import sys, torchvision
from importlib.util import find_spec
needed = "open_clip huggingface_hub safetensors numpy pandas scipy PIL matplotlib tqdm ftfy regex pytest".split()
sys.exit(any(find_spec(module) is None for module in needed))
'

if ! "$PYTHON" -c "$HAS_REQUIREMENTS" 2>/dev/null; then
    if [ ! -x .venv/bin/python ]; then
        echo "making .venv, as $PYTHON lacks some of requirements.txt ..."
        "$PYTHON" -m venv .venv
    fi
    PYTHON=.venv/bin/python
    if ! "$PYTHON" -c "$HAS_REQUIREMENTS" 2>/dev/null; then
        echo "installing requirements.txt into .venv (a few minutes, once) ..."
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    fi
fi
