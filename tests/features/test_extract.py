"""Extraction: a bank has exactly the encoder's output for the rendered images, however often it was interrupted."""

import pytest
import torch

from engine.clip.load import load_encoder
from engine.errors import UserError
from engine.features import extract as module
from engine.features.decoding import report_dead_workers
from engine.features.extract import CorruptImages, extract, plan
from engine.features.store import Bank, FeaturePaths
from engine.transforms import decode_file, normalise, open_rgb, render

TRAIN = list(range(30))


@pytest.fixture(scope="module")
def encoder(random_weights):
    return load_encoder("demo-RN", str(random_weights(0)))


@pytest.fixture
def world(install_images, monkeypatch, encoder):
    """A dataset, and `run(...)`, which fills a bank in shards of 8 images and returns the number of encoded images."""
    monkeypatch.setattr(module, "SHARD_IMAGES", 8)
    world = install_images()

    def run(
        folder,
        positions=TRAIN,
        part="train",
        view="none",
        batch_size=4,
        workers=0,
        progress=None,
        using=encoder,
        **settings,
    ):
        done = []
        todo = plan(world.benchmark, part, view, positions, FeaturePaths(world.root / folder), using, **settings)
        extract([todo], using, batch_size=batch_size, workers=workers, progress=progress or done.append)
        return sum(done)

    world.run = run
    world.bank = lambda folder, part="train", view="none", layer=0: FeaturePaths(world.root / folder).bank(
        part, layer, view
    )
    return world


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("view", ["none", "flip", "randomcrop_0", "randomcrop_1"])
def test_a_bank_equals_the_encoders_output(world, encoder, view):
    assert world.run("bank", view=view) == 30
    features, labels = Bank(world.bank("bank", view=view)).read()
    images = [
        render(open_rgb(world.benchmark.path(item)), view, encoder.preprocessing, seed=f"demo/train/{position}/{view}")
        for position, item in enumerate(world.benchmark.train)
    ]
    with torch.inference_mode():
        pixels = normalise(torch.stack(images), encoder.preprocessing)
        expected = torch.cat([encoder.model.encode_image(batch) for batch in pixels.split(4)])
    assert labels.tolist() == world.benchmark.labels("train")
    assert torch.allclose(features, expected, rtol=0, atol=1e-5 * expected.abs().max())
    assert not torch.allclose(features.norm(dim=1), torch.ones(30), atol=0.01)  # raw
    assert [path.name[:8] for path in sorted(world.bank("bank", view=view).glob("*"))] == [
        f"{k:08d}" for k in (0, 8, 16, 24)
    ]


def test_views_differ(world):
    views = ["none", "flip", "randomcrop_0", "randomcrop_1"]
    for view in views:
        world.run(view, view=view)
    banks = torch.stack([Bank(world.bank(view, view=view)).read()[0] for view in views])
    for a, b in torch.combinations(torch.arange(4)):
        assert (banks[a] != banks[b]).any(1).float().mean() > 0.5


def test_stored_features_are_not_extracted_again(world):
    assert world.run("bank", [3, 7, 3]) == 2
    assert world.run("bank", [7, 3]) == 0
    assert world.run("bank", [7, 20, 1]) == 2
    assert world.run("bank") == 26
    assert world.run("whole") == 30
    pieces, whole = (Bank(world.bank(name)).read()[0] for name in ("bank", "whole"))
    assert torch.allclose(pieces, whole, rtol=0, atol=1e-5 * whole.abs().max())


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_a_resumed_run_writes_the_same_bytes(world, stop):
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


