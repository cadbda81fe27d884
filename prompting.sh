#!/usr/bin/env bash
# Train prompting, a row of the paper's Table 2: cross-modal, and its uni-modal baseline (CoOp).
#
#     bash prompting.sh
#     DATASETS="dtd eurosat" VIEWS=4 bash prompting.sh --device cuda:1
#
# It extracts random resized crops first, VIEWS of each image: their number is part of the results' names, and Table 2
# has 8. FEATURES_ARGS are arguments of features.py. sweep.sh has the datasets, shots, seeds and other settings.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

INPUTS+=(--image-augmentation randomresizedcrop --image-views "${VIEWS:-8}")
METHOD=()

train() { both_rows --method prompting "$@"; } # after the modality, whose start is another

sweep "features train" "$@"
