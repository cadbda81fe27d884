"""Encoders: every format of weights loads and reproduces open_clip's features; missing or wrong ones are reported."""

import time

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.clip import names
from engine.clip import weights as clip_weights
from engine.clip.load import load_encoder
from engine.errors import UserError
from engine.preprocessing import Preprocessing

# the archives that tests make
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Isolate the tests from caches and the network."""
    monkeypatch.setattr(clip_weights, "OPENAI_CACHE", tmp_path / "clip")
    hub = tmp_path / "hub"
    monkeypatch.setattr(clip_weights, "HF_HUB_CACHE", str(hub))
    cached = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *where: cached(*where, cache_dir=hub))

    def head(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.get_session(), "head", head)


def safetensors(model, path):
    save_file(model.state_dict(), path)
    return path


def pickled(model, path):
    torch.save(model.state_dict(), path)
    return path


def checkpoint(model, path):
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return path


def put_in_hub(tmp_path, repository, file, source):
    """Create a hub cache with one file, in the layout of huggingface_hub."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    source.rename(folder / "snapshots" / ("0" * 40) / file)


def same_features(encoder, model):
    """Return whether an encoder reproduces the features of an open_clip model up to rounding."""
    size = encoder.preprocessing.size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    tokens = encoder.tokenizer(["a red star", "a dog"])
    with torch.no_grad():
        images, texts = model.encode_image(pixels), model.encode_text(tokens)
    found = *encoder.encode_images(pixels)[0], *encoder.encode_texts(tokens)[0]
    assert all(features.dtype == torch.float32 for features in found)
    return all(
        torch.allclose(features, expected, rtol=0, atol=2e-6 * expected.abs().max())
        for features, expected in zip(found, (images, texts), strict=True)
    )


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "name"),
    [(safetensors, "w.safetensors"), (pickled, "w.pt"), (pickled, "w.bin"), (checkpoint, "epoch_3.pt")],
)
@pytest.mark.parametrize("encoder", ["RN50", "ViT-B/32"])
def test_local_weights_produce_the_models_features(small, tmp_path, encoder, write, name):
    model = small(names.architecture(encoder)[0], force_quick_gelu=True)
    loaded = load_encoder(encoder, str(write(model, tmp_path / name)))
    assert same_features(loaded, model)
    assert not loaded.model.training
    assert not any(module.training for module in loaded.model.modules())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.preprocessing == Preprocessing(loaded.preprocessing.size)


@pytest.mark.parametrize("encoder", ["RN50", "ViT-B/32"])
def test_openais_archives_produce_the_models_features(small, save_archive, tmp_path, encoder, recwarn):
    model = small(names.architecture(encoder)[0], force_quick_gelu=True)
    archive = save_archive(model, tmp_path / "archive.pt")
    recwarn.clear()
    loaded = load_encoder(encoder, str(archive))
    assert not recwarn.list
    assert same_features(loaded, model)
    assert (loaded.preprocessing.size, loaded.tokenizer.context_length) == ({"RN50": 64, "ViT-B/32": 32}[encoder], 16)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.preprocessing == Preprocessing(loaded.preprocessing.size)
    assert loaded.digest == load_encoder(encoder, str(safetensors(model, tmp_path / "w.safetensors"))).digest


def test_half_precision_weights_become_float32(small, tmp_path):
    model = small(force_quick_gelu=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    model.load_state_dict(state)
    loaded = load_encoder("RN50", str(tmp_path / "half.safetensors"))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert same_features(loaded, model)


def test_quick_gelu_follows_the_tag(small, tmp_path):
    quick, exact = small("ViT-B-32", force_quick_gelu=True), small("ViT-B-32")
    weights = str(safetensors(exact, tmp_path / "w.safetensors"))
    for tag in ("ViT-B-32:openai", "ViT-B/32", "ViT-B-32:metaclip_400m"):
        assert same_features(load_encoder(tag, weights), quick)
    laion = load_encoder("ViT-B-32:laion2b_s34b_b79k", weights)
    assert same_features(laion, exact)
    assert not same_features(laion, quick)


def test_the_preprocessing_of_the_tag_is_used(small, tmp_path, monkeypatch):
    weights = str(safetensors(small("ViT-B-32"), tmp_path / "w.safetensors"))
    tag = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5), "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-32", {"webli": tag | {"hf_hub": "timm/SigLIP/"}})
    assert load_encoder("ViT-B-32:webli", weights).preprocessing == Preprocessing(32, **tag)


def test_the_digest_is_of_the_weights(small, tmp_path):
    model = small()
    first = load_encoder("RN50", str(safetensors(model, tmp_path / "first.safetensors")))
    second = load_encoder("RN50", str(pickled(model, tmp_path / "second.pt")))
    assert first.digest == second.digest
    assert len(first.digest) == 64
    model.visual.layer1[0].bn1.running_var[0] += 1e-6
    changed = load_encoder("RN50", str(safetensors(model, tmp_path / "first.safetensors")))
    assert changed.digest != first.digest


# --- the demo's encoders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names.DEMO)
def test_demo_encoders_load_by_name(name):
    weights = clip_weights.DEMO_MODELS / f"{name}.safetensors"
    if not weights.is_file():
        pytest.skip(f"{weights} is not there")
    encoder = load_encoder(name)
    tokens = encoder.tokenizer(["a photo of a striped red star."])
    assert tokens.shape == (1, encoder.model.context_length)
    (texts,) = encoder.encode_texts(tokens)[0]
    assert texts.shape == (1, 128)
    assert encoder.encode_images(torch.zeros(2, 3, encoder.preprocessing.size, encoder.preprocessing.size))[0][
        0
    ].shape == (2, 128)
    state = load_file(weights)
    assert all(torch.equal(value.to(state[key].dtype), state[key]) for key, value in encoder.model.state_dict().items())