def test_batches_are_padded_no_further_than_the_number_of_images(world, encoder, monkeypatch):
    """For any requested batch size; a resumed run pads to the same size."""
    monkeypatch.setattr(module, "PADDED", 4)
    encoded, through = [], type(encoder).encode_images

    def count(self, pixels, layers=None):
        encoded.append(len(pixels))
        return through(self, pixels, layers)

    monkeypatch.setattr(type(encoder), "encode_images", count)
    world.run("whole", TRAIN[:3], batch_size=2)
    world.run("small", TRAIN[:3], batch_size=4096)
    world.run("large", TRAIN[:10], batch_size=4096)
    assert encoded == [2, 2, 4, 10]
    monkeypatch.setattr(module, "SHARD_IMAGES", 1)  # shards of one batch each
    world.run("whole", batch_size=12)
    expected = contents(world.bank("whole"))
    for path in sorted(world.bank("whole").glob("*"))[1:]:
        path.unlink()
    world.run("whole", batch_size=12)
    assert contents(world.bank("whole")) == expected
    assert set(encoded[4:]) == {12}


def test_a_shard_of_another_process_is_not_written_again(world, encoder):
    todo = plan(world.benchmark, "train", "none", TRAIN, FeaturePaths(world.root / "bank"), encoder)
    world.run("bank")
    before = contents(world.root / "bank")
    done = []
    extract([todo], encoder, batch_size=4, workers=0, progress=done.append)
    assert not done
    assert contents(world.root / "bank") == before


def test_workers_do_not_matter(world):
    world.run("alone", view="randomcrop_0")
    world.run("together", view="randomcrop_0", workers=2)
    assert contents(world.root / "alone") == contents(world.root / "together")


def test_the_batch_size_hardly_matters(world):
    world.run("eight", batch_size=8)
    world.run("more", batch_size=32)
    eight, more = (Bank(world.bank(name)).read()[0] for name in ("eight", "more"))
    assert torch.allclose(eight, more, rtol=0, atol=1e-5 * more.abs().max())


def test_all_corrupt_images_are_listed_and_the_rest_is_stored(world):
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
        assert len(Bank(world.bank("bank"))) == 14  # the shards of positions 16 to 23 and 24 to 29
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    assert world.run("bank") == 16
    assert contents(world.root / "bank") == contents(world.root / "whole")


def test_a_vanished_image_is_reported(world):
    path = world.benchmark.path(world.benchmark.train[9])
    path.unlink()
    with pytest.raises(CorruptImages, match=f"{path}: .*No such file"):
        world.run("bank")
    assert Bank(world.bank("bank")).missing(TRAIN) == list(range(8, 16))


def test_other_weights_and_other_lists_are_refused(world, random_weights, encoder):
    world.run("bank")
    other = load_encoder("demo-RN", str(random_weights(1)))
    with pytest.raises(UserError, match="encoder_digest") as caught:
        world.run("bank", using=other)
    assert encoder.digest in str(caught.value)
    assert other.digest in str(caught.value)
    world.bank("bank").parent.rename(world.bank("bank", "test").parent)
    with pytest.raises(UserError, match="belongs to train-layer_0"):
        world.run("bank", [0], part="test")


# --- several layers, other settings ----------------------------------------------------------------------------------


LAYERS = [0, 1, 3, -1]


@pytest.fixture(scope="module")
def layered(random_weights):
    """The same encoder, with 0, 1, 3 and all of its layers trainable."""
    return load_encoder("demo-RN", str(random_weights(0)), image_layers=LAYERS)


def of_layers(world, folder):
    return {layers: Bank(world.bank(folder, layer=layers)).read()[0] for layers in LAYERS}


def test_one_pass_fills_the_banks_of_all_layers(world, random_weights, layered, monkeypatch):
    """As many images are decoded and encoded as for one layer; the bytes equal separate runs."""
    paths = []
    monkeypatch.setattr(module, "decode_file", lambda path, *how: paths.append(path) or decode_file(path, *how))
    assert world.run("together", using=layered) == len(paths) == 30
    together = of_layers(world, "together")
    for layers, features in together.items():
        world.run("alone", using=load_encoder("demo-RN", str(random_weights(0)), image_layers=[layers]))
        assert (layered.image[layers] is None) == (layers == 0)
        if layers:
            with torch.no_grad():
                final = layered.image[layers](features)
            assert torch.allclose(final, together[0], rtol=0, atol=1e-5 * final.abs().max())
    assert contents(world.root / "alone") == contents(world.root / "together")


