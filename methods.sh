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
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

# a line for each method: its name, its image layer, whether it takes --max-iter. 12 800 steps through the layers of an
# encoder take a CPU most of a day: the demo leaves such methods out unless named
TABLE=$("$PYTHON" -c "import sys; from engine.methods import METHODS
scope, *chosen = sys.argv[1:]
slow = [name for name, method in METHODS.items() if method.image_layer and method.fit.takes_max_iter]
chosen = chosen or [name for name in METHODS if scope != 'demo' or name not in slow]
if unknown := set(chosen) - set(METHODS): sys.exit(f'error: no method is called {min(unknown)}: {\" \".join(METHODS)}')
for name in chosen: print(name, METHODS[name].image_layer, METHODS[name].fit.takes_max_iter)" \
    "${MAX_ITER:+short}${DATASETS[*]}" ${METHODS:-})
LAYERS=($(cut -d " " -f 2 <<<"$TABLE" | sort -u))
STEPS=(${MAX_ITER:+--max-iter "$MAX_ITER"})
TABLES_ARGS=(${TABLES_ARGS:-})

features() {
    local layer
    draw_demo
    # one pass serves all layers; an encoder that cannot be split before one of them still has the others
    if ! extract "${LAYERS[@]}"; then
        for layer in "${LAYERS[@]}"; do extract "$layer" || failed=yes; done
    fi
}

train() {
    local name layer takes_steps
    METHOD=()
    while read -r name layer takes_steps <&3; do
        local method=(--method "$name") # after the modality: some methods have one --classifier_init alone
        if [ "$takes_steps" = True ]; then method+=("${STEPS[@]}"); fi
        both_rows "${method[@]}" "$@"
    done 3<<<"$TABLE"
}

status=0
(sweep "features train" "$@") || status=$?
if [ $status -ge 128 ] || [ "${SHARD:-}${STAGE:-}" ]; then exit $status; fi # Ctrl-C, or a part of the work

PLOT=()
if [ ${#ENCODER[@]} = 1 ]; then
    AVG_DIR=$("$PYTHON" -c 'from engine.config import default; print(default.AVG_DIR)')
    PLOT=(--plot "$AVG_DIR/methods_${ENCODER[0]//\//-}.png" --title "${ENCODER[0]}")
fi
"$PYTHON" tables.py --table methods --datasets "${DATASETS[@]}" --train-shot "${SHOTS[@]}" --seed "${SEEDS[@]}" \
    --clip-encoder "${ENCODER[@]}" "${STEPS[@]}" "${PLOT[@]}" "${TABLES_ARGS[@]}"
exit $status
