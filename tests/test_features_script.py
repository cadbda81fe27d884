"""features.py as a user runs it: the store that it leaves, interrupted or concurrent, and its messages.

Most runs are forks of this process (`forks`): the same script under the same arguments, seconds earlier.
"""

import dataclasses
import json
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import datasets
from engine.clip import load, names
from engine.clip import weights as clip_weights
from engine.datasets import few_shot
from engine.features import extract
from engine.features.prompts import read_texts, write_texts
from engine.features.store import Bank, FeaturePaths
from forks import Fork, as_a_user, can_mount, limit_sharing, unlistable, written
from hostile import save_hostile

ROOT = Path(__file__).parents[1]
SEVERAL = [
    "--image-augmentation",
    "randomcrop",
    "--image-views",
    "2",
    "--train-shot",
    "1",
    "4",
    "8",
    "--seed",
    "1",
    "2",
    "--image-layer-idx",
    "0",
    "1",
]


@pytest.fixture
def world(install_images, random_weights):
    """The dataset, `weights`, `words(...)` of a command line and `start(...)`, which runs it."""
    world = install_images()
    world.weights = random_weights(0)
    world.place = FeaturePaths.of(world.root / "features", "demo-RN@tiny", "demo")

    def words(*more, weights=world.weights, features="features"):
        encoder = ["--clip-encoder", "demo-RN", *(["--clip-weights", weights] if weights else [])]
        places = [*world.flags, "--feature_dir", world.root / features]
        fixed = ["--dataset", "demo", "--device", "cpu", "--test-batch-size", "4"]
        return list(map(str, [*fixed, "--train-shot", "1", "--seed", "1", *encoder, *places, *more]))

    world.words = words

    def start(*more, shard_images=8, prepare=lambda: None, **kwargs):
        def prepare_all():
            extract.SHARD_IMAGES = shard_images
            prepare()

        return Fork("features.py", words(*more, **kwargs), world.root, prepare_all)

    world.start = start
    return world


def stored(world, features="features"):
    """Return the contents of all files of a store by name: metadata (in any order) and the bytes of tensors."""
    contents = {}
    for path in sorted((world.root / features).rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118
            contents[str(path.relative_to(world.root / features))] = (file.metadata(), tensors)
    return contents


def positions(world, part, *cells):
    """Return the positions of `part` in the few-shot splits of these shots and seeds."""
    splits = [few_shot.load_split(world.root / "indices", "demo", *cell) for cell in cells]
    return {position for split in splits for position in getattr(split, part)}


# --- what it leaves --------------------------------------------------------------------------------------------------


def test_all_features_for_training_are_extracted_once(world, script):
    done = script("features.py", *world.words("--image-augmentation", "flip"), check=0)
    train, val = positions(world, "train", (1, 1)), positions(world, "val", (1, 1))
    assert f"demo-RN demo: 3 prompts; {2 * len(train) + len(val) + 21} images" in done.stdout
    assert "image/s" in done.stderr
    for part, view, wanted in (
        ("train", "none", train),
        ("train", "flip", train),
        ("val", "none", val),
        ("test", "none", range(21)),
    ):
        bank = Bank(world.place.bank(part, 0, view))
        assert len(bank) == len(wanted)
        features, labels = bank.read(sorted(wanted))
        assert features.shape == (len(wanted), 128)
        assert labels.tolist() == [world.benchmark.labels(part)[position] for position in sorted(wanted)]
    texts = read_texts(world.place.texts(0, "hand_crafted"))
    assert texts.prompts == ["a photo of a red star.", "a photo of a blue {} ring.", "a photo of a dot."]

    before = stored(world)
    again = world.start("--image-augmentation", "flip").wait(check=0)
    assert stored(world) == before
    assert ", 0 of them to encode" in again.out
    assert not again.err


def test_other_splits_encode_only_new_images(world):
    world.start("--image-augmentation", "none").wait(check=0)
    before = stored(world)
    new = positions(world, "train", (1, 1), (2, 1), (2, 2)) - positions(world, "train", (1, 1))
    new_val = positions(world, "val", (1, 1), (2, 1), (2, 2)) - positions(world, "val", (1, 1))
    more = world.start("--image-augmentation", "none", "--train-shot", "2", "1", "--seed", "2", "1").wait(check=0)
    assert f", {len(new) + len(new_val)} of them to encode" in more.out
    after = stored(world)
    assert before.items() <= after.items()
    bank = Bank(world.place.bank("train", 0, "none"))
    assert not bank.missing(list(positions(world, "train", (1, 1), (1, 2), (2, 1), (2, 2))))


@pytest.mark.parametrize("kind", ["randomcrop", "randomresizedcrop"])
def test_random_crops_are_kept_apart(world, kind):
    world.start("--image-augmentation", kind, "--image-views", "3").wait(check=0)
    where = world.place.bank("train", 0, "none").parent
    assert sorted(path.name for path in where.iterdir()) == ["none", *(f"{kind}_{k}" for k in range(3))]
    views = [Bank(where / f"{kind}_{k}").read(sorted(positions(world, "train", (1, 1))))[0] for k in range(3)]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])


