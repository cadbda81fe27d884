"""Measure speed and memory of feature extraction, compared with its steps alone and with a naive sweep.

    python bench/features.py                                    # everything: about twenty minutes on two cores
    python bench/features.py --parts encode texts --images 256  # only some parts

Creates JPEGs of 500 x 375 and random weights of an encoder (RN50) once. Parts:

encode   images/s of plain `model.encode_image` under inference_mode and of the frozen layers as in features.py (fp32,
         bf16; fp16 on a GPU), and the difference of the features relative to the largest
texts    prompts/s of `model.encode_text` on 77 tokens, and of features.py
decode   images/s of decoding alone, by --decode and number of workers
run      images/s of a run (decode, encode, write) against the slower of decoding and encoding alone; peak memory above
         the loaded model and bytes on disk, for layers 0 and 1
sweep    5 shots x 3 seeds x none/flip x layers 0 and 1 of a dataset: one features.py against one process per shot,
         seed, layer and view, which decodes everything again; seconds and images decoded and encoded
train    peak memory of train.py on a test bank of 4 GiB: final features, and inputs of a trainable layer
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

CLASSES = 20
PER_CLASS = {"train": 16, "val": 4}
SHOTS, SEEDS = [1, 2, 4, 8, 16], [1, 2, 3]
SECONDS = 8.0
"""The minimum duration of a measurement."""
WORDS = "old new small large bright dark round flat striped spotted wooden metal".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"encode": encode, "texts": texts, "decode": decode, "run": run, "sweep": sweep, "train": train}
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts), help="parts to measure")
    parser.add_argument("--images", type=int, default=1280, help="test images")
    parser.add_argument("--encoder", default="RN50")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="folder for images and features (default: temporary)")
    args = parser.parse_args()
    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    print(f"{platform.processor() or platform.machine()}, {where}; torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        install(args)
        for name in args.parts:
            print(f"\n{name}", flush=True)
            parts[name](args)


# --- inputs ----------------------------------------------------------------------------------------------------------


def install(args: argparse.Namespace) -> None:
    """Create missing images, splits and weights under `args.folder`."""
    from engine import datasets
    from engine.datasets import few_shot

    weights = args.folder / "random.safetensors"
    if not weights.is_file():
        import open_clip

        torch.manual_seed(0)
        args.folder.mkdir(parents=True, exist_ok=True)
        save_file(open_clip.create_model(args.encoder.replace("/", "-")).state_dict(), weights)
    counts = PER_CLASS | {"test": args.images // CLASSES}
    split = {
        name: [[f"{name}/{k}_{i}.jpg", k, f"kind {k}"] for k in range(CLASSES) for i in range(count)]
        for name, count in counts.items()
    }
    root = args.folder / "data" / "demo"
    rng = np.random.default_rng(0)
    for path in (root / "images" / row[0] for rows in split.values() for row in rows):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(rng).save(path, quality=90)
    (root / "split_demo.json").write_text(json.dumps(split))
    dataset = datasets.load("demo", args.folder / "data")
    for shots in SHOTS:
        for seed in SEEDS:
            drawn = few_shot.sample(dataset.labels("train"), dataset.labels("val"), shots, seed)
            few_shot.save(few_shot.FewShotSplit("demo", shots, seed, *drawn), args.folder / "indices")


def photograph(rng: np.random.Generator) -> Image.Image:
    """Return 500 x 375 pixels with structure at several scales, which compress to about 100 kB like photographs."""
    layers = []
    for size in (4, 16, 64, 200):
        noise = Image.fromarray(rng.integers(0, 256, (size * 3 // 4, size, 3), dtype=np.uint8))
        layers.append(np.asarray(noise.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float32))
    return Image.fromarray(np.average(layers, axis=0, weights=[4, 3, 2, 1.5]).astype(np.uint8))


def load(args: argparse.Namespace, precision: str = "fp32", layers: list[int] | None = None):
    """Return the encoder with random weights."""
    from engine.clip.load import load_encoder

    return load_encoder(
        args.encoder, str(args.folder / "random.safetensors"), args.device, layers or [0], [0], precision
    )


def rate(step: Callable[[], object], count: int, device: str) -> float:
    """Return the items per second of `step`, which processes `count` items per call."""
    synchronise = torch.cuda.synchronize if device != "cpu" else lambda: None
    step()
    synchronise()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS / 2:
        step()
        synchronise()
        done += count
    return done / (time.perf_counter() - start)


def in_turns(args: argparse.Namespace, steps: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Return the median rate of each step over rounds; each round measures all steps in turn."""
    rates = [{name: rate(step, count, args.device) for name, step in steps.items()} for _ in range(args.rounds)]
    return {name: statistics.median(of_round[name] for of_round in rates) for name in steps}