def test_long_prompts_are_found(small, tmp_path):
    encoder = load_encoder("RN50", str(safetensors(small(), tmp_path / "w.safetensors")))
    fits, too_long = " ".join(["dog"] * 14), " ".join(["dog"] * 15)  # of 16 tokens, two are start and end
    assert encoder.truncated([fits, too_long, "a dog"]) == [too_long]
    assert torch.equal(encoder.tokenizer([fits])[0], encoder.tokenizer([too_long])[0])


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_weights_in_the_hubs_cache_need_no_network(small, tmp_path, file):
    model = small(force_quick_gelu=True)
    write = safetensors if file.endswith("safetensors") else pickled
    put_in_hub(tmp_path, "timm/resnet50_clip.openai", file, write(model, tmp_path / file))
    assert same_features(load_encoder("RN50"), model)


def test_a_tags_file_is_found_as_safetensors(small, tmp_path, monkeypatch):
    model = small("ViT-B-32")
    tags = {"mine": {"hf_hub": "me/model/weights.bin"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-32", tags)
    put_in_hub(tmp_path, "me/model", "weights.safetensors", safetensors(model, tmp_path / "weights.safetensors"))
    assert same_features(load_encoder("ViT-B-32:mine"), model)


def test_archives_in_openais_cache_need_no_network(small, save_archive, tmp_path):
    model = small(force_quick_gelu=True)
    (tmp_path / "clip").mkdir()
    save_archive(model, tmp_path / "clip" / "RN50.pt")
    assert same_features(load_encoder("RN50"), model)


@pytest.mark.parametrize("name", [*names.OPENAI, "ViT-B-16:datacomp_xl_s13b_b90k", "ViT-B-16-SigLIP:webli"])
def test_missing_weights_are_reported_with_their_locations(name, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_encoder(name)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert f"the weights of {name} are not on this machine" in message
    assert "hf download " in message
    assert str(tmp_path / "hub") in message
    assert f"--clip-encoder {name} --clip-weights FILE" in message
    if name in names.OPENAI:
        assert f"to {tmp_path / 'clip'}" in message
        assert "https://openaipublic" in message


def test_the_offline_error_is_raised_in_seconds(script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    code = """\
import time
from engine import config
from engine.clip.load import load_encoder

start = time.monotonic()
try:
    config.run(lambda: load_encoder("RN50"))
finally:
    assert time.monotonic() - start < 5
"""
    (tmp_path / "offline.py").write_text(code)
    done = script(tmp_path / "offline.py", check=1)
    assert "hf download timm/resnet50_clip.openai open_clip_model.safetensors" in done.stderr
    assert str(tmp_path / "hub") in done.stderr


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"no encoder is called 'RN5O'.*RN50, RN101.*ViT-L/14@336px.*demo-RN"):
        load_encoder("RN5O")


@pytest.mark.parametrize("weights", [None, "some.safetensors"])
def test_an_unknown_tag_lists_the_known_ones(weights):
    with pytest.raises(UserError, match=r"ViT-B-16:<tag> with one of openai, .*datacomp_xl_s13b_b90k"):
        load_encoder("ViT-B-16:datacomp", weights)


def test_an_architecture_without_weights_lists_its_tags():
    with pytest.raises(UserError, match=r"ViT-H-14:<tag> with one of .*laion2b_s32b_b79k"):
        load_encoder("ViT-H-14")


def test_weights_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.pt: there is no such file"):
        load_encoder("RN50", str(tmp_path / "nowhere.pt"))


def other_model(small, save_archive, path):
    safetensors(small("ViT-B-32"), path)


def other_archive(small, save_archive, path):
    save_archive(small("ViT-B-32"), path)


def a_layer_less(small, save_archive, path):
    state = small().state_dict()
    del state["visual.attnpool.q_proj.weight"]
    save_file(state, path)


@pytest.mark.parametrize(
    ("write", "file"),
    [
        (other_model, "w.safetensors"),
        (other_archive, "w.pt"),
        (a_layer_less, "w.safetensors"),
    ],
)
def test_wrong_weights_are_named_with_the_architecture(small, save_archive, tmp_path, write, file):
    write(small, save_archive, tmp_path / file)
    with pytest.raises(UserError, match=rf"{file}: these weights cannot be loaded as RN50"):
        load_encoder("RN50", str(tmp_path / file))


@pytest.mark.parametrize(
    ("mishap", "message"),
    [
        (ModuleNotFoundError("No module named 'transformers'"), r"'transformers'\): pip install \"transformers\["),
        (
            OSError("cannot find it in\nthe cache"),
            r"\(OSError: cannot find it in the cache\)\.(?s:.*)models--timm--ViT-B-16-",
        ),
    ],
)
def test_an_unavailable_tokenizer_is_reported(tmp_path, monkeypatch, mishap, message):
    """Without a network only the hub's cache is read, which is fast."""

    def fail(architecture, local_files_only):
        raise mishap

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    monkeypatch.setattr(huggingface_hub, "get_session", None)
    (tmp_path / "w.pt").touch()
    with pytest.raises(UserError, match=rf"the tokenizer of ViT-B-16-SigLIP .*{message}"):
        load_encoder("ViT-B-16-SigLIP:webli", str(tmp_path / "w.pt"))
