"""Extract raw CLIP features once: prompts, the few-shot images of the asked-for splits, and the test images.

    python features.py --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation none --image-views 0

Several datasets, shots, seeds and encoders mean all combinations; several layers share one pass of the encoder. What is
in the feature store already is not made again: a killed run goes on where it stopped, and every shot and seed of a
dataset shares its images. `--dry-run` says what is missing and how large it is; `--verify` checks what is there, and
`--repair` removes what is bad.

Images of your own are a dataset too: --dataset PATH of a folder with a folder for each class, or of a CSV list. How
they are divided is written beside them, and their few-shot splits are drawn here.

With --text-augmentation template_mining the prompts are those of a pool of 180 templates. For each split a file says
which 21 of these classify its validation images best, zero-shot.
"""

import argparse
import itertools
from collections import Counter
from contextlib import suppress
from pathlib import Path

from engine import config, datasets, files
from engine.clip import names
from engine.datasets import checks, few_shot
from engine.datasets.custom.splits import shortages, update_splits
from engine.errors import UserError
from engine.features.views import training_views


def main() -> int | None:
    args = config.parser(__doc__, *config.FEATURES, "dry_run", "verify", "repair").parse_args()
    views = training_views(args.image_augmentation, config.image_views(args))
    config.check_encoders(args)
    if args.verify or args.repair:
        return verify_store(args)
    device = config.device(args)
    # a dataset or split that is missing shows now, not after hours of encoding the one before it
    benchmarks = [datasets.load(dataset, args.data_dir) for dataset in args.dataset]
    splits = [splits_of(args, benchmark) for benchmark in benchmarks]
    # the slow imports (open_clip) come after the arguments are known to make sense
    from engine.features.extract import CorruptImages
    from engine.features.planning import Request, plan_dataset, require_room
    from engine.features.steps import make

    request = Request(args.text_augmentation, views, args.decode, args.store_dtype)
    plans, encoder = [], None
    for name in args.clip_encoder:
        del encoder  # before the next one is loaded
        encoder = load(args, name, device)
        for benchmark, own in zip(benchmarks, splits, strict=True):
            plans.append(plan_dataset(benchmark, own, request, place_of(args, name, benchmark.name), encoder))
            print(plans[-1], *(plans[-1].needs if args.dry_run else []), sep="\n  ", flush=True)
    room = require_room(plans, args.feature_dir)
    if args.dry_run:
        print(room)
        return None
    todo = [plan for plan in plans if not plan.is_done]
    if todo:
        files.require_writable(Path(args.feature_dir))
    corrupt: list[str] = []
    for name, of_encoder in itertools.groupby(todo, key=lambda plan: plan.encoder):
        if name != encoder.name:
            del encoder
            encoder = load(args, name, device)
        for plan in of_encoder:
            workers = config.workers(args, device)
            corrupt += make(plan, encoder, batch_size=args.test_batch_size, workers=workers)
    if corrupt:
        raise CorruptImages(corrupt)
    return None


def splits_of(args: argparse.Namespace, benchmark: datasets.Benchmark) -> list[few_shot.FewShotSplit]:
    """The asked-for splits of a dataset; of images of one's own those that are missing are drawn."""
    asked = args.indices_dir, args.train_shot, args.seed, args.max_val_shot
    if datasets.is_own(benchmark.name):
        for note in (*benchmark.notes, *shortages(benchmark, args.train_shot, args.max_val_shot)):
            print(f"note: {note}")
        done = Counter(done for _, done in update_splits(benchmark, *asked))
        if changed := [f"{done[what]} {what}" for what in sorted(done.keys() - {"exists"})]:
            print(f"few-shot splits in {Path(args.indices_dir) / benchmark.name}: {', '.join(changed)}")
    return few_shot.checked_splits(benchmark, *asked)


def load(args: argparse.Namespace, name: str, device: str):
    """An encoder, split before the layers that stay trainable."""
    from engine.features import steps

    layers = args.image_layer_idx, args.text_layer_idx
    return steps.load(name, args.clip_weights, device, *layers, args.precision)


def place_of(args: argparse.Namespace, encoder: str, dataset: str):
    """Where the features of a dataset under an encoder lie."""
    from engine.features.store import Place

    return Place.of(args.feature_dir, names.folder(encoder, args.clip_weights), dataset)


def verify_store(args: argparse.Namespace) -> int:
    """Check what is in the store of the asked-for datasets and encoders; the exit status."""
    from engine.features.steps import verify, verify_images
    from engine.features.verify import stored_files

    if args.dry_run:
        raise UserError("--dry-run goes with neither --verify nor --repair")
    places = {dataset: [place_of(args, name, dataset) for name in args.clip_encoder] for dataset in args.dataset}
    paths = stored_files(place for own in places.values() for place in own)
    if not paths:
        encoders = ", ".join(names.folder(encoder, args.clip_weights) for encoder in args.clip_encoder)
        raise UserError(f"{args.feature_dir} has no features of {encoders} for {', '.join(args.dataset)}")
    bad = verify(paths, args.repair)
    for dataset, own in places.items():
        with suppress(checks.NotInstalled):  # features can be checked without their images
            benchmark = datasets.load(dataset, args.data_dir, check_images=False, write=False)
            bad += sum(verify_images(place, benchmark, args.repair) for place in own)
    return 1 if bad else 0


if __name__ == "__main__":
    config.run(main)
