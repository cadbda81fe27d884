"""Build an architecture with the weights of a file, which must fit exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import open_clip
import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from engine.clip import checkpoints
from engine.datasets.checks import list_preview, pluralize
from engine.errors import UserError

LEFTOVERS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")
"""Constants in OpenAI's archives and in files of old text towers, which present models do not have."""


def build(architecture: str, config: dict, path: str) -> nn.Module:
    """Return the architecture with the weights of a file, in float32.

    `config` has the activation of the weights. Nothing is resized, and no code in the file is run. Raises UserError
    with the tensors that are missing, unexpected, of another shape or not finite.
    """
    if checkpoints.is_big_vision(path):
        model = _create_untrained(architecture, config)
        _load_big_vision(model, path)
    else:
        state = checkpoints.read(path)
        model = _create_untrained(architecture, config)
        state = _convert(state, model)
        if misfits := _misfits(state, model.state_dict()):
            lines = "\n  ".join(misfits)
            raise UserError(f"{path}: these weights cannot be loaded as {architecture}:\n  {lines}")
        model.load_state_dict(state)
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{path}: NaN or infinite numbers in {pluralize(len(broken), 'tensor')}: {list_preview(broken)}."
            " Get the file again; if it was trained here, take an earlier checkpoint"
        )
    return model


def _create_untrained(architecture: str, config: dict) -> nn.Module:
    """Return an architecture with random weights."""
    with _suppress_warnings():  # open_clip warns of random weights
        # open_clip only warns if the activation does not match the weights, and not even that for a local file.
        # OpenAI's models and some others were trained with QuickGELU, as the config of their tag states.
        return open_clip.create_model(
            architecture,
            pretrained_image=False,
            pretrained_text=False,
            force_quick_gelu=bool(config.get("quick_gelu")),
        )


@contextmanager
def _suppress_warnings() -> Iterator[None]:
    """Suppress warnings of `logging`."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _convert(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a state dict to the names of the present open_clip like its own loader, but without resizing."""
    expected = model.state_dict()
    state = {name: value for name, value in state.items() if name in expected or name not in LEFTOVERS}
    if hasattr(model, "text") and hasattr(model.visual, "trunk"):  # Apple's own files of MobileCLIP
        state = convert_state_dict(model, state)
    if "positional_embedding" in state and "positional_embedding" not in expected:
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # scalars in some files, vectors of one element in others
        if name in state and name in expected and state[name].numel() == expected[name].numel() == 1:
            state[name] = state[name].reshape(expected[name].shape)
    if "logit_bias" in expected and "logit_bias" not in state:  # not trained as SigLIP
        state["logit_bias"] = torch.zeros_like(expected["logit_bias"])
    return state


def _misfits(state: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Return the differences between a state dict and the `expected` one that prevent loading, one line per kind."""
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # torch fills them in
    missing = [name for name in expected if name not in state and name not in counters]
    unexpected = [name for name in state if name not in expected]
    others = [
        f"{name} is {_format_shape(state[name])} and must be {_format_shape(expected[name])}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    whole = [
        f"{name} ({state[name].dtype})"
        for name in expected
        if name in state and expected[name].is_floating_point() and not state[name].is_floating_point()
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "other shapes": others, "not floating point": whole}
    return [f"{kind}: {list_preview(names)}" for kind, names in kinds.items() if names]


def _format_shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _load_big_vision(model: nn.Module, path: str) -> None:
    """Load the weights of a big_vision file into a model with open_clip, which knows its names.

    open_clip skips layers that the model lacks, and resizes patches: the number of values reveals both. Raises
    ValueError then.
    """
    load_big_vision_weights(model, path)
    with np.load(path) as arrays:
        wanted = [name for name in arrays if name.removeprefix("params/").split("/")[0] in ("img", "txt", "b", "t")]
        found = sum(arrays[name].size for name in wanted)
    needed = sum(parameter.numel() for parameter in model.parameters())
    if found != needed:
        raise ValueError(f"the file has {found:,} numbers, and the architecture {needed:,}")
