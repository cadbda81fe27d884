"""Extract raw CLIP features once: prompts, the few-shot images of the asked-for splits, and the test images.

    python features.py --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 \\
        --text-augmentation hand_crafted --image-augmentation none --image-views 0

Several datasets, shots, seeds and encoders mean all combinations. What is in the feature store already is not made
again: a killed run goes on where it stopped, and every shot and seed of a dataset shares its images.
"""

import argparse

from tqdm import tqdm

from engine import config, datasets, templates
from engine.clip import names
from engine.datasets import few_shot
from engine.features.views import Rows, training_views, wanted_rows


def main() -> None:
    args = config.parser(__doc__, *config.FEATURES).parse_args()
    views = training_views(args.image_augmentation, config.image_views(args))
    config.check_encoders(args)
    device = config.device(args)
    # a dataset or split that is missing shows now, not after hours of encoding the one before it
    benchmarks = [datasets.load(dataset, args.data_dir) for dataset in args.dataset]
    wanted = [rows(args, benchmark, views) for benchmark in benchmarks]
    # the slow imports (open_clip) come after the arguments are known to make sense
    from engine.clip.load import load_encoder
    from engine.features.extract import CorruptImages

    corrupt: list[str] = []
    for name in args.clip_encoder:
        encoder = load_encoder(name, args.clip_weights, device, args.image_layer_idx, args.text_layer_idx)
        for benchmark, parts in zip(benchmarks, wanted, strict=True):
            corrupt += extract_dataset(args, encoder, benchmark, parts, device)
        del encoder  # before the next one is loaded
    if corrupt:
        raise CorruptImages(corrupt)


def rows(args: argparse.Namespace, benchmark: datasets.Benchmark, views: list[str]) -> Rows:
    """The images of a dataset that the asked-for splits need, which must fit the installed dataset."""
    if not benchmark.train:
        return wanted_rows(benchmark, [], views)
    splits = few_shot.load_splits(args.indices_dir, benchmark.name, args.train_shot, args.seed, args.max_val_shot)
    for split in splits:
        few_shot.check(split, benchmark)
    return wanted_rows(benchmark, splits, views)


def extract_dataset(
    args: argparse.Namespace, encoder, benchmark: datasets.Benchmark, parts: Rows, device: str
) -> list[str]:
    """All that training and testing on one dataset need under one encoder; a line for each corrupt image."""
    from engine.features.extract import CorruptImages, extract, extract_texts, plan
    from engine.features.store import Place

    place = Place.of(args.feature_dir, names.folder(encoder.name, args.clip_weights), benchmark.name)
    title = f"{encoder.name} {benchmark.name}"
    chosen = templates.templates(args.text_augmentation, benchmark.name)
    prompts, labels = templates.prompts(chosen, benchmark.classnames)
    if cut := encoder.truncated(prompts):
        print(f"warning: {len(cut)} prompts are too long for {encoder.name} and lose their end, such as '{cut[0]}'")
    texts = place.texts(args.text_layer_idx, args.text_augmentation)
    with tqdm(total=len(prompts), desc=f"{title} prompts", unit="prompt", disable=texts.exists()) as bar:
        extract_texts(encoder, benchmark.name, prompts, labels, texts, device, progress=bar.update)

    plans = [
        plan(benchmark, part, view, positions, place.bank(part, args.image_layer_idx, view), encoder)
        for part, view, positions in parts
    ]
    new, images = sum(len(plan.positions) for plan in plans), sum(len(set(p)) for _, _, p in parts)
    print(f"{title}: {len(prompts)} prompts; {images} images, counting views, {new} of them to encode")
    corrupt: list[str] = []
    options = {"batch_size": args.test_batch_size, "workers": config.workers(args, device), "device": device}
    for part in plans:
        name = f"{title} {part.part}/{part.view}"
        with tqdm(total=len(part.positions), desc=name, unit="image", disable=not part.positions) as bar:
            try:
                extract(part, encoder, **options, progress=bar.update)
            except CorruptImages as error:
                corrupt += error.lines
    return corrupt


if __name__ == "__main__":
    config.run(main)
