#!/usr/bin/env bash
# Fine-tune the last layer of the image encoder, cross-modal and uni-modal.
#
#     bash partial_finetuning.sh
#     DATASETS="dtd eurosat" bash partial_finetuning.sh --device cuda:1
#
# Run features.sh first, or the same command with STAGE=features (FEATURES_ARGS are arguments of features.py).
# sweep.sh has the datasets, shots, seeds, views and other settings.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method partial)
LAYERS=(1)

train() { both_rows "$@"; }

sweep train "$@"
