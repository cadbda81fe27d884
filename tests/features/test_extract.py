"""Extraction: a bank holds exactly what the encoder makes of the rendered images, however often it was interrupted."""

import pytest
import torch

from engine.clip.load import load_encoder
from engine.errors import UserError
from engine.features import extract as module
from engine.features.extract import CorruptImages, extract, extract_texts, plan
from engine.features.store import Bank, read_texts
from engine.transforms import open_rgb, render

TRAIN = list(range(30))


@pytest.fixture(scope="module")
def encoder(random_weights):
    return load_encoder("demo-RN", str(random_weights(0)))


@pytest.fixture
def world(install_images, monkeypatch, encoder):
    """A dataset, and `run(...)`, which fills a bank of it in shards of 8 images and counts the images encoded."""
    monkeypatch.setattr(module, "SHARD_IMAGES", 8)
    world = install_images()

    def run(folder, positions=TRAIN, part="train", view="none", batch_size=4, workers=0, progress=None, using=encoder):
        done = []
        todo = plan(world.benchmark, part, view, positions, world.root / folder, using)
        progress = progress or done.append
        extract(todo, using, batch_size=batch_size, workers=workers, device="cpu", progress=progress)
        return sum(done)

    world.run = run
    return world


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*")}


@pytest.mark.parametrize("view", ["none", "flip", "randomcrop_0", "randomcrop_1"])
def test_a_bank_is_what_the_encoder_gives(world, encoder, view):
    assert world.run("bank", view=view) == 30
    features, labels = Bank(world.root / "bank").read()
    looks = (encoder.image_size, encoder.mean, encoder.std)
    pixels = [
        render(open_rgb(world.benchmark.path(item)), view, *looks, seed=f"demo/train/{position}/{view}")
        for position, item in enumerate(world.benchmark.train)
    ]
    with torch.inference_mode():
        expected = torch.cat([encoder.model.encode_image(batch) for batch in torch.stack(pixels).split(4)])
    assert labels.tolist() == world.benchmark.labels("train")
    assert torch.allclose(features, expected, rtol=0, atol=1e-5 * expected.abs().max())
    assert not torch.allclose(features.norm(dim=1), torch.ones(30), atol=0.01)  # raw
    assert [path.name[:8] for path in sorted((world.root / "bank").glob("*"))] == [f"{k:08d}" for k in (0, 8, 16, 24)]


def test_views_differ(world):
    views = ["none", "flip", "randomcrop_0", "randomcrop_1"]
    for view in views:
        world.run(view, view=view)
    banks = torch.stack([Bank(world.root / view).read()[0] for view in views])
    for a, b in torch.combinations(torch.arange(4)):
        assert (banks[a] != banks[b]).any(1).float().mean() > 0.5


def test_what_is_there_is_not_made_again(world):
    assert world.run("bank", [3, 7, 3]) == 2
    assert world.run("bank", [7, 3]) == 0
    assert world.run("bank", [7, 20, 1]) == 2
    assert world.run("bank") == 26
    assert world.run("whole") == 30
    pieces, whole = (Bank(world.root / name).read()[0] for name in ("bank", "whole"))
    assert torch.allclose(pieces, whole, rtol=0, atol=1e-5 * whole.abs().max())


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_a_run_that_goes_on_gives_the_same_bytes(world, stop):
    """Interrupted after some batch, three times."""

    class Killed(Exception):
        pass

    def kill(count, batches=[0]):  # noqa: B006
        batches[0] += 1
        if batches[0] % stop == 0:
            raise Killed

    world.run("whole")
    for _ in range(3):
        try:
            world.run("pieces", progress=kill)
        except Killed:
            continue
    world.run("pieces")
    assert contents(world.root / "pieces") == contents(world.root / "whole")


