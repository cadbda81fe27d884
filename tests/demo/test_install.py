import hashlib
import json

import pytest
from PIL import Image

from engine.demo import install as installer
from engine.demo import world
from engine.demo.install import CLASSNAMES, SHIFTED_IMAGES, SHIFTED_SETS, SPLITS, install


def digests(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


FEW, FEW_SHIFTED = {"train": 3, "val": 1, "test": 2}, 2


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """The real layout with fewer images a class: drawing all of them takes ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installer, "SPLITS", FEW)
        patch.setattr(installer, "SHIFTED_IMAGES", FEW_SHIFTED)
        yield


@pytest.fixture(scope="module")
def installed(few_images, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    calls = []
    install(data_dir, lambda done, total: calls.append((done, total)))
    assert calls == [(done, len(calls)) for done in range(1, len(calls) + 1)]
    return data_dir


def test_there_are_images_enough():
    assert all(SPLITS[part] >= least for part, least in {"train": 16, "val": 4, "test": 50}.items())
    assert SHIFTED_IMAGES >= 20
    assert len(CLASSNAMES) >= 20


def test_the_split_lists_every_image_in_blocks_of_classes(installed):
    split = json.loads((installed / "demo" / "split_demo.json").read_text())
    assert list(split) == ["train", "val", "test"]
    for part, count in FEW.items():
        assert [label for _, label, _ in split[part]] == [label for label in range(24) for _ in range(count)]
        assert all(name == CLASSNAMES[label] for _, label, name in split[part])
    paths = [path for part in split.values() for path, _, _ in part]
    assert len(set(paths)) == len(paths) == 24 * sum(FEW.values())
    on_disk = {str(p.relative_to(installed / "demo" / "images")) for p in (installed / "demo" / "images").glob("*/*")}
    assert on_disk == set(paths)
    assert paths[0] == CLASSNAMES[0].replace(" ", "_") + "/000-v1.png"


@pytest.mark.parametrize("shifted", SHIFTED_SETS, ids=lambda shifted: shifted.name)
def test_a_shifted_set_has_a_folder_a_class_and_the_names_of_all(installed, shifted):
    folder = installed / shifted.name
    lines = [line.split(" ", 1) for line in (folder / "classnames.txt").read_text().splitlines()]
    assert [name for _, name in lines] == list(CLASSNAMES)
    ids = [wnid for wnid, _ in lines]
    assert ids == sorted(ids)
    folders = sorted(path.name for path in (folder / "images").iterdir())
    expected = map(str, range(24)) if shifted.name == "demo_v2" else [ids[label] for label in shifted.labels]
    assert folders == sorted(expected)
    assert all(len(list((folder / "images" / name).iterdir())) == FEW_SHIFTED for name in folders)
    assert len(shifted.labels) == (12 if shifted.name in ("demo_a", "demo_r") else 24)


def test_the_images_are_real_files_all_different(installed):
    paths = list(installed.rglob("*.png"))
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == len(paths)
    for path in paths[::31]:
        with Image.open(path) as image:
            image.load()
            assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "PNG")


def test_installing_again_touches_nothing(installed):
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*")}
    calls = []
    install(installed, lambda *call: calls.append(call))
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*")} == before
    assert calls == []


def test_an_interrupted_installation_is_completed_to_the_same_bytes(tmp_path):
    class Killed(BaseException):
        pass

    def kill(done, total):
        if done == total // 2:
            raise Killed

    install(tmp_path / "whole")
    with pytest.raises(Killed):
        install(tmp_path / "killed", kill)
    assert not (tmp_path / "killed" / "demo_a" / "classnames.txt").exists()
    install(tmp_path / "killed")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_what_another_version_drew_is_replaced(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installer, "_STAMP", {"version": 0, "seed": 1})
        install(tmp_path)
    stale = tmp_path / "demo_sketch" / "images" / "d9999999" / "000.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    drawn = tmp_path / "demo" / "images" / CLASSNAMES[3].replace(" ", "_") / "001-v1.png"
    drawn.write_bytes(b"old")
    install(tmp_path)
    assert not stale.exists()
    assert drawn.read_bytes()[:4] == b"\x89PNG"


def test_every_set_has_a_style():
    assert set(world.STYLES) == {"demo", *(shifted.name for shifted in SHIFTED_SETS)}
