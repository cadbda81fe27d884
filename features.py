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
import sys
from pathlib import Path

from tqdm import tqdm

from engine import config, datasets, files
from engine.clip import names
from engine.datasets import few_shot
from engine.datasets.checks import counted
from engine.errors import UserError
from engine.features.views import training_views
from engine.optimizer import GRIDS


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
    from engine.features.planning import Request, plan_dataset, require_room

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
            corrupt += make(args, encoder, plan, config.workers(args, device))
    if corrupt:
        from engine.features.extract import CorruptImages

        raise CorruptImages(corrupt)
    return None


def splits_of(args: argparse.Namespace, benchmark: datasets.Benchmark) -> list[few_shot.FewShotSplit]:
    """The asked-for splits of a dataset; of images of one's own those that are missing are drawn."""
    asked = args.indices_dir, args.train_shot, args.seed, args.max_val_shot
    if datasets.is_own(benchmark.name):
        for note in (*benchmark.notes, *few_shot.shortages(benchmark, args.train_shot, args.max_val_shot)):
            print(f"note: {note}")
        if drawn := few_shot.draw_missing(benchmark, *asked):
            print(f"few-shot splits drawn: {len(drawn)} in {drawn[0].parent}")
    return few_shot.checked_splits(benchmark, *asked)


def load(args: argparse.Namespace, name: str, device: str):
    """An encoder, split before the layers that stay trainable."""
    from engine.clip.load import load_encoder

    layers = args.image_layer_idx, args.text_layer_idx
    return load_encoder(name, args.clip_weights, device, *layers, args.precision)


def place_of(args: argparse.Namespace, encoder: str, dataset: str):
    """Where the features of a dataset under an encoder lie."""
    from engine.features.store import Place

    return Place.of(args.feature_dir, names.folder(encoder, args.clip_weights), dataset)


def make(args: argparse.Namespace, encoder, plan, workers: int) -> list[str]:
    """Make what a plan says is missing; a line for each corrupt image."""
    from engine.features.extract import CorruptImages, extract
    from engine.features.mining import mine_splits
    from engine.features.texts import extract_texts

    with tqdm(total=plan.prompts, desc=f"{plan.title} prompts", unit="prompt", disable=not plan.prompts) as bar:
        for texts in plan.texts:
            if cut := texts.truncated:
                said = f"{len(cut)} prompts are too long for {encoder.name} and lose their end, such as '{cut[0]}'"
                bar.write(f"warning: {said}")
            if (count := len(texts.prompts)) < (least := min(grid.fewest_prompts for grid in GRIDS.values())):
                said = f"{counted(count, 'prompt')} where cross-modal training takes {least} or more"
                bar.write(f"note: {said}: name others with --templates FILE, or --text-augmentation template_mining")
            extract_texts(texts, encoder, bar.update)
    with tqdm(total=plan.passes, desc=f"{plan.title} images", unit="image", disable=not plan.passes) as bar:
        try:
            extract(plan.images, encoder, batch_size=args.test_batch_size, workers=workers, progress=bar.update)
        except CorruptImages as error:
            return error.lines
    with tqdm(total=plan.to_mine, desc=f"{plan.title} mining", unit="split", disable=not plan.to_mine) as bar:
        if plan.mined:
            mine_splits(encoder, plan.place, plan.mined, batch_size=args.test_batch_size, progress=bar.update)
    say_zeroshot(plan)
    return []


def say_zeroshot(plan) -> None:
    """The zero-shot accuracy of what a plan made, on its validation images: days before training would show it."""
    from engine.features.zeroshot import measure

    for augmentation, found in measure(plan):
        print(f"{plan.title} {augmentation}: {found}", flush=True)
        if warning := found.warning(f"{plan.title} {augmentation}"):
            print(warning, file=sys.stderr)


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
    print(f"{counted(len(paths), 'file')}, {bad} of them bad" + f", {what}" * (bad > 0))
    if undigested:
        print(f"{counted(undigested, 'file')} from before there were digests: whether they are as written is not known")
    return 1 if bad else 0


if __name__ == "__main__":
    config.run(main)
