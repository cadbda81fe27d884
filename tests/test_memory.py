"""What is free, and memory that goes back at once."""

import pytest
import torch

from engine import memory


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


@pytest.mark.parametrize("shape", [(), (1, 3), (5, 7)])
def test_zeros_are_zeros_of_the_shape(shape):
    zeros = memory.zeros_like(torch.ones(shape, requires_grad=True))
    assert torch.equal(zeros, torch.zeros(shape))
    assert not zeros.requires_grad
    zeros += 1
    assert torch.equal(zeros, torch.ones(shape))
