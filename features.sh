#!/usr/bin/env bash
# Extract features of the eleven datasets: layer 0 (linear_probe.sh, adapter.sh) and layer 1 (partial_finetuning.sh).
#
#     bash features.sh
#     DATASETS="dtd eurosat" bash features.sh --data_dir /big/disk --device cuda:1
#
# sweep.sh has the datasets, shots, seeds, views and other settings.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

LAYERS=(${IMAGE_LAYERS:-0 1})
FEATURES_ARGS+=("$@")

sweep features "$@"
