"""Find open_clip's preprocessing for an architecture and the weights of a pretrained tag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from engine.preprocessing import Preprocessing


def preprocessing(architecture: str, config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that `open_clip.create_model` sets, without building the model.

    `config` is `open_clip.get_pretrained_cfg` of the tag; {}, for weights without a tag, selects open_clip's defaults,
    which match OpenAI's encoders. The image size always follows from the architecture.
    """
    vision = open_clip.get_model_config(architecture)["vision_cfg"]
    size = vision.get("image_size", open_clip.CLIPVisionCfg.image_size)
    merged = merge_preprocess_dict(PreprocessCfg(), {**config, "size": size})
    del merged["mode"]  # RGB, the only one that open_clip has
    return Preprocessing(**merged | {name: tuple(map(float, merged[name])) for name in ("mean", "std")})