def test_test_only_datasets_and_several_at_once(world):
    world.start("--dataset", "demo", "demo_v2", "--text-augmentation", "classname").wait(check=0)
    place = FeaturePaths.of(world.root / "features", "demo-RN@tiny", "demo_v2")
    assert sorted(path.name for path in place.folder.iterdir()) == ["classes.json", "test-layer_0", "text-layer_0"]
    assert Bank(place.bank("test", 0, "none")).read()[1].tolist() == [0, 0, 1, 2]
    assert read_texts(place.texts(0, "classname")).prompts == ["red star", "blue {} ring", "dot"]
    assert len(Bank(world.place.bank("test", 0, "none"))) == 21


def test_classes_are_added_to_old_stores(world):
    """Nothing is encoded again. Prompts of test-only datasets are not needed."""
    words = ["--dataset", "demo", "demo_v2", "--text-layer-idx", "0", "1"]
    world.start(*words).wait(check=0)
    before, classes = stored(world), FeaturePaths.of(world.root / "features", "demo-RN@tiny", "demo_v2").classes
    content = classes.read_bytes()
    assert json.loads(content)["parent_labels"] == [0, 1, 2]
    assert not list(classes.parent.glob("text-*"))
    classes.unlink()
    for layers in (0, 1):
        path = world.place.texts(layers, "hand_crafted")
        write_texts(path, dataclasses.replace(read_texts(path), classnames=None))
    without = stored(world)
    assert "missing" not in world.start(*words, "--dry-run").wait(check=0).out
    assert stored(world) == without != before
    world.start(*words, prepare=forbid_encoding).wait(check=0)
    assert stored(world) == before
    assert classes.read_bytes() == content
    assert read_texts(world.place.texts(1, "hand_crafted")).classnames == world.benchmark.classnames


def forbid_encoding():
    load.Encoder.encode_texts = None


def test_several_encoders_at_once(world):
    if not (clip_weights.DEMO_MODELS / "demo-ViT.safetensors").is_file():
        pytest.skip("demo-ViT has no weights yet")
    world.start("--clip-encoder", "demo-RN", "demo-ViT", weights=None).wait(check=0)
    banks = [
        Bank(FeaturePaths.of(world.root / "features", name, "demo").bank("test", 0, "none")) for name in names.DEMO
    ]
    assert not torch.equal(banks[0].read()[0], banks[1].read()[0])
    assert [bank.provenance.encoder for bank in banks] == ["demo-RN", "demo-ViT"]


