#!/usr/bin/env bash
# Fine-tune the last layer of the image encoder, cross-modal and uni-modal.
#
#     bash partial_finetuning.sh
#     DATASETS="dtd eurosat" bash partial_finetuning.sh --device cuda:1
#
# Run features.sh first. sweep.sh has the datasets, shots, seeds, views and other settings.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method partial)

one_dataset() { both_rows "$@"; }

sweep "$@"
