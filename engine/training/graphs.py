"""CUDA graphs: a step as one launch instead of a hundred."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

WARM_UP = 3
"""Steps before the capture: libraries allocate their workspaces in them, and autograd its buffers."""


def capture_cuda_graph(step: Callable[[], None], reset: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return `step` as a CUDA graph; on a `device` other than a GPU, return it unchanged.

    `step` takes no arguments and must work on tensors that keep their addresses. It is called a few times to warm up;
    `reset` undoes these calls.
    """
    if device.type != "cuda":
        return step
    with torch.cuda.device(device):
        stream = _side_stream(device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step()
            reset()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
    return graph.replay


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which steps of a device are captured: libraries keep one workspace per stream."""
    return torch.cuda.Stream(device)
