"""Train as train.py does, and test the run that validation selects on the shifted test sets of its dataset too.

    python domain_shift.py --modality cross_modal --classifier_head linear --classifier_init zeroshot --logit 4.60517 \\
        --hyperparams linear --dataset imagenet --train-shot 16 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation none --seed 1

The runs are train.py's, in the same records: of a sweep that is complete, only the selected run is trained again (which
gives the same run) and its record gets the accuracies that it lacks. ImageNet's shifted sets are imagenetv2,
imagenet_sketch, imagenet_a and imagenet_r, the demo's demo_v2, demo_sketch, demo_a and demo_r; --shifted names some of
them. Predictions on sets with a part of the classes are recorded twice, among these and among all.
"""

from pathlib import Path

from engine import config, files


def main() -> None:
    args = config.parser(__doc__, *config.DOMAIN_SHIFT).parse_args()
    config.check_encoders(args)
    asked = config.cells(args), config.shifted_sets(args)
    files.require_writable(Path(args.result_dir))
    # the slow imports (torch) come after the arguments are known to make sense
    from engine.sweep.arguments import train

    train(args, *asked)


if __name__ == "__main__":
    config.run(main)