def test_banks_that_lack_different_images_are_completed(world, encoder, layered):
    world.run("pieces", [1, 5, 20], using=encoder)
    before = contents(world.root / "pieces")
    assert world.run("pieces", using=layered) == 30
    assert before.items() <= contents(world.root / "pieces").items()
    assert world.run("pieces", using=layered) == 0
    world.run("whole", using=layered)
    pieces, whole = of_layers(world, "pieces"), of_layers(world, "whole")
    assert all(torch.allclose(pieces[k], whole[k], rtol=0, atol=1e-5 * whole[k].abs().max()) for k in LAYERS)


def test_shards_are_no_larger_than_allowed(world, layered, monkeypatch):
    row = layered.image_shapes[-1].numel() * 4
    monkeypatch.setattr(module, "SHARD_BYTES", 5 * row)
    world.run("bank", using=layered)
    assert len(list(world.bank("bank", layer=-1).iterdir())) == 8  # batches of four
    monkeypatch.setattr(module, "SHARD_BYTES", row // 2)
    world.run("small", using=layered, batch_size=2)
    assert len(list(world.bank("small", layer=-1).iterdir())) == 15


def test_inputs_of_layers_may_be_stored_in_half_the_space(world, layered):
    world.run("full", using=layered)
    world.run("half", using=layered, store_dtype="fp16")
    full, half = of_layers(world, "full"), of_layers(world, "half")
    assert torch.equal(full[0], half[0])
    for layers in LAYERS[1:]:
        assert torch.equal(full[layers].half().float(), half[layers])
        sizes = [
            sum(path.stat().st_size for path in world.bank(name, layer=layers).iterdir()) for name in ("full", "half")
        ]
        assert sizes[1] < 0.6 * sizes[0]
    with pytest.raises(UserError, match="dtype: fp16 there, fp32 here"):
        world.run("half", using=layered)


def test_fast_decoding_is_close_and_kept_apart(world):
    world.run("pil")
    world.run("fast", decode="fast")
    pil, fast = (Bank(world.bank(name)).read()[0] for name in ("pil", "fast"))
    assert torch.allclose(pil, fast, rtol=0, atol=0.02 * pil.abs().max())
    with pytest.raises(UserError, match="decode: fast there, pil here"):
        world.run("fast")


def test_lower_precision_is_close_and_kept_apart(world, random_weights):
    lower = load_encoder("demo-RN", str(random_weights(0)), precision="bf16")
    world.run("fp32")
    world.run("bf16", using=lower)
    full, low = (Bank(world.bank(name)).read()[0] for name in ("fp32", "bf16"))
    assert not torch.equal(full, low)
    assert torch.cosine_similarity(full, low).min() > 0.999
    with pytest.raises(UserError, match="precision: bf16 there, fp32 here"):
        world.run("bf16")


def test_numbers_that_are_not_finite_are_not_stored(world, encoder, monkeypatch):
    monkeypatch.setattr(module, "normalise", lambda *pixels: normalise(*pixels) * float("inf"))
    with pytest.raises(UserError, match=r"features that are not finite numbers, at positions 0, 1"):
        world.run("bank")
    assert not contents(world.root / "bank")


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_dead_worker_is_reported(error):
    """A killed process raises either of the two, or torch's own error, depending on timing."""
    with pytest.raises(UserError, match=r"a process that decodes images ended.*Fewer"), report_dead_workers("Fewer"):
        raise error
    with pytest.raises(RuntimeError, match="of another kind"), report_dead_workers("Fewer"):
        raise RuntimeError("of another kind")
