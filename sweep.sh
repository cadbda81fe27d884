# Sourced by features.sh, linear_probe.sh, partial_finetuning.sh, adapter.sh and methods.sh: the paper's settings, and
# `sweep`, which runs `one_dataset` for each dataset. Edit the settings here, or set them for one command:
#
#     DATASETS="dtd eurosat" SHOTS="1 16" SEEDS=1 ENCODER=ViT-B/16 bash features.sh
#     GPUS="0 1 2 3" bash linear_probe.sh           one process per GPU; each takes the next dataset when it is free
#
# Arguments are passed to the Python script. It runs in the project's folder: relative paths start there.
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
UNI_MODAL=(--modality uni_modal --classifier_init random) # zeroshot would use text

source setup.sh

step() { "$PYTHON" "$@" || failed=yes; } # one step of a dataset; after a failure, the next step still runs

both_rows() { # train METHOD cross-modal, and its uni-modal baseline: dataset, arguments...
    local dataset=$1
    shift
    step train.py --dataset "$dataset" "${INPUTS[@]}" "${METHOD[@]}" "${CROSS_MODAL[@]}" "$@"
    step train.py --dataset "$dataset" "${INPUTS[@]}" "${METHOD[@]}" "${UNI_MODAL[@]}" "$@"
}

worker() { # run the datasets that no other worker has started: GPU or "", arguments for the Python script...
    local gpu=$1 dataset failed folder
    shift
    set +m
    trap 'exit 130' INT TERM
    if [ "$gpu" ]; then export CUDA_VISIBLE_DEVICES=$gpu; fi
    for dataset in "${DATASETS[@]}"; do
        folder=$started/${dataset//\//%} # the path of a custom dataset has slashes
        mkdir "$folder" 2>/dev/null || continue
        echo "== $dataset${gpu:+ on GPU $gpu}"
        failed=
        one_dataset "$dataset" "$@"
        if [ -z "$failed" ]; then touch "$folder/done"; fi
    done
}

stop() { # after Ctrl-C: workers have separate process groups (set -m), because background children ignore SIGINT
    trap 'kill -KILL -- "${workers[@]/#/-}" 2>/dev/null' INT TERM HUP
    kill -INT -- "${workers[@]/#/-}" 2>/dev/null || true
    wait
    exit 130
}

sweep() { # run all datasets: arguments for the Python script...
    local gpu dataset failures=()
    if [[ " $* " =~ " --dataset"[\ =] ]]; then
        echo 'error: --dataset is not allowed here; set DATASETS="..." instead' >&2
        exit 2
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
