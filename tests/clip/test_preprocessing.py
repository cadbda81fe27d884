"""Preprocessing: for every pretrained tag of open_clip, it equals open_clip's own."""

from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn
from torchvision.transforms import functional as F

from engine.clip.preprocessing import preprocessing
from engine.preprocessing import OPENAI_PREPROCESSING, Preprocessing
from engine.transforms import normalise, render

# irrelevant here
pytestmark = pytest.mark.filterwarnings("ignore:QuickGELU mismatch:UserWarning")

TAGS = list(map(tuple, open_clip.list_pretrained()))
KINDS = {}
for name in TAGS:
    KINDS.setdefault(preprocessing(name[0], get_pretrained_cfg(*name)), []).append(name)
TOWERS = {
    ("RN50", "openai"): "shortest bicubic",
    ("ViT-B-32-256", "datacomp_s34b_b86k"): "shortest bicubic",
    ("coca_ViT-B-32", "laion2b_s13b_b90k"): "shortest bicubic",
    ("EVA02-B-16", "merged2b_s8b_b131k"): "shortest bicubic",
    ("MobileCLIP-S1", "datacompdr"): "shortest bilinear",
    ("ViT-B-16-SigLIP", "webli"): "squash bicubic",
    ("ViT-H-14-378", "dfn5b"): "squash bicubic",
    ("PE-Core-T-16-384", "meta"): "squash bilinear",
}
"""One model of each kind of tower and of each resize mode."""


def of_open_clip(architecture, tag):
    """Return the preprocessing of a tag by open_clip's own factory, on a model without memory."""
    with torch.device("meta"):
        model = open_clip.create_model(architecture, tag, device="meta", load_weights=False, pretrained_hf=False)
    return model.visual.preprocess_cfg


def fields(config):
    """Return our Preprocessing of the same tag."""
    (height, width) = config["size"] if isinstance(config["size"], tuple) else 2 * [config["size"]]
    assert height == width
    named = {name: config[name] for name in ("mean", "std", "interpolation", "resize_mode", "fill_color")}
    return Preprocessing(height, **named)


@pytest.fixture
def no_downloads(monkeypatch):
    monkeypatch.setattr(factory, "download_pretrained", lambda config, **kwargs: "nowhere")


@pytest.mark.parametrize("tags", [TAGS], ids=[f"{len(TAGS)} tags, {len(KINDS)} preparations"])
def test_preprocessing_of_every_tag_equals_open_clips_factory(tags, no_downloads, monkeypatch):
    """Runs the factory's own code on models without layers."""

    class Hollow(nn.Module):
        def __init__(self, vision_cfg, **config):
            super().__init__()
            self.visual = SimpleNamespace(image_size=vision_cfg["image_size"])

    for kind in ("CLIP", "CustomTextCLIP", "CoCa"):
        monkeypatch.setattr(factory, kind, Hollow)
    monkeypatch.setattr(factory, "_set_model_device_and_precision", lambda *args: None)
    for name in tags:
        assert fields(of_open_clip(*name)) == preprocessing(name[0], get_pretrained_cfg(*name)), name
    assert len(tags) >= 196
    assert sum(map(len, KINDS.values())) == len(tags)


@pytest.mark.parametrize("name", TOWERS, ids=":".join)
def test_models_agree(name, no_downloads):
    """With real models: the sizes of towers equal the configurations."""
    made = preprocessing(name[0], get_pretrained_cfg(*name))
    assert fields(of_open_clip(*name)) == made
    assert f"{made.resize_mode} {made.interpolation}" == TOWERS[name]


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


LONGEST = {Preprocessing(64, resize_mode="longest", fill_color=fill): [("no", "tag")] for fill in (0, 200)}


@pytest.mark.parametrize(
    "kind",
    [*KINDS, *LONGEST],
    ids=[
        f"{kind.size} {kind.resize_mode} {kind.interpolation}, {kind.mean[0]:.2f} ({len(tags)} tags)"
        for kind, tags in [*KINDS.items(), *LONGEST.items()]
    ],
)
def test_images_are_preprocessed_like_open_clip(kind):
    """Bit-equal; `--decode fast` differs by one grey level in places, and by more in clipped noise."""
    config = PreprocessCfg(kind.size, "RGB", kind.mean, kind.std, kind.interpolation, kind.resize_mode, kind.fill_color)
    transform = image_transform_v2(config, is_train=False)
    for size in ((600, 300), (301, 640), (97, 61)):
        image = noise(*size)
        pixels = render(image, "none", kind, "")
        assert pixels.shape == (3, kind.size, kind.size)
        assert torch.equal(normalise(pixels, kind), transform(image))
        assert torch.equal(render(image, "flip", kind, ""), pixels.flip(-1))
        fast = render(F.pil_to_tensor(image), "none", kind, "").int()
        assert (fast - pixels).abs().float().mean() < 0.6
        smooth = noise(9, 6).resize(size, Image.Resampling.BICUBIC)
        slow, fast = (render(decoded, "none", kind, "").int() for decoded in (smooth, F.pil_to_tensor(smooth)))
        assert (fast - slow).abs().max() <= 2


def test_the_default_preprocessing_is_openais():
    """Its description must never change: feature files record it."""
    assert preprocessing("ViT-B-16", get_pretrained_cfg("ViT-B-16", "openai")).description == OPENAI_PREPROCESSING
    assert preprocessing("ViT-B-16", {}).description == OPENAI_PREPROCESSING
    mean, std = "0.48145466 0.4578275 0.40821073", "0.26862954 0.26130258 0.27577711"
    assert f"shortest bicubic, mean {mean}, std {std}" == OPENAI_PREPROCESSING
    of_the_size = {kind.description for kind in KINDS if kind.size == 224}
    assert len(of_the_size) == sum(kind.size == 224 for kind in KINDS)
    assert Preprocessing(64, resize_mode="longest").description == OPENAI_PREPROCESSING.replace(
        "shortest bicubic", "longest bicubic, fill 0"
    )
