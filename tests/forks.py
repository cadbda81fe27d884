"""Scripts in forks of the tests' process, which has imported torch and open_clip already: the same, seconds earlier."""

import ctypes
import errno
import os
import resource
import runpy
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]


def as_a_user():
    """Let this process, if it is root's, obey the permissions of its own files as any other user's does."""
    libc, linux_capabilities_3 = ctypes.CDLL(None), 0x20080522
    if os.geteuid() == 0 and libc.capset(struct.pack("Ii", linux_capabilities_3, 0), bytes(24)):
        raise OSError("capabilities cannot be given up")


class Fork:
    """A script in a fork of this process, which starts it before it returns; `code`, `out` and `err` once it has ended.

    `prepare` is called in the fork before the script.
    """

    def __init__(self, script, words, folder, prepare=lambda: None, cwd=ROOT):
        self.files = [folder / f"{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        self.pid = os.fork()
        if not self.pid:
            self._be(script, words, prepare, cwd)

    def _be(self, script, words, prepare, cwd):
        code = 70
        try:
            for number, path in enumerate(self.files, start=1):
                os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.chdir(cwd)
            prepare()
            sys.argv = [script, *map(str, words)]
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = 1 if isinstance(end.code, str) else end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)  # whatever happened, or a second run of the tests would go on from here

    def ended(self):
        if self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid, self.code = 0, os.waitstatus_to_exitcode(status)
                self.out, self.err = (path.read_text() for path in self.files)
        return not self.pid

    def wait(self, check=None):
        deadline = time.monotonic() + 120
        while not self.ended():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError("the script does not end")
            time.sleep(0.01)
        assert "Traceback" not in self.err, self.err
        if check is not None:
            assert self.code == check, self.out + self.err
        return self

    def kill(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.pid = 0


def run_fork(script, *words, folder, cwd=ROOT, check=None):
    """Run a script to its end; its exit status must be `check`.

    Gives `.stdout`, `.stderr` and `.returncode`, as a process has them; their files go to `folder`.
    """
    done = Fork(script, words, folder, cwd=cwd).wait(check)
    done.stdout, done.stderr, done.returncode = done.out, done.err, done.code
    return done


def written(folder, pattern="*.safetensors"):
    """The files below a folder that processes write to, whose temporary folders may vanish meanwhile."""
    below = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return [path for path in below if path.match(pattern)]


def unlistable(folder):
    """A `prepare` after which nobody may list a folder: permissions do not hold for root, who may run the tests."""

    def prepare():
        scandir = os.scandir

        def refuse(path="."):
            if os.fspath(path) == str(folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return scandir(path)

        os.scandir = refuse

    return prepare


def limit_sharing(folder, shm="60k"):
    """Leave this process, a fork, little that processes share memory by: /dev/shm of this size (where this may mount
    one), paths too long for sockets in a TMPDIR in `folder`, and files of 4000 bytes."""
    new_namespace, private = 0x20000, 0x44000
    libc = ctypes.CDLL(None)
    if not libc.unshare(new_namespace) and not libc.mount(None, b"/", None, private, None):
        libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, f"size={shm}".encode())
    long = folder / ("long " * 25)
    long.mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(long)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def can_mount():
    """Whether a fork of this process may mount a /dev/shm of its own."""
    pid = os.fork()
    if not pid:
        os._exit(ctypes.CDLL(None).unshare(0x20000) and 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
