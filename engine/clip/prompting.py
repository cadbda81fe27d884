"""Text features of prompts that have context vectors in the place of words: start of text, context, class name, end.

    prompts = PromptEncoder(encoder, ["cat", "dog"], 16)
    prompts(context)  # raw text features [2, D] of context vectors [16, width]; gradients reach the context

If the context vectors are token embeddings of words, the features equal `encode_text` of the prompt in words.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from engine.clip.frozen import end_positions
from engine.clip.load import Encoder
from engine.clip.split import crop_mask, text_features, text_tower, trainable_text
from engine.datasets.checks import pluralize
from engine.errors import UserError

TEXT = "{}."
"""The text after the context, with the class name (CoOp)."""
NAMED = 3
"""The number of class names in an error."""


class PromptEncoder:
    """Raw text features [C, D] of the prompts of all classes, from context vectors [length, width] that they share.

    It is no nn.Module, as its weights are not trained: modules that hold it, and copies of them, share it.
    """

    def __init__(self, encoder: Encoder, classnames: list[str], length: int):
        """`length` is the number of context vectors. Raises UserError for a tower that cannot take them, or has no
        room for them beside the class names."""
        tower = text_tower(encoder.model)
        if tower is None:
            kind = type(getattr(encoder.model, "text", encoder.model)).__name__
            raise UserError(
                f"cannot put context vectors into the text tower of {encoder.name} ({kind}); choose another"
            )
        texts = [TEXT.format(name) for name in classnames]
        room = encoder.tokenizer.context_length - length
        _check_room(encoder, classnames, texts, length)
        self.length, self.classes = length, len(texts)
        tokens, empty = encoder.tokenize(texts, room), encoder.tokenize([""], room)
        start = int((tokens == empty).cumprod(1).sum(1).min())  # tokens before the words
        context = tokens[:, start : start + 1].expand(-1, length)  # any words
        positions = end_positions(torch.cat([tokens[:, :start], context, tokens[:, start:]], 1), tower)
        if tower.attn_mask is not None:
            tokens = tokens[:, : int(positions.max()) + 1 - length]
        device = tower.token_embedding.weight.device
        embedded = tower.token_embedding(tokens.to(device)).detach()
        self.start, self.rest, self.positions = embedded[0, :start], embedded[:, start:], positions.to(device)
        self.tower = trainable_text(encoder.model, -1)
        blocks = self.tower.blocks
        self.is_shared = tower.attn_mask is not None and all(type(block) is ResidualAttentionBlock for block in blocks)

    def __deepcopy__(self, memo: object) -> PromptEncoder:
        """Return the encoder itself."""
        return self

    @property
    def width(self) -> int:
        """The width of a context vector."""
        return self.rest.shape[2]

    def tensors(self) -> list[Tensor]:
        """Return all tensors that it holds."""
        return [self.start, self.rest, self.positions, *self.tower.parameters(), *self.tower.buffers()]

    def __call__(self, context: Tensor, at_once: int | None = None) -> Tensor:
        """Return the features of context vectors [length, width].

        With `at_once` the tower runs on chunks of so many classes, and once more for the backward pass. This needs the
        memory of one chunk, and a step takes half as long again.
        """
        if at_once is None or at_once >= self.classes:
            return self.encode(context, slice(None))
        return _InChunks.apply(context, self, at_once)

    def chunks(self, at_once: int) -> Iterator[slice]:
        """Yield all classes, `at_once` at a time."""
        return (slice(start, start + at_once) for start in range(0, self.classes, at_once))

    def encode(self, context: Tensor, classes: slice) -> Tensor:
        """Return the features of some classes.

        With causal attention no class changes the tokens before its name, which all classes then share.
        """
        before, rest, positions = torch.cat([self.start, context]), self.rest[classes], self.positions[classes]
        if not self.is_shared:
            return self.tower(torch.cat([before.expand(len(rest), -1, -1), rest], 1), positions)
        shared, length = len(before), len(before) + rest.shape[1]
        embedding, mask = self.tower.positional_embedding, crop_mask(self.tower.attn_mask, length).to(context.dtype)
        before, rest = before + embedding[:shared], rest + embedding[shared:length]
        *blocks, last = self.tower.blocks
        for block in blocks:
            before, rest = _pass(block, before, rest, mask)
        ends = _pass_ends(last, before, rest, mask, positions - shared)
        return text_features(ends.unsqueeze(1), positions * 0, self.tower.ln_final, self.tower.text_projection)


def _pass(block: nn.Module, before: Tensor, rest: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of a transformer block for tokens [P, width] and, after them, tokens [C, R, width].

    `mask` [P + R, P + R] is the causal mask.
    """
    shared, shape = len(before), rest.shape[:2]
    tokens, own, others = _project(block, before, rest)
    query, key, value = own
    first = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:shared, :shared])
    second = F.scaled_dot_product_attention(others[0], *_all(own, others), attn_mask=mask[shared:])
    attended = torch.cat([first.transpose(0, 1).flatten(1), second.transpose(1, 2).flatten(2).flatten(0, 1)])
    tokens = _finish(block, tokens, attended)
    return tokens[:shared], tokens[shared:].unflatten(0, shape)


