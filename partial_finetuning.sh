#!/usr/bin/env bash
# Partial fine-tuning of the last layer of the image encoder, cross-modal and uni-modal.
#
#     bash partial_finetuning.sh
#     DATASETS="dtd eurosat" bash partial_finetuning.sh --device cuda:1
#
# Needs what features.sh leaves. sweep.sh has the datasets, shots, seeds and views, and says what else can be set.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

METHOD=(--method partial)

one_dataset() { both_rows "$@"; }

sweep "$@"
