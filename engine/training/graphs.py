"""CUDA graphs: a step as one launch instead of a hundred."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

WARM_UP = 3
"""Steps before the capture, in which libraries make their workspaces and autograd its buffers."""


def captured(step: Callable[[], None], reset: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`step` as a CUDA graph, or, where `device` is no GPU, as it is.

    `step` takes no arguments and must do all of its work on tensors that stay where they are. It is called a few times
    to warm up; `reset` undoes what these calls did.
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
    """The stream of a device that steps are captured on: libraries keep a workspace for every stream they have met."""
    return torch.cuda.Stream(device)
