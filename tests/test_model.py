"""Heads, zero-shot weights and WiSE-FT (section 4 of the protocol)."""

import math

import pytest
import torch
from torch import nn

from engine.model import (
    Adapter,
    Classifier,
    Embedding,
    LinearHead,
    TrainableEncoder,
    random_weight,
    wise_ft,
    zeroshot_weight,
)


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


def test_the_adapter_is_a_residual_of_the_protocols_ratio():
    adapter, x = Adapter(16, torch.Generator().manual_seed(0)), torch.randn(5, 16)
    assert adapter.down.shape == (4, 16)
    assert adapter.up.shape == (16, 4)
    expected = 0.2 * torch.relu(torch.relu(x @ adapter.down.T) @ adapter.up.T) + 0.8 * x
    assert torch.allclose(adapter(x), expected, atol=1e-6)
    bound = 1 / math.sqrt(16)  # torch's default for a Linear layer of 16 inputs
    assert 0.9 * bound < adapter.down.abs().max() <= bound


def test_an_embedding_takes_images_alone_or_images_and_texts():
    adapter = Adapter(8, torch.Generator().manual_seed(0))
    images, texts = torch.randn(3, 8), torch.randn(2, 4)
    embedding = Embedding([None, nn.Linear(4, 8)], adapter)
    encoded = torch.nn.functional.normalize(embedding.encoders[1].part(texts))
    assert torch.equal(embedding((images,)), adapter(images))
    assert torch.allclose(embedding((images,), (texts,)), adapter(torch.cat([images, encoded])))
    assert embedding.trainable
    assert not Embedding([None, None]).trainable


def test_a_trainable_encoder_normalises_what_its_part_gives():
    encoder = TrainableEncoder(nn.Linear(4, 8))
    assert torch.allclose(encoder(torch.randn(3, 4)).norm(dim=1), torch.ones(3))


def test_a_classifier_scales_the_logits_of_its_embedding():
    weight, images = torch.randn(3, 8), torch.randn(5, 8)
    classifier = Classifier(Embedding([None]), LinearHead(weight, scale=50.0))
    assert torch.allclose(classifier((images,)), 50 * images @ weight.T, atol=1e-3)
