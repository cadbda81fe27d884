"""Frozen and trainable parts of encoders: together they equal the model; a step changes the trainable part alone."""

import copy

import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.modified_resnet import AttentionPool2d
from torch import nn
from torch.nn import functional as F

from engine.clip.frozen import FrozenImageEncoder, FrozenTextEncoder
from engine.clip.split import AttentionPool, trainable_image, trainable_text, unstackable
from engine.errors import UserError

RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "head_width": 32, "patch_size": None}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
IMAGES = {
    "ModifiedResNet": RESNET,
    "ViT": VIT,
    "ViT, mean token": VIT | {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "ViT, attentional pool": VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "ViT, patch dropout": VIT | {"patch_dropout": 0.5},
    "timm ViT": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224},
    "timm ViT, mean token": {
        "timm_model_name": "test_vit2",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "timm ViT, attention pool": {
        "timm_model_name": "test_vit3",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 160,
    },
}
"""Vision towers by name; `LAYERS` has the number of layers that each can be split at."""
LAYERS = {"ModifiedResNet": 5, "timm ViT": 12, "timm ViT, mean token": 8, "timm ViT, attention pool": 9}
WHOLE = {
    "ConvNeXt": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    "Eva": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224},
}
"""Vision towers that are trained whole or not at all."""

