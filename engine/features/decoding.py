"""Batches of rendered images from processes that decode them.

A batch comes back as bytes in a pipe. Torch's own way, shared memory, needs room for the batches of all processes in
/dev/shm, a short TMPDIR and no limit on file sizes, and loses a batch without an error where one of these lacks. The
pipe takes 6 ms for 32 images of 224 x 224, so up to 5000 images a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engine.errors import UserError


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of a batch: `pixels`, uint8 [b, 3, size, size], of those that could be decoded, in their order.

    `faults` has for each file of the batch why it cannot be decoded, or None. `uniform` says of each row of `pixels`
    whether it is of one colour.
    """

    pixels: Tensor
    faults: list[str | None]
    uniform: list[bool]

    @classmethod
    def of(cls, images: list[Tensor | str]) -> Batch:
        """Collate rendered images, uint8 [3, size, size], and the faults of the files that are none."""
        decoded = [image for image in images if isinstance(image, Tensor)]
        pixels = torch.stack(decoded) if decoded else torch.empty(0)
        uniform = [bool((image == image[:, :1, :1]).all()) for image in decoded]
        return cls(pixels, [None if isinstance(image, Tensor) else image for image in images], uniform)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle `pixels` as an array, whose bytes go through the pipe, where torch would share a tensor's memory."""
        return _unpickled, (self.pixels.numpy(), self.faults, self.uniform)

    def pin_memory(self) -> Batch:
        """Return the same in memory that a GPU copies from; DataLoader calls it in a thread."""
        return replace(self, pixels=self.pixels.pin_memory())


def _unpickled(pixels: np.ndarray, faults: list[str | None], uniform: list[bool]) -> Batch:
    return Batch(torch.from_numpy(pixels), faults, uniform)


def batches(images: Dataset, *, workers: int, **batching: Any) -> Iterator[Batch]:
    """Iterate over the batches of `images`, whose items `Batch.of` takes, in their order; `workers` processes decode.

    `batching` goes to DataLoader. Raises UserError when processes cannot be started. Use within `report_dead_workers`.
    """
    loader = DataLoader(images, num_workers=workers, collate_fn=Batch.of, worker_init_fn=_never_wait, **batching)
    try:
        return iter(loader)
    except BlockingIOError:  # no more processes, as of any that a script starts
        raise
    except (OSError, ImportError) as error:  # no semaphores, which lie in /dev/shm
        raise UserError(
            f"processes that decode images cannot be started ({error}): /dev/shm is full or absent. --num-workers 0"
            " does without them"
        ) from error


@contextmanager
def report_dead_workers(remedy: str) -> Iterator[None]:
    """Raise UserError when a process that decodes images was killed; `remedy` ends the message.

    Torch raises a bare RuntimeError, from a signal's handler and so from any line of the block, or fails to fetch what
    that process had decoded.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__).strip(" .")
        raise UserError(
            f"a process that decodes images ended before its work was done, as happens when memory runs out ({reason})."
            f" {remedy}"
        ) from error


def _never_wait(worker: int) -> None:
    """Let a worker wait for nobody: it ends when it cannot send a batch, and at its end drops batches not yet sent.

    Python prints the error of sending and goes on without the batch, for which the parent would wait for ever. At its
    end a worker waits until all is sent, for ever where the parent was killed: the pipe holds less than a batch.
    """
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))
    Queue._finalize_join = staticmethod(lambda sending: None)
