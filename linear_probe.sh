#!/usr/bin/env bash
# Linear probing, both rows of the paper's Table 1: cross-modal, and the uni-modal baseline.
#
#     bash linear_probe.sh
#     DATASETS="dtd eurosat" bash linear_probe.sh --device cuda:1
#
# Needs what features.sh leaves. sweep.sh has the datasets, shots, seeds and views, and says what else can be set.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method linear)

one_dataset() { both_rows "$@"; }

sweep "$@"