def _pass_ends(block: nn.Module, before: Tensor, rest: Tensor, mask: Tensor, ends: Tensor) -> Tensor:
    """Return the outputs [C, width] of `_pass` at the positions `ends` [C] of the tokens [C, R, width] alone."""
    _, own, others = _project(block, before, rest)
    query = others[0].gather(2, ends.view(-1, 1, 1, 1).expand(-1, *others[0].shape[1:2], 1, others[0].shape[3]))
    masks = mask[len(before) + ends][:, None, None]  # [C, 1, 1, P + R]
    attended = F.scaled_dot_product_attention(query, *_all(own, others), attn_mask=masks)
    tokens = rest.gather(1, ends.view(-1, 1, 1).expand(-1, 1, rest.shape[2])).squeeze(1)
    return _finish(block, tokens, attended.flatten(1))


def _project(block: nn.Module, before: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all tokens [P + C * R, width], and queries, keys and values of both kinds of tokens.

    These are [3, heads, P, size] and [3, C, heads, R, size].
    """
    tokens, attention = torch.cat([before, rest.flatten(0, 1)]), block.attn
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    projected = projected.unflatten(1, (3, attention.num_heads, -1)).permute(1, 2, 0, 3)
    own, others = projected.split([len(before), len(tokens) - len(before)], 2)
    return tokens, own, others.unflatten(2, rest.shape[:2]).transpose(1, 2)


def _all(own: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Return keys and values [C, heads, P + R, size] of the tokens of each class and those before them."""
    pairs = zip(own[1:], others[1:], strict=True)
    return (torch.cat([shared.expand(len(other), -1, -1, -1), other], 2) for shared, other in pairs)


def _finish(block: nn.Module, tokens: Tensor, attended: Tensor) -> Tensor:
    """Return the outputs of a transformer block for tokens [n, width] and the results `attended` of attention."""
    tokens = tokens + block.ls_1(block.attn.out_proj(attended))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


class _InChunks(torch.autograd.Function):
    """The features of all classes, some at a time; the backward pass computes its inputs again."""

    @staticmethod
    def forward(context: Tensor, encoder: PromptEncoder, at_once: int) -> Tensor:
        return torch.cat([encoder.encode(context, classes) for classes in encoder.chunks(at_once)])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        context, ctx.encoder, ctx.at_once = inputs
        ctx.save_for_backward(context)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        context = ctx.saved_tensors[0].detach().requires_grad_()
        total = torch.zeros_like(context)
        for classes in ctx.encoder.chunks(ctx.at_once):
            with torch.enable_grad():
                features = ctx.encoder.encode(context, classes)
            total += torch.autograd.grad(features, context, gradient[classes])[0]
        return total, None, None

    @staticmethod
    def vmap(info, in_dims: tuple, contexts: Tensor, encoder: PromptEncoder, at_once: int) -> tuple[Tensor, int]:
        """One run after another, so that memory does not grow with their number."""
        return torch.stack([_InChunks.apply(own, encoder, at_once) for own in contexts.unbind(in_dims[0])]), 0


def _check_room(encoder: Encoder, classnames: list[str], texts: list[str], length: int) -> None:
    """Raise UserError where class names and `length` context vectors are too long for the text tower."""
    room = encoder.tokenizer.context_length - length
    if room > 2 and not (cut := set(encoder.truncated(texts, room))):
        return
    long = [name for name, text in zip(classnames, texts, strict=True) if room <= 2 or text in cut]
    longest = ", ".join(sorted(long, key=len, reverse=True)[:NAMED])
    raise UserError(
        f"has no room for {length} context vectors in the {encoder.tokenizer.context_length} tokens of the text tower"
        f" of {encoder.name} beside {pluralize(len(long), 'class name')}; the longest: {longest}."
        " Shorten the names of classes, or choose an encoder of longer texts"
    )
