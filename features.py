"""Extract CLIP features of prompts, few-shot images and test images, once.

    python features.py --dataset imagenet --train-shot 16 --seed 1 \\
        --clip-encoder RN50 --image-layer-idx 0 --image-views 0 \\
        --text-augmentation hand_crafted --image-augmentation none

All combinations of datasets, shots, seeds and encoders are extracted; several
layers share one pass of the encoder. Stored features are never extracted again:
rerun the same command to resume. All shots and seeds of a dataset share its
images. A custom dataset is a folder with one subfolder per class, or a CSV list
(--dataset PATH). Its division into train/val/test is written beside it, and its
few-shot splits are drawn here.

With --text-augmentation template_mining the prompts come from a pool of 180
templates. For each split, a file lists the 21 templates with the best zero-shot
accuracy on its validation images.
"""

import argparse
from functools import partial

from engine import config, datasets
from engine.clip import names
from engine.datasets import few_shot
from engine.datasets.custom.splits import tell_and_update
from engine.errors import UserError
from engine.features.views import training_views


def main() -> int | None:
    args = config.parser(__doc__, "features.py").parse_args()
    views = training_views(args.image_augmentation, config.image_views(args))
    config.check_encoders(args)
    if args.verify or args.repair:
        return verify_store(args)
    device = config.device(args)
    # a dataset or split that is missing shows now, not after hours of encoding the one before it
    benchmarks = [datasets.load(dataset, args.data_dir) for dataset in args.dataset]
    wanted = [(benchmark, splits_of(args, benchmark)) for benchmark in benchmarks]
    # the slow imports (open_clip) come after the arguments are known to make sense
    from engine.features import steps
    from engine.features.planning import Request

    weights = args.clip_weights, device, args.image_layer_idx, args.text_layer_idx, args.precision
    prompts_asked = args.text_augmentation is not config.PROMPTS
    request = Request(args.text_augmentation, views, args.decode, args.store_dtype, prompts_asked)
    how = {"batch_size": args.test_batch_size, "workers": config.workers(args, device)}
    how |= {"feature_dir": args.feature_dir, "dry_run": args.dry_run}
    places, load = partial(place_of, args), lambda name: steps.load(name, *weights)
    steps.extract_all(args.clip_encoder, wanted, request, places, load, **how)


def splits_of(args: argparse.Namespace, benchmark: datasets.Benchmark) -> list[few_shot.FewShotSplit]:
    """Return the asked-for splits of a dataset; those of custom datasets are drawn if they are missing."""
    asked = args.indices_dir, args.train_shot, args.seed, args.max_val_shot
    if datasets.is_own(benchmark.name):
        tell_and_update(benchmark, *asked)
    return few_shot.checked_splits(benchmark, *asked)


def place_of(args: argparse.Namespace, encoder: str, dataset: str):
    """Where the features of a dataset under an encoder lie."""
    from engine.features.store import Place

    return Place.of(args.feature_dir, names.folder(encoder, args.clip_weights), dataset)


def verify_store(args: argparse.Namespace) -> int:
    """Check what is in the store of the asked-for datasets and encoders; the exit status."""
    from engine.features.steps import verify_all

    if args.dry_run:
        raise UserError("--dry-run goes with neither --verify nor --repair")
    places = {dataset: [place_of(args, name, dataset) for name in args.clip_encoder] for dataset in args.dataset}
    return 1 if verify_all(places, args.data_dir, args.repair) else 0


if __name__ == "__main__":
    config.run(main)
