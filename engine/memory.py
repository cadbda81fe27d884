"""How much memory is free, memory that goes back at once, and memory that a file stands in for."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine import files
from engine.errors import UserError

CGROUP = Path("/sys/fs/cgroup")


def free(device: str | torch.device) -> int:
    """Bytes that can still be allocated on `device`: of a GPU's memory, or of this machine's (or container's)."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later is free too
        return torch.cuda.mem_get_info(device)[0]
    found = [_available(Path("/proc/meminfo")), _left_in_container()]
    return min(number for number in (*found, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if number)


def zeros_like(tensor: Tensor) -> Tensor:
    """float32 zeros of a tensor's shape, on its device, in memory that the system gets back when they are let go of.

    What comes and goes by the tens of megabytes in several threads malloc would hold on to in each of them.
    """
    if tensor.device.type != "cpu":
        return torch.zeros(tensor.shape, device=tensor.device)
    pages = mmap.mmap(-1, 4 * tensor.numel(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).view(tensor.shape)


def scratch(shape: Sequence[int], folder: Path) -> Tensor:
    """An uninitialised float32 tensor in a file without a name, in `folder` or where temporary files go.

    The file goes with the tensor; what it takes of memory the system can have back. Raises UserError without room.
    """
    size = torch.Size(shape).numel()
    taken = size * torch.float32.itemsize
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    if files.free_space(place) < taken:
        raise UserError(
            f"{files.format_bytes(taken)} of features are more than memory holds, and {place} has no room for them."
            " Make room there, or train fewer shots and seeds at a time"
        )
    files.remove_abandoned(place)
    with tempfile.NamedTemporaryFile(dir=place, prefix=files.temporary_name("scratch"), suffix=".tmp") as file:
        return torch.from_file(file.name, shared=True, size=size).view(torch.Size(shape))


def _available(meminfo: Path) -> int | None:
    """MemAvailable, which counts what the system would give up for it; None where there is no such file."""
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _left_in_container() -> int | None:
    """What the limit of this process's control group leaves beside what cannot be given up; None without a limit."""
    try:
        usage = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int((CGROUP / "memory.max").read_text()) - int(usage["anon"]) - int(usage["shmem"])
    except (OSError, KeyError, ValueError):
        return None
