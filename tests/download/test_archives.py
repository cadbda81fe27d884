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


def linked(links):
    """A .tar.gz of links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, to in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, to
            archive.addfile(link)
    return packed.getvalue()


def test_links_that_lead_out_are_refused(unpack, tmp_path):
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(linked({"d/images/a": str(tmp_path)}))
    assert not unpack.target.exists()


@pytest.mark.parametrize(
    ("links", "leads_out"),
    [
        ({"d/images/a/b": "../c"}, False),
        ({"d/images/a": "../images/c"}, False),
        ({"d/images/a": "../../c"}, True),
        ({"d/images/a": "../../d/images/c"}, True),
        ({"d/images/a": ".."}, True),
        ({"d/images/a/b/c": "../..", "d/images/e": "a/b/c/../.."}, True),
    ],
)
def test_links_are_judged_where_they_end_up(unpack, tmp_path, links, leads_out):
    unpack(linked(links))
    root = tmp_path / "called otherwise"
    root.mkdir()
    if leads_out:
        with pytest.raises(UserError, match="which leads out of"):
            archives.move(unpack.target, WANTED, root)
    else:
        archives.move(unpack.target, WANTED, root)
    assert os.listdir(root) == ["images"] * (not leads_out)


def altered(content, at, after=b""):
    """`content` with another byte `at` a place, counted from where `after` is in it, or from its end."""
    at += content.index(after) if at >= 0 else len(content)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


LISTED = b"PK\1\2"
"""What the entry of a .zip's first file in its list begins with."""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tar(MEMBERS)[:-20], "ended before the end"),
        (altered(tar(MEMBERS), -8), "CRC check failed"),
        (altered(tar(MEMBERS), -1), "Incorrect length"),
        (zipped({"x/in.tar.gz": altered(tar(MEMBERS), -8)}), "CRC check failed"),
        (altered(zipped({"x/in.tar.gz": tar(MEMBERS)}), 16, LISTED), "Bad CRC-32"),
        (zipped(MEMBERS)[:-40], "Not a gzip"),
        (altered(altered(zipped(MEMBERS), 6), 8, LISTED), "is encrypted"),
        (tar({"d/images/" + "a/" * 1500 + "1.jpg": b""}), "a path of 3014 characters"),
        (b"<html>", "Not a gzip"),
        (b"", "empty file"),
    ],
)
def test_what_is_no_sound_archive(unpack, content, reason):
    inner = "x/in.tar.gz" if b"x/in.tar.gz" in content else None
    with pytest.raises(UserError, match=rf"{reason}.*\)\. Remove it, then run the same command to download it again"):
        unpack(content, inner=inner)
    assert not unpack.target.exists()


def test_names_that_the_disk_does_not_take(unpack):
    with pytest.raises(UserError, match=r"cannot be unpacked \(.*: File name too long\)\. Fix this"):
        unpack(tar({f"d/images/{'x' * 300}": b""}))


def test_what_lacks_something(unpack):
    with pytest.raises(UserError, match=r"it lacks d/jpg"):
        unpack(tar(MEMBERS), [*WANTED, PurePosixPath("d/jpg")])


def test_a_disk_without_room(unpack, monkeypatch):
    monkeypatch.setattr(files, "free_space", lambda folder: 9)
    with pytest.raises(UserError, match="unpacked, takes about"):
        unpack(tar({"d/images/1.jpg": os.urandom(1000)}))
