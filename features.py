"""Extract raw CLIP features once: prompts, the few-shot images of the asked-for splits, and the test images.

    python features.py --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation none --image-views 0

Several datasets, shots, seeds and encoders mean all combinations. What is in the feature store already is not made
again: a killed run goes on where it stopped, and every shot and seed of a dataset shares its images. `--dry-run` says
what is missing and how large it is; `--verify` checks what is there, and `--repair` removes what is bad.

With --text-augmentation template_mining the prompts are those of a pool of 180 templates. For each split a file says
which 21 of these classify its validation images best, zero-shot.
"""

import argparse
import itertools
from pathlib import Path

from tqdm import tqdm

from engine import config, datasets, files, templates
from engine.clip import names
from engine.datasets import few_shot
from engine.errors import UserError
from engine.features.views import training_views, wanted_rows


def main() -> int | None:
    args = config.parser(__doc__, *config.FEATURES, "dry_run", "verify", "repair").parse_args()
    views = training_views(args.image_augmentation, config.image_views(args))
    config.check_encoders(args)
    if args.verify or args.repair:
        return verify_store(args)
    device = config.device(args)
    # a dataset or split that is missing shows now, not after hours of encoding the one before it
    benchmarks = [datasets.load(dataset, args.data_dir) for dataset in args.dataset]
    splits = [checked_splits(args, benchmark) for benchmark in benchmarks]
    # the slow imports (open_clip) come after the arguments are known to make sense
    from engine.features.extract import CorruptImages
    from engine.features.planning import require_room

    plans, encoder = [], None
    for name in args.clip_encoder:
        del encoder  # before the next one is loaded
        encoder = load(args, name, device)
        for benchmark, own in zip(benchmarks, splits, strict=True):
            plans.append(plan_dataset(args, encoder, benchmark, own, views, device))
            print(plans[-1], *(plans[-1].needs if args.dry_run else []), sep="\n  ", flush=True)
    room = require_room(plans, args.feature_dir)
    if args.dry_run:
        print(room)
        return None
    corrupt: list[str] = []
    for plan, own in zip(plans, splits * len(args.clip_encoder), strict=True):
        if not plan.size and not (own and args.text_augmentation == templates.MINING):
            continue
        files.require_writable(Path(args.feature_dir))
        if plan.encoder != encoder.name:
            del encoder
            encoder = load(args, plan.encoder, device)
        corrupt += extract_dataset(args, encoder, plan, own, device)
    if corrupt:
        raise CorruptImages(corrupt)
    return None


def checked_splits(args: argparse.Namespace, benchmark: datasets.Benchmark) -> list[few_shot.FewShotSplit]:
    """The asked-for splits of a dataset, which must fit what is installed; none of one that has only a test set."""
    if not benchmark.train:
        return []
    splits = few_shot.load_splits(args.indices_dir, benchmark.name, args.train_shot, args.seed, args.max_val_shot)
    for split in splits:
        few_shot.check(split, benchmark)
    return splits


def load(args: argparse.Namespace, name: str, device: str):
    """An encoder, split before the layers that stay trainable."""
    from engine.clip.load import load_encoder

    return load_encoder(name, args.clip_weights, device, args.image_layer_idx, args.text_layer_idx)


def place_of(args: argparse.Namespace, encoder: str, dataset: str):
    """Where the features of a dataset under an encoder lie."""
    from engine.features.store import Place

    return Place.of(args.feature_dir, names.folder(encoder, args.clip_weights), dataset)


def plan_dataset(
    args: argparse.Namespace, encoder, benchmark: datasets.Benchmark, splits: list, views: list[str], device: str
):
    """What training and testing on one dataset need under one encoder, and what of it is missing."""
    from engine.features import planning

    place = place_of(args, encoder.name, benchmark.name)
    prompts, labels = [], []
    # of a test-only dataset no templates are mined: the whole pool would be encoded for nothing
    if splits or args.text_augmentation != templates.MINING:
        chosen = templates.templates(args.text_augmentation, benchmark.name)
        prompts, labels = templates.prompts(chosen, benchmark.classnames)
    texts = place.texts(args.text_layer_idx, args.text_augmentation), prompts, labels
    return planning.plan_dataset(benchmark, wanted_rows(benchmark, splits, views), texts, place, encoder, device)


def extract_dataset(args: argparse.Namespace, encoder, plan, splits: list, device: str) -> list[str]:
    """Make what a plan says is missing; a line for each corrupt image."""
    from engine.features.extract import CorruptImages, extract

    extract_prompts(encoder, plan, device)
    corrupt: list[str] = []
    options = {"batch_size": args.test_batch_size, "workers": config.workers(args, device), "device": device}
    for part in plan.parts:
        name = f"{plan.title} {part.part}/{part.view}"
        with tqdm(total=len(part.positions), desc=name, unit="image", disable=not part.positions) as bar:
            try:
                extract(part, encoder, **options, progress=bar.update)
            except CorruptImages as error:
                corrupt += error.lines
    if splits and args.text_augmentation == templates.MINING and not corrupt:
        mine_templates(args, encoder, splits, place_of(args, plan.encoder, plan.dataset), device)
    return corrupt


def extract_prompts(encoder, plan, device: str) -> None:
    """The prompts of one dataset under one encoder."""
    from engine.features.extract import extract_texts

    path, prompts, labels = plan.texts
    missing = bool(prompts) and not path.exists()
    with tqdm(total=len(prompts), desc=f"{plan.title} prompts", unit="prompt", disable=not missing) as bar:
        if missing and (cut := encoder.truncated(prompts)):  # takes a while for a pool of templates
            said = f"{len(cut)} prompts are too long for {encoder.name} and lose their end, such as '{cut[0]}'"
            bar.write(f"warning: {said}")
        if prompts:
            extract_texts(encoder, plan.dataset, prompts, labels, path, device, progress=bar.update)


def mine_templates(args: argparse.Namespace, encoder, splits: list, place, device: str) -> None:
    """Which templates of the pool each split takes."""
    from engine.features.mining import mine_splits

    todo = [split for split in splits if not place.mined(split.name).exists()]
    name = f"{encoder.name} {splits[0].dataset} template mining"
    with tqdm(total=len(todo), desc=name, unit="split", disable=not todo) as bar:
        mine_splits(encoder, place, splits, batch_size=args.test_batch_size, device=device, progress=bar.update)


def verify_store(args: argparse.Namespace) -> int:
    """Check what is in the store of the asked-for datasets and encoders, name what is bad; the exit status."""
    from engine.features.verify import check, stored_files

    if args.dry_run:
        raise UserError("--dry-run goes with neither --verify nor --repair")
    paths = stored_files(place_of(args, *pair) for pair in itertools.product(args.clip_encoder, args.dataset))
    if not paths:
        encoders = ", ".join(names.folder(encoder, args.clip_weights) for encoder in args.clip_encoder)
        raise UserError(f"{args.feature_dir} has no features of {encoders} for {', '.join(args.dataset)}")
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
