"""Split an encoder in a frozen part, whose outputs are cached, and a trainable part (section 3 of the protocol).

    frozen = FrozenImageEncoder(model, [0, 1])  # engine.clip.frozen
    trainable = trainable_image(model, 1)
    outputs = frozen(pixels)
    trainable(outputs[1])  # what outputs[0] is, and model.encode_image(pixels)

`layers` is what --image-layer-idx and --text-layer-idx say: how many of the last layers are trainable, 0 for none, -1
for all. The image layers of a ModifiedResNet are layer1, ..., layer4 and the attention pool; those of a transformer are
its blocks, the last of which carries the final norm, the pooling and the projection. So are those of a text tower; what
is cached of a prompt is what goes into its first trainable block, and the end-of-text position.

Parts share the parameters of the model they were taken from.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    PatchDropout,
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
)
from timm.layers import DropPath
from timm.layers import PatchDropout as TimmPatchDropout
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from engine.errors import UserError


def trainable_image(model: nn.Module, layers: int) -> nn.Module | None:
    """The last layers of the image tower of an open_clip model; None for 0.

    Raises UserError for a number of layers that the tower does not have, or cannot be split at.
    """
    count = image_layer_count(model, layers)
    return _for_training(nn.Sequential(*image_stages(model.visual)[-count:])) if count else None


def trainable_text(model: nn.Module, layers: int) -> nn.Module | None:
    """The last layers of the text tower of an open_clip model; None for 0.

    It takes what goes into its first block, [B, L, width], and the end-of-text positions [B]. With all layers that is
    the embedded tokens: the positional embedding is trained too.
    Raises UserError for a number of layers that the tower does not have, and for towers that cannot be split.
    """
    count = text_layer_count(model, layers)
    return _for_training(TrainableTextBlocks(text_tower(model), count)) if count else None


def image_layer_count(model: nn.Module, layers: int) -> int:
    """How many of `image_stages` are trained. Raises UserError as `trainable_image` does."""
    stages = len(image_stages(model.visual)) if layers else 0
    return _checked(layers, stages, "--image-layer-idx", f"image tower ({_kind(model.visual)})")


def text_layer_count(model: nn.Module, layers: int) -> int:
    """How many blocks of the text tower are trained; one more than there are for the positional embedding too.

    Raises UserError as `trainable_text` does.
    """
    tower = text_tower(model)
    stages = len(tower.transformer.resblocks) + 1 if tower else 0  # the embedding, which only goes with all blocks
    return _checked(layers, stages, "--text-layer-idx", f"text tower ({type(getattr(model, 'text', model)).__name__})")


def unstackable(part: nn.Module) -> str | None:
    """Why batches of several runs cannot go through a trainable part side by side; None if they can.

    In train() mode BatchNorm ties the samples of a batch together, and dropout draws for all of it at once. The
    convolutions of several runs become a grouped one, which is slow, and rounds as the number of its groups has it.
    """
    for module in part.modules():
        random = isinstance(module, PatchDropout | TimmPatchDropout | DropPath)
        if random or (isinstance(module, _DropoutNd) and module.p > 0) or isinstance(module, _BatchNorm | _ConvNd):
            return f"it has {type(module).__name__} layers"
    return None


def _checked(layers: int, stages: int, flag: str, kind: str) -> int:
    """How many of the last `stages` are trainable, the first of which only goes with all others (-1)."""
    if layers == 0:
        return 0
    if layers == -1 and stages > 0:
        return stages
    if not 1 <= layers < stages:
        supported = "0" if stages < 1 else "0 and -1" if stages < 2 else f"0 to {stages - 1}, and -1 for all of it"
        raise UserError(f"{flag} {layers}: the {kind} of this encoder supports {supported}")
    return layers


# --- attention that can be stacked ------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """The self-attention of a transformer block, with the parameters of nn.MultiheadAttention under its names.

    That one turns batches around before it projects them, so that weights of several runs would be copied for every
    token.
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.num_heads, self.out_proj = attention.num_heads, attention.out_proj
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """[B, L, width] of tokens [B, L, width], which are keys and values too, and no weights."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def _for_training(part: nn.Module) -> nn.Module:
    """A copy of a part, around the same parameters, in which transformer blocks attend by `SelfAttention`."""
    copied = copy.copy(part)
    copied.__dict__["_parameters"] = dict(part._parameters)
    copied.__dict__["_modules"] = {name: _for_training(module) for name, module in part._modules.items()}
    if isinstance(part, ResidualAttentionBlock):
        copied.attn = SelfAttention(part.attn)
    return copied


# --- image towers ----------------------------------------------------------------------------------------------------


def image_stages(visual: nn.Module) -> list[nn.Module]:
    """Modules that one after another are an image tower; -1 trains all of them, k the last k."""
    if isinstance(visual, ModifiedResNet):
        stem = [getattr(visual, f"{layer}{number}") for number in (1, 2, 3) for layer in ("conv", "bn", "act")]
        return [
            nn.Sequential(*stem, visual.avgpool),
            *(visual.layer1, visual.layer2, visual.layer3, visual.layer4, AttentionPool(visual.attnpool)),
        ]
    if isinstance(visual, VisionTransformer):
        *blocks, last = visual.transformer.resblocks
        return [_VisionEmbedding(visual), *blocks, nn.Sequential(last, _VisionHead(visual))]
    if _is_timm_transformer(visual):
        *blocks, last = visual.trunk.blocks
        return [_TimmEmbedding(visual.trunk), *blocks, nn.Sequential(last, _TimmHead(visual.trunk), visual.head)]
    return [visual]


def _is_timm_transformer(visual: nn.Module) -> bool:
    return isinstance(visual, TimmModel) and isinstance(visual.trunk, TimmVisionTransformer)


def _kind(visual: nn.Module) -> str:
    return type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__


class _Section(nn.Module):
    """Some methods of a tower, with the parameters and submodules of it that they need and no others."""

    NEEDS: tuple[str, ...]

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = copy.copy(tower)
        for kind in ("_modules", "_parameters"):
            own = {name: value for name, value in getattr(tower, kind).items() if name in self.NEEDS}
            self.tower.__dict__[kind] = own


class AttentionPool(nn.Module):
    """open_clip's AttentionPool2d, with its parameters under its names, for a thirtieth of the work.

    It attends from one token alone, the mean. So keys need not be made of all tokens: the query of a head times the
    head's key matrix is a vector that scores them as they are. Nor need values: the head's value matrix can take their
    weighted mean as well as each of them. For RN50, 50 tokens of 2048, these are 21 million multiplications an image
    instead of 735.
    """

    def __init__(self, pool: AttentionPool2d):
        super().__init__()
        self.positional_embedding, self.num_heads = pool.positional_embedding, pool.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj

    def forward(self, maps: Tensor) -> Tensor:
        """Features [B, D] of feature maps [B, C, H, W]."""
        tokens = maps.flatten(2)  # [B, C, L]
        tokens = torch.cat([tokens.mean(2, keepdim=True), tokens], dim=2) + self.positional_embedding.T
        # weights are on the left of all products, so that their gradients come out as they lie in memory
        query = (self.q_proj.weight @ tokens[:, :, 0].T).T + self.q_proj.bias
        query = self._heads(query) * (query.shape[1] // self.num_heads) ** -0.5  # [heads, B, C / heads]
        key, value = (self._heads_of(layer.weight) for layer in (self.k_proj, self.v_proj))  # [heads, C / heads, C]
        scores = (query @ key).transpose(0, 1) @ tokens  # [B, heads, L]
        bias = (query @ self.k_proj.bias.view(self.num_heads, -1, 1)).transpose(0, 1)  # the same for all tokens
        mean = torch.softmax(scores + bias, dim=2) @ tokens.transpose(1, 2)  # [B, heads, C]
        attended = (value @ mean.permute(1, 2, 0)).flatten(0, 1) + self.v_proj.bias.unsqueeze(1)  # [C, B]
        return (self.c_proj.weight @ attended).T + self.c_proj.bias

    def _heads(self, vectors: Tensor) -> Tensor:
        """[B, C] as [heads, B, C / heads]."""
        return vectors.unflatten(1, (self.num_heads, -1)).transpose(0, 1)

    def _heads_of(self, weight: Tensor) -> Tensor:
        """The weight [C, C] of a projection as [heads, C / heads, C]."""
        return weight.view(self.num_heads, -1, weight.shape[1])


class _VisionEmbedding(_Section):
    NEEDS = ("conv1", "class_embedding", "positional_embedding", "patch_dropout", "ln_pre")

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower._embeds(pixels)


class _VisionHead(_Section):
    NEEDS = ("ln_post", "proj", "attn_pool", "attn_pool_contrastive")

    def forward(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.tower._pool(tokens)
        return pooled if self.tower.proj is None else pooled @ self.tower.proj


class _TimmEmbedding(_Section):
    NEEDS = ("patch_embed", "cls_token", "reg_token", "pos_embed", "pos_drop", "patch_drop", "norm_pre")

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.tower._pos_embed(self.tower.patch_embed(pixels))
        return self.tower.norm_pre(self.tower.patch_drop(tokens))


class _TimmHead(_Section):
    NEEDS = ("norm", "attn_pool", "fc_norm", "head_drop", "head")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tower.forward_head(self.tower.norm(tokens))


# --- text towers -----------------------------------------------------------------------------------------------------


class TextTower(NamedTuple):
    """The pieces of a text tower, under one set of names for the two forms that open_clip has."""

    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter
    transformer: nn.Module
    attn_mask: Tensor | None
    ln_final: nn.Module
    text_projection: nn.Parameter | nn.Linear | None
    pool_type: str
    eos_id: int | None


def text_tower(model: nn.Module) -> TextTower | None:
    """The pieces of a model's text tower; None for one that cannot be split (Hugging Face's, CoCa's)."""
    if type(model) is CLIP:
        tower, pool_type, eos_id = model, model.text_pool_type, model.text_eos_id
    elif type(model) is CustomTextCLIP and isinstance(model.text, TextTransformer):
        tower, pool_type, eos_id = model.text, model.text.pool_type, model.text.eos_id
        if tower.cls_emb is not None or tower.use_pad_mask:
            return None
    else:
        return None
    pieces = [getattr(tower, name) for name in TextTower._fields[:6]]
    return None if pool_type == "none" else TextTower(*pieces, pool_type, eos_id)