def test_several_layers_and_prompts_at_once(world):
    """Each image is encoded once; the store equals separate runs."""
    several = "--image-layer-idx 0 1 --text-layer-idx 0 2 --text-augmentation hand_crafted vanilla".split()
    plan = world.start(*several, "--dry-run").wait(check=0).out
    images = 2 * len(positions(world, "train", (1, 1))) + len(positions(world, "val", (1, 1))) + 21
    assert f"demo-RN demo: 6 prompts; {images} images, counting views, {images} of them to encode" in plan
    for need in (
        "prompts vanilla, layer 0",
        "prompts hand_crafted, layer 2",
        "test/none, layer 0",
        "test/none, layer 1",
    ):
        assert f"\n  {need}: " in plan
    run = world.start(*several).wait(check=0)
    assert f"{images}/{images} [" in run.err
    for layers in (("0", "0"), ("1", "2")):
        for prompts in ("hand_crafted", "vanilla"):
            words = ["--image-layer-idx", layers[0], "--text-layer-idx", layers[1], "--text-augmentation", prompts]
            world.start(*words, features="one by one").wait(check=0)
    assert stored(world) == stored(world, "one by one")
    assert ", 0 of them to encode; 0 B to write" in world.start(*several).wait(check=0).out


@pytest.mark.parametrize(
    ("words", "field", "prompts_too"),
    [
        (["--decode", "fast"], "decode: fast there, pil here", False),
        (["--precision", "bf16"], "precision: bf16 there, fp32 here", True),
        (["--store-dtype", "fp16"], "dtype: fp16 there, fp32 here", False),
    ],
)
def test_non_default_settings_do_not_mix(world, words, field, prompts_too):
    layer = ["--image-layer-idx", "1"]
    world.start(*layer, *words).wait(check=0)
    assert "0 of them to encode" in world.start(*layer, *words).wait(check=0).out
    before = stored(world)
    if prompts_too:
        assert "bf16 stored as fp32 there, fp32 stored as fp32 here" in world.start(*layer).wait(check=1).err
        world.place.texts(0, "hand_crafted").unlink()
        before = stored(world)
    assert field in world.start(*layer).wait(check=1).err
    assert stored(world) == before


def test_neither_workers_nor_batch_size_matter(world):
    world.start(*SEVERAL, "--num-workers", "0").wait(check=0)
    world.start(*SEVERAL, "--num-workers", "4", features="four workers").wait(check=0)
    world.start(*SEVERAL, "--test-batch-size", "32", features="large").wait(check=0)
    assert stored(world) == stored(world, "four workers")
    small, large = (
        Bank(FeaturePaths.of(world.root / name, "demo-RN@tiny", "demo").bank("test", 0, "none")).read()[0]
        for name in ("features", "large")
    )
    assert torch.allclose(small, large, rtol=0, atol=1e-5 * small.abs().max())


# --- killed, and not alone -------------------------------------------------------------------------------------------


def test_a_run_killed_repeatedly_leaves_the_same_store(world):
    world.start(*SEVERAL, features="whole").wait(check=0)
    whole = stored(world, "whole")
    assert len(whole) > 10
    rng = random.Random(0)
    killed = 0
    for _ in range(6):
        there = len(stored(world))
        run = world.start(*SEVERAL)
        while not run.ended() and len(written(world.root / "features")) < there + 2:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        run.kill()
        killed += run.code == -signal.SIGKILL
        assert stored(world).items() <= whole.items()
    assert killed >= 3
    world.start(*SEVERAL).wait(check=0)
    assert stored(world) == whole
    assert not list(world.root.rglob(".*.tmp")), "what the killed left"


