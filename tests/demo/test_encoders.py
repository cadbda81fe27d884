"""The committed encoders: they load, they fit their size, and the demo is neither trivial nor hopeless for them."""

import open_clip
import pytest
import safetensors.torch
import torch

from engine.demo import pretrain, world

WEIGHTS = {name: pretrain.MODEL_DIR / f"{name}.safetensors" for name in pretrain.MODELS}


@pytest.fixture(scope="module", params=pretrain.MODELS)
def encoder(request):
    open_clip.add_model_config(pretrain.MODEL_DIR)
    return request.param, open_clip.create_model(request.param, pretrained=str(WEIGHTS[request.param])).eval()


def test_the_files_are_small_enough_to_commit():
    assert sum(path.stat().st_size for path in WEIGHTS.values()) < 20_000_000


def test_every_weight_has_its_place(encoder):
    name, model = encoder
    state = safetensors.torch.load_file(WEIGHTS[name])
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    assert all(value.dtype == torch.float16 for key, value in state.items() if not key.endswith("num_batches_tracked"))
    assert model.logit_scale.dtype == torch.float32
    assert model.logit_scale.exp() > 10


def test_images_and_texts_meet_in_one_space(encoder):
    _, model = encoder
    tokens = open_clip.SimpleTokenizer(context_length=model.context_length)(["a photo of a striped red star."])
    with torch.inference_mode():
        assert model.encode_image(torch.zeros(2, 3, 64, 64)).shape == (2, 128)
        assert model.encode_text(tokens).shape == (1, 128)


def test_the_demo_is_an_honest_problem(encoder):
    _, model = encoder
    accuracy = pretrain.zero_shot_accuracy(model, world.STYLES["demo"], per_class=20, seed=0)
    assert 35 <= accuracy <= 80
    assert pretrain.zero_shot_accuracy(model, world.PRETRAINING, per_class=5, seed=0) > 85
