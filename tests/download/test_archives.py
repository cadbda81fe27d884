"""Unpacking: what is wanted of an archive, and nothing outside of its place, whoever made it."""

import io
import os
import tarfile
from pathlib import PurePosixPath

import pytest

from engine import files
from engine.download import archives
from engine.errors import UserError
from servers import tar, zipped

MEMBERS = {"./d/images/a/1.jpg": b"one", "d/images/b/2.jpg": b"two", "d/lists.txt": b"no", "e/images/3.jpg": b"no"}
WANTED = [PurePosixPath("d/images")]


@pytest.fixture
def unpack(tmp_path):
    """Unpacks bytes to `.target`, and gives what is there by path; `.said` is what progress heard."""

    def call(content, wanted=WANTED, inner=None):
        path = tmp_path / "archive"
        path.write_bytes(content)
        archives.unpack(path, call.target, wanted, inner, lambda *heard: call.said.append(heard))
        return there()

    def there():
        paths = [path for path in call.target.rglob("*") if path.is_file()]
        return {str(path.relative_to(call.target)): path.read_bytes() for path in paths}

    call.target, call.said, call.there = tmp_path / "deep" / "target", [], there
    return call


@pytest.mark.parametrize("pack", [tar, zipped])
def test_what_is_wanted(unpack, pack):
    unpack.target.mkdir(parents=True)
    (unpack.target / "half.jpg").write_bytes(b"from a run that was killed")
    assert unpack(pack(MEMBERS)) == {"d/images/a/1.jpg": b"one", "d/images/b/2.jpg": b"two"}
    assert all(done <= total for _, done, total in unpack.said)


def test_an_archive_within_an_archive(unpack):
    assert unpack(zipped({"x/in.tar.gz": tar(MEMBERS)}), inner="x/in.tar.gz").keys() == {
        "d/images/a/1.jpg",
        "d/images/b/2.jpg",
    }
    with pytest.raises(UserError, match=r"other\.tar\.gz"):
        unpack(zipped({"x/in.tar.gz": b""}), inner="x/other.tar.gz")


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("name", ["../evil.jpg", "d/images/../../../evil.jpg", "/tmp/evil.jpg"])
def test_names_that_lead_out_are_refused(unpack, pack, name):
    with pytest.raises(UserError, match="leads out of it"):
        unpack(pack({name: b"evil"} | MEMBERS))
    assert not list(unpack.target.parent.parent.rglob("evil.jpg"))


def test_links_that_lead_out_are_refused(unpack, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("d/images/a")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(packed.getvalue())
    assert not unpack.there()


@pytest.mark.parametrize("content", [tar(MEMBERS)[:-20], zipped(MEMBERS)[:-40], b"<html>", b""])
def test_what_is_no_archive(unpack, content):
    with pytest.raises(UserError, match="Remove it"):
        unpack(content)


def test_what_lacks_something(unpack):
    with pytest.raises(UserError, match=r"it lacks d/jpg"):
        unpack(tar(MEMBERS), [*WANTED, PurePosixPath("d/jpg")])


def test_a_disk_without_room(unpack, monkeypatch):
    monkeypatch.setattr(files, "free_space", lambda folder: 9)
    with pytest.raises(UserError, match="unpacked, takes about"):
        unpack(tar({"d/images/1.jpg": os.urandom(1000)}))
