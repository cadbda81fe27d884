#!/usr/bin/env bash
# Train the adapter (before the linear layer), cross-modal and uni-modal.
#
#     bash adapter.sh
#     DATASETS="dtd eurosat" bash adapter.sh --device cuda:1
#
# Run features.sh first, or the same command with STAGE=features (FEATURES_ARGS are arguments of features.py).
# sweep.sh has the datasets, shots, seeds, views and other settings.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method adapter)

train() { both_rows "$@"; }

sweep train "$@"
