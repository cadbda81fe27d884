"""check.py as a user meets it: what it finds of an installation, and datasets from a server on this machine."""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import pty
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from engine import datasets, files
from engine.check.findings import Finding, format_section
from engine.clip import weights as clip_weights
from engine.datasets import few_shot
from engine.datasets.registry import DATASETS
from engine.demo import audio_encoder
from engine.demo import world as demo
from engine.download import sources
from forks import Fork, as_a_user, run_fork, unlistable
from servers import serving, tar, zipped
from stores import install_pictures

ROOT = Path(__file__).parents[1]
KINDS = demo.HELD_OUT[:6]
PLACES = ("data", "indices", "feature", "result")
SWEEP = "--dataset demo --clip-encoder demo-RN --train-shot 2 --seed 1 --image-augmentation none".split()
LINES = 60
"""How many lines fit a screen."""


def places(root):
    return [word for name in PLACES for word in (f"--{name}_dir", root / name)]


def start(root, *words, prepare=lambda: None, cwd=ROOT):
    """check.py in a fork, where this machine's caches of weights have no part."""

    def prepare_all():
        clip_weights.OPENAI_CACHE = root / "clip"
        cached = huggingface_hub.try_to_load_from_cache
        huggingface_hub.try_to_load_from_cache = lambda *where: cached(*where, cache_dir=root / "hub")
        os.environ["PATH"] = str(root)  # without Slurm
        prepare()

    return Fork("check.py", [*words, *places(root)], root, prepare_all, cwd)


def look(root, *words, check=0, **settings):
    """What it prints."""
    done = start(root, *words, **settings).wait(check)
    assert done.out.count("\n") <= LINES
    assert "\033" not in done.out, "colour in a file"
    return " ".join(done.out.split())


SLURM = """#!/bin/sh
case "$1" in
    show) echo "AccountingStorageType   = accounting_storage/none
MaxArraySize            = 1001
SLURM_VERSION           = 23.11.4" ;;
    *) echo "gpu* up 12
cpu down 1" ;;
esac
"""
"""scontrol and sinfo."""


def test_slurm(tmp_path):
    assert "; no Slurm " in look(tmp_path)
    for name in ("sbatch", "scontrol", "sinfo"):
        (tmp_path / name).write_text(SLURM)
        (tmp_path / name).chmod(0o755)
    wanted = "ok Slurm 23.11.4: partitions gpu* (12 nodes, up), cpu (1 node, down); MaxArraySize 1001; accounting off"
    assert wanted in look(tmp_path)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho no controller >&2; exit 1")
    assert "note Slurm is installed, but does not work: scontrol failed: no controller" in look(tmp_path)


# --- what it finds ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Six classes of the demo with features and runs."""
    root, rng = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)

    def picture(label):
        return demo.draw(demo.random_scene(KINDS[label], rng), demo.STYLES["demo"], rng)

    install_pictures(root, [kind.name for kind in KINDS], picture, {"train": 2, "val": 2, "test": 2}, 2, [1])
    files = dict(zip(PLACES, places(root)[1::2], strict=True))
    inputs = ["--indices_dir", files["indices"], "--feature_dir", files["feature"]]
    run_fork("features.py", *SWEEP, "--data_dir", files["data"], *inputs, folder=root, check=0)
    run_fork("train.py", *SWEEP, "--max-iter", 1, "--result_dir", files["result"], *inputs, folder=root, check=0)
    return root


@pytest.fixture
def installed(trained):
    """A copy to spoil, at a path that is not much longer than a user's: `LINES` are counted."""
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        yield Path(shutil.copytree(trained, folder, dirs_exist_ok=True))


def test_nothing_is_installed(tmp_path):
    said = look(tmp_path)
    assert "CPU cores" in said
    assert "weights on this machine: demo-RN, demo-ViT" in said
    assert "downloaded on first use: RN50," in said
    fetched = "caltech101 dtd eurosat fgvc_aircraft food101 oxford_flowers oxford_pets sun397"
    assert f"to download, run `python check.py --download {fetched} --data_dir {tmp_path / 'data'}`" in said
    assert "not installed: imagenet, stanford_cars, ucf101, imagenetv2" in said
    assert "ESC-50 is not installed" in said
    assert "WRONG" not in said
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [], "nothing is written"


