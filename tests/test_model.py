"""Heads, zero-shot weights and WiSE-FT (section 4 of the protocol)."""

import math

import pytest
import torch
from torch import nn

from engine.model import LinearHead, random_weight, wise_ft, zeroshot_weight


def test_zeroshot_rows_are_normalised_means_of_raw_features():
    features = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    weight = zeroshot_weight(features, torch.tensor([1, 1, 0]), classes=2)
    assert torch.allclose(weight, torch.tensor([[0.0, 1.0], [3 / math.sqrt(10), 1 / math.sqrt(10)]]))


def test_linear_head_has_no_bias_and_scales_the_logits():
    weight, features = torch.randn(3, 4), torch.randn(5, 4)
    head = LinearHead(weight, scale=100.0)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert torch.allclose(head(features), 100 * features @ weight.T, atol=1e-3)


def test_random_weight_is_what_torch_gives_a_linear_layer():
    torch.manual_seed(5)
    layer = nn.Linear(64, 10, bias=False)
    weight = random_weight(10, 64, torch.Generator().manual_seed(5))
    assert torch.equal(weight, layer.weight)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_wise_ft_is_the_weighted_mean_of_the_weights(ratio):
    weight, zeroshot = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.allclose(wise_ft(weight, zeroshot, ratio), (1 - ratio) * weight + ratio * zeroshot)
