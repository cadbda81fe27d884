"""Small versions of OpenAI's architectures, under the same names, and the formats of their weights."""

import json

import open_clip
import pytest
import torch
from open_clip import factory
from torch import nn

TOWERS = {
    "RN50": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "patch_size": None},
    "ViT-B-32": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """`small(architecture, **kwargs)`: a model with random weights; open_clip's own sizes are hidden meanwhile."""
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {**factory._MODEL_CONFIGS})
    (tmp_path / "configs").mkdir()
    for name, vision in TOWERS.items():
        config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT}
        (tmp_path / "configs" / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "configs")

    def make(architecture="RN50", seed=0, **kwargs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = open_clip.create_model(architecture, **kwargs).eval()
        # attention uses another kernel, with other rounding, if gradients are enabled
        for parameter in model.requires_grad_(False).parameters():
            parameter.mul_(3)  # large enough for a nonlinear activation
        return model

    return make


class Archive(nn.Module):
    """A model as in OpenAI's archives: CLIP's names and three constants."""

    def __init__(self, model):
        super().__init__()
        for name, child in model.named_children():
            setattr(self, name, child)
        self.positional_embedding, self.text_projection = model.positional_embedding, model.text_projection
        self.logit_scale = model.logit_scale
        for name, value in (("input_resolution", 64), ("context_length", 16), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, pixels):
        return self.visual(pixels)


@pytest.fixture
def save_archive():
    """`save_archive(model, path)`: write a model as a TorchScript archive."""

    def save(model, path):
        size = model.visual.image_size
        pixels = torch.zeros(1, 3, *(size if isinstance(size, tuple) else (size, size)))
        torch.jit.trace(Archive(model), pixels, check_trace=False).save(path)
        return path

    return save
