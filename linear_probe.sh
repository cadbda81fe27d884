#!/usr/bin/env bash
# Train linear probes for two rows of the paper's Table 1: cross-modal, and the uni-modal baseline.
#
#     bash linear_probe.sh
#     DATASETS="dtd eurosat" bash linear_probe.sh --device cuda:1
#
# Run features.sh first, or the same command with STAGE=features (FEATURES_ARGS are arguments of features.py).
# sweep.sh has the datasets, shots, seeds, views and other settings.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method linear)

train() { both_rows "$@"; }

sweep train "$@"
