#!/usr/bin/env bash
# An adapter before the linear layer, cross-modal and uni-modal.
#
#     bash adapter.sh
#     DATASETS="dtd eurosat" bash adapter.sh --device cuda:1
#
# Needs what features.sh leaves. sweep.sh has the datasets, shots, seeds and views, and says what else can be set.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method adapter)

one_dataset() { both_rows "$@"; }

sweep "$@"