# --- parts -----------------------------------------------------------------------------------------------------------


def encode(args: argparse.Namespace) -> None:
    encoders = {name: load(args, name) for name in ("fp32", "bf16", *(["fp16"] if args.device != "cpu" else []))}
    size = encoders["fp32"].preprocessing.size
    pixels = torch.randn(args.batch_size, 3, size, size, device=args.device)

    @torch.inference_mode()
    def plain():
        return encoders["fp32"].model.encode_image(pixels)

    steps = {"plain": plain} | {
        name: lambda encoder=encoder: encoder.encode_images(pixels)[0][0] for name, encoder in encoders.items()
    }
    expected = plain()
    rates = in_turns(args, steps, args.batch_size)
    for name, step in steps.items():
        off = ((step() - expected).abs().max() / expected.abs().max()).item()
        print(f"  {name:5} {rates[name]:8.1f} images/s   x {rates[name] / rates['plain']:.2f}   off by {off:.1e}")


def texts(args: argparse.Namespace) -> None:
    from engine.features.prompts import read_texts
    from engine.features.store import FeaturePaths
    from engine.features.texts import extract_texts, plan_texts

    encoder = load(args)
    prompts = [f"a photo of a {one} {two} thing, a type of flower." for one in WORDS for two in WORDS if one != two]
    prompts = [*prompts[:100], *(f"{word} texture." for word in WORDS), *(f"itap of a {word} dog." for word in WORDS)]
    tokens = encoder.tokenizer(prompts).to(args.device)
    paths = FeaturePaths(args.folder / "texts")

    @torch.inference_mode()
    def plain():
        return torch.cat([encoder.model.encode_text(some) for some in tokens.split(args.batch_size)])

    def ours():
        shutil.rmtree(paths.folder, ignore_errors=True)
        extract_texts(plan_texts("demo", "vanilla", ["{}"], prompts, paths, encoder), encoder)

    rates = in_turns(args, {"plain": plain, "ours": ours}, len(prompts))
    expected, found = plain().cpu(), read_texts(paths.texts(0, "vanilla")).features
    off = ((found - expected).abs().max() / expected.abs().max()).item()
    for name in rates:
        print(f"  {name:5} {rates[name]:8.1f} prompts/s   x {rates[name] / rates['plain']:.2f}")
    print(f"  off by {off:.1e}; with tokenising, planning and writing")


def decode(args: argparse.Namespace) -> None:
    for way in ("pil", "fast"):
        for workers in args.workers:
            print(f"  {way:4} {workers} workers {decode_rate(args, way, workers):8.1f} images/s", flush=True)


def decode_rate(args: argparse.Namespace, way: str, workers: int) -> float:
    """Return the images/s of decoding and rendering with the data loader of features.py."""
    from engine import datasets
    from engine.features import extract
    from engine.features.decoding import batches
    from engine.features.store import FeaturePaths

    dataset, paths = datasets.load("demo", args.folder / "data"), FeaturePaths(args.folder / "none")
    positions = list(range(len(dataset.test)))
    encoder = load(args)
    plan = extract.plan(dataset, "test", "none", positions, paths, encoder, way)
    images = extract._Images([(plan, position) for position in positions], encoder.preprocessing)
    start = time.perf_counter()
    for _ in batches(images, batch_size=args.batch_size, workers=workers):
        pass
    return len(images) / (time.perf_counter() - start)


