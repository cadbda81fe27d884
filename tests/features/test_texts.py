"""Prompts: files have the text encoder's output for prompts of any length, for several layers at once."""

import pytest
import torch
from safetensors import safe_open

from engine.clip.load import load_encoder
from engine.errors import UserError
from engine.features import texts as module
from engine.features.prompts import read_texts
from engine.features.store import FeaturePaths
from engine.features.texts import extract_texts, plan_texts
from engine.templates.class_prompts import ClassPrompts

PROMPTS = [
    f"a photo of a {word}." for word in ("dog", "very big red star", "cat", "big dog", "two-headed bird of prey")
]
LAYERS = [0, 1, 2, -1]


@pytest.fixture(scope="module")
def encoder(random_weights):
    return load_encoder("demo-RN", str(random_weights(0)), text_layers=LAYERS)


@pytest.fixture
def feature_paths(tmp_path):
    return FeaturePaths(tmp_path)


def make(feature_paths, using, prompts=PROMPTS, **settings):
    """Extract prompts, each of another class; return the number of encoded prompts."""
    done = []
    extract_texts(plan(feature_paths, using, prompts, **settings), using, done.append)
    return sum(done)


def plan(feature_paths, using, prompts=PROMPTS, **settings):
    return plan_texts("demo", "vanilla", ["{}"], prompts, feature_paths, using, **settings)


def contents(feature_paths):
    """Return the contents of all files: metadata (in any order) and the bytes of tensors."""
    found = {}
    for path in feature_paths.folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118
            found[str(path.relative_to(feature_paths.folder))] = (file.metadata(), tensors)
    return found


@pytest.mark.parametrize("batch_size", [2, 256])
def test_a_file_equals_the_encoders_output(feature_paths, encoder, monkeypatch, batch_size):
    monkeypatch.setattr(module, "BATCH_SIZE", batch_size)
    assert make(feature_paths, encoder) == 5
    with torch.no_grad():
        expected = encoder.model.encode_text(encoder.tokenizer(PROMPTS))
    for layers in LAYERS:
        texts = read_texts(feature_paths.texts(layers, "vanilla"))
        assert (texts.prompts, texts.labels.tolist(), texts.provenance.layer) == (PROMPTS, [0, 1, 2, 3, 4], layers)
        with torch.no_grad():
            final = encoder.text[layers](*texts.inputs) if layers else texts.features
        assert torch.allclose(final, expected, rtol=0, atol=1e-5 * expected.abs().max())
        if layers:
            assert texts.features.shape[1] == int(texts.positions.max()) + 1 < encoder.model.context_length


def test_stored_features_are_not_extracted_again(feature_paths, encoder):
    make(feature_paths, encoder)
    before = contents(feature_paths)
    assert make(feature_paths, encoder) == 0
    feature_paths.texts(1, "vanilla").unlink()
    assert make(feature_paths, encoder) == 5
    assert contents(feature_paths) == before


def test_numbers_that_are_not_finite_are_not_stored(feature_paths, encoder, monkeypatch):
    planned = plan(feature_paths, encoder)
    monkeypatch.setattr(type(encoder), "encode_texts", lambda *any: {0: (torch.full([5, 128], torch.nan),)})
    with pytest.raises(UserError, match="features that are not finite numbers, at positions 0, 1, 2"):
        extract_texts(planned, encoder)
    assert not contents(feature_paths)


def test_plans_predict_file_sizes(feature_paths, encoder):
    planned = plan(feature_paths, encoder, store_dtype="fp16").sizes
    make(feature_paths, encoder, store_dtype="fp16")
    for layers, size in planned.items():
        assert 0 <= feature_paths.texts(layers, "vanilla").stat().st_size - size < 1200  # the header


def test_inputs_of_layers_may_be_stored_in_half_the_space(feature_paths, encoder, tmp_path):
    other = FeaturePaths(tmp_path / "half")
    make(feature_paths, encoder)
    make(other, encoder, store_dtype="fp16")
    for layers in LAYERS:
        full, half = (read_texts(where.texts(layers, "vanilla")).features for where in (feature_paths, other))
        assert torch.equal(full.half().float() if layers else full, half)
    with pytest.raises(UserError, match="fp32 stored as fp16 there, fp32 stored as fp32 here"):
        make(other, encoder)


def test_other_prompts_weights_or_settings_are_refused(feature_paths, encoder, random_weights):
    make(feature_paths, encoder)
    with pytest.raises(UserError, match=r"other prompts or class names\.\nRemove it"):
        make(feature_paths, encoder, PROMPTS[1:])
    other = load_encoder("demo-RN", str(random_weights(1)))
    with pytest.raises(UserError, match="other weights") as caught:
        make(feature_paths, other)
    assert encoder.digest[:12] in str(caught.value)
    assert other.digest[:12] in str(caught.value)
    with pytest.raises(UserError, match="bf16 stored as fp32 here"):
        make(feature_paths, load_encoder("demo-RN", str(random_weights(0)), precision="bf16"))
    feature_paths.texts(1, "vanilla").rename(feature_paths.texts(0, "vanilla"))
    with pytest.raises(UserError, match="1 trainable layers there, 0 here"):
        make(feature_paths, encoder)


def test_truncated_prompts_are_reported(feature_paths, encoder):
    long = "dot " * 100
    assert plan(feature_paths, encoder, [*PROMPTS, long]).truncated == (long,)
    assert plan(feature_paths, encoder).truncated == ()


def test_prompts_of_new_classes_are_added_and_changed_ones_refused(feature_paths, encoder, tmp_path):
    """In a custom dataset, whose classes come and go with their entries in the file."""

    def plan_written(**by_class):
        written = ClassPrompts(tmp_path / "mine.json", by_class)
        return plan_texts("mine", "mine", written, list(by_class), feature_paths, encoder, is_custom=True)

    extract_texts(plan_written(cat=["a cat", "whiskers"], dog=["a dog"]), encoder)
    assert plan_written(cat=["a cat", "whiskers"], dog=["a dog"]).missing == []
    for classes in ({"cat": ["a cat", "whiskers"], "owl": ["an owl"]}, {"dog": ["a dog"], "cow": ["a cow"]}):
        assert plan_written(**classes).missing == LAYERS
    for classes in ({"cat": ["a cat"], "dog": ["a dog"]}, {"cow": ["a cow"], "owl": ["an owl"]}):
        with pytest.raises(UserError, match="other prompts or class names"):
            plan_written(**classes)
