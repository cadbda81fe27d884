#!/usr/bin/env bash
# Test the paper's claim on the demo data: images, splits, features, training, tables, plot.
#
#     bash demo.sh
#
# It runs the scripts of a real sweep, with full grids and 12 800 steps. Complete steps are skipped, so a second run
# takes seconds. engine/config/default.py sets the folders; the plot goes to AVG_DIR.
set -euo pipefail
cd "$(dirname "$0")"
source setup.sh

ENCODER=${ENCODER:-demo-RN} # or demo-ViT
INPUTS="--clip-encoder $ENCODER --text-augmentation hand_crafted --image-augmentation flip --image-views 1"
CROSS="--modality cross_modal --classifier_init zeroshot"
UNI="--modality uni_modal --classifier_init random"
SWEEP="--dataset demo --train-shot 1 2 4 8 16 --seed 1 2 3 $INPUTS"

echo "== images and few-shot splits"
"$PYTHON" -m engine.demo.install
"$PYTHON" few_shot_split.py --dataset demo --train-shot 1 2 4 8 16 --seed 1 2 3

echo "== features"
"$PYTHON" features.py $SWEEP

echo "== training: uni-modal and cross-modal linear probing"
"$PYTHON" train.py $UNI $SWEEP
"$PYTHON" train.py $CROSS $SWEEP

echo "== tables"
"$PYTHON" eval.py --datasets demo --mode linear $UNI $INPUTS
"$PYTHON" eval.py --datasets demo --mode linear $CROSS $INPUTS
"$PYTHON" eval.py --datasets demo --mode linear $CROSS $INPUTS --wise_ft True

echo "== averages and plot"
NAME="all_${ENCODER}_linear_hand_crafted_flip_1"
AVG_DIR=$("$PYTHON" -c "from engine.config import default; print(default.AVG_DIR)")
"$PYTHON" average.py --plot "$AVG_DIR/demo_$ENCODER.png" --title "demo, $ENCODER" --name \
    "${NAME}_uni_modal_random_wiseft_False" \
    "${NAME}_cross_modal_text_wiseft_False" \
    "${NAME}_cross_modal_text_wiseft_True"
