"""Images of one's own on the way from a folder to a table, as a user types it, and pictures of every kind."""

import csv
import functools
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image

from engine.demo import world as drawn
from engine.features import extract
from engine.features.listing import read_listing
from engine.features.prompts import read_texts
from engine.features.store import Bank, FeaturePaths
from engine.results.runs import read_record
from forks import Fork, as_a_user, run_fork, unlistable

ROOT = Path(__file__).parents[1]
ENCODER = ["--clip-encoder", "demo-RN", "--image-augmentation", "none", "--device", "cpu"]
FEATURES = ["--num-workers", "0"]
STEPS = ["--max-iter", "101"]
ALL = ["--dataset", "my photos", "--train-shot", "all", "--seed", "1", *ENCODER]


def draw_photos(root, classes, numbers):
    """Pictures of the demo's world, which its encoders know, in a folder for each class; gives the classes' names."""
    for label, kind in enumerate(drawn.HELD_OUT[:classes]):
        folder = root / kind.name.replace(" ", "_")
        folder.mkdir(parents=True)
        for number in numbers:
            rng = drawn.generator(1, f"own/{label}/{number}", 0)
            picture = drawn.draw(drawn.random_scene(kind, rng), drawn.STYLES["demo"], rng)
            picture.save(folder / f"{number}.JPG", "JPEG", quality=95)
    return [kind.name for kind in drawn.HELD_OUT[:classes]]


@pytest.fixture(scope="module")
def drawn_photos(tmp_path_factory):
    """Five classes of ten pictures."""
    root = tmp_path_factory.mktemp("drawn") / "photos"
    draw_photos(root, classes=5, numbers=range(10))
    return root


def folder_of_work(root, said):
    """Where `my photos` lie, and `.run` types a command."""
    run = functools.partial(run_fork, folder=said, cwd=root)
    return SimpleNamespace(
        root=root, folder=root / "my photos", run=run, place=FeaturePaths.of(root / "features", "demo-RN", "my-photos")
    )


@pytest.fixture
def photos(tmp_path, drawn_photos):
    """The pictures in an otherwise empty folder with a space in its name."""
    shutil.copytree(drawn_photos, tmp_path / "my work" / "my photos")
    return folder_of_work(tmp_path / "my work", tmp_path)


@pytest.fixture(scope="module")
def extracted_once(tmp_path_factory, drawn_photos):
    """The same after features.py."""
    root = tmp_path_factory.mktemp("extracted") / "my work"
    shutil.copytree(drawn_photos, root / "my photos")
    (root / "two.txt").write_text("a photo of a {}.\n\n  a drawing of the {}\n")
    once = folder_of_work(root, root.parent)
    once.said = once.run("features.py", *ALL, "--templates", "hand_crafted", "two.txt", *FEATURES, check=0).stdout
    return once


@pytest.fixture
def extracted(tmp_path, extracted_once):
    """A copy of it."""
    shutil.copytree(extracted_once.root, tmp_path / "my work")
    return folder_of_work(tmp_path / "my work", tmp_path)


def command_in(done):
    """The words of the command that an error ends with, without `python`."""
    python, *words = shlex.split(done.stderr.splitlines()[-1])
    assert python == "python"
    return words