TEXT = {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 3}
TEXTS = {
    "CLIP": (CLIP, TEXT),
    "CLIP, end of text by its token": (CLIP, TEXT | {"pool_type": "eos", "eos_id": 63}),
    "custom": (CustomTextCLIP, TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
    "custom, causal": (CustomTextCLIP, TEXT),
    "custom, no projection": (CustomTextCLIP, TEXT | {"proj_type": "none", "width": 24}),
}


def lively(model):
    """Freeze a model in eval mode, and perturb its norms and biases, which are initialised to ones and zeros."""
    for parameter in model.eval().requires_grad_(False).parameters():
        if parameter.dim() <= 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def image_model(vision):
    torch.manual_seed(0)
    embed_dim = 64 if vision.get("timm_proj") == "none" else 24
    return lively(CLIP(embed_dim=embed_dim, vision_cfg=vision, text_cfg=TEXT))


def text_model(name):
    torch.manual_seed(0)
    form, text = TEXTS[name]
    return lively(form(embed_dim=24, vision_cfg=RESNET, text_cfg=text))


def prompts():
    """Tokens of three prompts of different lengths; 63, the end of text, is the largest token."""
    tokens = torch.zeros(3, 12, dtype=torch.int64)
    for row, length in zip(tokens, (2, 5, 7), strict=True):
        row[:length] = torch.randint(1, 60, (length,))
        row[length] = 63
    return tokens


def difference(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", IMAGES)
def test_image_parts_equal_the_whole_tower_at_all_layers(name):
    model = image_model(IMAGES[name])
    pixels = torch.randn(2, 3, IMAGES[name]["image_size"], IMAGES[name]["image_size"])
    whole = model.visual(pixels)
    whole = whole[0] if isinstance(whole, tuple) else whole
    several = [*range(LAYERS.get(name, 3) + 1), -1]
    cached = FrozenImageEncoder(model, several)(pixels, several)
    assert set(cached) == set(several)
    assert difference(*cached[0], whole) < 2e-6
    for layers in several[1:]:
        assert difference(trainable_image(model, layers)(*cached[layers]), whole) < 2e-6, layers
    assert trainable_image(model, 0) is None
    with pytest.raises(UserError, match=f"--image-layer-idx {LAYERS.get(name, 3) + 1}: .* supports 0 to"):
        trainable_image(model, LAYERS.get(name, 3) + 1)


@pytest.mark.parametrize("name", IMAGES)
def test_a_pass_for_some_layers_equals_the_pass_for_all(name):
    model = image_model(IMAGES[name])
    pixels = torch.randn(2, 3, IMAGES[name]["image_size"], IMAGES[name]["image_size"])
    frozen = FrozenImageEncoder(model, [0, 1, 2, -1])
    whole = frozen(pixels, [0, 1, 2, -1])
    for layers in (0, 1, 2, -1):
        (alone,) = frozen(pixels, [layers])[layers]
        assert torch.equal(alone, *whole[layers])


@pytest.mark.parametrize("name", WHOLE)
def test_other_image_towers_are_trained_whole_or_not_at_all(name):
    model = image_model(WHOLE[name])
    pixels = torch.randn(2, 3, WHOLE[name]["image_size"], WHOLE[name]["image_size"])
    cached = FrozenImageEncoder(model, [0, -1])(pixels, [0, -1])
    assert torch.equal(*cached[-1], pixels)
    assert difference(*cached[0], model.encode_image(pixels)) < 2e-6
    assert difference(trainable_image(model, -1)(pixels), model.encode_image(pixels)) < 2e-6
    with pytest.raises(UserError, match=rf"--image-layer-idx 1: the image tower \({name}\) .* supports 0 and -1"):
        trainable_image(model, 1)


@pytest.mark.parametrize("name", TEXTS)
def test_text_parts_equal_the_whole_tower_at_all_layers(name):
    model, tokens = text_model(name), prompts()
    whole = model.encode_text(tokens)
    frozen = FrozenTextEncoder(model, [0, 1, 2, 3, -1])
    lengths = frozen.lengths(tokens)
    assert lengths.tolist() == ([12] * 3 if "no_causal_mask" in TEXTS[name][1] else [3, 6, 8])
    cached = frozen(tokens[:, : int(lengths.max())], [0, 1, 2, 3, -1])
    assert difference(*cached[0], whole) < 2e-6
    for layers in (1, 2, 3, -1):
        inputs, positions = cached[layers]
        assert positions.dtype == torch.int64
        assert difference(trainable_text(model, layers)(inputs, positions), whole) < 2e-6, layers
    with pytest.raises(UserError, match=r"--text-layer-idx 4: .* supports 0 to 3, and -1 for all of it"):
        FrozenTextEncoder(model, [4])


def test_all_text_layers_cache_the_embedded_tokens():
    model, tokens = text_model("CLIP"), prompts()
    inputs, _ = FrozenTextEncoder(model, [-1])(tokens, [-1])[-1]
    assert torch.equal(inputs, model.token_embedding(tokens))


@pytest.mark.parametrize("way", ["embed_cls", "use_pad_mask"])
def test_unsplittable_text_towers_are_rejected(way):
    torch.manual_seed(0)
    text = TEXT | {"embed_cls": way == "embed_cls", "no_causal_mask": way == "use_pad_mask"}
    model = CustomTextCLIP(embed_dim=24, vision_cfg=RESNET, text_cfg=text).eval()
    model.text.use_pad_mask = way == "use_pad_mask"  # not available in open_clip's configurations
    assert trainable_text(model, 0) is None
    tokens, frozen = prompts(), FrozenTextEncoder(model, [0])
    assert frozen.lengths(tokens).tolist() == [12] * 3
    assert torch.equal(*frozen(tokens, [0])[0], model.encode_text(tokens))
    for layers in (1, -1):
        with pytest.raises(UserError, match=r"--text-layer-idx .* \(TextTransformer\) .* supports 0$"):
            trainable_text(model, layers)


def test_features_of_coca_are_raw_too():
    """CoCa's `encode_image` and `encode_text` normalise, unlike all other models."""
    torch.manual_seed(0)
    text = TEXT | {"embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 12, "vocab_size": 64, "width": 24, "heads": 2, "layers": 1}
    vision = IMAGES["ViT, attentional pool"]
    model = lively(CoCa(embed_dim=24, multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision))
    pixels, tokens = torch.randn(2, 3, 32, 32), prompts()
    images, texts = FrozenImageEncoder(model, [0, 1])(pixels, [0, 1]), FrozenTextEncoder(model, [0])(tokens, [0])
    assert difference(*images[0], model.encode_image(pixels, normalize=False)) < 2e-6
    assert difference(trainable_image(model, 1)(*images[1]), *images[0]) < 2e-6
    assert difference(*texts[0], model.encode_text(tokens, normalize=False)) < 2e-6


def parts(name, layers):
    """Return a model, and the frozen and the trainable part of one of its towers."""
    if name in TEXTS:
        model = text_model(name)
        return model, FrozenTextEncoder(model, [layers]), trainable_text(model, layers)
    model = image_model(IMAGES[name])
    return model, FrozenImageEncoder(model, [layers]), trainable_image(model, layers)


@pytest.mark.parametrize(
    ("name", "layers", "trained"),
    [
        ("ModifiedResNet", 1, ["visual.attnpool"]),
        ("ModifiedResNet", 2, ["visual.layer4", "visual.attnpool"]),
        ("ModifiedResNet", -1, ["visual"]),
        ("ViT", 1, ["visual.transformer.resblocks.2", "visual.ln_post", "visual.proj"]),
        ("ViT", 2, [f"visual.transformer.resblocks.{n}" for n in (1, 2)] + ["visual.ln_post", "visual.proj"]),
        ("ViT", -1, ["visual"]),
        ("timm ViT", 1, ["visual.trunk.blocks.11", "visual.trunk.norm", "visual.head"]),
        ("CLIP", 1, ["transformer.resblocks.2", "ln_final", "text_projection"]),
        ("CLIP", -1, ["transformer", "positional_embedding", "ln_final", "text_projection"]),
        ("custom", 2, [f"text.transformer.resblocks.{n}" for n in (1, 2)] + ["text.ln_final", "text.text_projection"]),
    ],
)
def test_a_step_changes_the_trainable_part_and_nothing_else(name, layers, trained):
    """The parts share the parameters of the model, so the model reveals the changes of a step."""
    model, frozen, trainable = parts(name, layers)
    before = copy.deepcopy(model.state_dict())
    samples = prompts() if name in TEXTS else torch.randn(4, 3, *2 * [IMAGES[name]["image_size"]])
    inputs = frozen(samples, [layers])[layers]
    features = trainable.requires_grad_(True)(*inputs)
    F.cross_entropy(features, torch.arange(len(features))).backward()
    torch.optim.SGD(trainable.parameters(), lr=1.0).step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    # the gradient of the key bias is zero up to rounding, so it may not change
    expected = {
        key for key in before if key.startswith(tuple(trained)) and not key.endswith("k_proj.bias")
    } - not_trained(model)
    assert expected <= changed
    assert all(key.startswith(tuple(trained)) for key in changed)


def not_trained(model):
    """Return the keys of a state dict that are not parameters."""
    return model.state_dict().keys() - dict(model.named_parameters()).keys()


def test_the_attention_pool_equals_open_clips():
    """Outputs and gradients, at RN50's proportions and with non-zero biases."""
    torch.manual_seed(0)
    pool = AttentionPool2d(3, 128, 4, 32)
    for bias in (pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias, pool.c_proj.bias):
        nn.init.normal_(bias)
    ours = AttentionPool(copy.deepcopy(pool))
    maps = torch.randn(6, 128, 3, 3)
    expected, found = pool(maps), ours(maps)
    assert difference(found, expected) < 1e-6
    expected.square().sum().backward()
    found.square().sum().backward()
    assert pool.state_dict().keys() == ours.state_dict().keys()
    for name, parameter in ours.named_parameters():
        if name != "k_proj.bias":  # zero up to rounding
            assert difference(parameter.grad, pool.get_parameter(name).grad) < 1e-5, name


@pytest.mark.parametrize(
    ("name", "layers", "reason"),
    [
        ("ModifiedResNet", 1, None),
        ("ModifiedResNet", 2, "it has Conv2d layers"),
        ("ViT", 3, None),
        ("ViT", -1, "it has Conv2d layers"),
        ("ViT, attentional pool", 1, None),
        ("timm ViT", 2, None),
        ("CLIP", -1, None),
        ("custom", 1, None),
    ],
)
def test_stackable_modules(name, layers, reason):
    assert unstackable(parts(name, layers)[2]) == reason


def test_dropout_cannot_be_stacked():
    assert unstackable(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))) is None
    assert unstackable(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))) == "it has Dropout layers"
    assert unstackable(nn.BatchNorm1d(3)) == "it has BatchNorm1d layers"