def run(args: argparse.Namespace) -> None:
    """Measure runs, each in a separate process for its peak memory, and encoding and decoding alone."""
    encoder = load(args, layers=[0, 1])
    pixels = torch.randn(args.batch_size, 3, *2 * [encoder.preprocessing.size], device=args.device)
    for layers in ([0], [0, 1]):

        def encoder_rate(layers=layers) -> float:
            return rate(lambda: encoder.encode_images(pixels, layers), args.batch_size, args.device)

        for workers in args.workers:
            decoding = decode_rate(args, "pil", workers)
            alone = [encoder_rate()]
            found = child(args, layers, workers)
            alone = statistics.mean([*alone, encoder_rate()])  # before and after
            slower = min(alone, decoding)
            print(
                f"  layers {layers}, {workers} workers: {found['rate']:7.1f} images/s, encoder alone {alone:7.1f},"
                f" decoding alone {decoding:7.1f}: {found['rate'] / slower:.0%} of the slower;"
                f" peak {found['peak'] / 2**30:.2f} GiB over the loaded model;"
                f" {found['bytes'] / found['images'] / 1024:.1f} KiB an image on disk",
                flush=True,
            )


def child(args: argparse.Namespace, layers: list[int], workers: int) -> dict:
    """Return the measurements of a separate process that extracts the test images."""
    options = [str(args.folder), args.encoder, args.device, str(args.batch_size), str(workers), *map(str, layers)]
    command = [sys.executable, __file__, "--child", *options]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def be_child(folder: str, encoder: str, device: str, batch_size: str, workers: str, *layers: str) -> None:
    from engine import datasets
    from engine.features import extract
    from engine.features.store import FeaturePaths

    args = argparse.Namespace(folder=Path(folder), encoder=encoder, device=device)
    loaded = load(args, layers=list(map(int, layers)))
    dataset = datasets.load("demo", args.folder / "data")
    paths = FeaturePaths(args.folder / "run")
    plan = extract.plan(dataset, "test", "none", list(range(len(dataset.test))), paths, loaded)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before = memory_of_process("VmRSS")
    start = time.perf_counter()
    extract.extract([plan], loaded, batch_size=int(batch_size), workers=int(workers), progress=lambda count: None)
    seconds = time.perf_counter() - start
    peak = memory_of_process("VmHWM") - before
    size = sum(path.stat().st_size for path in paths.folder.rglob("*.safetensors"))
    shutil.rmtree(paths.folder)
    images = len(plan.positions)
    print(json.dumps({"rate": images / seconds, "peak": peak, "bytes": size, "images": images}))


