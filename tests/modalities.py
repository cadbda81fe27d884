"""Random features of ImageNet's images, names and ESC-50's sounds, for tests of ImageNet-ESC; its facts by loops."""

import json
import random
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from engine.datasets import few_shot
from engine.esc.benchmark import CLASSES
from engine.features import audio
from engine.features.prompts import Texts, write_texts
from engine.features.store import Bank, FeaturePaths, Provenance, write_shard

SETS = {name: {int(k): v for k, v in own.items()} for name, own in json.loads(CLASSES.read_text()).items()}
DIMENSION, IMAGES = 16, {"train": 7, "val": 5, "test": 2}


def install(root, **how):
    """Features as features.py and audio_features.py leave them, and splits; `.flags` say where.

    `how` is what was unusual about the making of those of images and names.
    """
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(1000, DIMENSION, generator=generator)

    def noisy(labels, noise):
        return 3 * (centres[labels] + noise * torch.randn(len(labels), DIMENSION, generator=generator))

    place = FeaturePaths.of(root / "features", "RN50", "imagenet")
    for part, count in IMAGES.items():
        labels = torch.arange(1000).repeat_interleave(count)
        source = Provenance("RN50", "weights", f"list of {part}", len(labels), **how)
        write_shard(place.bank(part, 0, "none"), source, list(range(len(labels))), labels, noisy(labels, 0.8))
    labels = torch.arange(1000)
    source = Provenance("RN50", "weights", "list of prompts", 1000, **how)
    write_texts(place.texts(0, "classname"), Texts(noisy(labels, 1.0), labels, [f"class {k}" for k in labels], source))
    for shots, seed in ((shots, seed) for shots in (1, 2, 4) for seed in range(1, 6)):
        lists = ([label for label in range(1000) for _ in range(IMAGES[part])] for part in ("train", "val"))
        drawn = few_shot.sample(*lists, shots, seed)
        few_shot.save(few_shot.FewShotSplit("imagenet", shots, seed, *drawn), root / "indices")
    install_sounds(root / "features", noisy)
    words = {"indices": "indices", "feature": "features", "esc_result": "results", "avg": "tables", "data": "data"}
    flags = [word for name, folder in words.items() for word in (f"--{name}_dir", str(root / folder))]
    return SimpleNamespace(
        root=root, flags=[*flags, "--device", "cpu"], tables=root / "tables", results=root / "results"
    )


def install_sounds(feature_dir, noisy):
    """Five folds of 50 categories of 8 clips in shuffled order; targets have nothing to do with ImageNet's labels."""
    named = [*SETS["imagenet_27"].items(), *((500 + k, f"another_{k}") for k in range(23))]
    random.Random(1).shuffle(named)
    for fold in range(1, 6):
        clips = [(target, label, name) for target, (label, name) in enumerate(named) for _ in range(8)]
        random.Random(fold).shuffle(clips)
        targets, labels, names = zip(*clips, strict=True)
        audio.write_fold(
            audio.folds_dir(feature_dir),
            fold,
            audio.Fold(
                features=F.normalize(noisy(torch.tensor(labels), 1.2)),
                labels=torch.tensor(targets),
                positions=torch.arange(400) + 400 * (fold - 1),
                categories=list(names),
                paths=[f"audio/{k}.wav" for k in range(400)],
                provenance=audio.AudioProvenance(
                    "AudioCLIP", "weights", "list", 2000, audio_scale=1, mode="train", batch_size=10
                ),
            ),
        )


class Plain:
    """What the protocol says of a class set, straight from the files: lists of (feature, class), feature by feature."""

    def __init__(self, root, classes):
        self.root = root
        self.names = SETS[f"imagenet_{classes}"]
        self.rank = {label: rank for rank, label in enumerate(sorted(self.names))}
        self.place = FeaturePaths.of(root / "features", "RN50", "imagenet")

    def images(self, part, shots=None, seed=None):
        features, labels = Bank(self.place.bank(part, 0, "none")).read()
        split = json.loads((self.root / f"indices/imagenet/shot_{shots}-seed_{seed}.json").read_text()) if shots else {}
        positions = split.get(part, range(len(labels)))
        return [(self._unit(features[p]), self.rank[int(labels[p])]) for p in positions if int(labels[p]) in self.rank]

    def texts(self):
        from engine.features.prompts import read_texts

        texts = read_texts(self.place.texts(0, "classname"))
        return [(self._unit(texts.features[label]), rank) for label, rank in self.rank.items()]

    def sounds(self, folds, start=0, end=None):
        """The clips of `folds`, or those of each class from number `start` up to `end` in a fold."""
        by_name = {name: self.rank[label] for label, name in self.names.items()}
        found = []
        for number in folds:
            fold = audio.read_fold(audio.folds_dir(self.root / "features"), number)
            for name in by_name:
                own = [k for k, category in enumerate(fold.categories) if category == name]
                found += [(self._unit(fold.features[k]), by_name[name]) for k in own[start:end]]
        return found

    def parts(self, task, split, draw, shots):
        """Training, validation and test samples of a task, and one shot of the other modality."""
        others = [fold for fold in range(1, 6) if fold != split]
        if task == "image":
            own = self.images("train", shots, split), self.images("val", shots, split), self.images("test")
            return *own, self.sounds([draw], 0, 1)
        own = self.sounds([split], 0, shots), self.sounds([split], shots, 2 * shots), self.sounds(others)
        return *own, self.images("train", 1, draw)

    def means(self, samples):
        """The mean feature of each class."""
        return [
            torch.stack([feature for feature, label in samples if label == rank]).mean(0)
            for rank in range(len(self.names))
        ]

    @staticmethod
    def _unit(feature):
        return feature / feature.double().norm().float()


def accuracy(rows, samples):
    """How many of `samples` the classifier of these `rows` gets right, one by one."""
    right = 0
    for feature, label in samples:
        logits = [float(feature.double() @ row.double()) for row in rows]
        right += logits.index(max(logits)) == label
    return right / len(samples)
