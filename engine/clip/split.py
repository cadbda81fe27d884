"""Split an encoder into a frozen part, whose outputs are cached, and a trainable part (section 3 of the protocol).

    frozen = FrozenImageEncoder(model, [0, 1])  # engine.clip.frozen
    trainable = trainable_image(model, 1)
    outputs = frozen(pixels, [0, 1])
    trainable(*outputs[1])  # equals outputs[0] and model.encode_image(pixels)

`layers` is a value of --image-layer-idx or --text-layer-idx: the number of trainable last layers, 0 for none, -1 for
all. The image layers of a ModifiedResNet are layer1, ..., layer4 and the attention pool. The layers of a transformer
over images or text are its blocks; the last one includes final norm, pooling and projection. For a prompt, the input of
the first trainable block and the end-of-text position are cached. `projection` is less than an image layer: the last
linear map alone.

Both parts share the parameters of the model.
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

from engine.clip.names import PROJECTION
from engine.errors import UserError


def trainable_image(model: nn.Module, layers: int | str) -> nn.Module | None:
    """Return the last layers of the image tower of an open_clip model; None for 0, a `Projection` for `projection`.

    Raises UserError if the tower cannot be split before its last `layers` layers.
    """
    if layers == PROJECTION:
        return split_projection(model.visual)[1]
    count = image_layer_count(model, layers)
    return _copy_for_training(nn.Sequential(*image_stages(model.visual)[-count:])) if count else None


def trainable_text(model: nn.Module, layers: int) -> nn.Module | None:
    """Return the last layers of the text tower of an open_clip model; None for 0.

    Their inputs are the input of the first block, [B, L, width], and the end-of-text positions [B]. With all layers
    (-1), the input is the embedded tokens, and the positional embedding is trained too.
    Raises UserError if the tower cannot be split before its last `layers` layers.
    """
    count = text_layer_count(model, layers)
    return _copy_for_training(TrainableTextBlocks(text_tower(model), count)) if count else None


def image_layer_count(model: nn.Module, layers: int) -> int:
    """Return how many of `image_stages` are trained. Raises UserError as `trainable_image` does."""
    stages = len(image_stages(model.visual)) if layers else 0
    return _validate_layers(layers, stages, "--image-layer-idx", f"image tower ({_kind(model.visual)})")


def text_layer_count(model: nn.Module, layers: int) -> int:
    """Return how many blocks of the text tower are trained, plus one if the positional embedding is too.

    Raises UserError as `trainable_text` does.
    """
    tower = text_tower(model)
    stages = len(tower.transformer.resblocks) + 1 if tower else 0  # + 1: the embedding, trained only with all blocks
    kind = type(getattr(model, "text", model)).__name__
    return _validate_layers(layers, stages, "--text-layer-idx", f"text tower ({kind})")


def unstackable(module: nn.Module) -> str | None:
    """Return why several runs of a trainable module cannot be stacked in one batched problem; None if they can.

    In train() mode BatchNorm couples the samples of a batch, and dropout draws once for the whole batch. Convolutions
    of several runs become a grouped one, which is slow, and whose rounding depends on the number of groups.
    """
    for layer in module.modules():
        random = isinstance(layer, PatchDropout | TimmPatchDropout | DropPath)
        if random or (isinstance(layer, _DropoutNd) and layer.p > 0) or isinstance(layer, _BatchNorm | _ConvNd):
            return f"it has {type(layer).__name__} layers"
    return None


def _validate_layers(layers: int, stages: int, flag: str, kind: str) -> int:
    """Return how many of the last `stages` are trainable; the first one only with all others (-1). Raises UserError."""
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
    """Self-attention of a transformer block, with the parameters and names of nn.MultiheadAttention.

    nn.MultiheadAttention transposes batches before the projection, which would copy the weights of several runs for
    every token.
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.num_heads, self.out_proj = attention.num_heads, attention.out_proj
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Return attended tokens [B, L, width] of tokens `x` [B, L, width], also the keys and values; no weights."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def _copy_for_training(module: nn.Module) -> nn.Module:
    """Copy a module, sharing its parameters, and replace the attention of transformer blocks by `SelfAttention`."""
    copied = copy.copy(module)
    copied.__dict__["_parameters"] = dict(module._parameters)
    copied.__dict__["_modules"] = {name: _copy_for_training(child) for name, child in module._modules.items()}
    if isinstance(module, ResidualAttentionBlock):
        copied.attn = SelfAttention(module.attn)
    return copied


# --- image towers ----------------------------------------------------------------------------------------------------


def image_stages(visual: nn.Module) -> list[nn.Module]:
    """Return the modules that make up an image tower in sequence; -1 trains all of them, k the last k."""
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


class Projection(nn.Module):
    """The linear map at the end of an image tower: features [B, D] of pooled tokens [B, width].

    `weight` is the encoder's own parameter: [D, width] of a ResNet, [width, D] of a transformer, which is `transposed`.
    `bias` [D] or None is a buffer, so it is not trained.
    """

    def __init__(self, weight: nn.Parameter, bias: Tensor | None = None, *, transposed: bool = False):
        super().__init__()
        self.weight, self.transposed = weight, transposed
        self.register_buffer("bias", bias)

    def forward(self, pooled: Tensor) -> Tensor:
        features = pooled @ self.weight if self.transposed else (self.weight @ pooled.T).T
        return features if self.bias is None else features + self.bias


