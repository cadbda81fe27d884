"""Train classifiers over a grid of hyper-parameters, select by few-shot validation accuracy, test the selected one.

    python train.py --modality cross_modal --classifier_head linear --classifier_init zeroshot --logit 4.60517 \\
        --hyperparams linear --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation flip --image-views 1

Several datasets, shots, seeds and encoders mean all combinations, trained at once where their shapes agree. Each run
leaves a record; complete runs are skipped, so a killed sweep goes on where it stopped. Needs what features.py made.
"""

from pathlib import Path

from engine import config, files


def main() -> None:
    args = config.parser(__doc__, *config.TRAIN).parse_args()
    config.check_encoders(args)
    cells = config.cells(args)
    files.require_writable(Path(args.result_dir))
    # the slow imports (torch) come after the arguments are known to make sense
    from engine.sweep.arguments import train

    train(args, cells)


if __name__ == "__main__":
    config.run(main)