def test_a_shard_that_another_process_made_since_is_left_alone(world, encoder):
    todo = plan(world.benchmark, "train", "none", TRAIN, world.root / "bank", encoder)
    world.run("bank")
    before = contents(world.root / "bank")
    done = []
    extract(todo, encoder, batch_size=4, workers=0, device="cpu", progress=done.append)
    assert not done
    assert contents(world.root / "bank") == before


def test_workers_do_not_matter(world):
    world.run("alone", view="randomcrop_0")
    world.run("together", view="randomcrop_0", workers=2)
    assert contents(world.root / "alone") == contents(world.root / "together")


def test_the_batch_size_hardly_matters(world):
    world.run("eight", batch_size=8)
    world.run("more", batch_size=32)
    eight, more = (Bank(world.root / name).read()[0] for name in ("eight", "more"))
    assert torch.allclose(eight, more, rtol=0, atol=1e-5 * more.abs().max())


def test_all_corrupt_images_are_listed_and_the_rest_is_kept(world):
    world.run("whole")
    paths = [world.benchmark.path(world.benchmark.train[position]) for position in (2, 9, 11)]
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(b"")
    paths[1].write_bytes(whole[1][:200])
    paths[2].write_bytes(b"<html>404</html>")
    for workers in (0, 2):
        with pytest.raises(CorruptImages) as caught:
            world.run("bank", workers=workers)
        assert len(caught.value.lines) == 3
        for path, line in zip(paths, caught.value.lines, strict=True):
            assert line.startswith(f"{path}: ")
            assert line in str(caught.value)
        assert len(Bank(world.root / "bank")) == 14  # the shards of positions 16 to 23 and 24 to 29
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    assert world.run("bank") == 16
    assert contents(world.root / "bank") == contents(world.root / "whole")


def test_an_image_that_vanishes_is_named(world):
    path = world.benchmark.path(world.benchmark.train[9])
    path.unlink()
    with pytest.raises(CorruptImages, match=f"{path}: .*No such file"):
        world.run("bank")
    assert Bank(world.root / "bank").missing(TRAIN) == list(range(8, 16))


def test_other_weights_and_other_lists_are_refused(world, random_weights, encoder):
    world.run("bank")
    other = load_encoder("demo-RN", str(random_weights(1)))
    with pytest.raises(UserError, match="encoder_digest") as caught:
        world.run("bank", using=other)
    assert encoder.digest in str(caught.value)
    assert other.digest in str(caught.value)
    with pytest.raises(UserError, match="list_digest"):
        world.run("bank", [0], part="test")


def test_texts(tmp_path, encoder):
    prompts, path, done = [f"a photo of a {word}." for word in ("dog", "cat", "big red star")], tmp_path / "t", []
    made = extract_texts(encoder, "demo", prompts, [0, 1, 2], path, "cpu", batch_size=2, progress=done.append)
    assert made
    assert done == [2, 1]
    texts = read_texts(path)
    with torch.inference_mode():
        expected = encoder.model.encode_text(encoder.tokenizer(prompts))
    assert torch.allclose(texts.features, expected, rtol=0, atol=1e-5)
    assert (texts.prompts, texts.labels.tolist()) == (prompts, [0, 1, 2])
    before = path.read_bytes()
    assert not extract_texts(encoder, "demo", prompts, [0, 1, 2], path, "cpu")
    assert path.read_bytes() == before


def test_texts_of_other_prompts_or_weights_are_refused(tmp_path, encoder, random_weights):
    path = tmp_path / "texts"
    extract_texts(encoder, "demo", ["a dog."], [0], path, "cpu")
    with pytest.raises(UserError, match=r"other prompts or class names\.\nremove it"):
        extract_texts(encoder, "demo", ["a cat."], [0], path, "cpu")
    other = load_encoder("demo-RN", str(random_weights(1)))
    with pytest.raises(UserError, match="other weights") as caught:
        extract_texts(other, "demo", ["a dog."], [0], path, "cpu")
    assert encoder.digest[:12] in str(caught.value)
    assert other.digest[:12] in str(caught.value)
