"""Feature stores for tests, made of random features, a dataset to make some from, and what to mine in them."""

import json
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from engine import datasets
from engine.datasets import few_shot
from engine.features.opened import OpenedFeatures
from engine.features.prompts import Texts, write_texts
from engine.features.store import FeaturePaths, Provenance, write_shard
from engine.results import saved_classifiers
from engine.results.runs import TEST, TRAINED, VAL, Cell, Record
from engine.results.saved_classifiers import FeatureExtraction, SavedClassifier
from engine.tasks.images import ImageTasks, wanted_by


def store_of_random_features(root, classes, dimension=32):
    """A feature store and splits under `root` as features.py leaves them: dataset `demo`, encoder `fake`.

    16 train, 4 val and 5 test images a class; flipped views; splits of 1 and 2 shots, seeds 1 and 2. `.flags` are the
    directories as words of a command line.
    """
    generator = torch.Generator().manual_seed(7)
    centres = F.normalize(torch.randn(classes, dimension, generator=generator))

    def noisy(labels, noise):
        return 3 * (centres[labels] + noise * torch.randn(len(labels), dimension, generator=generator))

    store = stored_features(root)
    for part, per_class, views in (("train", 16, ["none", "flip"]), ("val", 4, ["none"]), ("test", 5, ["none"])):
        labels = torch.arange(classes).repeat_interleave(per_class)
        source = Provenance("fake", "digest of weights", f"digest of {part}", len(labels))
        for view in views:
            for rows in torch.arange(len(labels)).split(100):
                features = noisy(labels[rows], 0.35)
                write_shard(store.place.bank(part, 0, view), source, rows.tolist(), labels[rows], features)
    labels = torch.arange(classes)
    source = Provenance("fake", "digest of weights", "digest of prompts", classes)
    texts = Texts(noisy(labels, 0.2), labels, [f"class {k}" for k in labels], source)
    write_texts(store.place.texts(0, "hand_crafted"), texts)
    for shots in (1, 2):
        for seed in (1, 2):
            lists = ([label for label in range(classes) for _ in range(count)] for count in (16, 4))
            few_shot.save(
                few_shot.FewShotSplit("demo", shots, seed, *few_shot.sample(*lists, shots, seed)), root / "indices"
            )
    return store


def stored_features(root):
    """Where the things of `store_of_random_features` lie under `root`."""
    directories = {"--indices_dir": "indices", "--feature_dir": "features", "--result_dir": "experiments"}
    return SimpleNamespace(
        root=root,
        place=FeaturePaths.of(root / "features", "fake", "demo"),
        flags=[word for flag, name in directories.items() for word in (flag, str(root / name))],
    )


def save_zeroshot(store, classnames, shots=1, views=("flip", 1)):
    """Save the zero-shot classifier of a store, of dataset `demo` and encoder `fake`, as a run; return its folder."""
    augmentation, number = views
    fields = {"dataset": "demo", "encoder": "fake", "text_augmentation": "hand_crafted", "shots": shots, "seed": 1}
    fields |= {"image_augmentation": augmentation, "image_views": number, "image_layer": 0}
    cell = Cell.of_method("linear", modality="cross_modal", **fields)
    features = OpenedFeatures(wanted_by([cell]), store.root / "features", store.root / "indices")
    data, (grid, record) = ImageTasks([cell], features, "cpu"), (list(cell.grid), {TRAINED: {VAL: 0.5, TEST: 0.5}})
    run = Record(cell, grid[0], data.inputs(cell), grid, 0, record, 0.0, {"torch": torch.__version__})
    weight, how = data.zeroshot(cell), FeatureExtraction(size=224, encoder="fake")
    saved = SavedClassifier(how, classnames, run, {"head.weight": weight, "zeroshot": weight.clone()})
    saved_classifiers.save(saved, store.root / "experiments")
    return store.root / "experiments"


def install_pictures(root, names, picture, counts, shots, seeds):
    """The dataset `demo` of classes `names` under `root`/data, with `counts` images a class by part.

    `picture(label)` draws an image. The splits of `shots` lie under `root`/indices.
    """
    split = {
        part: [[f"{part}/{k}_{i}.png", k, name] for k, name in enumerate(names) for i in range(count)]
        for part, count in counts.items()
    }
    for impath, label, _ in (row for rows in split.values() for row in rows):
        path = root / "data" / "demo" / "images" / impath
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(label).save(path)
    (root / "data" / "demo" / "split_demo.json").write_text(json.dumps(split))
    benchmark = datasets.load("demo", root / "data")
    for seed in seeds:
        drawn = few_shot.sample(benchmark.labels("train"), benchmark.labels("val"), shots, seed)
        few_shot.save(few_shot.FewShotSplit("demo", shots, seed, *drawn), root / "indices")


def best_by_loops(texts, images, labels):
    """Positions and zero-shot accuracies of the best 21 templates, best first, in float64 without any batching.

    `texts` [C, T, D] are features of T templates filled with C classes, `images` [n, D] those of images with `labels`.
    """
    texts, images = (F.normalize(features.double(), dim=-1) for features in (texts, images))
    accuracies = []
    for template in range(texts.shape[1]):
        right = 0
        for image, label in zip(images, labels.tolist(), strict=True):
            cosines = [float(image @ row) for row in texts[:, template]]
            right += cosines.index(max(cosines)) == label
        accuracies.append(right / len(images))
    best = []
    while len(best) < 21:
        rest = [position for position in range(texts.shape[1]) if position not in best]
        highest = max(accuracies[position] for position in rest)
        best.append(next(position for position in rest if accuracies[position] == highest))
    return best, [accuracies[position] for position in best]
