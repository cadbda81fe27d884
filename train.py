"""Train classifiers over a grid of hyper-parameters and test the best one.

    python train.py --modality cross_modal --classifier_head linear \\
        --classifier_init zeroshot --logit 4.60517 --hyperparams linear \\
        --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 \\
        --image-layer-idx 0 --text-augmentation hand_crafted \\
        --image-augmentation flip --image-views 1

The best run is the one with the highest accuracy on the few-shot validation
set. All combinations of datasets, shots, seeds and encoders are trained,
together where their shapes agree. Each run writes a record. Complete runs are
skipped: rerun the same command to resume a killed sweep. Needs the features of
features.py.
"""

from pathlib import Path

from engine import config, files


def main() -> None:
    args = config.parser(__doc__, "train.py").parse_args()
    config.check_encoders(args)
    cells = config.cells(args)
    files.require_writable(Path(args.result_dir))
    # slow imports (torch), after the arguments are checked
    from engine.sweep.arguments import train

    train(args, cells)


if __name__ == "__main__":
    config.run(main)
