#!/usr/bin/env bash
# All methods, cross-modal and uni-modal, then the tables and the plot that compare them.
#
#     bash methods.sh
#     DATASETS=demo bash methods.sh                 on the demo's images, which are made first: a quarter of an hour on
#                                                   two cores, without methods that train encoder layers for 12 800 steps
#     DATASETS="dtd eurosat" METHODS="linear adapter" bash methods.sh --device cuda:1
#     DATASETS=demo MAX_ITER=100 bash methods.sh    a short look: fewer steps for methods that take --max-iter
#
# Features of layers that features.sh did not leave are extracted first. A method is skipped, with the reason, on tasks
# that it cannot be fitted to: these are gaps in the tables. Arguments go through to train.py; FEATURES_ARGS and
# TABLES_ARGS are for features.py and tables.py. sweep.sh has the datasets, shots, seeds and views.
if [ "${DATASETS:-}" = demo ]; then ENCODER=${ENCODER:-demo-RN}; fi # or demo-ViT
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

# 12 800 steps through the layers of an encoder take a CPU most of a day: the demo leaves such methods out unless named
if [ -z "${METHODS:-}" ]; then
    METHODS=$("$PYTHON" -c "import sys; from engine.methods import METHODS
quick = sys.argv[1] == 'demo'
slow = {name for name, method in METHODS.items() if method.image_layer and method.fit.takes_max_iter}
print(*(name for name in METHODS if not (quick and name in slow)))" "${MAX_ITER:+short}${DATASETS[*]}")
fi
METHODS=($METHODS)
STEPS=(${MAX_ITER:+--max-iter "$MAX_ITER"})
FEATURES_ARGS=(${FEATURES_ARGS:-})
TABLES_ARGS=(${TABLES_ARGS:-})

of_methods() { # a Python expression of a method: its value for each of METHODS, on a line each
    "$PYTHON" -c "import sys; from engine.methods import METHODS
for method in map(METHODS.get, sys.argv[1:]): print($1)" "${METHODS[@]}"
}
LAYERS=($(of_methods method.image_layer | sort -u))
TAKES_STEPS=($(of_methods method.fit.takes_max_iter))

extract() { # a dataset, then layers
    local dataset=$1
    shift
    "$PYTHON" features.py --dataset "$dataset" "${INPUTS[@]}" --image-layer-idx "$@" "${FEATURES_ARGS[@]}"
}

one_dataset() {
    local dataset=$1 layer k
    shift
    if [ "$dataset" = demo ]; then
        step -m engine.demo.install
        step few_shot_split.py --dataset demo --train-shot "${SHOTS[@]}" --seed "${SEEDS[@]}"
    fi
    # one pass serves all layers; an encoder that cannot be split before one of them still has the others
    if ! extract "$dataset" "${LAYERS[@]}"; then
        for layer in "${LAYERS[@]}"; do extract "$dataset" "$layer" || failed=yes; done
    fi
    METHOD=()
    for k in "${!METHODS[@]}"; do
        local method=(--method "${METHODS[k]}") # after the modality: some methods have one --classifier_init alone
        if [ "${TAKES_STEPS[k]}" = True ]; then method+=("${STEPS[@]}"); fi
        both_rows "$dataset" "${method[@]}" "$@"
    done
}

status=0
(sweep "$@") || status=$?
if [ $status -ge 128 ]; then exit $status; fi # Ctrl-C

PLOT=()
if [ ${#ENCODER[@]} = 1 ]; then
    AVG_DIR=$("$PYTHON" -c 'from engine.config import default; print(default.AVG_DIR)')
    PLOT=(--plot "$AVG_DIR/methods_${ENCODER[0]//\//-}.png" --title "${ENCODER[0]}")
fi
"$PYTHON" tables.py --table methods --datasets "${DATASETS[@]}" --train-shot "${SHOTS[@]}" --seed "${SEEDS[@]}" \
    --clip-encoder "${ENCODER[@]}" "${STEPS[@]}" "${PLOT[@]}" "${TABLES_ARGS[@]}"
exit $status
