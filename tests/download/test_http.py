"""Downloads from a server on this machine: whole, interrupted, refused, to a full disk."""

import fcntl
import os
import random
import socket

import pytest

from engine import files
from engine.download import http
from engine.errors import UserError
from servers import serving

CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(http, "BLOCK", 1 << 14)
    with serving() as site:
        site.files["/a/b.zip"] = CONTENT
        yield site


@pytest.fixture
def fetch(site, tmp_path):
    """Downloads the file; `.path` is where, `.part` where what has arrived is kept, `.said` what progress heard."""

    def call(path="/a/b.zip", **settings):
        http.fetch(site.url(path), call.path, lambda *heard: call.said.append(heard), **settings)
        return call.path.read_bytes()

    call.path, call.part, call.said = tmp_path / "new" / "b.zip", tmp_path / "new" / "b.zip.part", []
    return call


def test_a_whole_file(site, fetch):
    assert fetch() == CONTENT
    assert site.asked == [None]
    assert fetch.said[-1] == ("downloading b.zip", len(CONTENT), len(CONTENT))
    assert [heard[1] for heard in fetch.said] == sorted(heard[1] for heard in fetch.said)
    assert os.listdir(fetch.path.parent) == ["b.zip"]
    assert fetch() == CONTENT
    assert len(site.asked) == 1, "what is there is not asked for again"


def test_a_connection_that_breaks_is_made_again(site, fetch):
    site.cut = 100_000
    assert fetch() == CONTENT
    assert site.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_what_a_killed_download_left_is_kept(site, fetch):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:123_456])
    assert fetch() == CONTENT
    assert site.asked == ["bytes=123456-"]


def test_a_download_that_was_complete_but_for_its_name(site, fetch):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT)
    assert fetch() == CONTENT


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_a_file_that_has_changed_since_is_fetched_from_its_start(site, fetch, name, if_range):
    site.headers, site.if_range = {"ETag": 'W/"not these very bytes"'} | {name: '"one"'}, if_range
    site.cut, site.files["/a/b.zip"] = 100_000, CONTENT[::-1]
    site.ranges = False
    with pytest.raises(http.NotDownloaded):
        fetch()
    assert sorted(os.listdir(fetch.path.parent)) == ["b.zip.part", "b.zip.part.version"]
    site.cut, site.ranges, site.files["/a/b.zip"], site.headers[name] = None, True, CONTENT, '"two"'
    assert fetch() == CONTENT
    assert os.listdir(fetch.path.parent) == ["b.zip"]


def test_a_file_that_has_not_changed_goes_on(site, fetch):
    site.headers, site.cut = {"ETag": '"one"', "Last-Modified": "a time"}, 100_000
    assert fetch() == CONTENT
    assert site.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_more_than_there_is(site, fetch):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT + b"more")
    with pytest.raises(http.NotDownloaded, match=rf"416.*{fetch.part} has 300004 bytes, more than the file: remove it"):
        fetch()
    assert fetch.part.read_bytes() == CONTENT + b"more"


def test_a_server_without_ranges_starts_over(site, fetch):
    site.ranges = False
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(b"something else" * 1000)
    assert fetch() == CONTENT
    site.cut = 100_000
    fetch.path.unlink()
    with pytest.raises(http.NotDownloaded, match="closed after 100000 of 300000 bytes"):
        fetch()
    assert fetch.part.read_bytes() == CONTENT[:100_000]
    assert len(site.asked) == 3, "once more, and no third time, as no more arrives"


def test_no_such_file_and_no_such_host(site, fetch):
    with pytest.raises(http.NotDownloaded, match="/none cannot be downloaded: the server answered 404"):
        fetch("/none")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/b.zip"
        with pytest.raises(http.NotDownloaded, match=f"{url} cannot be downloaded .*refused"):
            http.fetch(url, fetch.path, print)
    assert not fetch.path.exists()


def test_a_disk_without_room(site, fetch, monkeypatch):
    monkeypatch.setattr(files, "free_space", lambda folder: 400_000)
    with pytest.raises(UserError, match=r"b.zip, unpacked too, takes about 615.2 KiB, and .* has 390.6 KiB left"):
        fetch(room=1.1)
    assert fetch(room=0.3) == CONTENT


def test_two_at_once(site, fetch):
    fetch.part.parent.mkdir()
    with fetch.part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is downloading this file"):
            fetch()


def test_another_file_than_the_published(site, fetch):
    fetch()
    md5 = "d41d8cd98f00b204e9800998ecf8427e"
    with pytest.raises(UserError, match=rf"its MD5 is [0-9a-f]{{32}}, not {md5}.*Remove it") as error:
        http.check_md5(fetch.path, md5, "http://there", print)
    assert str(fetch.path) in str(error.value)
    assert fetch.path.read_bytes() == CONTENT
