"""The frozen parts of an encoder: fast inputs of its last k layers, for several k in one pass.

For speed, BatchNorm of a ResNet is folded into its convolutions, which run channels last, and the attention pool is
`engine.clip.split.AttentionPool`. With causal attention, texts are cut to the longest of a batch. Features equal
open_clip's to about 1e-6, relative; image transformers are bit-equal.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.modified_resnet import Bottleneck, ModifiedResNet
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engine.clip.names import PROJECTION
from engine.clip.split import (
    TextTower,
    crop_mask,
    image_layer_count,
    image_stages,
    split_projection,
    text_features,
    text_layer_count,
    text_tower,
)

EncoderOutput = tuple[Tensor, ...]
"""The output for a batch: features [B, D] or inputs of a layer, [B, ...]. Inputs of a text layer are [B, L, width] and
end-of-text positions [B] int64."""


class FrozenImageEncoder(nn.Module):
    """The image tower of an open_clip model in eval mode, without its last k layers for each k of `layers`.

    One of `layers` may be `projection`.
    """

    def __init__(self, model: nn.Module, layers: Iterable[int | str]):
        """Raises UserError if the tower cannot be split before its last k layers."""
        super().__init__()
        visual = model.visual
        self.channels_last = isinstance(visual, ModifiedResNet)
        if self.channels_last:
            visual = _fold(copy.deepcopy(visual)).to(memory_format=torch.channels_last)
        # other models compute more than the stages (CoCa normalises by default): call their own method
        self.whole = None if type(model) in (CLIP, CustomTextCLIP) else model
        stages, layers = image_stages(visual), list(layers)
        counts = {k: 0 if k == PROJECTION else image_layer_count(model, k) for k in layers}
        self.ends = {k: len(stages) - count for k, count in counts.items()}
        if PROJECTION in layers:
            stages[-1:] = split_projection(visual)
            self.ends |= {0: len(stages)} if 0 in layers else {}  # one more; before it is the end of `projection`
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor, layers: Iterable[int | str]) -> dict[int | str, EncoderOutput]:
        """Encode normalised pixels [B, 3, S, S]; return the outputs for each k in `layers`."""
        outputs = {}
        if self.whole is not None and 0 in layers:
            outputs[0] = (self.whole.encode_image(pixels, normalize=False),)
        ends = {k: self.ends[k] for k in layers if k not in outputs}
        x = pixels.contiguous(memory_format=torch.channels_last) if self.channels_last else pixels
        for at in range(max(ends.values(), default=-1) + 1):
            x = self.stages[at - 1](x) if at else x
            outputs |= {k: (x,) for k, end in ends.items() if end == at}
        return outputs


class FrozenTextEncoder:
    """The text tower of an open_clip model in eval mode, without its last k layers for each k of `layers`."""

    def __init__(self, model: nn.Module, layers: Iterable[int]):
        """Raises UserError if the tower cannot be split before its last k layers."""
        self.tower = text_tower(model)
        self.encode = partial(model.encode_text, normalize=False)
        blocks = len(self.tower.transformer.resblocks) if self.tower else 0
        # blocks to run; -1: not even the positional embedding
        self.ends = {k: blocks - text_layer_count(model, k) for k in layers}

    def __call__(self, tokens: Tensor, layers: Iterable[int]) -> dict[int, EncoderOutput]:
        """Encode tokens [B, L], int64; return the outputs for each k in `layers`."""
        if self.tower is None:
            return {k: (self.encode(tokens),) for k in layers}
        tower, positions = self.tower, end_positions(tokens, self.tower)
        ends = {k: self.ends[k] for k in layers}
        x = tower.token_embedding(tokens)
        outputs = {k: (x, positions) for k, end in ends.items() if end < 0}
        x = x + tower.positional_embedding[: x.shape[1]]
        mask = crop_mask(tower.attn_mask, x.shape[1])
        for passed in range(max(ends.values()) + 1):
            x = tower.transformer.resblocks[passed - 1](x, attn_mask=mask) if passed else x
            outputs |= {k: (x, positions) for k, end in ends.items() if end == passed}
        if 0 in outputs:
            outputs[0] = (text_features(x, positions, tower.ln_final, tower.text_projection),)
        return outputs

    def lengths(self, tokens: Tensor) -> Tensor:
        """Return the number of tokens of each text [n, L] that matter, [n]: up to its end if attention is causal."""
        if self.tower is None or self.tower.attn_mask is None:
            return torch.full([len(tokens)], tokens.shape[1])
        return end_positions(tokens, self.tower) + 1


def end_positions(tokens: Tensor, tower: TextTower) -> Tensor:
    """Return the position [B] whose output becomes the feature of a text [B, L]: for CLIP, the end of text."""
    everywhere = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1).unsqueeze(2)
    return text_global_pool(everywhere, tokens, tower.pool_type, tower.eos_id).squeeze(1)


def _fold(visual: ModifiedResNet) -> ModifiedResNet:
    """Fold BatchNorm layers (in eval mode) into the convolutions before them, in place."""
    for block in (visual, *(module for module in visual.modules() if isinstance(module, Bottleneck))):
        for number in (1, 2, 3):
            conv, norm = getattr(block, f"conv{number}"), getattr(block, f"bn{number}")
            setattr(block, f"conv{number}", fuse_conv_bn_eval(conv, norm))
            setattr(block, f"bn{number}", nn.Identity())
    for block in visual.modules():
        if isinstance(block, Bottleneck) and block.downsample is not None:
            pool, conv, norm = block.downsample
            block.downsample = nn.Sequential(pool, fuse_conv_bn_eval(conv, norm))
    return visual