def memory_of_process(field: str) -> int:
    """Return the bytes in a field of /proc/self/status."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


def sweep(args: argparse.Namespace) -> None:
    """Measure one features.py, and a sample of processes per shot, seed, layer and view that share nothing."""
    common = ["--dataset", "demo", "--clip-encoder", args.encoder, "--device", args.device]
    common += ["--clip-weights", args.folder / "random.safetensors", "--test-batch-size", args.batch_size]
    for flag, folder in (("--data_dir", "data"), ("--indices_dir", "indices")):
        common += [flag, args.folder / folder]
    whole = ["--train-shot", *SHOTS, "--seed", *SEEDS, "--image-augmentation", "flip", "--image-layer-idx", 0, 1]
    ours, counted = script(args, *common, *whole)
    naive, passes, timed = 0.0, 0, 0
    cells = [(s, k, a, layer) for s in SHOTS for k in SEEDS for a in ("none", "flip") for layer in (0, 1)]
    for number, (shots, seed, augmentation, layer) in enumerate(cells):
        words = [
            "--train-shot",
            shots,
            "--seed",
            seed,
            "--image-augmentation",
            augmentation,
            "--image-layer-idx",
            layer,
        ]
        passes += CLASSES * (shots * (2 if augmentation == "flip" else 1) + min(shots, 4)) + args.images
        if number % 12 == 5:  # a twelfth is timed and scaled up
            naive, timed = naive + script(args, *common, *words)[0], timed + 1
    naive *= len(cells) / timed
    distinct = CLASSES * (2 * PER_CLASS["train"] + PER_CLASS["val"]) + args.images
    print(
        f"  features.py: {ours:.0f} s, {counted} images decoded and encoded, {distinct} different (image, view) pairs"
    )
    print(f"  naive: {naive:.0f} s ({timed} of {len(cells)} timed), {passes} images; {naive / ours:.1f} times that")


def script(args: argparse.Namespace, *words: object) -> tuple[float, int]:
    """Return the seconds of features.py into an empty store, and the number of images that it prints."""
    store = args.folder / "features"
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "features.py", *map(str, words), "--feature_dir", str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stdout.split(" of them to encode")[0].split()[-1])


def train(args: argparse.Namespace) -> None:
    """Measure train.py on a test bank of 4 GiB of random features (1024 dimensions) or inputs of demo-RN's layer."""
    for layer in (0, 1):
        with test_bank(args, layer) as words:
            command = [sys.executable, "-c", PEAK, "train.py", *words, "--max-iter", "3"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        print(f"  image layer {layer}: {done.stdout.splitlines()[-1]}", flush=True)


PEAK = """
import resource, runpy, sys, time
start = time.perf_counter()
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak {peak:.2f} GiB in {time.perf_counter() - start:.0f} s")
"""


@contextlib.contextmanager
def test_bank(args: argparse.Namespace, layer: int) -> Iterator[list[str]]:
    """Create a store of the demo encoder with 4 GiB of random test features; yield arguments of train.py."""
    from engine import datasets
    from engine.clip.load import load_encoder
    from engine.features.prompts import Texts, write_texts
    from engine.features.store import FeaturePaths, Provenance, write_shard
    from engine.features.texts import extract_texts, plan_texts

    encoder = load_encoder("demo-RN", image_layers=[layer])
    dataset, store = datasets.load("demo", args.folder / "data"), args.folder / "large"
    shape = list(encoder.image_shapes[layer]) if layer else [1024]
    paths = FeaturePaths.of(store, "demo-RN", "demo")
    row = 4 * int(np.prod(shape))
    generator = torch.Generator().manual_seed(0)
    for name in ("train", "val", "test"):
        items = dataset.labels(name)
        labels = torch.tensor(items) if name != "test" else torch.arange(2**32 // row) % CLASSES
        source = Provenance("demo-RN", encoder.digest, dataset.digest(name), len(labels), layer=layer)
        for rows in torch.arange(len(labels)).split(max(1, 2**27 // row)):
            features = torch.randn(len(rows), *shape, generator=generator)
            write_shard(paths.bank(name, layer, "none"), source, rows.tolist(), labels[rows], features)
    prompts = [f"kind {k}" for k in range(CLASSES)]
    plan = plan_texts("demo", "hand_crafted", ["{}"], prompts, paths, encoder)
    extract_texts(plan, encoder)
    if not layer:  # with the dimension of the image features
        path, source = plan.files[0]
        write_texts(path, Texts(torch.randn(CLASSES, *shape), torch.arange(CLASSES), prompts, source))
    words = ["--dataset", "demo", "--clip-encoder", "demo-RN", "--train-shot", "4", "--seed", "1", "--device", "cpu"]
    words += ["--image-augmentation", "none", "--image-layer-idx", str(layer), "--feature_dir", str(store)]
    words += ["--indices_dir", str(args.folder / "indices"), "--result_dir", str(args.folder / "experiments")]
    yield words + (["--hyperparams", "partial", "--logit", "4.0"] if layer else [])
    shutil.rmtree(store)
    shutil.rmtree(args.folder / "experiments", ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_child(*sys.argv[2:])
    else:
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        main()
