"""The index streams: every pass a shuffle, the same whatever the chunks, different for every name."""

import pytest
import torch

from engine.training.batches import IndexStream, streams
from engine.training.grid import Hparams


def test_a_pass_holds_each_index_at_most_once_and_drops_the_incomplete_batch():
    stream = IndexStream(length=11, batch=4, name="a")
    for _ in range(5):
        batches = stream.take(2)  # 11 // 4 batches a pass
        indices = batches.flatten().tolist()
        assert batches.shape == (2, 4)
        assert len(set(indices)) == 8
        assert set(indices) <= set(range(11))


def test_passes_are_reshuffled():
    stream = IndexStream(length=64, batch=64, name="a")
    first, second = stream.take(2)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(64))
    assert first.tolist() != second.tolist()


def test_chunks_do_not_matter():
    whole = IndexStream(50, 8, "a").take(100)
    stream = IndexStream(50, 8, "a")
    pieces = torch.cat([stream.take(steps) for steps in (1, 2, 30, 60, 7)])
    assert torch.equal(whole, pieces)


def test_a_stream_follows_from_its_name_alone():
    torch.manual_seed(1)
    first = IndexStream(50, 8, "a").take(10)
    torch.manual_seed(2)
    torch.rand(3)
    assert torch.equal(first, IndexStream(50, 8, "a").take(10))
    assert not torch.equal(first, IndexStream(50, 8, "b").take(10))


def test_views_come_in_turn_a_pass_each():
    """Of 12 samples in two views, those of the first view are 0 to 11."""
    batches = IndexStream(length=24, batch=4, name="a", views=2).take(12)
    passes = batches.view(4, 12)
    for number, indices in enumerate(passes.tolist()):
        assert sorted(indices) == [index + 12 * (number % 2) for index in range(12)]
    assert (passes[0] + 12).tolist() != passes[1].tolist(), "views are shuffled alike"
    stream = IndexStream(24, 4, "a", views=2)
    assert torch.equal(batches, torch.cat([stream.take(steps) for steps in (1, 4, 5, 2)]))


def test_modalities_share_a_batch_and_draw_independently(make_problem):
    images, texts = streams(make_problem(shots=1, cross_modal=True), Hparams(batch_size=8))
    one, other = images.take(20), texts.take(20)
    assert one.shape == other.shape == (20, 4)
    assert not torch.equal(one, other)
    (images,) = streams(make_problem(cross_modal=False), Hparams(batch_size=8))
    assert images.take(1).shape == (1, 8)


def test_a_batch_larger_than_the_samples_is_refused():
    with pytest.raises(ValueError, match="batches of 9 cannot be drawn from 8 samples"):
        IndexStream(8, 9, "a")
