"""What is free, and memory that goes back at once."""

from pathlib import Path

import pytest
import torch

from engine import memory
from engine.errors import UserError


def test_free_memory_is_what_the_machine_says(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   40 kB\n")
    assert memory._available(tmp_path / "meminfo") == 40 * 1024
    assert memory._available(tmp_path / "nothing") is None
    assert memory.free("cpu") > 1 << 20


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory._left_in_container() is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 600\nshmem 100\nfile 9000\n")
    assert memory._left_in_container() is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._left_in_container() == 300
    assert memory.free("cpu") == 300


def test_what_a_file_stands_in_for_leaves_none(tmp_path, monkeypatch):
    scratch = memory.scratch([3, 4, 5], tmp_path)
    scratch.copy_(torch.arange(60.0).view(3, 4, 5))
    assert torch.equal(scratch.flatten(), torch.arange(60.0))
    mapped = Path("/proc/self/maps")  # Linux tells
    assert not mapped.exists() or ".scratch" in mapped.read_text()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(memory.files, "free_space", lambda folder: 239)
    with pytest.raises(UserError, match=rf"240 B of features do not fit in memory, and {tmp_path} has no room"):
        memory.scratch([3, 4, 5], tmp_path)


@pytest.mark.parametrize("shape", [(), (1, 3), (5, 7)])
def test_zeros_are_zeros_of_the_shape(shape):
    zeros = memory.zeros_like(torch.ones(shape, requires_grad=True))
    assert torch.equal(zeros, torch.zeros(shape))
    assert not zeros.requires_grad
    zeros += 1
    assert torch.equal(zeros, torch.ones(shape))
