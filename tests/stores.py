"""Feature stores for tests, made of random features."""

from types import SimpleNamespace

import torch
from torch.nn import functional as F

from engine.datasets import few_shot
from engine.features.store import Place, Source, Texts, write_shard, write_texts


def store_of_random_features(root, classes):
    """A feature store and splits under `root` as features.py leaves them: dataset `demo`, encoder `fake`.

    16 train, 4 val and 5 test images a class; flipped views; splits of 1 and 2 shots, seeds 1 and 2. `.flags` are the
    directories as words of a command line.
    """
    dimension = 32
    generator = torch.Generator().manual_seed(7)
    centres = F.normalize(torch.randn(classes, dimension, generator=generator))

    def noisy(labels, noise):
        return 3 * (centres[labels] + noise * torch.randn(len(labels), dimension, generator=generator))

    store = stored_features(root)
    for part, per_class, views in (("train", 16, ["none", "flip"]), ("val", 4, ["none"]), ("test", 5, ["none"])):
        labels = torch.arange(classes).repeat_interleave(per_class)
        source = Source("fake", "digest of weights", f"digest of {part}", len(labels))
        for view in views:
            for rows in torch.arange(len(labels)).split(100):
                features = noisy(labels[rows], 0.35)
                write_shard(store.place.bank(part, 0, view), source, rows.tolist(), labels[rows], features)
    labels = torch.arange(classes)
    source = Source("fake", "digest of weights", "digest of prompts", classes)
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
        place=Place.of(root / "features", "fake", "demo"),
        flags=[word for flag, name in directories.items() for word in (flag, str(root / name))],
    )