class TrainableTextBlocks(nn.Module):
    """The last blocks (or, one more than there are, the positional embedding too), the final norm, the projection."""

    def __init__(self, tower: TextTower, count: int):
        super().__init__()
        everything = count > len(tower.transformer.resblocks)
        self.positional_embedding = tower.positional_embedding if everything else None
        self.blocks = tower.transformer.resblocks[-count:]
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)
        self.ln_final, self.text_projection = tower.ln_final, tower.text_projection

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        if self.positional_embedding is not None:
            x = x + self.positional_embedding[: x.shape[1]]
        mask = causal(self.attn_mask, x.shape[1])
        for block in self.blocks:
            x = block(x, attn_mask=mask)
        return text_features(x, positions, self.ln_final, self.text_projection)


def causal(mask: Tensor | None, length: int) -> Tensor | None:
    """The part of a tower's attention mask, if it has one, that texts of `length` tokens need."""
    return None if mask is None else mask[:length, :length]


def text_features(
    x: Tensor, positions: Tensor, ln_final: nn.Module, projection: nn.Parameter | nn.Linear | None
) -> Tensor:
    """Features [B, D] of what the last block gives [B, L, width], from the positions [B] of the ends of texts."""
    at_end = positions.view(-1, 1, 1).expand(-1, 1, x.shape[2])
    features = ln_final(x.gather(1, at_end).squeeze(1))
    if projection is None:
        return features
    return projection(features) if isinstance(projection, nn.Linear) else features @ projection
