"""Build an architecture and fill it with the weights of a file, which must fit exactly."""

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
"""Constants in OpenAI's archives and in files of old text towers that today's models do without."""


def build(architecture: str, config: dict, path: str) -> nn.Module:
    """Return the architecture with the weights of a file, in float32.

    `config` has the activation that goes with the weights. Nothing is resized to fit, and nothing of the
    file is run. Raises UserError, which names the tensors that are missing, unexpected, of another shape or not finite.
    """
    if checkpoints.is_big_vision(path):
        model = _blank(architecture, config)
        _load_big_vision(model, path)
    else:
        state = checkpoints.read(path)
        model = _blank(architecture, config)
        state = _converted(state, model)
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


def _blank(architecture: str, config: dict) -> nn.Module:
    """An architecture with random weights."""
    with _quiet():  # open_clip warns of random weights
        # open_clip only warns when the activation does not match the weights, and a local file gives no warning at all;
        # OpenAI's models were trained with QuickGELU, and the config of their tag says so, like those of some others.
        return open_clip.create_model(
            architecture,
            pretrained_image=False,
            pretrained_text=False,
            force_quick_gelu=bool(config.get("quick_gelu")),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop warnings that go through `logging`."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _converted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict under the names of today's open_clip, as its own loader converts it, but for resizing."""
    own = model.state_dict()
    state = {name: value for name, value in state.items() if name in own or name not in LEFTOVERS}
    if hasattr(model, "text") and hasattr(model.visual, "trunk"):  # Apple's own files of MobileCLIP
        state = convert_state_dict(model, state)
    if "positional_embedding" in state and "positional_embedding" not in own:
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # are numbers here and vectors of one there
        if name in state and name in own and state[name].numel() == own[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    if "logit_bias" in own and "logit_bias" not in state:  # not trained as SigLIP
        state["logit_bias"] = torch.zeros_like(own["logit_bias"])
    return state


def _misfits(state: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """What keeps a state dict from being loaded into a model with its `own`, a line for each kind."""
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # which torch fills in
    missing = [name for name in own if name not in state and name not in counters]
    unexpected = [name for name in state if name not in own]
    others = [
        f"{name} is {_shown(state[name])} and would have to be {_shown(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    whole = [
        f"{name} ({state[name].dtype})"
        for name in own
        if name in state and own[name].is_floating_point() and not state[name].is_floating_point()
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "other shapes": others, "no floating point": whole}
    return [f"{kind}: {list_preview(names)}" for kind, names in kinds.items() if names]


def _shown(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _load_big_vision(model: nn.Module, path: str) -> None:
    """Fill a model with the weights of a file of big_vision's, as open_clip does that knows the names in it.

    open_clip leaves out layers that the model has not, and resizes patches: then the numbers are not as many.
    """
    load_big_vision_weights(model, path)
    with np.load(path) as arrays:
        wanted = [name for name in arrays if name.removeprefix("params/").split("/")[0] in ("img", "txt", "b", "t")]
        given, needed = sum(arrays[name].size for name in wanted), sum(part.numel() for part in model.parameters())
    if given != needed:
        raise ValueError(f"the file has {given:,} numbers, and the architecture {needed:,}")
