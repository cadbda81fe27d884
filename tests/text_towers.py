"""Small random text towers of both forms in open_clip, and what prompts need of an encoder around them."""

from types import SimpleNamespace

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
FORMS = {
    "CLIP": (CLIP, TEXT),
    "custom, causal": (CustomTextCLIP, TEXT | {"block_type": "custom"}),
    "custom": (CustomTextCLIP, TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
}
NAMES = ["cat", "bird of paradise", "red fox"]


def encoder_of(form, **changes):
    torch.manual_seed(0)
    kind, text = FORMS[form]
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 32}
    model = kind(embed_dim=12, vision_cfg=vision, text_cfg=text | changes).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    tokenizer = open_clip.SimpleTokenizer(context_length=(text | changes)["context_length"])

    def truncated(prompts, room):
        return [prompt for prompt in prompts if len(tokenizer.encode(prompt)) + 2 > room]

    return SimpleNamespace(
        name="small", model=model, tokenizer=tokenizer, tokenize=tokenizer.__call__, truncated=truncated
    )
