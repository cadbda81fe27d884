"""How open_clip prepares images for an architecture with the weights of a pretrained tag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from engine.preprocessing import Preprocessing


def preprocessing(architecture: str, config: Mapping[str, Any]) -> Preprocessing:
    """Return the preparation of images that `open_clip.create_model` sets, without building the model.

    `config` is what `open_clip.get_pretrained_cfg` knows of the tag; empty, for weights without a tag, it means
    open_clip's defaults, which are those of OpenAI's encoders. The size is always that of the architecture.
    """
    vision = open_clip.get_model_config(architecture)["vision_cfg"]
    size = vision.get("image_size", open_clip.CLIPVisionCfg.image_size)
    merged = merge_preprocess_dict(PreprocessCfg(), {**config, "size": size})
    del merged["mode"]  # RGB, the only one that open_clip has
    return Preprocessing(**merged | {name: tuple(map(float, merged[name])) for name in ("mean", "std")})