def test_what_is_asked_for_must_be_there(tmp_path, random_weights):
    said = look(tmp_path, "--dataset", "dtd", "--clip-encoder", "RN50", check=1)
    assert f"WRONG dtd is not installed: {tmp_path / 'data' / 'dtd'} does not exist" in said
    assert "WRONG RN50: its weights are not on this machine" in said
    assert "hf download timm/resnet50_clip.openai" in said
    assert "ESC-50" not in said
    weights = random_weights(0)
    assert f"machine: demo-RN ({weights})" in look(tmp_path, "--clip-encoder", "demo-RN", "--clip-weights", weights)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"weights")
    said = look(tmp_path, "--clip-encoder", "demo-RN", "--clip-weights", broken, check=1)
    assert "broken.safetensors is of an unknown format" in said
    done = start(tmp_path, "--clip-weights", weights).wait(check=1)
    assert done.err == "error: --clip-weights needs --clip-encoder, the architecture of the weights\n"


def test_altered_weights_of_the_demo_are_named(installed):
    """By check.py, and by scripts that load them."""
    models = shutil.copytree(clip_weights.DEMO_MODELS, installed / "models")
    for path in models.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)

    def prepare():
        clip_weights.DEMO_MODELS, audio_encoder.PATH = models, models / audio_encoder.PATH.name

    said = look(installed, check=1, prepare=prepare)
    for path in models.glob("*.safetensors"):
        assert f"WRONG {path} is not the file that came with the project" in said
    words = [
        "--data_dir",
        installed / "data",
        "--indices_dir",
        installed / "indices",
        "--feature_dir",
        installed / "new",
    ]
    done = Fork("features.py", [*SWEEP, *words], installed, prepare).wait(check=1)
    assert f"error: {models / 'demo-RN.safetensors'} is not the file that came with the project" in done.err


def test_all_is_fine(installed):
    said = look(installed, "--dataset", "demo", "--clip-encoder", "demo-RN")
    assert "ok demo: 36 images, all there" in said
    assert "ok 1 few-shot split" in said
    assert "ok demo-RN: demo;" in said
    assert "ok 6 runs of 1 cell" in said
    assert "note" not in said
    assert look(installed).count("WRONG") == 0


def test_links_are_followed_and_folders_that_cannot_be_listed_are_wrong(installed):
    """Stores grow out of a disk, and a file server puts folders of its own anywhere."""
    size = f"demo-RN: demo; {shown_size(installed / 'feature')}"
    for name in ("feature", "result"):
        elsewhere = installed / "another disk" / name
        (own,) = (installed / name).iterdir()
        shutil.move(own, elsewhere / own.name)
        own.symlink_to(elsewhere / own.name)
        (elsewhere / "back").symlink_to(installed / name)
    (installed / "feature" / "demo-RN" / "@eaDir").mkdir()
    (installed / "feature" / "#recycle" / "demo").mkdir(parents=True)
    said = look(installed, "--dataset", "demo", "--clip-encoder", "demo-RN")
    assert size in said
    assert "ok 6 runs of 1 cell" in said
    bank = installed / "feature" / "demo-RN" / "demo" / "val-layer_0"
    assert f"WRONG {bank} cannot be listed (Permission denied)" in look(installed, prepare=unlistable(bank), check=1)


