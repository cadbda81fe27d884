"""Train like train.py, and also test on the shifted test sets of the dataset.

    python domain_shift.py --modality cross_modal --classifier_head linear \\
        --classifier_init zeroshot --logit 4.60517 --hyperparams linear \\
        --dataset imagenet --train-shot 16 --clip-encoder RN50 \\
        --image-layer-idx 0 --text-augmentation hand_crafted \\
        --image-augmentation none --seed 1

Runs and records are shared with train.py. In a complete sweep only the
selected run is trained again, with the same result, and its record is
completed.

Shifted test sets: imagenetv2, imagenet_sketch, imagenet_a and imagenet_r for
imagenet; demo_v2, demo_sketch, demo_a and demo_r for demo. For test sets with
a subset of the classes, two accuracies are recorded: predictions among the
subset, and among all classes.
"""

from pathlib import Path

from engine import config, files


def main() -> None:
    args = config.parser(__doc__, "domain_shift.py").parse_args()
    config.check_encoders(args)
    cells, shifted = config.cells(args), config.shifted_sets(args)
    files.require_writable(Path(args.result_dir))
    # slow imports (torch), after the arguments are checked
    from engine.sweep.arguments import train

    train(args, cells, shifted)


if __name__ == "__main__":
    config.run(main)
