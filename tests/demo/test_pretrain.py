import open_clip
import pytest
import safetensors.torch
import torch

from engine.demo import pretrain, world


@pytest.fixture(scope="module")
def pairs():
    return pretrain.make_pairs(64, 2, seed=0, context_length=40)


def test_pairs_are_pictures_and_whole_captions(pairs):
    pictures, tokens = pairs
    assert (pictures.shape, pictures.dtype) == ((64, 3, 64, 64), torch.uint8)
    assert tokens.shape[:2] == (64, 2)
    assert tokens.shape[2] < 40  # nothing was cut off
    assert (tokens.amax(dim=2) == 49407).all()  # each has its end
    rng = world.generator(0, "pretraining", 3)
    scene = world.pretraining_scene(rng)
    captions = [world.caption(scene, rng) for _ in range(2)]
    tokenizer = open_clip.SimpleTokenizer(context_length=40)
    assert torch.equal(tokenizer(captions)[:, : tokens.shape[2]], tokens[3])
    image = world.draw(scene, world.PRETRAINING, rng)
    assert tuple(pictures[3, :, 5, 7].tolist()) == image.getpixel((7, 5))


def test_cutting_texts_changes_nothing(pairs):
    torch.manual_seed(0)
    model = pretrain.create_model("demo-ViT").eval()
    whole = torch.nn.functional.pad(pairs[1][:, 0], (0, 40 - pairs[1].shape[2]))
    with torch.inference_mode():
        torch.testing.assert_close(
            pretrain.encode_text_cut(model, pairs[1][:, 0]), model.encode_text(whole), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", pretrain.MODELS)
def test_training_learns_and_the_file_loads(name, pairs, tmp_path):
    def train():
        torch.manual_seed(0)
        model = pretrain.create_model(name)
        return model, list(pretrain.train(model, *few, steps=6, batch_size=16, lr=1e-3, seed=0))

    few = [part[:16] for part in pairs]
    model, losses = train()
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    assert not model.training

    path = tmp_path / f"{name}.safetensors"
    pretrain.save(model, pairs[1], path)
    open_clip.add_model_config(pretrain.MODEL_DIR)
    loaded = open_clip.create_model(name, pretrained=str(path)).eval()
    pixels = pretrain.normalize_pixels(pairs[0][:4])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_image(pixels), model.encode_image(pixels), atol=0.02, rtol=0.02)
    embedding = safetensors.torch.load_file(path)["token_embedding.weight"]
    assert embedding[pairs[1].unique()].abs().sum(dim=1).min() > 0
    assert int((embedding.abs().sum(dim=1) > 0).sum()) == len(pairs[1].unique())

    assert train()[1] == losses  # the same seed gives the same training
