"""Prompts with context vectors: gradients, stacks of runs, room. `test_text_kinds.py` compares features with words."""

import copy

import pytest
import torch
from text_towers import FORMS, NAMES, encoder_of
from torch.func import vmap

from engine.clip.prompting import PromptEncoder
from engine.errors import UserError


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at_once", [None, 2])
def test_gradients_equal_finite_differences(form, at_once):
    encoder = encoder_of(form)
    encoder.model.double()
    prompts = PromptEncoder(encoder, NAMES, 5)
    context = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda vectors: prompts(vectors, at_once), (context,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at_once", [None, 2])
def test_runs_side_by_side(form, at_once):
    prompts = PromptEncoder(encoder_of(form), NAMES, 5)
    contexts = torch.randn(4, 5, 16, requires_grad=True)
    apart = torch.stack([prompts(context) for context in contexts])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        together = vmap(lambda context: prompts(context, at_once))(contexts)
    assert torch.allclose(together, apart, atol=1e-5)
    (wanted,), (found,) = (torch.autograd.grad((own**2).sum(), [contexts]) for own in (apart, together))
    assert torch.allclose(found, wanted, atol=1e-4 * wanted.abs().max().item())


def test_only_causal_towers_share_the_tokens_before_names():
    assert {form: PromptEncoder(encoder_of(form), NAMES, 5).is_shared for form in FORMS} == {
        "CLIP": True,
        "custom, causal": False,
        "custom": False,
    }


def test_texts_are_cut_to_the_longest():
    """Of a bird of paradise and the full stop, five tokens with the end of text remain."""
    prompts = PromptEncoder(encoder_of("CLIP"), NAMES, 5)
    assert prompts.rest.shape == (3, 5, 16)
    assert prompts.positions.tolist() == [1 + 5 + 2, 1 + 5 + 4, 1 + 5 + 3]
    assert PromptEncoder(encoder_of("custom"), NAMES, 5).rest.shape == (3, 14, 16)


def test_class_names_must_leave_room():
    encoder = encoder_of("CLIP", context_length=10)
    assert PromptEncoder(encoder, NAMES, 4).rest.shape == (3, 5, 16)
    with pytest.raises(
        UserError, match=r"no room for 5 .* in the 10 .* 1 class name; the longest: bird of paradise\. Sh"
    ):
        PromptEncoder(encoder, NAMES, 5)
    with pytest.raises(
        UserError, match=r"no room for 8 .* 3 class names; the longest: bird of paradise, red.fox, cat\."
    ):
        PromptEncoder(encoder, NAMES, 8)


def test_copies_share_the_tower():
    prompts = PromptEncoder(encoder_of("CLIP"), NAMES, 5)
    assert copy.deepcopy([prompts])[0] is prompts
