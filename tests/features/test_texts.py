"""Prompts: files hold what the text encoder makes of them, of whatever lengths they are, for several layers at once."""

import pytest
import torch
from safetensors import safe_open

from engine.clip.load import load_encoder
from engine.errors import UserError
from engine.features import texts as module
from engine.features.prompts import read_texts
from engine.features.store import Place
from engine.features.texts import extract_texts, plan_texts

PROMPTS = [
    f"a photo of a {word}." for word in ("dog", "very big red star", "cat", "big dog", "two-headed bird of prey")
]
LAYERS = [0, 1, 2, -1]


@pytest.fixture(scope="module")
def encoder(random_weights):
    return load_encoder("demo-RN", str(random_weights(0)), text_layers=LAYERS)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def make(place, using, prompts=PROMPTS, **ways):
    """Make the files of prompts, each a class of its own; how many prompts were encoded."""
    done = []
    extract_texts(plan(place, using, prompts, **ways), using, done.append)
    return sum(done)


def plan(place, using, prompts=PROMPTS, **ways):
    return plan_texts("demo", "vanilla", ["{}"], prompts, place, using, **ways)


def contents(place):
    """The contents of all files: metadata, which come in any order, and the bytes of tensors."""
    found = {}
    for path in place.folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118
            found[str(path.relative_to(place.folder))] = (file.metadata(), tensors)
    return found


@pytest.mark.parametrize("batch_size", [2, 256])
def test_a_file_is_what_the_encoder_gives(place, encoder, monkeypatch, batch_size):
    monkeypatch.setattr(module, "BATCH_SIZE", batch_size)
    assert make(place, encoder) == 5
    with torch.no_grad():
        expected = encoder.model.encode_text(encoder.tokenizer(PROMPTS))
    for layers in LAYERS:
        texts = read_texts(place.texts(layers, "vanilla"))
        assert (texts.prompts, texts.labels.tolist(), texts.source.layer) == (PROMPTS, [0, 1, 2, 3, 4], layers)
        with torch.no_grad():
            final = encoder.text[layers](*texts.inputs) if layers else texts.features
        assert torch.allclose(final, expected, rtol=0, atol=1e-5 * expected.abs().max())
        if layers:
            assert texts.features.shape[1] == int(texts.positions.max()) + 1 < encoder.model.context_length


def test_what_is_there_is_not_made_again(place, encoder):
    make(place, encoder)
    before = contents(place)
    assert make(place, encoder) == 0
    place.texts(1, "vanilla").unlink()
    assert make(place, encoder) == 5
    assert contents(place) == before


def test_numbers_that_are_not_finite_are_not_stored(place, encoder, monkeypatch):
    planned = plan(place, encoder)
    monkeypatch.setattr(type(encoder), "encode_texts", lambda *any: {0: (torch.full([5, 128], torch.nan),)})
    with pytest.raises(UserError, match="features that are not finite numbers, at positions 0, 1, 2"):
        extract_texts(planned, encoder)
    assert not contents(place)


def test_plans_know_how_large_files_are(place, encoder):
    planned = plan(place, encoder, store_dtype="fp16").sizes
    make(place, encoder, store_dtype="fp16")
    for layers, size in planned.items():
        assert 0 <= place.texts(layers, "vanilla").stat().st_size - size < 1200  # the header


def test_inputs_of_layers_may_be_stored_in_half_the_room(place, encoder, tmp_path):
    other = Place(tmp_path / "half")
    make(place, encoder)
    make(other, encoder, store_dtype="fp16")
    for layers in LAYERS:
        full, half = (read_texts(where.texts(layers, "vanilla")).features for where in (place, other))
        assert torch.equal(full.half().float() if layers else full, half)
    with pytest.raises(UserError, match="fp32 stored as fp16 there, fp32 stored as fp32 here"):
        make(other, encoder)


def test_other_prompts_weights_or_ways_are_refused(place, encoder, random_weights):
    make(place, encoder)
    with pytest.raises(UserError, match=r"other prompts or class names\.\nremove it"):
        make(place, encoder, PROMPTS[1:])
    other = load_encoder("demo-RN", str(random_weights(1)))
    with pytest.raises(UserError, match="other weights") as caught:
        make(place, other)
    assert encoder.digest[:12] in str(caught.value)
    assert other.digest[:12] in str(caught.value)
    with pytest.raises(UserError, match="bf16 stored as fp32 here"):
        make(place, load_encoder("demo-RN", str(random_weights(0)), precision="bf16"))
    place.texts(1, "vanilla").rename(place.texts(0, "vanilla"))
    with pytest.raises(UserError, match="1 trainable layers there, 0 here"):
        make(place, encoder)


def test_prompts_that_lose_their_end_are_known(place, encoder):
    long = "dot " * 100
    assert plan(place, encoder, [*PROMPTS, long]).truncated == (long,)
    assert plan(place, encoder).truncated == ()
