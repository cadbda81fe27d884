# Sourced by features.sh, linear_probe.sh, partial_finetuning.sh, adapter.sh, prompting.sh and methods.sh: the paper's
# settings, and `sweep`, which runs the stages of a script (`features`, `train`) for each dataset. Edit the settings
# here, or set them for one command:
#
#     DATASETS="dtd eurosat" SHOTS="1 16" SEEDS=1 ENCODER=ViT-B/16 bash features.sh
#     GPUS="0 1 2 3" bash linear_probe.sh           one process per GPU; each takes the next dataset when it is free
#     STAGE=features bash linear_probe.sh           one stage: the features that the script needs, or the training
#     SHARD=3/16 bash linear_probe.sh               one of 16 parts of a stage, of all datasets together (submit.py)
#
# Arguments are passed to the Python script. It runs in the project's folder: relative paths start there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [ "${DATASETS:-}" = demo ]; then ENCODER=${ENCODER:-demo-RN}; fi # or demo-ViT
DATASETS=(${DATASETS:-caltech101 imagenet dtd eurosat fgvc_aircraft food101 oxford_flowers oxford_pets stanford_cars
    sun397 ucf101})
SHOTS=(${SHOTS:-1 2 4 8 16})
SEEDS=(${SEEDS:-1 2 3})
ENCODER=(${ENCODER:-RN50})
GPUS=(${GPUS:-})
PART=(${SHARD:+--shard "$SHARD"})
FEATURES_ARGS=(${FEATURES_ARGS:-}) # arguments for features.py
INPUTS=(--train-shot "${SHOTS[@]}" --seed "${SEEDS[@]}" --clip-encoder "${ENCODER[@]}"
    --text-augmentation hand_crafted --image-augmentation flip --image-views 1)
CROSS_MODAL=(--modality cross_modal --classifier_init zeroshot)
UNI_MODAL=(--modality uni_modal --classifier_init random) # zeroshot would use text
LAYERS=(0)                                                # whose inputs the stage `features` extracts

source setup.sh

step() { "$PYTHON" "$@" || failed=yes; } # one step of a dataset; after a failure, the next step still runs

extract() { # features of NAMES: layers...
    "$PYTHON" features.py --dataset "${NAMES[@]}" "${INPUTS[@]}" --image-layer-idx "$@" "${PART[@]}" \
        "${FEATURES_ARGS[@]}"
}

draw_demo() { # if the demo is one of NAMES, and not elsewhere: its images and splits
    if [[ " ${NAMES[*]} " != *" demo "* || " ${FEATURES_ARGS[*]}" =~ " --"(data|indices)_dir ]]; then return; fi
    step -m engine.demo.install
    step few_shot_split.py --dataset demo --train-shot "${SHOTS[@]}" --seed "${SEEDS[@]}"
}

features() {
    draw_demo
    extract "${LAYERS[@]}" || failed=yes
}

both_rows() { # train METHOD on NAMES, cross-modal, and its uni-modal baseline: arguments...
    step train.py --dataset "${NAMES[@]}" "${INPUTS[@]}" "${METHOD[@]}" "${CROSS_MODAL[@]}" "${PART[@]}" "$@"
    step train.py --dataset "${NAMES[@]}" "${INPUTS[@]}" "${METHOD[@]}" "${UNI_MODAL[@]}" "${PART[@]}" "$@"
}

worker() { # run the datasets that no other worker has started: GPU or "", arguments for the Python script...
    local gpu=$1 dataset failed folder stage
    shift
    set +m
    trap 'exit 130' INT TERM
    if [ "$gpu" ]; then export CUDA_VISIBLE_DEVICES=$gpu; fi
    for dataset in "${DATASETS[@]}"; do
        folder=$started/${dataset//\//%} # the path of a custom dataset has slashes
        mkdir "$folder" 2>/dev/null || continue
        echo "== $dataset${gpu:+ on GPU $gpu}"
        NAMES=("$dataset") failed=
        for stage in $stages; do "$stage" "$@"; done
        if [ -z "$failed" ]; then touch "$folder/done"; fi
    done
}

stop() { # after Ctrl-C: workers have separate process groups (set -m), because background children ignore SIGINT
    trap 'kill -KILL -- "${workers[@]/#/-}" 2>/dev/null' INT TERM HUP
    kill -INT -- "${workers[@]/#/-}" 2>/dev/null || true
    wait
    exit 130
}

refuse() {
    echo "error: $1" >&2
    exit 2
}

one_shard() { # run a shard of the only stage, of all datasets in one process: arguments for the Python script...
    local failed=
    if [[ $stages = *" "* ]]; then
        refuse "SHARD needs STAGE=features; when all shards of it are complete, STAGE=train"
    fi
    if [ ${#GPUS[@]} != 0 ]; then refuse "GPUS and SHARD exclude each other: a shard is one process"; fi
    NAMES=("${DATASETS[@]}")
    "$stages" "$@"
    if [ "$failed" ]; then
        echo "failed: shard $SHARD (see the errors above)" >&2
        exit 1
    fi
}

sweep() { # run all datasets: the stages unless STAGE is set, arguments for the Python script...
    local gpu dataset failures=() stages=${STAGE:-$1} stage
    shift
    if [[ " $* " =~ " --dataset"[\ =] ]]; then refuse '--dataset is not allowed here; set DATASETS="..." instead'; fi
    for stage in $stages; do
        if ! [[ $stage =~ ^(features|train)$ ]] || ! declare -F "$stage" >/dev/null; then
            refuse "$(basename "$0") has no stage '$stage'"
        fi
    done
    if [ "${SHARD:-}" ]; then
        one_shard "$@"
        return
    fi
    started=$(mktemp -d) workers=()
    trap 'rm -rf "$started"' EXIT
    trap stop INT TERM HUP
    set -m
    for gpu in "${GPUS[@]:-}"; do
        worker "$gpu" "$@" &
        workers+=($!)
    done
    wait
    for dataset in "${DATASETS[@]}"; do
        if [ ! -e "$started/${dataset//\//%}/done" ]; then failures+=("$dataset"); fi
    done
    if [ ${#failures[@]} = 0 ]; then return; fi
    echo "failed: ${failures[*]} (${#failures[@]} of ${#DATASETS[@]} datasets; see the errors above)" >&2
    exit 1
}
