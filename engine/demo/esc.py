"""The demo's ImageNet-ESC: its images under demo-RN, its sounds under demo-audio, and all steps before training.

The classes are some of the demo's 24, so that 8 640 runs take minutes. The smaller set is a subset of the larger one,
like the 19 and 27 classes of ImageNet-ESC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engine import datasets, sounds
from engine.clip.load import load_encoder
from engine.datasets import esc50, few_shot
from engine.demo import audio_encoder, install
from engine.demo import sounds as demo_sounds
from engine.digests import tensors_digest
from engine.esc.benchmark import EscBenchmark
from engine.features import audio
from engine.features.audio import AudioProvenance
from engine.features.extract import extract
from engine.features.planning import Request, plan_dataset
from engine.features.store import FeaturePaths
from engine.features.texts import extract_texts
from engine.features.views import training_views
from engine.results.esc import DEMO_CLASSES, SHOTS, SPLITS

ENCODER, DATASET = "demo-RN", "demo"
BATCH_SIZE = 32


def demo_esc() -> EscBenchmark:
    """Return the demo's ImageNet-ESC, whose class sets are spread over the demo's classes."""
    names = list(demo_sounds.CATEGORIES)
    by_name = {name.replace(" ", "_"): label for label, name in enumerate(install.CLASSNAMES)}
    largest = names[:: len(names) // max(DEMO_CLASSES)][: max(DEMO_CLASSES)]
    sets = {size: {by_name[name]: name for name in largest[:size]} for size in DEMO_CLASSES}
    return EscBenchmark("demo_esc", DATASET, ENCODER, demo_sounds.FOLDER, audio_encoder.NAME, sets)


class Step(NamedTuple):
    """A step of `total` units; `run` calls its argument, with a count, after each unit."""

    title: str
    unit: str
    total: int
    run: Callable[[Callable[[int], object]], object]


def steps(data_dir: str | Path, indices_dir: str | Path, feature_dir: str | Path, device: str) -> Iterator[Step]:
    """Yield all steps before training, in order; skip the ones already done."""
    yield from _draw(Path(data_dir))
    dataset = datasets.load(DATASET, data_dir)
    splits = []
    for shots, seed in ((shots, seed) for shots in SHOTS for seed in SPLITS):
        drawn = few_shot.sample(dataset.labels("train"), dataset.labels("val"), shots, seed)
        splits.append(few_shot.FewShotSplit(DATASET, shots, seed, *drawn))
        few_shot.save(splits[-1], indices_dir)
    encoder = load_encoder(ENCODER, device=device)
    request = Request(["classname"], training_views("none", 0))
    plan = plan_dataset(dataset, splits, request, FeaturePaths.of(feature_dir, ENCODER, DATASET), encoder)
    for texts in plan.texts:
        if texts.missing:
            yield Step("encoding names", "name", len(texts.prompts), partial(extract_texts, texts, encoder))
    if plan.images_to_encode:
        yield Step(
            "encoding pictures",
            "picture",
            plan.images_to_encode,
            lambda progress: extract(plan.images, encoder, batch_size=BATCH_SIZE, workers=1, progress=progress),
        )
    yield from _encode_sounds(esc50.load(Path(data_dir) / demo_sounds.FOLDER), Path(feature_dir), device)


def _draw(data_dir: Path) -> Iterator[Step]:
    """Yield the steps for the demo's pictures, without its shifted test sets, and for its sounds."""
    pictures = install.count_missing_pictures(data_dir, ["demo"])
    if pictures:
        yield Step("drawing", "picture", pictures, partial(_install_pictures, data_dir))
    if not demo_sounds.is_complete(data_dir / demo_sounds.FOLDER):
        total = demo_sounds.FOLDS * demo_sounds.CLIPS * len(demo_sounds.CATEGORIES)
        yield Step("making sounds", "sound", total, partial(_install_sounds, data_dir))


def _install_pictures(data_dir: Path, progress: Callable[[int], object]) -> None:
    install.install(data_dir, lambda done, total: progress(1), ["demo"])


def _install_sounds(data_dir: Path, progress: Callable[[int], object]) -> None:
    demo_sounds.install(data_dir, lambda done, total: progress(1))


def _encode_sounds(dataset: esc50.Sounds, feature_dir: Path, device: str) -> Iterator[Step]:
    """Yield the steps for the features of sounds, in eval() mode, where batches do not matter."""
    encoder = audio_encoder.load()
    source = AudioProvenance(
        encoder=audio_encoder.NAME,
        encoder_digest=tensors_digest(encoder.state_dict()),
        list_digest=dataset.digest(),
        length=len(dataset.clips),
        audio_scale=1,
        mode="eval",
        batch_size=BATCH_SIZE,
    )
    encoder, folder = encoder.to(device), audio.folds_dir(feature_dir, audio_encoder.NAME, demo_sounds.FOLDER)
    read = partial(sounds.read, rate=demo_sounds.RATE, length=demo_sounds.LENGTH)
    for number in audio.missing_folds(folder, source, dataset.folds):

        def make(progress: Callable[[int], object], number: int = number) -> None:
            fold = audio.extract_fold(
                dataset, number, source, lambda samples: encoder(samples.to(device)).cpu(), read, progress
            )
            audio.write_fold(folder, number, fold)

        yield Step(f"encoding sounds, fold {number}", "sound", len(dataset.folds[number]), make)
