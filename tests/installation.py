"""A tiny installation of the eleven datasets and ImageNet's four variants, in their real folders and formats.

Its pictures are of the demo's world, which the demo's encoders know: accuracies are neither chance nor all alike.
"""

import json
from types import SimpleNamespace

from engine import datasets
from engine.datasets import few_shot
from engine.datasets.registry import DATASETS
from engine.demo import world
from engine.files import write_json

COUNTS = {"train": 3, "val": 2, "test": 2}
"""Images a class: of 4, 8 or 16 shots a split has all three."""
SHIFTED_IMAGES = 2
CLASSES, IMAGENET_CLASSES = 6, 10
TWINS = (3, 7)
"""Two classes of ImageNet that share a name, as its cranes do."""
PRESENT = {"imagenet_a": [3, 5], "imagenet_r": [2, 7]}
"""Labels of the one class in five that ImageNet-A and -R have: one of the twins each, which no name tells apart."""


def kinds(dataset):
    """What the pictures of each class show, by label: other kinds for each dataset."""
    first = datasets.TARGETS.index(datasets.parent(dataset) or dataset)
    count = IMAGENET_CLASSES if (datasets.parent(dataset) or dataset) == "imagenet" else CLASSES
    return [world.HELD_OUT[(2 * first + k) % len(world.HELD_OUT)] for k in range(count)]


def classnames(dataset):
    """The classes of a dataset, by label; with underscores in some of the names."""
    names = [kind.name.replace(" ", "_") if label % 2 else kind.name for label, kind in enumerate(kinds(dataset))]
    if len(names) == IMAGENET_CLASSES:
        names[TWINS[1]] = names[TWINS[0]]
    return names


def wnid(label):
    """A class id, which sorts as labels do."""
    return f"n{label + 1440764:08d}"


def install(root):
    """The installation under `root`/data, its own class counts and splits of 1, 2 and 16 shots, seed 1, under
    `root`/indices. Gives the folders as words of a command line: `.data`, `.indices`, `.features`, `.runs`, ..."""
    data, indices = root / "data", root / "indices"
    for dataset in datasets.TARGETS:
        (_install_aircraft if dataset == "fgvc_aircraft" else _install_split)(dataset, data / DATASETS[dataset].folder)
    for variant in datasets.variants("imagenet"):
        _install_variant(variant, data / DATASETS[variant].folder)
    benchmarks = {dataset: datasets.load(dataset, data) for dataset in datasets.TARGETS}
    write_json(indices / "class_counts.json", {name: _counts(benchmark) for name, benchmark in benchmarks.items()})
    for dataset in datasets.TARGETS:
        for shots in (1, 2, 16):
            drawn = few_shot.draw(*few_shot.positions_by_class(dataset, data, indices), shots, 1)
            few_shot.save(few_shot.FewShotSplit(dataset, shots, 1, *drawn), indices)
    return folders(root)


def folders(root):
    """The folders of an installation under `root`, as words of a command line."""
    names = {
        "data": "data",
        "indices": "indices",
        "feature": "features",
        "result": "runs",
        "eval": "tables",
        "avg": "avg",
    }
    return SimpleNamespace(root=root, **{key: [f"--{key}_dir", str(root / folder)] for key, folder in names.items()})


def _install_split(dataset, root):
    layout = DATASETS[dataset]
    split = {
        part: [[_impath(dataset, part, label, i), label, name] for label, name in enumerate(classnames(dataset))
               for i in range(count)]
        for part, count in COUNTS.items()
    }  # fmt: skip
    for impath, label, _ in (row for rows in split.values() for row in rows):
        _draw(root / layout.images / impath, kinds(dataset)[label])
    (root / layout.split_file).write_text(json.dumps(split))


def _impath(dataset, part, label, number):
    """Where an image lies: ImageNet's test images have a folder of their own, its others share one."""
    if dataset == "imagenet":
        return f"{'val' if part == 'test' else 'train'}/{wnid(label)}/{part}_{number}.JPEG"
    return f"{classnames(dataset)[label]}/{part}_{number}.jpg"


def _install_aircraft(dataset, root):
    names = classnames(dataset)
    for number, (part, count) in enumerate(COUNTS.items()):
        lines = []
        for label, name in enumerate(names):
            for i in range(count):
                lines.append(f"{number}{label:03d}{i:03d} {name}\n")
                _draw(root / "images" / f"{lines[-1].split()[0]}.jpg", kinds(dataset)[label])
        (root / f"images_variant_{part}.txt").write_text("".join(lines))
    (root / "variants.txt").write_text("".join(f"{name}\n" for name in names))


def _install_variant(variant, root):
    layout, names = DATASETS[variant], classnames(variant)
    for label in PRESENT.get(variant, range(len(names))):
        folder = root / layout.images / (str(label) if layout.numbered else wnid(label))
        for i in range(SHIFTED_IMAGES):
            _draw(
                folder / f"{i}.jpg",
                kinds(variant)[label],
                style=variant.replace("imagenet", "demo_").replace("__", "_"),
            )
    (root / layout.images / "README.txt").write_text("no image")
    (root / "classnames.txt").write_text("".join(f"{wnid(label)} {name}\n" for label, name in enumerate(names)))


def _draw(path, kind, style="demo"):
    """A picture, the same for the same path."""
    rng = world.generator(1, "/".join(path.parts[-4:]), 0)
    image = world.draw(world.random_scene(kind, rng), world.STYLES[style], rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=95)


def _counts(benchmark):
    """What class_counts.json says of a dataset."""
    train, val = (few_shot.group(benchmark.labels(part)) for part in ("train", "val"))
    labels = list(dict.fromkeys(benchmark.labels("train")))
    return {"labels": labels, "train": [*map(len, train)], "val": [*map(len, val)], "test": len(benchmark.test)}
