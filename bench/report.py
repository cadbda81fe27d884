"""Seconds, memory and size of a report on 1000 classes and 50 000 test images, from stored features.

    python bench/report.py
    python bench/report.py --classes 100 --images 50

The features are random, around a centre for each class. All images are one photograph of 500 x 375 pixels, under a
name each. `report.py` runs as a user starts it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engine import datasets  # noqa: E402
from engine.datasets import few_shot  # noqa: E402
from engine.datasets.image_dataset import ImageDataset  # noqa: E402
from engine.features.prompts import Texts, write_texts  # noqa: E402
from engine.features.store import FeaturePaths, Provenance, write_shard  # noqa: E402
from stores import save_zeroshot, stored_features  # noqa: E402

DIMENSION, NOISE = 1024, 0.28
"""CLIP's RN50; noise in each dimension, so that about three in four images are right."""
SHOTS, PER_CLASS = 16, {"train": 16, "val": 4}
SHARD = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000, help="classes")
    parser.add_argument("--images", type=int, default=50, help="test images of each class")
    parser.add_argument("--page", metavar="DIR", help="keep the report in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset = install(root, args.classes, PER_CLASS | {"test": args.images})
        store_features(root, dataset)
        run = save_zeroshot(stored_features(root), dataset.classnames, SHOTS, ("none", 0))
        folders = {"--data_dir": "data", "--indices_dir": "indices", "--feature_dir": "features"}
        places = [word for flag, name in folders.items() for word in (flag, str(root / name))]
        output = Path(args.page or root / "report")
        command = [sys.executable, str(ROOT / "report.py"), "--run", str(run), "--output", str(output), *places]
        began = time.perf_counter()
        subprocess.run([*command, "--device", "cpu"], check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        wall = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in sorted(output.iterdir()))
        print(f"{args.classes} classes, {args.classes * args.images} test images, {os.cpu_count()} cores")
        cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
        print(f"{wall:.1f} s, {cpu:.1f} s of CPU, peak {memory:.2f} GiB; {sizes}")


def install(root: Path, classes: int, counts: dict[str, int]) -> ImageDataset:
    """Install the dataset `demo` with these classes under `root`/data, and its split of 16 shots."""
    photograph, images = root / "photograph.jpg", root / "data" / "demo" / "images"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(photograph, quality=90)
    names = [f"class number {label}" for label in range(classes)]
    split = {
        part: [
            [f"{part}/{name}/{number:04d}.jpg", label, name] for label, name in enumerate(names) for number in range(n)
        ]
        for part, n in counts.items()
    }
    for path in (images / impath for impath, _, _ in split["test"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(photograph)
    (root / "data" / "demo" / "split_demo.json").write_text(json.dumps(split))
    dataset = datasets.load("demo", root / "data", check_images=False)
    drawn = few_shot.sample(dataset.labels("train"), dataset.labels("val"), SHOTS, 1)
    few_shot.save(few_shot.FewShotSplit("demo", SHOTS, 1, *drawn), root / "indices")
    return dataset


def store_features(root: Path, dataset: ImageDataset) -> None:
    """Write random features of all images and prompts under `root`/features, as features.py leaves them."""
    paths, generator = FeaturePaths.of(root / "features", "fake", "demo"), torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(len(dataset.classnames), DIMENSION, generator=generator))
    for split in (*PER_CLASS, "test"):
        labels = torch.tensor(dataset.labels(split))
        source = Provenance("fake", "digest of weights", dataset.digest(split), len(labels))
        for rows in torch.arange(len(labels)).split(SHARD):
            noise = NOISE * torch.randn(len(rows), DIMENSION, generator=generator)
            features = centres[labels[rows]] + noise
            write_shard(paths.bank(split, 0, "none"), source, rows.tolist(), labels[rows], features)
    source = Provenance("fake", "digest of weights", "digest of prompts", len(centres))
    texts = Texts(centres, torch.arange(len(centres)), [f"a photo of {name}" for name in dataset.classnames], source)
    write_texts(paths.texts(0, "hand_crafted"), texts)


if __name__ == "__main__":
    main()
