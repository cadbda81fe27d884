"""Files are there whole or not at all, and what cannot be written is named."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors
import torch

from engine import files
from engine.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (20 << 30, "20.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_sizes_are_shown(size, text):
    assert files.format_bytes(size) == text


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
    assert str(caught.value).startswith(f"{path} cannot be written ({os.strerror(number)}). Complete files are kept")
    assert [(there.name, there.read_text()) for there in path.parent.iterdir()] == [("file", "before")]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (files.require_writable, lambda path: files.write_text(path, "")):
        with pytest.raises(UserError, match="file/folder cannot be written"):
            write(tmp_path / "file" / "folder")


def test_what_killed_processes_left_goes_when_its_folder_is_next_written(tmp_path):
    """Of this machine what no live process made; of others, which may share the disk, what is a day old."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    machine, day = files.temporary_name("x").split(".")[2].split("-")[0], 25 * 3600
    made = {
        f".a.{machine}-{gone.pid}.abcdefg_.tmp": 0,
        f".a.b.{machine}-{gone.pid}.abcdefg_.tmp": day,
        f".scratch.{machine}-{99 * 10**18}.abcdefg_.tmp": 0,
        f".{machine}-{gone.pid}.abcdefg_.tmp": 0,
        f".a.{machine}-{os.getpid()}.abcdefg_.tmp": day,
        ".a.0123abcd-1.abcdefg_.tmp": day,
        ".b.0123abcd-1.abcdefg_.tmp": 0,
        ".settings.tmp": day,
        f"a.{machine}-{gone.pid}.abcdefg_.tmp": day,
    }
    for name, age in made.items():
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / f".folder.{machine}-{gone.pid}.abcdefg_.tmp").mkdir()
    (tmp_path / f".folder.{machine}-{gone.pid}.abcdefg_.tmp" / "model.onnx").write_text("half")
    files.write_text(tmp_path / "file", "whole")
    kept = [name for name, place in zip(made, range(len(made)), strict=True) if place in (3, 4, 6, 7, 8)]
    assert sorted(os.listdir(tmp_path)) == sorted(["file", *kept])


def test_the_temporary_file_of_a_killed_process_goes(tmp_path):
    code = (
        "import os; from pathlib import Path; from engine import files\n"
        f"files.write_atomically(Path({str(tmp_path / 'f')!r}), lambda temporary: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert [name.startswith(".f.") for name in os.listdir(tmp_path)] == [True]
    files.write_text(tmp_path / "f", "whole")
    assert os.listdir(tmp_path) == ["f"]


def test_folders_of_writers_are_not_entered(tmp_path):
    """They may vanish at any moment."""
    (tmp_path / "kept").mkdir()
    (tmp_path / f"{files.temporary_name('f')}abc.tmp").mkdir()

    def list_folder(path):
        assert not path.endswith(".tmp")
        return files.entries(path)

    assert len(list(files.entries_below(tmp_path, list_folder))) == 2


def test_what_safetensors_leaves_of_a_killed_write_goes(tmp_path, monkeypatch):
    """It fills a file beside the one that it is to write, of a name that says nothing of the process."""

    def be_killed(tensors, path, metadata):
        path.with_name(".tmpABCDEF").touch()
        os._exit(signal.SIGKILL)

    monkeypatch.setattr("safetensors.torch.save_file", be_killed)
    if not (pid := os.fork()):
        files.write_tensors(tmp_path / "f", {}, {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert all(name.startswith(".f.") for name in os.listdir(tmp_path))
    files.write_text(tmp_path / "f", "whole")
    assert os.listdir(tmp_path) == ["f"]


def test_names_as_long_as_a_file_system_takes(tmp_path):
    for name in ("x" * 255, "写" * 85):
        files.write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O"), OSError("Too many (os error 24)"), FileNotFoundError()])
def test_what_cannot_be_opened_is_told_from_what_is_damaged(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(files.CannotOpen, match=f"^{path} cannot be opened"), files.opening(path):
        raise error
    for damage in (ValueError("not JSON"), OSError("image file is truncated")):
        with pytest.raises(type(damage), match=str(damage)), files.opening(path):
            raise damage


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path):
    """Safetensors writes the keys of metadata in another order each time."""
    keys = [f"key {number}" for number in range(8)]
    for order in (keys, keys[::-1]):
        path = tmp_path / f"{order[0]}.safetensors"
        files.write_tensors(path, {"b": torch.ones(2), "a": torch.zeros(3)}, {key: f"é {key}" for key in order})
        with safetensors.safe_open(path, "pt") as file:
            assert file.metadata() == {key: f"é {key}" for key in keys}
            assert file.get_tensor("b").tolist() == [1, 1]
    one, other = (path.read_bytes() for path in tmp_path.iterdir())
    assert one == other


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"\xff"', "can't decode byte 0xff"),
        (b"9" * 5000, "integer string conversion"),
        (b"", "Expecting value"),
        (None, "No such file or directory"),
        ("folder", "Is a directory"),
    ],
    ids=range(7),
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
