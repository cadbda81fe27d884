"""A web server on this machine for tests of downloads, whose faults can be chosen."""

import io
import re
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """`files` by path. `ranges`: whether parts can be asked for; after `cut` bytes of an answer the connection ends.

    `headers` go with each answer; with `if_range` a part is sent of the version alone that an If-Range header names.

    While `held` is not set it does not end, but nothing more comes. `asked` are the Range headers of all requests, None
    where there was none.
    """

    def __init__(self):
        self.files, self.asked, self.ranges, self.cut, self.held = {}, [], True, None, threading.Event()
        self.held.set()
        self.headers, self.if_range = {}, True


@contextmanager
def serving():
    """A site; `.url(path)` is an address of it."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(self.headers["Range"])
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if self.headers["Range"] else 0
            wanted = self.headers["If-Range"]
            is_other = site.if_range and wanted is not None and wanted not in site.headers.values()
            if not site.ranges or not start or is_other:
                self.send_response(200)
                start = 0
            elif start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            else:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            for header in site.headers.items():
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(content[start:] if site.cut is None else content[start : start + site.cut])
            self.wfile.flush()
            site.held.wait(30)

        def log_message(self, *words):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        site.url = lambda path: f"http://127.0.0.1:{server.server_port}{path}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def tar(members):
    """A .tar.gz of these files (name: bytes)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zipped(members):
    """A .zip of these files (name: bytes)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()
