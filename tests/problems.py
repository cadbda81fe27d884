"""What the small few-shot problems of tests/training train: features, or random parts of small random encoders."""

import torch
from open_clip.model import CLIP
from torch.nn import functional as F

from engine.clip.frozen import FrozenImageEncoder, FrozenTextEncoder
from engine.clip.split import trainable_image, trainable_text

CLASSES, DIMENSION = 12, 64
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2}
TOWERS = {
    "attention pool": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 2, "head_width": 16, "patch_size": None},
    "block": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
}
LAYERS = {"attention pool": (1, 0), "block": (1, 1), "whole": (-1, -1), "BatchNorm": (2, 0)}
"""Trainable image and text layers of the problems that train parts of encoders."""

STACKABLE = ["linear", "adapter", "attention pool", "block"]
KINDS = [*STACKABLE, "whole", "BatchNorm"]


def encoders(kind, image_labels, val_labels):
    """Banks of images, of validation images and of texts, the trainable parts, and a zero-shot classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tower = TOWERS["block" if kind == "whole" else "attention pool" if kind == "BatchNorm" else kind]
        clip = CLIP(embed_dim=24, vision_cfg=tower, text_cfg=TEXT).eval().requires_grad_(False)
        for name, parameter in clip.named_parameters():
            if parameter.dim() == 1:  # norms and biases start as ones and zeros, which hide mistakes
                parameter += 0.1 * torch.randn_like(parameter) + name.endswith("bn3.weight")
        size = tower["image_size"]
        pictures = torch.randn(CLASSES, 3, size, size)
        tokens = torch.randint(1, 40, (CLASSES, 8))
        tokens[:, 5] = 49  # end of text
    with torch.no_grad():
        image_layers, text_layers = LAYERS[kind]
        image, text = trainable_image(clip, image_layers), trainable_text(clip, text_layers)
        frozen_image, frozen_text = FrozenImageEncoder(clip, [image_layers]), FrozenTextEncoder(clip, [text_layers])
        noise = torch.Generator().manual_seed(2)

        def maps(pixels):
            return frozen_image(pixels, [image_layers])[image_layers][0].contiguous()

        # a random encoder sees little difference between pictures: what it sees is spread out, so that it can be learnt
        centre, spread = maps(pictures).mean(0), maps(pictures).std(0).mean()

        def see(labels):
            seen = maps(pictures[labels] + 0.2 * torch.randn(len(labels), 3, size, size, generator=noise))
            return ((seen - centre) / spread,)

        written = frozen_text(tokens[:, : int(frozen_text.lengths(tokens).max())], [text_layers])[text_layers]
        initial = F.normalize(clip.encode_text(tokens))
        inputs = (F.normalize(*written),) if text is None else written
        return see(image_labels), see(val_labels), inputs, image, text, initial
