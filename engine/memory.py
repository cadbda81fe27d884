"""Measure free memory, and allocate memory that is released at once or backed by a file."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from engine import files
from engine.errors import UserError

CGROUP = Path("/sys/fs/cgroup")


def free(device: str | torch.device) -> int:
    """Return the bytes that can still be allocated on `device`: of a GPU, or of this machine (or container)."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # torch's cached blocks are free too
        return torch.cuda.mem_get_info(device)[0]
    found = [_available(Path("/proc/meminfo")), _left_in_container()]
    return min(number for number in (*found, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if number)


def zeros_like(tensor: Tensor) -> Tensor:
    """Return float32 zeros of a tensor's shape, on its device, in memory that is returned to the system when freed.

    malloc would keep freed blocks of tens of megabytes in each of several threads.
    """
    if tensor.device.type != "cpu":
        return torch.zeros(tensor.shape, device=tensor.device)
    pages = mmap.mmap(-1, 4 * tensor.numel(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).view(tensor.shape)


@contextmanager
def count_saved(skip: Callable[[Tensor], bool]) -> Iterator[dict[int, int]]:
    """Count what autograd saves for the backward pass inside of the block: bytes by the address of each storage.

    Tensors for which `skip` is true are not counted.
    """
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not skip(tensor):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        yield saved


def scratch(shape: Sequence[int], folder: Path) -> Tensor:
    """Return an uninitialised float32 tensor in an unnamed file, in `folder` or in the folder of temporary files.

    The file disappears with the tensor, and the system can reclaim its memory. Raises UserError if the disk is full.
    """
    size = torch.Size(shape).numel()
    needed = size * torch.float32.itemsize
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    if files.free_space(place) < needed:
        raise UserError(
            f"{files.format_bytes(needed)} of features do not fit in memory, and {place} has no room for them."
            " Make room there, or train fewer shots and seeds at a time"
        )
    files.remove_abandoned(place)
    with tempfile.NamedTemporaryFile(dir=place, prefix=files.temporary_name("scratch"), suffix=".tmp") as file:
        return torch.from_file(file.name, shared=True, size=size).view(torch.Size(shape))


def _available(meminfo: Path) -> int | None:
    """Return MemAvailable in bytes, which includes reclaimable memory; None without such a file."""
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _left_in_container() -> int | None:
    """Return the bytes below the limit of this process's control group, except unreclaimable ones; None without one."""
    try:
        usage = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int((CGROUP / "memory.max").read_text()) - int(usage["anon"]) - int(usage["shmem"])
    except (OSError, KeyError, ValueError):
        return None