def test_the_readmes_three_commands(tmp_path):
    """From 5 classes of 20 pictures to what is on new ones, but for the encoder as README.md has it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(python features\.py --dataset path/to/photos .*?)```", readme, re.DOTALL)
    names = draw_photos(tmp_path / "path" / "to" / "photos", classes=5, numbers=range(20))
    draw_photos(tmp_path / "more", classes=5, numbers=[20])
    shutil.copy(tmp_path / "more" / names[0].replace(" ", "_") / "20.JPG", tmp_path / "new.jpg")
    for command in block.strip().replace("ViT-B/16", "demo-RN").splitlines():
        python, script, *words = shlex.split(command)
        assert python == "python"
        done = run_fork(script, *words, folder=tmp_path, cwd=tmp_path, check=0)
    (page,) = (tmp_path / "reports").rglob("report.html")
    assert "data:image/jpeg" in page.read_text(encoding="utf-8")
    best = {}  # the most probable class of an image comes first
    for line in csv.DictReader(done.stdout.splitlines()):
        best.setdefault(line["image"], line["class"])
    shown = {f"more/{name.replace(' ', '_')}/20.JPG": name for name in sorted(names)}
    assert list(best) == ["new.jpg", *shown]
    assert best["new.jpg"] == best[f"more/{names[0].replace(' ', '_')}/20.JPG"]
    assert sum(best[path] == name for path, name in shown.items()) >= 4


def test_from_a_folder_to_a_table(photos):
    """Each step says what it lacks with a command that can be typed, and a path stands wherever a dataset does."""
    asked = ["--dataset", "my photos", "--train-shot", "all", "8", "2", "--seed", "1", *ENCODER]
    split = photos.run("few_shot_split.py", *asked[:-6], check=0).stdout.splitlines()
    assert split[0] == "note: my photos/split.json written: 5 classes, 25 train, 10 val, 15 test"
    assert "some classes have fewer than 8 images in train; all of them are used" in split[1]
    assert "indices/my-photos/shot_all-seed_1.json: written, 25 train, 10 val" in split
    extract = command_in(photos.run("train.py", *asked, *STEPS, check=1))
    assert extract[:8] == ["features.py", *asked[:-7]]
    extracted = photos.run(*extract, *FEATURES, check=0)
    assert "demo-RN my-photos: 5 prompts; 50 images, counting views, 50 of them to encode" in extracted.stdout
    trained = photos.run("train.py", *asked, *STEPS, check=0)
    assert "my-photos all-shot seed 1: val " in trained.stdout
    tabulate = ["eval.py", *asked[:-4], *ENCODER[2:4], *STEPS]
    table = command_in(photos.run(*tabulate, "--clip-encoder", "demo-ViT", check=1))
    assert table[:4] == ["train.py", "--dataset", "my photos", "--train-shot"]
    done = photos.run(*tabulate, "--clip-encoder", "demo-RN", check=0)
    csv = pd.read_csv(photos.root / done.stdout.splitlines()[-1])
    assert csv["shots"].tolist() == ["all", "8", "2"]
    assert (csv["mean"] > 60).all()
    averaged = photos.run(
        "average.py", "--name", done.stdout.splitlines()[-1].split("/")[1], "--plot", "a.png", check=0
    )
    assert averaged.stdout.splitlines()[0].endswith("average of my-photos")
    assert (photos.root / "a.png").stat().st_size > 1000
    assert len(list((photos.root / "average_results").glob("*/shot_all.csv"))) == 1
    explained = photos.run(*tabulate, "--clip-encoder", "demo-RN", "--explain", "my photos,all,1", check=0)
    assert explained.stdout.startswith("my-photos all-shot seed 1, experiments/my-photos-shot_all-seed_1/demo-RN")


def test_features_draw_the_splits_they_lack(extracted_once):
    lines = extracted_once.said.splitlines()
    assert lines[:2] == [
        "note: my photos/split.json written: 5 classes, 25 train, 10 val, 15 test",
        "few-shot splits in indices/my-photos: 1 written",
    ]
    again = extracted_once.run("features.py", *ALL, check=0).stdout
    assert again.splitlines() == [
        "demo-RN my-photos: 5 prompts; 50 images, counting views, 0 of them to encode; 0 B to write"
    ]


def test_replaced_images_are_noticed_and_made_anew(extracted):
    """By features.py, which makes them and no others, by train.py and by check.py, which name them."""
    extracted.run("train.py", *ALL, *STEPS, check=0)
    victims = sorted(extracted.folder.glob("*/*.JPG"))[:3]  # of one class
    other = sorted(extracted.folder.glob("*/*.JPG"))[-1]
    for victim in victims:
        with Image.open(other) as image:
            image.rotate(90 * int(victim.stem)).save(victim, quality=90)
    named = f"3 images replaced ({', '.join(str(path.relative_to(extracted.folder)) for path in victims)})"
    refused = extracted.run("train.py", *ALL, *STEPS, check=1)
    assert (
        f"my photos changed since its features were extracted: {named}; run features.py to extract them"
        in refused.stderr
    )
    checked = " ".join(extracted.run("check.py", "--dataset", "my photos", check=1).stdout.split())
    assert f"WRONG features/demo-RN/my-photos: {named} since its features were made; features.py" in checked
    made = extracted.run(*command_in(refused), *FEATURES, check=0)
    assert f"note: my photos/split.json is older than the images: {named}. The file is updated." in made.stdout
    assert "50 images, counting views, 3 of them to encode" in made.stdout
    again = extracted.run(*command_in(refused), *FEATURES, check=0)
    assert "0 of them to encode" in again.stdout
    fresh = extracted.root / "fresh"
    extracted.run(*command_in(refused), *FEATURES, "--feature_dir", fresh, check=0)
    listing = read_listing(extracted.place)
    for part in ("train", "val", "test"):
        banks = [Bank(FeaturePaths.of(at, "demo-RN", "my-photos").bank(part, 0, "none"), listing.split(part))
                 for at in (extracted.root / "features", fresh)]  # fmt: skip
        torch.testing.assert_close(banks[0].read()[0], banks[1].read()[0])
    assert "note: 6 runs used images, splits or class names that have changed" in (
        extracted.run("train.py", *ALL, *STEPS, check=0).stdout
    )
    assert "6 runs, 0 to train" in extracted.run("train.py", *ALL, *STEPS, check=0).stdout


def test_images_and_classes_come_and_go(extracted):
    """Features and splits of the other images stay; runs that used what changed are trained again, and no others."""
    extracted.run("features.py", *ALL, "--train-shot", "1", *FEATURES, check=0)
    train = ["train.py", *ALL[:2], "--train-shot", "1", *ALL[4:], *STEPS]
    extracted.run(*train, check=0)
    listing, split = read_listing(extracted.place), load_split(extracted.root / "indices", "my-photos")
    unused = next(path for path in listing.train.paths if not any(key.endswith(f" {path}") for key in split["train"]))
    (extracted.folder / unused).unlink()  # a training image that no 1-shot run has seen
    made = extracted.run("features.py", *ALL[:2], "--train-shot", "1", *ALL[4:], *FEATURES, check=0).stdout
    assert f"1 image removed ({unused})" in made
    assert "few-shot splits" not in made
    assert "0 of them to encode" in made
    assert "6 runs, 0 to train" in extracted.run(*train, check=0).stdout
    (extracted.folder / listing.test.paths[0]).unlink()
    extracted.run("features.py", *ALL[:2], "--train-shot", "1", *ALL[4:], *FEATURES, check=0)
    said = extracted.run(*train, check=0).stdout
    assert "6 runs, 1 to train" in said  # another test set: the selected run is tested again
    assert "6 runs used images, splits or class names that have changed" in said
    (extracted.folder / split["train"][0].partition(" ")[2]).unlink()
    folder = sorted(path for path in extracted.folder.iterdir() if path.is_dir())[0]
    folder.rename(extracted.folder / "something else")
    made = extracted.run("features.py", *ALL[:2], "--train-shot", "1", *ALL[4:], *FEATURES, check=0).stdout
    assert "is now called something else" in made
    assert "few-shot splits in indices/my-photos: 1 with 1 image drawn again" in made
    assert "0 of them to encode" in made  # --train-shot all has every image's features
    assert "a photo of a something else." in read_texts(extracted.place.texts(0, "hand_crafted")).prompts
    assert "6 runs, 6 to train" in extracted.run(*train, check=0).stdout
    kept = load_split(extracted.root / "indices", "my-photos")
    contents = [{key.partition(" ")[0] for key in own["train"]} for own in (kept, split)]
    assert len(contents[0] & contents[1]) == len(split["train"]) - 1


def load_split(indices, name):
    return json.loads((indices / name / "shot_1-seed_1.json").read_text())


def test_prompts_of_other_class_names_are_not_trained_on(extracted):
    """Those that features.py was not asked for when a class was renamed; it makes them anew when it is."""
    next(path for path in extracted.folder.iterdir() if path.is_dir()).rename(extracted.folder / "something else")
    extracted.run("features.py", *ALL, "--text-augmentation", "vanilla", *FEATURES, check=0)
    checked = " ".join(extracted.run("check.py", "--dataset", "my photos", check=1).stdout.split())
    assert "text-layer_0/hand_crafted: other prompts or class names than the dataset's; features.py m" in checked
    for asked in ([], ["--templates", "two.txt"]):
        refused = extracted.run("train.py", *ALL, *STEPS, *asked, check=1)
        assert "has prompts of class names that differ from features/demo-RN/my-photos/images.json" in refused.stderr
    extracted.run(*command_in(refused), *FEATURES, check=0)
    extracted.run("train.py", *ALL, *STEPS, *asked, check=0)


def test_few_shot_splits_that_lag_behind_are_not_trained_on(extracted):
    """Those that features.py was not asked for when images came or moved to another class."""
    folders = sorted(path for path in extracted.folder.iterdir() if path.is_dir())
    picture = folders[0] / "new.JPG"
    with Image.open(folders[0] / "0.JPG") as image:
        image.rotate(90).save(picture)
    extracted.run("features.py", *ALL, "--train-shot", "1", *FEATURES, check=0)
    refused = extracted.run("train.py", *ALL, *STEPS, check=1).stderr
    assert "my-photos, all shots, seed 1: images changed since the few-shot split was drawn: class 0 has" in refused
    assert "run features.py on this dataset with these shots and seeds" in refused
    extracted.run("features.py", *ALL, *FEATURES, check=0)
    extracted.run("train.py", *ALL, *STEPS, check=0)
    path = next((extracted.root / "experiments").rglob("record.json"))
    path.write_text(re.sub('"encoder": "[0-9a-f]{8}', '"encoder": "01234567', path.read_text()))
    refused = extracted.run("train.py", *ALL, *STEPS, check=1).stderr  # no image changed: it is not removed
    assert "has runs on other features, another split or another grid (encoder: 01234567" in refused
    path = extracted.root / "indices" / "my-photos" / "shot_1-seed_1.json"
    split = json.loads(path.read_text())
    split["train"][1] = split["train"][0]
    path.write_text(json.dumps(split))
    assert "shot_1-seed_1.json is damaged" in extracted.run("train.py", *ALL, "--train-shot", "1", check=1).stderr


def test_images_that_change_while_they_are_encoded(photos):
    """The features of neither are written under the name of the other."""
    victim = sorted(photos.folder.glob("*/*.JPG"))[0]
    other = sorted(photos.folder.glob("*/*.JPG"))[-1].read_bytes()

    def prepare():
        decode = extract.decode_file

        def decoded_and_replaced(*args):
            image = decode(*args)
            victim.write_bytes(other)
            return image

        extract.decode_file = decoded_and_replaced

    refused = Fork("features.py", [*ALL, *FEATURES], photos.root, prepare, photos.root).wait(check=1)
    assert "my photos: images changed while their features were extracted: " in refused.err
    assert "1 image replaced" in photos.run("features.py", *ALL, *FEATURES, check=0).stdout


def test_a_damaged_list_of_images(extracted):
    """It is named, and can go without the features; these are not compared with images by position."""
    listing = extracted.place.listing
    listing.write_text(listing.read_text()[:-100])
    shards = sorted(extracted.place.folder.rglob("*.safetensors"))
    verify = ["features.py", *ALL[:2], *ALL[6:8]]
    said = extracted.run(*verify, "--verify", check=1).stdout
    assert "images.json cannot be read" in said
    assert "changed since its features" not in said
    checked = extracted.run("check.py", "--dataset", "my photos", check=1).stdout
    assert checked.count("WRONG") == 1
    assert "images.json is damaged" in checked
    assert "images.json is damaged" in extracted.run("train.py", *ALL, *STEPS, check=1).stderr
    extracted.run(*verify, "--repair", check=1)
    assert not listing.exists()
    assert sorted(extracted.place.folder.rglob("*.safetensors")) == shards
    assert "0 of them to encode" in extracted.run("features.py", *ALL, *FEATURES, check=0).stdout
    extracted.run("train.py", *ALL, *STEPS, check=0)


def test_verify_compares_the_content_of_images(extracted):
    """Which size and time cannot always tell; --repair lets features.py read the file again."""
    verify = ["features.py", *ALL[:2], *ALL[6:8], "--verify"]
    assert "0 of them bad" in extracted.run(*verify, check=0).stdout
    victim = sorted(extracted.folder.glob("*/*.JPG"))[0]
    content, times = bytearray(victim.read_bytes()), victim.stat()
    content[-10] ^= 255
    victim.write_bytes(content)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    said = extracted.run(*verify, check=1)
    assert f"{victim.relative_to(extracted.root)} changed since its features were extracted" in said.stdout
    extracted.run("features.py", *ALL, *FEATURES, check=0)  # which looks at size and time
    extracted.run(*verify[:-1], "--repair", check=1)
    assert "1 of them to encode" in extracted.run("features.py", *ALL, *FEATURES, check=0).stdout
    extracted.run(*verify, check=0)


def test_other_images_or_templates_under_a_name_are_not_trained_on(extracted):
    """Features lie under the names of folders and files, and these may be called alike."""
    train = ["train.py", *ALL[2:], *STEPS]
    other = extracted.root / "other"
    draw_photos(other / "my photos", classes=5, numbers=range(20, 30))
    for picture in other.rglob("*.JPG"):
        picture.rename(picture.with_stem(str(int(picture.stem) - 20)))
    refused = extracted.run(*train, "--dataset", "other/my photos", check=1)
    assert "my-photos has features of other images: not one of them is in other/my photos now" in refused.stderr
    refused = extracted.run("features.py", "--dataset", "other/my photos", *ALL[2:], check=1)
    assert "indices/my-photos/shot_all-seed_1.json is a few-shot split of other images" in refused.stderr
    shutil.rmtree(extracted.root / "indices")
    refused = extracted.run("features.py", "--dataset", "other/my photos", *ALL[2:], check=1)
    assert "my-photos has features of other images: not one of them is in other/my photos now" in refused.stderr
    shutil.rmtree(extracted.root / "indices")
    extracted.run("few_shot_split.py", *ALL[:6], check=0)
    for text in ("the {}", "a photo of a {}.\nthe {}"):
        (other / "two.txt").write_text(text)
        refused = extracted.run(*train, *ALL[:2], "--templates", "other/two.txt", check=1)
        assert "were extracted with templates that differ from other/two.txt" in refused.stderr
    extracted.folder.rename(other / "gone")
    extracted.run(*train, "--dataset", "./my photos", "--templates", "two.txt", check=0)


def test_templates_of_ones_own(extracted):
    """They lie beside others, under the name of their file, and other wordings under it are refused."""
    prompts = read_texts(extracted.place.texts(0, "two")).prompts
    assert prompts[:2] == ["a photo of a checkered brown moon.", "a drawing of the checkered brown moon"]
    assert len(prompts) == 2 * len(read_texts(extracted.place.texts(0, "hand_crafted")).prompts)
    extracted.run("train.py", *ALL, *STEPS, "--templates", "two.txt", check=0)
    (cell,) = {read_record(path).cell for path in (extracted.root / "experiments").rglob("record.json")}
    assert cell.text_augmentation == "two"
    tabulated = extracted.run("eval.py", *ALL[:-2], *STEPS, "--templates", "two.txt", check=0)
    assert "results/all_demo-RN_linear_two_none_0_cross_modal_text_wiseft_False_iter_101.csv" in tabulated.stdout
    missing = command_in(extracted.run("train.py", *ALL, *STEPS, "--templates", "others/three.txt", check=1))
    assert missing[missing.index("--text-augmentation") + 1] == "others/three.txt"
    assert "others/three.txt: no such template file" in extracted.run(*missing, check=1).stderr
    (extracted.root / "two.txt").write_text("the {}")
    assert (
        "other prompts or class names" in extracted.run("features.py", *ALL, "--templates", "two.txt", check=1).stderr
    )


def test_a_folder_that_is_read_only(photos):
    """Its division lies in indices/, is found by every script, and replaces one beside the images that is older."""
    division, before = photos.root / "indices" / "my-photos" / "split.json", sorted(photos.folder.rglob("*"))

    def permit(mode):
        for folder in (photos.folder, *filter(Path.is_dir, before)):
            folder.chmod(mode)

    def run(script, *words, check=0):
        done = Fork(script, [*words], photos.root.parent, as_a_user, photos.root).wait(check)
        return done.out + done.err

    permit(0o555)
    said = run("features.py", *ALL, *FEATURES)
    assert f"{division.relative_to(photos.root)} written: 5 classes, 25 train" in said
    assert "my photos cannot be written" in said
    assert "split.json" not in run("few_shot_split.py", *ALL[:6])
    run("train.py", *ALL, *STEPS)
    assert "0 of them bad" in run("features.py", *ALL, "--verify")
    assert "my-photos: 50 images, all there" in run("check.py", "--dataset", "my photos")
    assert sorted(photos.folder.rglob("*")) == before

    permit(0o755)
    division.rename(photos.folder / "split.json")
    first, second = before[-2:]
    shutil.copy(first, second)
    permit(0o555)
    assert "1 image replaced" in run("train.py", *ALL, *STEPS, check=1)
    said = run("features.py", *ALL, *FEATURES)
    assert "my photos/split.json is older than the images: 1 image replaced" in said
    assert "indices/my-photos/split.json is the updated file: my photos cannot be written" in said
    assert division.read_text() != (photos.folder / "split.json").read_text()
    run("train.py", *ALL, *STEPS)
    draw_photos(photos.root / "other" / "my photos", classes=5, numbers=range(20, 30))
    refused = run("few_shot_split.py", "--dataset", "other/my photos", *ALL[2:6], check=1)
    assert "indices/my-photos/split.json has none of the images in other/my photos" in refused
    permit(0o755)


def test_two_classes_need_more_templates(photos):
    for folder in sorted(photos.folder.iterdir())[2:]:
        shutil.rmtree(folder)
    augmentations = ["hand_crafted", "template_mining"]
    made = photos.run("features.py", *ALL, *FEATURES, "--text-augmentation", *augmentations, check=0)
    assert made.stdout.count("note: 2 prompts, but cross-modal training needs 5 or more") == 1
    refused = photos.run("train.py", *ALL, *STEPS, check=1)
    assert (
        "2 training samples are too few for every batch size of grid 'linear': 5 prompts or more are needed"
        in refused.stderr
    )
    assert "--text-augmentation template_mining" in refused.stderr
    photos.run("train.py", *ALL, *STEPS, "--text-augmentation", "template_mining", check=0)


def test_layouts_are_doubted(photos):
    """What few_shot_split.py believes of a folder, what it notes, and what it stops at."""
    split = ["few_shot_split.py", "--dataset", "my photos", "--train-shot", "1", "--seed", "1"]
    classes = sorted(photos.folder.iterdir())
    for part, count in (("Training", 6), ("valid", 2)):
        for own in classes:
            (photos.folder / part / own.name).mkdir(parents=True)
            for path in sorted(own.iterdir())[:count]:
                path.rename(photos.folder / part / own.name / path.name)
    for own in classes:
        own.rename(photos.root / own.name)
    refused = photos.run(*split, check=1)
    assert "my photos has the folders Training (train), valid (val), but no test" in refused.stderr
    (photos.folder / "testing").mkdir()
    for own in classes:
        (photos.root / own.name).rename(photos.folder / "testing" / own.name)
    system = photos.folder / "valid" / "@eaDir" / "0.JPG"
    system.mkdir(parents=True)
    shutil.copy(next(photos.folder.rglob("*.JPG")), system / "thumbnail.jpg")
    shutil.copy(system / "thumbnail.jpg", photos.folder / "valid" / "loose.jpg")
    done = photos.run(*split, check=0)
    assert done.stdout.splitlines()[:3] == [
        "note: my photos: 1 hidden or system name skipped: @eaDir (1)",
        "note: my photos: ignored because they are in no class folder: 1 image (valid/loose.jpg)",
        "note: my photos/split.json written: 5 classes, 30 train, 10 val, 10 test",
    ]
    valid = photos.folder / "valid"
    refused = Fork(split[0], split[1:], photos.root, unlistable("my photos/valid"), photos.root).wait(check=1)
    assert "error: my photos/valid cannot be listed (Permission denied)" in refused.err
    (photos.folder / "split.json").unlink()
    (photos.folder / "testing").rename(photos.root / "away")
    (photos.folder / "Training").rename(photos.folder / "learn")
    valid.rename(photos.folder / "exam")
    refused = photos.run(*split, check=1)
    assert (
        "exam, learn would be the classes, but all have the same folders in them: checkered_brown_moo" in refused.stderr
    )


def test_a_list_of_another_program(photos):
    """Separated by semicolons, with backslashes, labels and a fold as pandas writes them; a pipe is not opened."""
    files = sorted(path.relative_to(photos.folder) for path in photos.folder.glob("*/*"))
    rows = [f"{str(path).replace('/', chr(92))};{number // 10}.0;test" for number, path in enumerate(files)]
    listed = photos.folder / "birds.csv"
    split = ["few_shot_split.py", "--dataset", "my photos/birds.csv", "--train-shot", "1", "--seed", "1"]
    listed.write_text("\n".join(["Image;Label;fold", *rows]))
    done = photos.run(*split, check=0)
    assert done.stdout.splitlines()[:2] == [
        "note: my photos/birds.csv: ignored columns: fold. If a column has train, val or test, name it split",
        "note: my photos/birds.csv: classes are called 0.0, 1.0, 2.0, 3.0, 4.0, but prompts need names; add a"
        " classnames.txt",
    ]
    os.mkfifo(photos.folder / "pipe.jpg")
    (photos.folder / "birds.split.json").unlink()
    listed.write_text("\n".join(["Image;Label;fold", *rows, "pipe.jpg;0.0;test"]))
    refused = photos.run(*split, check=1)
    assert "my photos/pipe.jpg: it is a named pipe, not a regular file" in refused.stderr


def test_classes_of_one_and_of_two_images_are_trained_on(photos):
    """They are missing in validation or in test, which is said, for all shots and for few."""
    for folder, count in zip(sorted(photos.folder.iterdir()), (1, 2), strict=False):
        for path in sorted(folder.iterdir())[count:]:
            path.unlink()
    asked = ["--dataset", "my photos", "--train-shot", "all", "2", "--seed", "1", *ENCODER]
    said = photos.run("features.py", *asked, *FEATURES, "--text-augmentation", "template_mining", check=0).stdout
    names = [path.name for path in sorted(photos.folder.iterdir()) if path.is_dir()]
    assert (
        f"2 of 5 classes have no images in val, so settings are selected without them: {names[0]}, {names[1]}" in said
    )
    assert "1 of 5 classes has no image in test, so test accuracy does not show how well they are recogn" in said
    trained = photos.run("train.py", *asked, *STEPS, "--text-augmentation", "template_mining", "--save-heads", check=0)
    for shots in ("all-shot", "2-shot"):
        assert re.search(rf"my-photos {shots} seed 1: val .*test ", trained.stdout)


def test_half_of_the_classes_needs_images_to_test_on(photos):
    """The last two of five classes, the new half, have one image each, for training; an error before training."""
    for folder in sorted(photos.folder.iterdir())[3:]:
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
    photos.run("features.py", *ALL, *FEATURES, check=0)
    for classes, split in (("base", "test"), ("new", "val")):
        refused = photos.run("train.py", *ALL, "--method", "linear_adapter", "--classes", classes, check=1).stderr
        assert refused.startswith(f"error: my-photos has no {split} images of its new classes, 3 to 4 in the order of")


def test_pictures_of_every_kind(photos):
    """Grey of 16 bits, palettes, CMYK and GIFs that move are images like others; a truncated one is named."""
    pictures = {}
    for number, path in enumerate(sorted(photos.folder.glob("*/0.JPG"))):
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
            pictures[number] = image.convert("RGB")
        path.unlink()
        save = [
            lambda to, grey=grey: Image.fromarray(grey).save(to.with_suffix(".png")),
            lambda to, image=pictures[number]: image.quantize(64).save(to.with_suffix(".png"), transparency=3),
            lambda to, image=pictures[number]: image.convert("CMYK").save(to.with_suffix(".jpg")),
            lambda to, image=pictures[number]: image.save(
                to.with_suffix(".gif"), save_all=True, append_images=[image.rotate(180)]
            ),
            lambda to, image=pictures[number]: image.save(to.with_suffix(".tif")),
        ][number]
        save(path)
    cut = next(photos.folder.glob("*/1.JPG"))
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    refused = photos.run("features.py", *ALL, *FEATURES, check=1)
    assert "image files that cannot be read or decoded: 1. Replace them by sound files" in refused.stderr
    assert f"  {cut.relative_to(photos.root)}: " in refused.stderr
    cut.write_bytes(whole)
    photos.run("features.py", *ALL, *FEATURES, check=0)
    listing = read_listing(photos.place)
    banks = [Bank(photos.place.bank(part, 0, "none"), listing.split(part)) for part in ("train", "val", "test")]
    assert [len(bank) for bank in banks] == [25, 10, 15]


def store_otherwise(image, kind, path):
    """Write a picture as cameras and programs store it, and return what a person sees of it."""
    exif = Image.Exif()
    if kind == "turned":
        exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees, clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".png"), exif=exif)
    elif kind == "cut out":  # from a background whose colours are still there
        alpha = Image.new("L", image.size)
        alpha.paste(255, (0, 0, image.width, image.height // 2))
        image.putalpha(alpha)
        image.save(path.with_suffix(".webp"), lossless=True, exact=True)
        image = Image.composite(image.convert("RGB"), Image.new("RGB", image.size, "white"), alpha)
    else:  # of 12 bits, in files that have room for 16 and 32
        image = image.convert("L")
        image.putpixel((0, 0), 255)
        deep = np.asarray(image).astype(np.int32 if kind == "12 of 32" else np.uint16) * 16 + 5
        Image.fromarray(deep).save(path.with_suffix(".tif"))
    return image


def test_photographs_are_what_a_person_sees(photos):
    """Turned by EXIF data, of 12 bits, partly transparent: features and predictions are those of plain pictures."""
    kinds = ["turned", "cut out", "12 of 16", "12 of 32", "turned"]
    for folder, kind in zip(sorted(photos.folder.iterdir()), kinds, strict=True):
        for path in sorted(folder.iterdir()):
            other = photos.root / "as stored" / folder.name / path.name
            other.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                store_otherwise(image, kind, other).save(path.with_suffix(".png"))
            path.unlink()
    both, stored = ["my photos", "as stored"], ["--dataset", "as stored", *ALL[2:]]
    photos.run("features.py", "--dataset", *both, *ALL[2:], *FEATURES, check=0)
    for part in ("train", "val", "test"):
        places = [FeaturePaths.of(photos.root / "features", "demo-RN", name.replace(" ", "-")) for name in both]
        seen, made = (Bank(place.bank(part, 0, "none")) for place in places)
        assert torch.equal(seen.read()[0], made.read()[0])
    photos.run("train.py", *stored, *STEPS, "--save-heads", check=0)
    said = photos.run("predict.py", "--run", "experiments", *both, "--top-k", "1", check=0).stdout
    rows = list(csv.DictReader(said.splitlines()))
    half = len(rows) // 2
    assert half == 50
    answers = [(row["class"], row["probability"]) for row in rows]
    assert answers[:half] == answers[half:]

    Image.fromarray(np.full((64, 64), 5000, dtype=np.uint16)).save(photos.root / "bright.png")
    bright = photos.run("predict.py", "--run", "experiments", "bright.png", check=1)
    assert "bright.png cannot be read: its values go up to 5000, and the other images of its dataset" in bright.stderr

    split = photos.root / "as stored" / "split.json"
    assert '"depth": 12,' in split.read_text()
    split.write_text(split.read_text().replace('"depth": 12,\n', ""))  # as before depths were looked for
    again = photos.run("features.py", *stored, *FEATURES, check=0)
    assert "0 of them to encode" in again.stdout
    assert '"depth": 12,' in split.read_text()
    split.write_text(split.read_text().replace('"depth": 12', '"depth": 14'))
    other = photos.run("features.py", *stored, *FEATURES, check=1)
    assert "was made differently:\n  depth: 12 there, 14 here\n" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nowhere"], "no dataset is called 'nowhere'; there are: caltech101"),
        (["--dataset", "nowhere/photos"], "error: nowhere/photos: no such folder or list of images"),
        (["--dataset", "list.csv"], "error: list.csv: no such folder or list of images"),
        (["--dataset", "my photos", "other/my-photos"], "my photos and other/my-photos have the same name, my-photos"),
        (
            ["--dataset", "my photos", "--templates", "x/vanilla.txt"],
            "x/vanilla.txt: the name vanilla belongs to templ",
        ),
        (["--dataset", "my photos", "--templates", "a.txt", "b/a.txt"], "a.txt and b/a.txt have the same name, a, for"),
        (["--dataset", "my photos", "--templates", "mined"], "'mined' is neither one of hand_crafted, classname, "),
        (
            ["--dataset", "my photos", "--train-shot", "every"],
            "'every' is not a whole number; shots are a number or 'a",
        ),
        (["--dataset", "my photos", "--train-shot", "0"], "0 is not 1 or more; shots are a number or 'all'"),
    ],
)
def test_mistakes_are_said(photos, words, message):
    done = photos.run("features.py", *words, "--clip-encoder", "demo-RN")
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_the_papers_tables_have_numbers_of_shots(photos):
    done = photos.run("tables.py", "--table", "1", "--train-shot", "all", check=1)
    assert "--train-shot all is in no table of the paper" in done.stderr
