"""Heads, zero-shot weights and WiSE-FT (section 4 of the protocol)."""

import math

import pytest
import torch
from torch import nn

from engine.model import (
    Adapter,
    Embedding,
    LinearClassifier,
    LinearHead,
    TrainableEncoder,
    random_weight,
    wise_ft,
    with_state,
    zeroshot_weight,
)


def test_zeroshot_rows_are_normalised_means_of_raw_features():
    features = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    weight = zeroshot_weight(features, torch.tensor([1, 1, 0]), classes=2)
    assert torch.allclose(weight, torch.tensor([[0.0, 1.0], [3 / math.sqrt(10), 1 / math.sqrt(10)]]))


def test_a_linear_head_scales_the_logits_with_and_without_a_bias():
    weight, bias, features = torch.randn(3, 4), torch.randn(3), torch.randn(5, 4)
    head = LinearHead(weight, scale=100.0)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert torch.allclose(head(features), 100 * features @ weight.T, atol=1e-3)
    head = LinearHead(weight, 100.0, bias)
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    assert torch.allclose(head(features), 100 * (features @ weight.T + bias), atol=1e-3)


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
    assert not embedding.is_identity
    assert Embedding([None, None]).is_identity


def test_a_trainable_encoder_normalises_what_its_part_gives():
    encoder = TrainableEncoder(nn.Linear(4, 8))
    assert torch.allclose(encoder(torch.randn(3, 4)).norm(dim=1), torch.ones(3))


def test_a_classifier_scales_the_logits_of_its_embedding():
    weight, images = torch.randn(3, 8), torch.randn(5, 8)
    classifier = LinearClassifier(Embedding([None]), LinearHead(weight, scale=50.0))
    assert torch.allclose(classifier((images,)), 50 * images @ weight.T, atol=1e-3)


def test_another_weight_is_on_the_very_same_embedding():
    adapter, images = Adapter(8, torch.Generator().manual_seed(0)), torch.randn(5, 8)
    classifier = LinearClassifier(Embedding([None], adapter), LinearHead(torch.randn(3, 8), 50.0, torch.ones(3)))
    other = classifier.with_weight(torch.zeros(3, 8))
    assert other.embedding is classifier.embedding
    assert torch.equal(other((images,)), torch.full((5, 3), 50.0))  # the bias
    copied = classifier.copied()
    with torch.no_grad():
        expected = classifier((images,))
        adapter.up.zero_()
    assert torch.equal(copied((images,)), expected)


def test_a_module_with_another_state_leaves_the_first_as_it_is():
    classifier = LinearClassifier(Embedding([None]), LinearHead(torch.zeros(3, 8), 50.0)).train()
    ones = with_state(classifier, {"head.weight": torch.ones(3, 8)})
    assert torch.equal(ones.weight, torch.ones(3, 8))
    assert torch.equal(classifier.weight, torch.zeros(3, 8))
    assert (classifier.training, ones.training) == (True, False)
    with pytest.raises(RuntimeError, match="unexpected tensors: extra"):
        with_state(classifier, {"extra": torch.ones(3)})
