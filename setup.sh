# Sourced by demo.sh and test.sh: sets $PYTHON to a Python that has the requirements.
# The active Python is kept when it has them (a conda environment, say); else .venv is made and they are installed there.

PYTHON=${PYTHON:-python3}
MODULES='import torch, torchvision, open_clip, huggingface_hub, safetensors, numpy, pandas, PIL, matplotlib, tqdm, pytest'

if ! "$PYTHON" -c "$MODULES" 2>/dev/null; then
    if [ ! -x .venv/bin/python ]; then
        echo "making .venv, as $PYTHON lacks some of requirements.txt ..."
        "$PYTHON" -m venv .venv
    fi
    PYTHON=.venv/bin/python
    if ! "$PYTHON" -c "$MODULES" 2>/dev/null; then
        echo "installing requirements.txt into .venv (a few minutes, once) ..."
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    fi
fi
