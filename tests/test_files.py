"""Files are there whole or not at all, and what cannot be written is named."""

import errno
import os

import pytest

from engine import files
from engine.errors import UserError


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (20 << 30, "20.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_sizes_are_shown(size, text):
    assert files.shown(size) == text


def test_free_space_of_a_folder_that_is_yet_to_be_made(tmp_path, monkeypatch):
    assert files.free_space(tmp_path / "a" / "b") > 0
    monkeypatch.chdir(tmp_path)
    assert files.free_space(files.Path("features")) > 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_failed_write_names_its_file_and_leaves_what_was_there(tmp_path, number):
    def fail(temporary):
        temporary.write_text("half")
        raise OSError(number, os.strerror(number), str(temporary))

    path = tmp_path / "folder" / "file"
    files.write_text(path, "before")
    with pytest.raises(UserError) as caught:
        files.write_atomically(path, fail)
    assert str(caught.value).startswith(f"{path} cannot be written ({os.strerror(number)}). What is complete is kept")
    assert [(there.name, there.read_text()) for there in path.parent.iterdir()] == [("file", "before")]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (files.require_writable, lambda path: files.write_text(path, "")):
        with pytest.raises(UserError, match="file/folder cannot be written"):
            write(tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"\xff"', "can't decode byte 0xff"),
        (b"[1, NaN]", "NaN is not a number"),
        (b"9" * 5000, "integer string conversion"),
        (b"", "Expecting value"),
        (None, "No such file or directory"),
        ("folder", "Is a directory"),
    ],
    ids=range(8),
)
def test_json_that_cannot_be_read_is_named(tmp_path, content, reason):
    path = tmp_path / "list.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}.* .*{reason}"):
        files.read_json(path)


def test_names_that_are_no_text_are_written_as_bytes(tmp_path):
    files.write_text(tmp_path / "list", "写\udcff")
    assert (tmp_path / "list").read_bytes() == "写".encode() + b"\xff"
