#!/usr/bin/env bash
# Train linear probes for two rows of the paper's Table 1: cross-modal, and the uni-modal baseline.
#
#     bash linear_probe.sh
#     DATASETS="dtd eurosat" bash linear_probe.sh --device cuda:1
#
# Run features.sh first. sweep.sh has the datasets, shots, seeds, views and other settings.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method linear)

one_dataset() { both_rows "$@"; }

sweep "$@"
