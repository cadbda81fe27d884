"""Batches of rendered images from worker processes that decode them.

Workers send batches as bytes through a pipe. Torch's shared memory needs room for the batches of all workers in
/dev/shm, a short TMPDIR and no file size limit; without one of these it loses batches silently. The pipe takes 6 ms for
32 images of 224 x 224: up to 5000 images a second.
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
    """A batch of images: `pixels`, uint8 [b, 3, size, size], holds the decodable files in order.

    `faults` has an error message, or None, for each file of the batch; `uniform` flags the rows of `pixels` that have
    a single colour.
    """

    pixels: Tensor
    faults: list[str | None]
    uniform: list[bool]

    @classmethod
    def of(cls, images: list[Tensor | str]) -> Batch:
        """Collate rendered images, uint8 [3, size, size], and the error messages of undecodable files."""
        rendered = [image for image in images if isinstance(image, Tensor)]
        pixels = torch.stack(rendered) if rendered else torch.empty(0)
        uniform = [bool((image == image[:, :1, :1]).all()) for image in rendered]
        return cls(pixels, [None if isinstance(image, Tensor) else image for image in images], uniform)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle `pixels` as an array, which goes through the pipe; torch would move a tensor to shared memory."""
        return _rebuild_batch, (self.pixels.numpy(), self.faults, self.uniform)

    def pin_memory(self) -> Batch:
        """Copy `pixels` to pinned memory, which GPUs copy from; DataLoader calls this in a thread."""
        return replace(self, pixels=self.pixels.pin_memory())


def _rebuild_batch(pixels: np.ndarray, faults: list[str | None], uniform: list[bool]) -> Batch:
    return Batch(torch.from_numpy(pixels), faults, uniform)


def batches(images: Dataset, *, workers: int, **batching: Any) -> Iterator[Batch]:
    """Iterate over the batches of `images` in order; `Batch.of` collates items, and `workers` processes decode.

    `batching` goes to DataLoader. Raises UserError if processes cannot be started. Use within `report_dead_workers`.
    """
    loader = DataLoader(images, num_workers=workers, collate_fn=Batch.of, worker_init_fn=_never_block, **batching)
    try:
        return iter(loader)
    except BlockingIOError:  # the process limit: handled like for any other process
        raise
    except (OSError, ImportError) as error:  # no semaphores: they are in /dev/shm
        raise UserError(
            f"processes that decode images cannot be started ({error}): /dev/shm is full or absent. Use --num-workers 0"
            " to run without them"
        ) from error


@contextmanager
def report_dead_workers(advice: str) -> Iterator[None]:
    """Raise UserError if a worker process was killed; `advice` ends the message.

    Torch raises a bare RuntimeError in a signal handler, so from any line of the block, or fails to fetch the batch of
    that worker.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__).strip(" .")
        raise UserError(
            f"a process that decodes images ended before its work was done, as happens when memory runs out ({reason})."
            f" {advice}"
        ) from error


def _never_block(worker: int) -> None:
    """Make a worker exit if it cannot send a batch, and drop unsent batches at its exit.

    By default, Python prints the error of sending and continues, and the parent waits for the batch forever. At exit, a
    worker waits until everything is sent: forever if the parent was killed, because a pipe holds less than a batch.
    """
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))
    Queue._finalize_join = staticmethod(lambda sending: None)
