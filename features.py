"""Extract CLIP features of prompts, few-shot images and test images, once.

    python features.py --dataset imagenet --train-shot 16 --seed 1 \\
        --clip-encoder RN50 --image-layer-idx 0 --image-views 0 \\
        --text-augmentation hand_crafted --image-augmentation none

All combinations of datasets, shots, seeds and encoders are extracted; several
layers share one pass of the encoder. Stored features are never extracted again:
rerun the same command to resume. All shots and seeds of a dataset share its
images. A custom dataset is a folder with one subfolder per class, or a CSV list
(--dataset PATH). Its division into train/val/test is written beside it (to
indices/ if its folder is read-only), and its few-shot splits are drawn here.

--export writes features as .npz files; --import reads files of any program.

With --text-augmentation template_mining the prompts come from a pool of 180
templates. For each split, a file lists the 21 templates with the best zero-shot
accuracy on its validation images.
"""

import argparse
from functools import cache, partial

from engine import config
from engine.clip import names
from engine.datasets import few_shot
from engine.datasets.custom.splits import load_with_splits
from engine.features.views import training_views


def main() -> int | None:
    args = config.parser(__doc__, "features.py").parse_args()
    views = training_views(args.image_augmentation, config.image_views(args))
    config.check_extraction(args)
    if args.verify or args.repair or args.export:
        return use_store(args)
    device = config.device(args)
    # load all datasets and splits first: a missing one must fail now, not after hours of encoding
    splits = args.indices_dir, args.train_shot, args.seed, args.max_val_shot
    load_dataset = cache(lambda name: load_with_splits(name, args.data_dir, *splits, check_images=not args.import_from))
    # but a shard may have no part of a dataset
    wanted = [(args.shard and few_shot.outline(name, *splits)) or load_dataset(name) for name in args.dataset]
    if args.import_from:
        from engine.features.arrays import import_one  # slow imports (torch)

        return import_one(args.clip_encoder, wanted, views, partial(paths_of, args), args.import_from)
    # slow imports (open_clip), only after the arguments are validated
    from engine.features import steps
    from engine.features.planning import Request

    weights = args.clip_weights, device, args.image_layer_idx, args.text_layer_idx, args.precision
    prompts_asked = args.text_augmentation is not config.PROMPTS
    request = Request(args.text_augmentation, views, args.decode, args.store_dtype, prompts_asked)
    how = {"batch_size": args.test_batch_size, "workers": config.workers(args, device)}
    how |= {"feature_dir": args.feature_dir, "dry_run": args.dry_run, "shard": args.shard}
    paths, load = partial(paths_of, args), lambda name: steps.load(name, *weights)
    steps.extract_all(args.clip_encoder, wanted, load_dataset, request, paths, load, **how)


def paths_of(args: argparse.Namespace, encoder: str, dataset: str):
    """Return the FeaturePaths of a dataset and an encoder."""
    from engine.features.store import FeaturePaths

    return FeaturePaths.of(args.feature_dir, names.folder(encoder, args.clip_weights), dataset)


def use_store(args: argparse.Namespace) -> int:
    """Export or check the stored features of the requested datasets and encoders; return the exit status."""
    stores = {dataset: [paths_of(args, name, dataset) for name in args.clip_encoder] for dataset in args.dataset}
    if args.export:
        from engine.features.arrays import export_all

        return export_all(stores, args.data_dir, args.indices_dir, args.export)
    from engine.features.steps import verify_all

    return verify_all(stores, args.data_dir, args.indices_dir, args.repair) > 0


if __name__ == "__main__":
    config.run(main)
