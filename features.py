"""Extract raw CLIP features once: prompts, the few-shot images of the asked-for splits, and the test images.

    python features.py --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation none --image-views 0

Several datasets, shots, seeds and encoders mean all combinations. What is in the feature store already is not made
again: a killed run goes on where it stopped, and every shot and seed of a dataset shares its images. `--dry-run` says
what is missing and how large it is; `--verify` checks what is there, and `--repair` removes what is bad.
"""

import argparse
import itertools
from pathlib import Path

from tqdm import tqdm

from engine import config, datasets, files, templates
from engine.clip import names
from engine.datasets import few_shot
from engine.errors import UserError
from engine.features.views import Rows, training_views, wanted_rows


def main() -> int | None:
    args = config.parser(__doc__, *config.FEATURES, "dry_run", "verify", "repair").parse_args()
    views = training_views(args.image_augmentation, config.image_views(args))
    config.check_encoders(args)
    if args.verify or args.repair:
        return verify_store(args)
    device = config.device(args)
    # a dataset or split that is missing shows now, not after hours of encoding the one before it
    benchmarks = [datasets.load(dataset, args.data_dir) for dataset in args.dataset]
    wanted = [rows(args, benchmark, views) for benchmark in benchmarks]
    # the slow imports (open_clip) come after the arguments are known to make sense
    from engine.features.extract import CorruptImages
    from engine.features.planning import require_room

    plans, encoder = [], None
    for name in args.clip_encoder:
        del encoder  # before the next one is loaded
        encoder = load(args, name, device)
        for benchmark, parts in zip(benchmarks, wanted, strict=True):
            plans.append(plan_dataset(args, encoder, benchmark, parts, device))
            print(plans[-1], *(plans[-1].needs if args.dry_run else []), sep="\n  ", flush=True)
    room = require_room(plans, args.feature_dir)
    if args.dry_run:
        print(room)
        return None
    corrupt: list[str] = []
    for plan in (plan for plan in plans if plan.size):
        files.require_writable(Path(args.feature_dir))
        if plan.encoder != encoder.name:
            del encoder
            encoder = load(args, plan.encoder, device)
        corrupt += extract_dataset(args, encoder, plan, device)
    if corrupt:
        raise CorruptImages(corrupt)
    return None


def rows(args: argparse.Namespace, benchmark: datasets.Benchmark, views: list[str]) -> Rows:
    """The images of a dataset that the asked-for splits need, which must fit the installed dataset."""
    if not benchmark.train:
        return wanted_rows(benchmark, [], views)
    splits = few_shot.load_splits(args.indices_dir, benchmark.name, args.train_shot, args.seed, args.max_val_shot)
    for split in splits:
        few_shot.check(split, benchmark)
    return wanted_rows(benchmark, splits, views)


def load(args: argparse.Namespace, name: str, device: str):
    """An encoder, split before the layers that stay trainable."""
    from engine.clip.load import load_encoder

    return load_encoder(name, args.clip_weights, device, args.image_layer_idx, args.text_layer_idx)


def plan_dataset(args: argparse.Namespace, encoder, benchmark: datasets.Benchmark, parts: Rows, device: str):
    """What training and testing on one dataset need under one encoder, and what of it is missing."""
    from engine.features import planning
    from engine.features.store import Place

    place = Place.of(args.feature_dir, names.folder(encoder.name, args.clip_weights), benchmark.name)
    chosen = templates.templates(args.text_augmentation, benchmark.name)
    prompts, labels = templates.prompts(chosen, benchmark.classnames)
    if cut := encoder.truncated(prompts):
        print(f"warning: {len(cut)} prompts are too long for {encoder.name} and lose their end, such as '{cut[0]}'")
    texts = place.texts(args.text_layer_idx, args.text_augmentation), prompts, labels
    return planning.plan_dataset(benchmark, parts, texts, place, encoder, device)


def extract_dataset(args: argparse.Namespace, encoder, plan, device: str) -> list[str]:
    """Make what a plan says is missing; a line for each corrupt image."""
    from engine.features.extract import CorruptImages, extract, extract_texts

    path, prompts, labels = plan.texts
    with tqdm(total=len(prompts), desc=f"{plan.title} prompts", unit="prompt", disable=path.exists()) as bar:
        extract_texts(encoder, plan.dataset, prompts, labels, path, device, progress=bar.update)

    corrupt: list[str] = []
    options = {"batch_size": args.test_batch_size, "workers": config.workers(args, device), "device": device}
    for part in plan.parts:
        name = f"{plan.title} {part.part}/{part.view}"
        with tqdm(total=len(part.positions), desc=name, unit="image", disable=not part.positions) as bar:
            try:
                extract(part, encoder, **options, progress=bar.update)
            except CorruptImages as error:
                corrupt += error.lines
    return corrupt


def verify_store(args: argparse.Namespace) -> int:
    """Check what is in the store of the asked-for datasets and encoders, name what is bad; the exit status."""
    from engine.features.store import Place
    from engine.features.verify import check, stored_files

    if args.dry_run:
        raise UserError("--dry-run goes with neither --verify nor --repair")
    encoders = [names.folder(encoder, args.clip_weights) for encoder in args.clip_encoder]
    paths = stored_files(Place.of(args.feature_dir, *place) for place in itertools.product(encoders, args.dataset))
    if not paths:
        raise UserError(f"{args.feature_dir} has no features of {', '.join(encoders)} for {', '.join(args.dataset)}")
    bad = undigested = 0
    with tqdm(total=sum(path.stat().st_size for path in paths), unit="B", unit_scale=True) as bar:
        for file in check(paths, bar.update):
            undigested += not file.has_digest
            if file.twice:
                bar.write(f"note: {file.path} has {file.twice} rows that other shards have too, which harms nothing")
            if file.fault:
                bad += 1
                bar.write(f"{file.path} {file.fault}")
            if file.fault and args.repair:
                file.path.unlink(missing_ok=True)
    what = "removed, and features.py makes them anew" if args.repair else "which --repair removes"
    print(f"{len(paths)} files, {bad} of them bad" + f", {what}" * (bad > 0))
    if undigested:
        print(f"{undigested} files are from before there were digests: their numbers are not known to be as written")
    return 1 if bad else 0


if __name__ == "__main__":
    config.run(main)