def split_projection(visual: nn.Module) -> tuple[nn.Module, Projection]:
    """Split the last of `image_stages` into the module before the projection, and the projection.

    Raises UserError for a tower that does not end in a linear map of its own.
    """
    last = image_stages(visual)[-1]
    if isinstance(last, AttentionPool):
        return _PoolBeforeProjection(last), Projection(last.c_proj.weight, last.c_proj.bias.detach())
    if isinstance(visual, VisionTransformer) and visual.proj is not None:
        head = _VisionHead(visual)
        head.tower.proj = None
        return nn.Sequential(last[0], head), Projection(visual.proj, transposed=True)
    raise UserError(
        f"--image-layer-idx {PROJECTION}: the image tower ({_kind(visual)}) of this encoder has no projection to split"
        " off; --method linear_adapter trains a linear map on the final features of any encoder"
    )


def _is_timm_transformer(visual: nn.Module) -> bool:
    return isinstance(visual, TimmModel) and isinstance(visual.trunk, TimmVisionTransformer)


def _kind(visual: nn.Module) -> str:
    return type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__


class _Section(nn.Module):
    """A part of a tower that keeps only the parameters and submodules that its methods need."""

    NEEDS: tuple[str, ...]

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = copy.copy(tower)
        for kind in ("_modules", "_parameters"):
            kept = {name: value for name, value in getattr(tower, kind).items() if name in self.NEEDS}
            self.tower.__dict__[kind] = kept


class AttentionPool(nn.Module):
    """open_clip's AttentionPool2d at a thirtieth of the cost, with the same parameters and names.

    Only one token, the mean, attends. So no keys are computed: the query of a head times the key matrix of the head is
    a vector that scores the tokens directly. Nor are values: the value matrix is applied to the weighted mean of the
    tokens. For RN50 (50 tokens of 2048) this takes 21 million multiplications an image instead of 735 million.
    """

    def __init__(self, pool: AttentionPool2d):
        super().__init__()
        self.positional_embedding, self.num_heads = pool.positional_embedding, pool.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj

    def forward(self, maps: Tensor) -> Tensor:
        """Return features [B, D] of feature maps [B, C, H, W]."""
        return (self.c_proj.weight @ self.attended(maps)).T + self.c_proj.bias

    def attended(self, maps: Tensor) -> Tensor:
        """Return the input [C, B] of the projection for feature maps [B, C, H, W]."""
        tokens = maps.flatten(2)  # [B, C, L]
        tokens = torch.cat([tokens.mean(2, keepdim=True), tokens], dim=2) + self.positional_embedding.T
        # weights are on the left of all products, so their gradients have the same memory layout
        query = (self.q_proj.weight @ tokens[:, :, 0].T).T + self.q_proj.bias
        query = self._heads(query) * (query.shape[1] // self.num_heads) ** -0.5  # [heads, B, C / heads]
        key, value = (self._heads_of(layer.weight) for layer in (self.k_proj, self.v_proj))  # [heads, C / heads, C]
        scores = (query @ key).transpose(0, 1) @ tokens  # [B, heads, L]
        bias = (query @ self.k_proj.bias.view(self.num_heads, -1, 1)).transpose(0, 1)  # the same for all tokens
        mean = torch.softmax(scores + bias, dim=2) @ tokens.transpose(1, 2)  # [B, heads, C]
        return (value @ mean.permute(1, 2, 0)).flatten(0, 1) + self.v_proj.bias.unsqueeze(1)

    def _heads(self, vectors: Tensor) -> Tensor:
        """Reshape [B, C] to [heads, B, C / heads]."""
        return vectors.unflatten(1, (self.num_heads, -1)).transpose(0, 1)

    def _heads_of(self, weight: Tensor) -> Tensor:
        """Reshape the weight [C, C] of a projection to [heads, C / heads, C]."""
        return weight.view(self.num_heads, -1, weight.shape[1])


class _PoolBeforeProjection(nn.Module):
    """An attention pool without its projection: [B, C] of feature maps [B, C, H, W]."""

    def __init__(self, pool: AttentionPool):
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        return self.pool.attended(maps).T


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
    """The pieces of a text tower, with the same names for both forms in open_clip."""

    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter
    transformer: nn.Module
    attn_mask: Tensor | None
    ln_final: nn.Module
    text_projection: nn.Parameter | nn.Linear | None
    pool_type: str
    eos_id: int | None


def text_tower(model: nn.Module) -> TextTower | None:
    """Return the pieces of a model's text tower; None if it cannot be split (Hugging Face's, CoCa's)."""
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
    """The last `count` blocks, final norm and projection; one more than all blocks adds the positional embedding."""

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
        mask = crop_mask(self.attn_mask, x.shape[1])
        for block in self.blocks:
            x = block(x, attn_mask=mask)
        return text_features(x, positions, self.ln_final, self.text_projection)


def crop_mask(mask: Tensor | None, length: int) -> Tensor | None:
    """Crop the attention mask of a tower, if any, to texts of `length` tokens."""
    return None if mask is None else mask[:length, :length]


def text_features(
    x: Tensor, positions: Tensor, ln_final: nn.Module, projection: nn.Parameter | nn.Linear | None
) -> Tensor:
    """Return features [B, D] from the output of the last block [B, L, width] at the end-of-text positions [B]."""
    at_end = positions.view(-1, 1, 1).expand(-1, 1, x.shape[2])
    features = ln_final(x.gather(1, at_end).squeeze(1))
    if projection is None:
        return features
    return projection(features) if isinstance(projection, nn.Linear) else features @ projection