def shown_size(folder):
    return files.format_bytes(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def test_custom_images_are_looked_at_and_left_alone(installed):
    for number, picture in enumerate(sorted(installed.glob("data/demo/images/test/*.png"))[:6]):
        (installed / "photos" / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, installed / "photos" / f"class {number % 2}")
    shutil.copytree(installed / "photos" / "class 0", installed / "photos" / "class 0" / "@eaDir")
    before = sorted((installed / "photos").rglob("*"))
    said = look(installed, "--dataset", installed / "photos")
    assert "ok photos: 6 images, all there" in said
    assert f"note {installed}/photos: 1 hidden or system name skipped: @eaDir (1)" in said
    assert sorted((installed / "photos").rglob("*")) == before


def test_what_is_wrong_with_a_dataset(installed):
    shutil.copytree(installed / "data" / "demo" / "images", installed / "data" / "oxford_pets" / "images")
    for path in sorted((installed / "data" / "demo" / "images" / "train").iterdir())[:7]:
        path.unlink()
    (installed / "data" / "dtd").mkdir()
    (installed / "data" / "dtd" / "split_zhou_DescribableTextures.json").write_text("{")
    (installed / "data" / "eurosat" / ".download").mkdir(parents=True)
    (installed / "data" / "fgvc_aircraft").write_text("a file")
    said = look(installed, check=1)
    assert "WRONG demo: 7 images of its lists are not in" in said
    assert "split_zhou_OxfordPets.json does not exist" in said
    assert "split_zhou_DescribableTextures.json: not JSON" in said
    assert "fgvc_aircraft/variants.txt" in said
    assert "note unfinished download in" in said


def test_a_split_file_that_is_not_the_published_one(tmp_path):
    """With the published counts, in another order."""
    counts = few_shot.class_counts()["dtd"]
    blocks = {part: zip(counts["labels"], counts[part], strict=True) for part in ("train", "val")}
    split = {part: [[f"{part}_{k}_{i}.jpg", k, f"c{k}"] for k, count in own for i in range(count)]
             for part, own in blocks.items()}  # fmt: skip
    split["test"] = [[f"test_{i}.jpg", i % 47, f"c{i % 47}"] for i in range(counts["test"])]
    images = tmp_path / "data" / "dtd" / "images"
    images.mkdir(parents=True)
    first, *rest = [images / row[0] for rows in split.values() for row in rows]
    first.write_bytes(b"an image")
    for path in rest:
        os.link(first, path)
    (tmp_path / "data" / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    said = look(tmp_path, "--dataset", "dtd", check=1)
    assert "published counts but is not the published file" in said
    assert "not f26ebeccd2b5" in said
    split["train"] = split["train"][1:]
    (tmp_path / "data" / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    assert "train has 2819 images, not 2820" in look(tmp_path, "--dataset", "dtd", check=1)


def test_few_shot_splits_against_the_published_digests(tmp_path):
    shutil.copytree(few_shot.PUBLISHED / "dtd", tmp_path / "indices" / "dtd")
    shutil.copy(few_shot.PUBLISHED / "sha256.csv", tmp_path / "indices")
    (tmp_path / "indices" / "dtd" / "shot_1-seed_2.json").unlink()
    assert "ok 14 few-shot splits" in look(tmp_path)
    path = tmp_path / "indices" / "dtd" / "shot_1-seed_1.json"
    path.write_text(path.read_text().replace("[", "[9,", 1))
    said = look(tmp_path, check=1)
    assert f"WRONG 1 few-shot split other than published: {path}" in said
    assert "shot_1-seed_2.json" in said


def test_stale_features_and_runs(installed, random_weights):
    store, runs = installed / "feature" / "demo-RN" / "demo", installed / "result"
    split_file = installed / "data" / "demo" / "split_demo.json"
    split = json.loads(split_file.read_text())
    split["test"] = split["test"][::-1]
    split_file.write_text(json.dumps(split))
    (store / "test-layer_0" / "none" / ".x.tmp").write_bytes(b"left over")
    classifier = next(runs.rglob("record.json")).with_name("classifier.safetensors")
    classifier.write_bytes(b"half of one")
    said = look(installed, check=1)
    assert f"WRONG {classifier} is not a saved classifier or is damaged" in said
    assert f"WRONG {store}: test features of another list than the installed one" in said
    assert "note 1 temporary file;" in said
    split_file.write_text(split_file.read_text().replace(KINDS[0].name, "something else"))
    assert "text-layer_0/hand_crafted: other prompts or class names" in look(installed, check=1)
    weights = random_weights(0)
    shutil.copytree(installed / "feature" / "demo-RN", installed / "feature" / "demo-RN@tiny")
    said = look(installed, "--clip-encoder", "demo-RN", "--clip-weights", weights, check=1)
    assert "demo-RN@tiny/demo: made with other weights" in said
    (installed / "indices" / "demo" / "shot_2-seed_1.json").write_text('{"train":[0],"val":[0]}')
    assert "note runs of 1 cell on other features or few-shot splits" in look(installed, check=1)
    for path in store.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    first, second, third, *_ = sorted(runs.rglob("record.json"))
    first.write_text("{}")
    second.write_text(second.read_text().replace('"demo"', "[]"))
    third.write_text(third.read_text().replace('"encoder": "', '"encoder": ["a list"], "more": "'))
    said = look(installed, check=1)
    assert "cannot be read" in said
    assert f"not a run's record; remove it and train again: {first}, {second}" in said
    shutil.rmtree(installed / "feature")
    assert "note runs of 1 cell whose features no longer exist" in look(installed, check=1)


def test_images_that_were_prepared_otherwise_than_the_encoders_name_says(installed):
    """As an earlier version prepared those of encoders that are not like OpenAI's; train.py loads no encoder."""
    feature = installed / "feature"
    for name in ("ViT-B-16-SigLIP-webli", "MobileCLIP-S1@mine", "ViT-B-32-laion2b_s34b_b79k", "nobodys"):
        shutil.copytree(feature / "demo-RN", feature / name)
    said = look(installed, check=1)
    assert said.count("WRONG") == said.count("made from images with another preprocessing ") == 2
    assert f"WRONG {feature}/ViT-B-16-SigLIP-webli/demo: made from images with another preprocessing" in said
    assert "preprocessing (shortest bicubic, mean 0.48" in said
    assert (
        "than ViT-B-16-SigLIP:webli requires (squash bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5); remove the old"
        in said
    )
    assert f"WRONG {feature}/MobileCLIP-S1@mine/demo: made" in said


def test_empty_files_are_damaged(installed):
    split = installed / "indices" / "demo" / "shot_2-seed_1.json"
    mined = installed / "feature" / "demo-RN" / "demo" / "template_mining-shot_2-seed_1.json"
    for path in (split, mined):
        path.write_bytes(b"")
    said = look(installed, check=1)
    assert f"WRONG 1 few-shot split damaged: {split}. Delete them; few_shot_split.py creates them again" in said
    assert f"WRONG {mined} cannot be read" in said


def test_what_cannot_be_opened_may_be_sound(installed):
    """Nobody is told to remove it."""
    split = installed / "indices" / "demo" / "shot_2-seed_1.json"
    record = next((installed / "result").rglob("record.json"))
    classifier = record.with_name("classifier.safetensors")
    classifier.write_bytes(b"")
    store = installed / "feature" / "demo-RN" / "demo"
    shard, bank = next((store / "val-layer_0" / "none").iterdir()), store / "test-layer_0" / "none"
    for path in (split, classifier, record, shard, bank):
        path.chmod(0)
    try:
        said = look(installed, check=1, prepare=as_a_user)
    finally:
        bank.chmod(0o700)
    for path in (split, classifier, record, shard, bank):
        assert f"{path} cannot be opened (Permission denied)" in said
    assert "emove" not in said
    assert "elete" not in said
    for path in (split, record):
        path.chmod(0o600)
    words = [*SWEEP, "--max-iter", 1, *places(installed)[2:]]
    done = Fork("train.py", words, installed, as_a_user).wait(check=1)
    assert done.err == f"error: {shard} cannot be opened (Permission denied)\n"


def test_temporary_files_are_counted_everywhere(installed):
    (installed / "photos").mkdir()
    for number, picture in enumerate(sorted(installed.glob("data/demo/images/test/*.png"))[:6]):
        (installed / "photos" / f"class {number % 2}").mkdir(exist_ok=True)
        shutil.copy(picture, installed / "photos" / f"class {number % 2}")
    for folder in ("photos", "indices/photos", "feature/demo-RN/demo", "result/deep/down", "results/new"):
        (installed / folder).mkdir(parents=True, exist_ok=True)
        (installed / folder / ".x.tmp").write_bytes(b"left over")
    said = look(installed, "--dataset", installed / "photos", cwd=installed)
    assert f"note 2 temporary files; safe to remove when nothing is running: {installed}/photos/.x.tmp" in said
    assert f"{installed}/feature/demo-RN/demo/.x.tmp" in said
    assert f"{installed}/result/deep/down/.x.tmp" in said
    assert "tables note 1 temporary file; safe to remove when nothing is running: results/new/.x.tmp" in said


def test_many_findings_still_fit_a_screen():
    many = format_section("title", [Finding("note", f"number {k} {'long ' * 200}") for k in range(9)])
    assert "... and 7 more" in many
    assert many.count("\n") < LINES


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_python_without_libraries_and_colour_on_a_terminal(tmp_path, variables, coloured):
    """What needs no library is looked at all the same."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-S", ROOT / "check.py", *map(str, places(tmp_path))]
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "PYTHONPATH")}
    done = subprocess.run(command, stdout=theirs, env=kept | {"TERM": "xterm"} | variables, timeout=60, check=False)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # what the end of a terminal's output is on Linux
        while block := os.read(ours, 1 << 16):
            said += block
    os.close(ours)
    assert done.returncode == 1
    assert (b"\033[31mWRONG\033[0m" in said) == coloured
    said = b" ".join(said.split())
    assert b"lacks most packages of requirements.txt" in said
    assert b"not installed: to download, run `python check.py --download" in said
    assert b"encoders" not in said


def test_libraries_that_do_not_fit_together(tmp_path):
    said = look(tmp_path, check=1, prepare=lambda: sys.modules.update(torchvision=None))
    assert "WRONG `import torchvision` fails" in said
    assert "pip install -r requirements.txt" in said


# --- fetching --------------------------------------------------------------------------------------------------------


def picture():
    packed = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(packed, "JPEG")
    return packed.getvalue()


ROWS = {part: [[f"a/{part}.jpg", 0, "a"], [f"b/{part}.jpg", 1, "b"]] for part in ("train", "val", "test")}
SPLIT = json.dumps(ROWS).encode()


def images(folder):
    return {f"{folder}/{row[0]}": picture() for rows in ROWS.values() for row in rows}


def aircraft(folder):
    lists = {f"images_variant_{part}.txt": f"1{part} 707 320\n2{part} A 380\n" for part in ROWS}
    lists["variants.txt"] = "707 320\nA 380\n"
    pictures = {f"{folder}/images/{number}{part}.jpg": picture() for part in ROWS for number in "12"}
    return pictures | {f"{folder}/{name}": text.encode() for name, text in lists.items()}


PACKED = {
    "dtd": tar(images("dtd/images") | {"dtd/labels/train1.txt": b"not wanted"}),
    "eurosat": zipped(images("2750")),
    "fgvc_aircraft": tar(aircraft("fgvc-aircraft-2013b/data")),
    "caltech101": zipped({"caltech-101/101_ObjectCategories.tar.gz": tar(images("101_ObjectCategories"))}),
}


class Hosts:
    """A server with archives and split files, and tables that name it."""

    def __init__(self, site, root):
        self.site, self.root = site, root
        site.headers = {"ETag": '"one"'}
        self.archives, self.split_files = {}, {}
        for name, content in PACKED.items():
            archive = sources.ARCHIVES[name]
            site.files[f"/{archive.name}"] = content
            md5 = hashlib.md5(content).hexdigest() if archive.md5 else None
            self.archives[name] = dataclasses.replace(archive, url=site.url(f"/{archive.name}"), md5=md5)
        for name, split in sources.SPLIT_FILES.items():
            site.files[f"/split?id={name}"] = SPLIT
            sha256 = hashlib.sha256(SPLIT).hexdigest() if split.sha256 else None
            self.split_files[name] = dataclasses.replace(split, url=site.url(f"/split?id={name}"), sha256=sha256)
        (root / "indices").mkdir()
        (root / "indices" / "class_counts.json").write_text("{}")

    def serve(self, name, content):
        """Another archive as the published one."""
        self.site.files[f"/{self.archives[name].name}"] = content
        self.archives[name] = dataclasses.replace(self.archives[name], md5=hashlib.md5(content).hexdigest())

    def start(self, *names, limit=None):
        def prepare():
            if limit:
                resource.setrlimit(*limit)
            sources.ARCHIVES.update(self.archives)
            sources.SPLIT_FILES.update(self.split_files)

        return start(self.root, "--download", *names, prepare=prepare)

    def folder(self, name):
        return self.root / "data" / DATASETS[name].folder


@pytest.fixture
def hosts(tmp_path):
    with serving() as site:
        yield Hosts(site, tmp_path)


def test_datasets_are_fetched_into_their_places(hosts):
    done = hosts.start(*PACKED).wait(check=0)
    assert "ok    dtd, eurosat, fgvc_aircraft, caltech101: 24 images, all there" in done.out
    assert "downloading dtd-r1.0.1.tar.gz" in done.err
    for name in PACKED:
        assert len(datasets.load(name, hosts.root / "data").train) == 2
        archive = sources.ARCHIVES[name]
        lists = [DATASETS[name].split_file] if name in sources.SPLIT_FILES else []
        assert sorted(os.listdir(hosts.folder(name))) == sorted([*archive.keeps, *lists])
    asked, work = len(hosts.site.asked), hosts.folder("dtd") / ".download"
    (work / "unpacked" / "dtd").mkdir(parents=True)  # left by a kill at the very end
    (work / "dtd-r1.0.1.tar.gz").write_bytes(PACKED["dtd"])
    hosts.start(*PACKED).wait(check=0)
    assert len(hosts.site.asked) == asked, "what is there is not fetched again"
    assert not work.exists()


def test_two_at_once(hosts):
    """The second one does not remove what the first one unpacks."""
    work = hosts.folder("dtd") / ".download"
    (work / "unpacked").mkdir(parents=True)
    with (work / "dtd-r1.0.1.tar.gz.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is downloading this file" in hosts.start("dtd").wait(check=1).err
    assert (work / "unpacked").exists()
    hosts.start("dtd").wait(check=0)


def test_a_wrong_digest_and_a_host_that_is_gone_stop_no_other(hosts):
    hosts.site.files["/dtd-r1.0.1.tar.gz"] = PACKED["dtd"][:-1] + b"x"
    del hosts.site.files["/EuroSAT.zip"]
    done = hosts.start("dtd", "eurosat", "fgvc_aircraft").wait(check=1)
    kept = hosts.folder("dtd") / ".download" / "dtd-r1.0.1.tar.gz"
    assert f"dtd: {kept} is not the published file: its MD5 is" in done.err
    assert hosts.archives["dtd"].md5 in done.err
    assert kept.exists()
    assert "the server answered 404" in done.err
    assert "By hand (DATASETS.md):\n\nSentinel-2 satellite images" in done.err
    assert "ok    fgvc_aircraft: 6 images" in done.out
    again = hosts.start("dtd").wait(check=1)
    assert "is not the published file" in again.err, "it is not fetched again behind the user's back"
    kept.unlink()
    hosts.site.files["/dtd-r1.0.1.tar.gz"] = PACKED["dtd"]
    hosts.start("dtd").wait(check=0)


@pytest.mark.parametrize("answer", [b"<!DOCTYPE html><title>Quota exceeded", SPLIT + b" ", None])
def test_a_split_file_that_a_person_must_get(hosts, answer):
    if answer is None:
        del hosts.site.files["/split?id=dtd"]
    else:
        hosts.site.files["/split?id=dtd"] = answer
    done = hosts.start("dtd").wait(check=1)
    path = hosts.folder("dtd") / "split_zhou_DescribableTextures.json"
    page = sources.SPLIT_FILES["dtd"].page
    assert f"By hand: open {page} in a browser, and save the file as\n  {path}\n" in done.err
    assert (hosts.folder("dtd") / "images" / "a" / "train.jpg").exists()
    assert not path.exists()
    path.write_bytes(SPLIT)
    hosts.start("dtd").wait(check=0)


def test_what_no_program_can_fetch(hosts):
    done = hosts.start("stanford_cars", "imagenet").wait(check=1)
    assert (hosts.folder("stanford_cars") / "split_zhou_StanfordCars.json").exists()
    assert "copies are on" in done.err
    assert "Register at [image-net.org]" in done.err
    said = hosts.start("demo", "far/away").wait(check=1)
    assert f"To draw it, run:\n  python -m engine.demo.install {hosts.root / 'data'}\n" in said.err
    assert said.err.endswith("away: far/away: no such folder or list of images\n\n")
    assert "not installed: demo; to get them, see DATASETS.md\n" in said.out, "and not images of one's own"


def test_interrupted_it_goes_on(hosts):
    content = PACKED["dtd"]
    hosts.site.cut = len(content) // 2
    hosts.site.held.clear()
    run = hosts.start("dtd")
    part = hosts.folder("dtd") / ".download" / "dtd-r1.0.1.tar.gz.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and hosts.site.asked):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(run.pid, signal.SIGINT)
    run.wait(check=130)
    assert "rerun the same command to resume" in run.err
    hosts.site.held.set()
    said = look(hosts.root)
    assert "note unfinished download" in said
    assert "WRONG" not in said
    hosts.site.cut = None
    hosts.start("dtd").wait(check=0)
    assert not part.parent.exists()


def test_an_altered_byte_in_an_archive_without_a_digest(hosts):
    content = bytearray(PACKED["fgvc_aircraft"])
    content[-8] ^= 1  # of the checksum at its end
    hosts.site.files["/fgvc-aircraft-2013b.tar.gz"] = bytes(content)
    done = hosts.start("fgvc_aircraft").wait(check=1)
    kept = hosts.folder("fgvc_aircraft") / ".download" / "fgvc-aircraft-2013b.tar.gz"
    assert f"fgvc_aircraft: {kept} cannot be unpacked (CRC check failed" in done.err
    assert "Remove it, then run the same command to download it again" in done.err
    assert os.listdir(hosts.folder("fgvc_aircraft")) == [".download"]
    assert os.listdir(kept.parent) == [kept.name]


def test_a_disk_that_is_full_and_one_that_fails_stop_no_other(hosts):
    """A limit on the size of files stands for the full disk."""
    hosts.serve("dtd", tar({"dtd/images/noise": random.Random(0).randbytes(200_000)} | images("dtd/images")))
    hosts.serve("eurosat", zipped({"2750/large.jpg": bytes(200_000)} | images("2750")))
    hosts.folder("caltech101").parent.mkdir()
    hosts.folder("caltech101").write_bytes(b"no folder")
    limit = resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)
    done = hosts.start("dtd", "eurosat", "caltech101", "fgvc_aircraft", limit=limit).wait(check=1)
    part = hosts.folder("dtd") / ".download" / "dtd-r1.0.1.tar.gz.part"
    assert f"dtd: {part} cannot be written (File too large). dtd-r1.0.1.tar.gz, unpacked too, takes about 4" in done.err
    packed = hosts.folder("eurosat") / ".download" / "EuroSAT.zip"
    assert f"eurosat: {packed} cannot be unpacked ({packed.parent}/unpacked: File too large). EuroSAT.zip" in done.err
    assert f"caltech101: [Errno 20] Not a directory: '{hosts.folder('caltech101')}" in done.err
    assert "ok    fgvc_aircraft: 6 images, all there" in done.out
    assert "WRONG" in done.out
    assert sorted(os.listdir(part.parent)) == [part.name, f"{part.name}.version"]
    assert os.listdir(packed.parent) == [packed.name]
    asked = len(hosts.site.asked)
    hosts.start("dtd").wait(check=0)
    assert hosts.site.asked[asked:] == ["bytes=100000-", None], "it goes on, and the list comes next"
    assert not part.parent.exists()


def test_links_are_judged_where_they_end_up(hosts):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("dtd/images/a")
        link.type, link.linkname = tarfile.SYMTYPE, "../../evil"
        archive.addfile(link)
    hosts.serve("dtd", packed.getvalue())
    done = hosts.start("dtd").wait(check=1)
    assert "images/a is a link to '../../evil', which leads out of" in done.err
    assert os.listdir(hosts.folder("dtd")) == [".download"]


def test_an_archive_with_names_that_lead_out(hosts):
    hosts.serve("eurosat", zipped({"../../evil.jpg": b"evil"} | images("2750")))
    done = hosts.start("eurosat").wait(check=1)
    assert "leads out of it" in done.err
    assert not list(hosts.root.rglob("evil.jpg"))


# --- the tables ------------------------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_layout_and_of_the_page():
    page = (ROOT / "DATASETS.md").read_text(encoding="utf-8")
    for name, archive in sources.ARCHIVES.items():
        assert DATASETS[name].images in archive.keeps
    for name, split in sources.SPLIT_FILES.items():
        assert split.sha256 is None or f"| {DATASETS[name].split_file} | `{split.sha256}` |" in page
    for name in datasets.names():
        assert f"\n### {name}\n" in page
