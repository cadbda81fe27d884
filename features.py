"""Extract raw CLIP features once: prompts, the few-shot images of the asked-for splits, and the test images.

    python features.py --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation none --image-views 0

Several datasets, shots, seeds and encoders mean all combinations. What is in the feature store already is not made
again: a killed run goes on where it stopped, and every shot and seed of a dataset shares its images.

With --text-augmentation template_mining the prompts are those of a pool of 180 templates. For each split a file says
which 21 of these classify its validation images best, zero-shot.
"""

import argparse

from tqdm import tqdm

from engine import config, datasets, templates
from engine.clip import names
from engine.datasets import few_shot
from engine.features.views import training_views, wanted_rows


def main() -> None:
    args = config.parser(__doc__, *config.FEATURES).parse_args()
    views = training_views(args.image_augmentation, config.image_views(args))
    config.check_encoders(args)
    device = config.device(args)
    # a dataset or split that is missing shows now, not after hours of encoding the one before it
    benchmarks = [datasets.load(dataset, args.data_dir) for dataset in args.dataset]
    splits = [checked_splits(args, benchmark) for benchmark in benchmarks]
    # the slow imports (open_clip) come after the arguments are known to make sense
    from engine.clip.load import load_encoder
    from engine.features.extract import CorruptImages

    corrupt: list[str] = []
    for name in args.clip_encoder:
        encoder = load_encoder(name, args.clip_weights, device, args.image_layer_idx, args.text_layer_idx)
        for benchmark, own in zip(benchmarks, splits, strict=True):
            corrupt += extract_dataset(args, encoder, benchmark, own, views, device)
        del encoder  # before the next one is loaded
    if corrupt:
        raise CorruptImages(corrupt)


def checked_splits(args: argparse.Namespace, benchmark: datasets.Benchmark) -> list[few_shot.FewShotSplit]:
    """The asked-for splits of a dataset, which must fit what is installed; none of one that has only a test set."""
    if not benchmark.train:
        return []
    splits = few_shot.load_splits(args.indices_dir, benchmark.name, args.train_shot, args.seed, args.max_val_shot)
    for split in splits:
        few_shot.check(split, benchmark)
    return splits


def extract_dataset(
    args: argparse.Namespace, encoder, benchmark: datasets.Benchmark, splits: list, views: list[str], device: str
) -> list[str]:
    """All that training and testing on one dataset need under one encoder; a line for each corrupt image."""
    from engine.features.extract import CorruptImages, extract, plan
    from engine.features.store import Place

    place = Place.of(args.feature_dir, names.folder(encoder.name, args.clip_weights), benchmark.name)
    title = f"{encoder.name} {benchmark.name}"
    mining = args.text_augmentation == templates.MINING
    # of a test-only dataset no templates are mined: the whole pool would be encoded for nothing
    prompts = 0 if mining and not splits else extract_prompts(args, encoder, benchmark, place, device)
    parts = wanted_rows(benchmark, splits, views)
    plans = [
        plan(benchmark, part, view, positions, place.bank(part, args.image_layer_idx, view), encoder)
        for part, view, positions in parts
    ]
    new, images = sum(len(plan.positions) for plan in plans), sum(len(set(p)) for _, _, p in parts)
    print(f"{title}: {prompts} prompts; {images} images, counting views, {new} of them to encode")
    corrupt: list[str] = []
    options = {"batch_size": args.test_batch_size, "workers": config.workers(args, device), "device": device}
    for part in plans:
        name = f"{title} {part.part}/{part.view}"
        with tqdm(total=len(part.positions), desc=name, unit="image", disable=not part.positions) as bar:
            try:
                extract(part, encoder, **options, progress=bar.update)
            except CorruptImages as error:
                corrupt += error.lines
    if mining and splits and not corrupt:
        mine_templates(args, encoder, splits, place, device)
    return corrupt


def extract_prompts(args: argparse.Namespace, encoder, benchmark: datasets.Benchmark, place, device: str) -> int:
    """The prompts of one dataset under one encoder; gives their number."""
    from engine.features.extract import extract_texts

    chosen = templates.templates(args.text_augmentation, benchmark.name)
    prompts, labels = templates.prompts(chosen, benchmark.classnames)
    texts, name = place.texts(args.text_layer_idx, args.text_augmentation), f"{encoder.name} {benchmark.name} prompts"
    with tqdm(total=len(prompts), desc=name, unit="prompt", disable=texts.exists()) as bar:
        if cut := encoder.truncated(prompts):  # takes a while for a pool of templates and the classes of ImageNet
            said = f"{len(cut)} prompts are too long for {encoder.name} and lose their end, such as '{cut[0]}'"
            bar.write(f"warning: {said}")
        extract_texts(encoder, benchmark.name, prompts, labels, texts, device, progress=bar.update)
    return len(prompts)


def mine_templates(args: argparse.Namespace, encoder, splits: list, place, device: str) -> None:
    """Which templates of the pool each split takes."""
    from engine.features.mining import mine_splits

    todo = [split for split in splits if not place.mined(split.name).exists()]
    name = f"{encoder.name} {splits[0].dataset} template mining"
    with tqdm(total=len(todo), desc=name, unit="split", disable=not todo) as bar:
        mine_splits(encoder, place, splits, batch_size=args.test_batch_size, device=device, progress=bar.update)


if __name__ == "__main__":
    config.run(main)
