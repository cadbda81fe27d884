# Sourced by features.sh, linear_probe.sh, partial_finetuning.sh and adapter.sh: the paper's settings, to be edited here
# or set for one command, and `sweep`, which runs `one_dataset` for each dataset.
#
#     DATASETS="dtd eurosat" SHOTS="1 16" SEEDS=1 ENCODER=ViT-B/16 bash features.sh
#     GPUS="0 1 2 3" bash linear_probe.sh           a process at a time on each of these; datasets go to what is free
#
# Arguments go through to the Python script. It runs in the project's folder, where relative paths start.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

DATASETS=(${DATASETS:-caltech101 imagenet dtd eurosat fgvc_aircraft food101 oxford_flowers oxford_pets stanford_cars
    sun397 ucf101})
SHOTS=(${SHOTS:-1 2 4 8 16})
SEEDS=(${SEEDS:-1 2 3})
ENCODER=(${ENCODER:-RN50})
GPUS=(${GPUS:-})
INPUTS=(--train-shot "${SHOTS[@]}" --seed "${SEEDS[@]}" --clip-encoder "${ENCODER[@]}"
    --text-augmentation hand_crafted --image-augmentation flip --image-views 1)
CROSS_MODAL=(--modality cross_modal --classifier_init zeroshot)
UNI_MODAL=(--modality uni_modal --classifier_init random) # zeroshot would let the text in

source setup.sh

step() { "$PYTHON" "$@" || failed=yes; } # a step of a dataset; the next one is taken whether it fails or not

both_rows() { # a dataset, then arguments: train METHOD cross-modal, and its uni-modal baseline
    local dataset=$1
    shift
    step train.py --dataset "$dataset" "${INPUTS[@]}" "${METHOD[@]}" "${CROSS_MODAL[@]}" "$@"
    step train.py --dataset "$dataset" "${INPUTS[@]}" "${METHOD[@]}" "${UNI_MODAL[@]}" "$@"
}

worker() { # a GPU or nothing, then arguments for the Python script: runs the datasets that no other worker has begun
    local gpu=$1 dataset failed own
    shift
    set +m
    trap 'exit 130' INT TERM
    if [ "$gpu" ]; then export CUDA_VISIBLE_DEVICES=$gpu; fi
    for dataset in "${DATASETS[@]}"; do
        own=$begun/${dataset//\//%} # a path of images of one's own has slashes
        mkdir "$own" 2>/dev/null || continue
        echo "== $dataset${gpu:+ on GPU $gpu}"
        failed=
        one_dataset "$dataset" "$@"
        if [ -z "$failed" ]; then touch "$own/done"; fi
    done
}

stop() { # Ctrl-C: the workers have process groups of their own (set -m), as children would ignore it otherwise
    trap 'kill -KILL -- "${workers[@]/#/-}" 2>/dev/null' INT TERM HUP
    kill -INT -- "${workers[@]/#/-}" 2>/dev/null || true
    wait
    exit 130
}

sweep() { # all datasets; arguments go through to the Python script
    local gpu dataset failures=()
    if [[ " $* " =~ " --dataset"[\ =] ]]; then
        echo 'error: which datasets, DATASETS="..." says, not --dataset' >&2
        exit 2
    fi
    begun=$(mktemp -d) workers=()
    trap 'rm -rf "$begun"' EXIT
    trap stop INT TERM HUP
    set -m
    for gpu in "${GPUS[@]:-}"; do
        worker "$gpu" "$@" &
        workers+=($!)
    done
    wait
    for dataset in "${DATASETS[@]}"; do
        if [ ! -e "$begun/${dataset//\//%}/done" ]; then failures+=("$dataset"); fi
    done
    if [ ${#failures[@]} = 0 ]; then return; fi
    echo "failed: ${failures[*]} (${#failures[@]} of ${#DATASETS[@]} datasets; what went wrong is said above)" >&2
    exit 1
}