def test_a_killed_script_resumes(world):
    command = [sys.executable, "features.py", *world.words(*SEVERAL)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and not written(world.root / "features", "none/*.safetensors"):
        time.sleep(0.002)
    run.kill()
    run.wait()
    there = stored(world)
    for features in ("features", "whole"):
        world.start(*SEVERAL, features=features, shard_images=extract.SHARD_IMAGES).wait(check=0)
    assert 0 < len(there) < len(stored(world))
    assert stored(world) == stored(world, "whole")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_ends_it_at_once(world, workers):
    """The signal reaches all processes of a terminal, workers too; the current shard is completed."""
    command = [sys.executable, "features.py", *world.words(*SEVERAL, "--image-views", "200", "--num-workers", workers)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not written(world.root / "features", "none/*.safetensors"):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    _, output = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert "interrupted: completed work is saved" in output
    assert "Traceback" not in output
    assert not [path for path in (world.root / "features").rglob("*") if path.name.startswith(".")]
    assert ", 0 of them bad" in world.start("--verify").wait(check=0).out


def test_two_at_once_fill_one_store(world):
    same = [world.start(*SEVERAL) for _ in range(2)]
    other = world.start(*SEVERAL, "--train-shot", "2", "--seed", "1", "2")
    for run in (*same, other):
        run.wait(check=0)
    checked = world.start(*SEVERAL, "--train-shot", "1", "2", "4", "8").wait(check=0)
    assert ", 0 of them to encode" in checked.out
    world.start(*SEVERAL, features="alone").wait(check=0)
    alone = FeaturePaths.of(world.root / "alone", "demo-RN@tiny", "demo")
    for part, view in (("train", "none"), ("train", "randomcrop_1"), ("val", "none"), ("test", "none")):
        bank, expected = Bank(world.place.bank(part, 0, view)), Bank(alone.bank(part, 0, view))
        rows = sorted(positions(world, part, (4, 1), (8, 2))) if part != "test" else list(range(21))
        (features, labels), (whole, whole_labels) = bank.read(rows), expected.read(rows)
        assert torch.equal(labels, whole_labels)
        assert torch.allclose(features, whole, rtol=0, atol=1e-5 * whole.abs().max())
    assert not [path for path in (world.root / "features").rglob("*") if path.name.startswith(".")]


# --- what it plans ---------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_missing_features_and_stops(world):
    train, val = positions(world, "train", (1, 1)), positions(world, "val", (1, 1))
    plan = world.start("--dry-run", "--dataset", "demo", "demo_v2").wait(check=0).out
    assert f"demo-RN demo: 3 prompts; {2 * len(train) + len(val) + 21} images, counting views, " in plan
    assert (
        f"  prompts hand_crafted: 3 of 3 missing, 1.6 KiB\n  train/none: {len(train)} of {len(train)} missing" in plan
    )
    assert f"  val/none: {len(val)} of {len(val)} missing, 1.5 KiB\n  test/none: 21 of 21 missing, 10.8 KiB\n" in plan
    assert "demo-RN demo_v2: 0 prompts; 4 images, counting views, 4 of them to encode" in plan
    assert re.search(rf"in total [\d.]+ KiB to write; {world.root}/features has [\d.]+ \w+ left", plan)
    assert not (world.root / "features").exists()

    world.start(shard_images=1024).wait(check=0)
    plan = world.start("--dry-run", "--train-shot", "2").wait(check=0).out
    new = positions(world, "train", (2, 1)) - train
    asked = len(positions(world, "train", (2, 1)))
    assert f"  prompts hand_crafted: complete\n  train/none: {len(new)} of {asked} missing" in plan
    assert "  test/none: complete\n" in plan
    assert "in total 0 B to write" in world.start("--dry-run").wait(check=0).out


@pytest.mark.parametrize("layers", [[], ["--image-layer-idx", "1", "--text-layer-idx", "1"]])
def test_a_plan_predicts_the_size_of_features(world, layers):
    run = world.start(*layers, shard_images=1024).wait(check=0)
    size = float(re.search(r"to encode; ([\d.]+) KiB to write", run.out)[1]) * 1024
    made = [path.stat().st_size for path in (world.root / "features").rglob("*.safetensors")]
    assert sum(made) - len(made) * 1024 < size < sum(made)  # without headers


def test_too_little_disk_space_is_reported_first(world):
    def nearly_full():
        shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10000, 10000)

    for words in ([], ["--dry-run"]):
        run = world.start(*words, prepare=nearly_full).wait(check=1)
        assert re.search(rf"error: these features take [\d.]+ KiB, and {world.root}/features has 9.8 KiB left", run.err)
        assert "--feature_dir" in run.err
        assert not (world.root / "features").exists()


# --- what goes wrong on the way --------------------------------------------------------------------------------------


def goes_on(world, words=()):
    """Return whether an undisturbed next run completes the store like a single run."""
    assert not [path for path in (world.root / "features").rglob("*") if path.name.startswith(".")]
    world.start(*words).wait(check=0)
    world.start(*words, features="whole").wait(check=0)
    return stored(world) == stored(world, "whole")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_full_disk(world, workers):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # enough for the prompts, not for a shard of 8

    run = world.start("--num-workers", workers, prepare=limit).wait(check=1)
    (line,) = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert re.search(rf"{world.place.bank('test', 0, 'none')}/\S+ cannot be written \(.*File too large", line)
    assert "run the same command again to resume" in line
    assert stored(world)
    assert goes_on(world)


def test_workers_need_no_shared_memory(world):
    """A /dev/shm of 60 kB, a long TMPDIR, files of 4000 bytes: each of these loses batches that torch shares."""
    run = world.start("--num-workers", "2", shard_images=4, prepare=lambda: limit_sharing(world.root))
    run.wait(check=0)
    world.start("--num-workers", "0", shard_images=4, features="whole").wait(check=0)
    assert stored(world) == stored(world, "whole")


@pytest.mark.skipif(not can_mount(), reason="this process may not mount a /dev/shm of its own")
def test_missing_semaphores_are_reported(world):
    run = world.start("--num-workers", "2", prepare=lambda: limit_sharing(world.root, shm="4k")).wait(check=1)
    assert re.search(r"error: processes that decode images cannot be started \(.*No space.*--num-workers 0", run.err)


def test_a_worker_that_cannot_send_a_batch_is_an_error(world):
    def fail_to_pickle():
        from engine.features.decoding import Batch

        Batch.__reduce__ = lambda batch: 1 / 0

    run = world.start("--num-workers", "2", prepare=fail_to_pickle).wait(check=1)
    assert "error: a process that decodes images ended before its work was done" in run.err
    assert "ZeroDivisionError" not in run.err


def test_no_permission(world):
    (world.root / "file").write_text("")
    run = world.start(features="file/features").wait(check=1)
    assert f"error: {world.root}/file/features cannot be written (Not a directory)" in run.err


def test_a_killed_worker(world):
    decoded, victim = extract.decode_file, world.benchmark.path(world.benchmark.test[13])
    before = world.place.bank("val", 0, "none")  # written before the victim's images; workers may be ahead

    def kill_a_worker():
        def kill(path, *how):
            if path == victim and multiprocessing.parent_process():
                while not list(before.glob("*.safetensors")):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return decoded(path, *how)

        extract.decode_file = kill

    run = world.start("--num-workers", "2", prepare=kill_a_worker).wait(check=1)
    assert re.search(r"\nerror: a process that decodes images ended before its work was done.*--num-workers", run.err)
    assert len(Bank(before)) == 3
    assert goes_on(world)


# --- what it checks --------------------------------------------------------------------------------------------------


def test_verify_prints_bad_files_and_repair_removes_them(world):
    world.start("--dataset", "demo", "demo_v2").wait(check=0)
    before, paths = stored(world), sorted((world.root / "features").rglob("*.safetensors"))
    (world.root / "data").rename(world.root / "elsewhere")
    weights = world.weights.rename(world.root / "no weights")
    assert f"{len(paths) - 1} files, 0 of them bad\n" in world.start("--verify").wait(check=0).out

    bank, texts = sorted(world.place.bank("test", 0, "none").iterdir()), world.place.texts(0, "hand_crafted")
    content = bytearray(bank[1].read_bytes())
    content[-100] ^= 1
    bank[1].write_bytes(content)
    texts.write_bytes(texts.read_bytes()[:-1])
    faults = [f"{bank[1]} changed since it was written: its digest is ", f"{texts} cannot be read ("]
    for word, end in (
        ("--verify", "--repair removes them"),
        ("--repair", "removed; run features.py to extract them again"),
    ):
        run = world.start(word).wait(check=1)
        assert all(f"\n{fault}" in f"\n{run.out}" for fault in faults)
        assert f"{len(paths) - 1} files, 2 of them bad; {end}\n" in run.out
    assert sorted((world.root / "features").rglob("*.safetensors")) == sorted({*paths} - {bank[1], texts})
    assert "0 of them bad" in world.start("--verify").wait(check=0).out

    (world.root / "elsewhere").rename(world.root / "data")
    weights.rename(world.weights)
    world.start().wait(check=0)
    assert stored(world) == before


def test_verify_reports_changed_images(world):
    """In published datasets too: shards with the image are extracted again. A damaged shard does not interfere."""
    world.start().wait(check=0)
    before, bank = stored(world), sorted(world.place.bank("test", 0, "none").iterdir())
    benchmark = datasets.load("demo", world.root / "data")
    victim, other = (benchmark.path(benchmark.test[place]) for place in (0, -1))
    content = victim.read_bytes()
    victim.write_bytes(other.read_bytes())
    bank[-1].write_bytes(b"damaged")
    run = world.start("--verify").wait(check=1)
    assert f"\n{victim} changed since its features were extracted\n" in run.out
    assert run.out.count("changed since its features") == 1
    assert "error" not in run.err
    world.start("--repair").wait(check=1)
    assert sorted(world.place.bank("test", 0, "none").iterdir()) == bank[1:-1]
    victim.write_bytes(content)
    world.start().wait(check=0)
    assert stored(world) == before


def test_repair_does_not_remove_files_that_cannot_be_opened(world):
    """It may be sound. A file of mined templates that is empty is damaged."""
    world.start().wait(check=0)
    mined, shard = world.place.mined("shot_1-seed_1"), next(world.place.bank("test", 0, "none").iterdir())
    mined.write_bytes(b"")
    shard.chmod(0)
    for word, end in (
        ("--verify", "--repair removes them"),
        ("--repair", "removed; run features.py to extract them again"),
    ):
        output = world.start(word, prepare=as_a_user).wait(check=1).out
        assert f"{shard} cannot be opened (Permission denied)\n" in output
        assert f"{mined} cannot be read (Expecting value" in output
        assert f", 1 of them bad; {end}\n1 file cannot be opened, but may be sound: --repair does not" in output
    assert shard.exists()
    assert not mined.exists()
    assert world.start(prepare=as_a_user).wait(check=1).err.endswith(f"{shard} cannot be opened (Permission denied)\n")


def test_verify_of_missing_old_and_linked_files(world):
    assert (
        f"{world.root}/features has no features of demo-RN@tiny for demo" in world.start("--verify").wait(check=1).err
    )
    assert (
        "--dry-run or --shard and --verify or --repair cannot be used at once; remove one"
        in world.start("--repair", "--dry-run").wait(check=1).err
    )
    world.start().wait(check=0)
    (path,) = world.place.bank("val", 0, "none").iterdir()
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    source = json.loads(metadata["source"])
    del source["content"]
    save_file(tensors, path, metadata={"source": json.dumps(source)})
    shutil.move(path.parent, world.root / "on another disk")
    path.parent.symlink_to(world.root / "on another disk")
    (world.root / "on another disk" / "back").symlink_to(world.root / "features")
    assert "1 file of an older version without digests" in world.start("--verify").wait(check=0).out
    bank = world.place.bank("test", 0, "none")
    refused = world.start("--verify", prepare=unlistable(bank)).wait(check=1)
    assert f"error: {bank} cannot be listed (Permission denied)" in refused.err


# --- what it says ----------------------------------------------------------------------------------------------------


def test_all_corrupt_images_are_listed_once(world, script):
    some = sorted(positions(world, "train", (8, 1)))[::9]
    bad = [world.benchmark.path(world.benchmark.train[position]) for position in some]
    bad += [world.benchmark.path(world.benchmark.test[position]) for position in (0, 20)]
    whole = [path.read_bytes() for path in bad]
    for path, content in zip(bad, whole, strict=True):
        path.write_bytes(content[: len(content) // 2])
    bad.append(world.benchmark.path(world.benchmark.test[7]))
    whole.append(bad[-1].read_bytes())
    bad[-1].write_bytes(b"")
    for run in (script("features.py", *world.words(*SEVERAL), check=1), world.start(*SEVERAL).wait(check=1)):
        err = run.stderr if isinstance(run, subprocess.CompletedProcess) else run.err
        assert f"image files that cannot be read or decoded: {len(bad)}" in err
        assert [err.count(f"  {path}: ") for path in bad] == [1] * len(bad)
    for path, content in zip(bad, whole, strict=True):
        path.write_bytes(content)
    world.start(*SEVERAL).wait(check=0)
    world.start(*SEVERAL, features="whole").wait(check=0)
    assert len(Bank(world.place.bank("test", 0, "none")).read()[0]) == 21


def test_images_of_one_colour_are_noted(world):
    """Once per image, for any number of views, and even if other files are corrupt."""
    paths = [world.benchmark.path(item) for item in world.benchmark.test]
    for path in paths[:7]:
        Image.new("RGB", (80, 64), "black").save(path)
    paths[-1].write_bytes(b"")
    run = world.start("--image-views", "1", "--num-workers", "0", shard_images=4).wait(check=1)
    first = ", ".join(map(str, paths[:5]))
    assert f"\nnote: 7 images are of one colour: {first} and 2 more; often a sign of files that are" in run.err
    assert "image files that cannot be read or decoded: 1." in run.err


def test_other_weights_of_the_same_name_are_refused(world, random_weights):
    world.start().wait(check=0)
    before = stored(world)
    run = world.start(weights=random_weights(1)).wait(check=1)
    mine, other = (load.load_encoder("demo-RN", str(random_weights(seed))).digest[:12] for seed in (0, 1))
    assert mine in run.err
    assert other in run.err
    assert "--feature_dir" in run.err
    assert stored(world) == before


def test_a_missing_split_is_reported_with_its_command(world):
    run = world.start("--train-shot", "1", "16", "--seed", "1").wait(check=1)
    assert f"{world.root}/indices/demo/shot_16-seed_1.json is missing" in run.err
    assert "python few_shot_split.py --dataset demo --train-shot 16 --seed 1" in run.err
    assert not (world.root / "features").exists()


def test_the_command_for_a_missing_split_works_as_it_stands(world, script):
    """It finds the dataset and writes the split to the expected folder, whose name has a space."""
    (world.root / "data").rename(world.root / "my data")
    places = ["--data_dir", world.root / "my data", "--indices_dir", world.root / "my $indices", "--max-val-shot", "2"]
    run = world.start(*places).wait(check=1)
    python, *words = shlex.split(run.err.splitlines()[-1])
    assert python == "python"
    script(*words, check=0)
    assert (world.root / "my $indices" / "demo" / "shot_1-seed_1-val_2.json").is_file()


def test_a_missing_dataset_is_reported_before_any_work(world):
    run = world.start("--dataset", "demo", "dtd").wait(check=1)
    assert f"its folder {world.root}/data/dtd does not exist" in run.err
    assert "DATASETS.md" in run.err
    assert not (world.root / "features").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clip-encoder", "RN5O"], "no encoder is called 'RN5O'"),
        (["--clip-encoder", "RN50", "RN101"], "--clip-weights is one file"),
        (["--clip-weights", "nowhere.safetensors"], "nowhere.safetensors: there is no such file"),
        (["--image-augmentation", "flip", "--image-views", "2"], "takes --image-views 1"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["--device", "meta"], "--device meta cannot be used: PyTorch has no such device on this machine; it has cpu"),
    ],
)
def test_mistakes_are_reported(world, words, message):
    assert message in world.start(*words).wait(check=1).err


def test_weights_in_any_wrapping_are_the_same(world):
    world.start().wait(check=0)
    state = {f"module._orig_mod.{key}": value.bfloat16() for key, value in load_file(world.weights).items()}
    wrapped = {"module": world.root / "half" / "tiny.PT", "model": world.root / "tiny.PT"}
    wrapped["module"].parent.mkdir()
    torch.save({"epoch": 1, "model": state}, wrapped["module"])
    torch.save({"model": load_file(world.weights)}, wrapped["model"])
    assert ", 0 of them to encode" in world.start(weights=wrapped["model"]).wait(check=0).out
    assert ", 0 of them" not in world.start(weights=wrapped["module"], features="of_half").wait(check=0).out


def test_files_without_weights_are_reported(world):
    file, sprung = world.root / "w.pt", world.root / "sprung"

    def refused(*words):
        done = world.start(*words, weights=file).wait(check=1)
        assert "weights_only" not in done.err
        return done.err

    file.write_text("version https://git-lfs.github.com/spec/v1")
    assert "w.pt is a pointer of Git LFS" in refused()
    assert "--clip-encoder ViT-B-32: its pretrained weights are of 2 kinds" in refused("--clip-encoder", "ViT-B-32")
    save_hostile(file, sprung)
    assert refused().count("\n") == 1
    assert not sprung.exists()
    state = load_file(clip_weights.DEMO_MODELS / "demo-ViT.safetensors")
    torch.save(state | {"visual.positional_embedding": state["visual.positional_embedding"][:17]}, file)
    misfit = "visual.positional_embedding is 17 x 96 and must be 65 x 96"
    assert misfit in refused("--clip-encoder", "demo-ViT")
    file.unlink()
    file.mkdir()
    assert "w.pt: is a folder; pass the file in it" in refused()


def test_assumptions_about_weights_are_printed(world):
    """For an architecture without tags in open_clip."""
    config = (clip_weights.DEMO_MODELS / "demo-RN.json").read_text()
    (world.root / "tiny-RN.json").write_text(config)

    def prepare():
        import open_clip

        open_clip.add_model_config(world.root / "tiny-RN.json")

    done = world.start("--clip-encoder", "tiny-RN", "--dry-run", prepare=prepare).wait(check=0)
    expected = f"note: tiny-RN with {world.weights} is assumed to have GELU, resize shortest bicubic, mean 0.48145466 "
    assert done.out.count(expected) == 1
    assert "note: " not in world.start("--dry-run").wait(check=0).out


def test_long_and_indistinguishable_prompts_are_reported(world):
    listing = world.root / "data" / "demo_v2" / "classnames.txt"
    listing.write_text(listing.read_text().replace("dot", " ".join(["dot"] * 60)).replace("blue {} ring", "Red STAR"))
    run = world.start("--dataset", "demo_v2", "--text-augmentation", "hand_crafted").wait(check=0)
    assert "warning: 1 prompt is too long for demo-RN and truncated, for example 'a photo of a dot dot" in run.out
    same = "'a photo of a red star.' and 'a photo of a Red STAR.'"
    assert (
        f"note: in 1 pair of classes, prompts have the same tokens for demo-RN, which cannot distinguish them: {same}\n"
        in run.out
    )
