"""Arguments for the encoder, and for its inputs: prompts and views of images."""

from __future__ import annotations

from functools import partial

from engine.config import types
from engine.config.arguments.declare import (
    CHECK,
    EVAL,
    EVAL_DOMAIN_SHIFT,
    FEATURES,
    IMAGENET_ESC,
    NAMES,
    TABLES,
    TABULATING,
    TRAINING,
    Argument,
)

_encoder, _inputs = partial(Argument, group="encoder"), partial(Argument, group="inputs")

ENCODERS = (
    "OpenAI's encoders (RN50, RN101, ViT-B/32, ViT-B/16, ...), an open_clip name and tag"
    " (ViT-B-16:datacomp_xl_s13b_b90k), demo-RN or demo-ViT"
)
PROMPTS = ["hand_crafted"]
"""The default of features.py. If the parsed value is this list (`is`), the command line names no prompts."""

ARGUMENTS = [
    _encoder(
        "--clip-encoder",
        scripts=(FEATURES, *TRAINING, *TABULATING, TABLES, CHECK),
        **NAMES,
        default=["RN50"],
        help=ENCODERS,
        overrides={
            TABLES: {"default": None, "help": f"{ENCODERS} (default: as in the paper's table)"},
            CHECK: {"default": None, "help": "encoders whose weights must be present (default: check all)"},
        },
    ),
    _encoder(
        "--clip-weights",
        scripts=(FEATURES, *TRAINING, *TABULATING, TABLES, CHECK, IMAGENET_ESC),
        metavar="FILE",
        help="local weights of the encoder: .safetensors, a .pt state dict or checkpoint, or an OpenAI archive",
    ),
    _encoder(
        "--image-layer-idx",
        scripts=(FEATURES, *TRAINING),
        type=types.image_layers,
        metavar="N",
        default=0,
        help="number of trainable last layers of the image encoder; -1 for all, projection for its last linear map",
        overrides={FEATURES: {"nargs": "+", "default": [0]}},
    ),
    _encoder(
        "--text-layer-idx",
        scripts=(FEATURES, *TRAINING),
        type=types.layers,
        metavar="N",
        default=0,
        help="number of trainable last layers of the text encoder; -1 for all",
        overrides={FEATURES: {"nargs": "+", "default": [0]}},
    ),
    _encoder(
        "--precision",
        scripts=(FEATURES,),
        choices=["fp32", "bf16", "fp16"],
        default="fp32",
        metavar="TYPE",
        help="arithmetic of the encoder: fp32 (the protocol), bf16, or fp16 (GPUs only). The last two are faster, and"
        " features differ by less than a per cent",
    ),
    _inputs(
        "--text-augmentation",
        "--templates",
        scripts=(FEATURES, *TRAINING, *TABULATING),
        type=types.templates,
        metavar="NAME",
        default=PROMPTS[0],
        help="prompts: hand_crafted (templates for each dataset), classname (the class name only), vanilla ('a photo of"
        " a ...'), template_mining (the 21 of 180 templates that are best on the validation images of a split), or a"
        " file: .txt with one template a line, or .json with the prompts or the names of each class",
        overrides={FEATURES: {"nargs": "+", "default": PROMPTS}},
    ),
    _inputs(
        "--image-augmentation",
        scripts=(FEATURES, *TRAINING, *TABULATING),
        choices=["none", "flip", "randomcrop", "randomresizedcrop"],
        default="flip",
        metavar="NAME",
        help="views of each training image besides the centre crop: none, flip, randomcrop or randomresizedcrop (8 to"
        " 100 %% of the image)",
    ),
    _inputs(
        "--image-views",
        scripts=(FEATURES, *TRAINING, EVAL, EVAL_DOMAIN_SHIFT),
        type=types.views,
        metavar="N",
        help="number of these views: 0 for none, 1 for flip (default: 0 for none, otherwise 1)",
    ),
    _inputs(
        "--decode",
        scripts=(FEATURES,),
        choices=["pil", "fast"],
        default="pil",
        help="image decoder: pil (the protocol) or fast (torchvision: twice as fast; some pixels differ by one grey"
        " level)",
    ),
]
