"""The demo's sounds: what is heard of a scene, the files, and the encoder that hears them."""

import itertools

import numpy as np
import pytest
import torch

from engine.clip.load import load_encoder
from engine.datasets import esc50
from engine.demo import audio_encoder, install, pretrain_audio, sounds, world
from engine.sounds import read, read_format


def test_each_attribute_of_an_object_is_heard():
    """The spectra of two clips differ more for another shape, colour or pattern than for another clip of one kind."""
    plain = sounds.Style(detune=0.0, noise=(0.01, 0.01), echo=(0.0, 0.0), tempo=(1.0, 1.0))

    def heard(kind, index):
        scene = world.Scene(kind, "medium", "middle", "white", False, "clear")
        samples = sounds.sound(scene, plain, world.generator(0, "test", index))
        rhythm = np.abs(np.fft.rfft(np.abs(samples)))[1:30]  # of the loudness
        timbre = np.abs(np.fft.rfft(samples)).reshape(-1)[: 4000 // 10 * 10].reshape(-1, 10).sum(1)
        return [spectrum / np.linalg.norm(spectrum) for spectrum in (timbre, rhythm)]

    def apart(one, other):
        return max(np.linalg.norm(a - b) for a, b in zip(one, other, strict=True))

    kind = world.Kind("striped", "green", "square")
    within = max(apart(heard(kind, a), heard(kind, b)) for a, b in itertools.combinations(range(4), 2))
    others = {
        **{name: kind._replace(pattern=name) for name in world.PATTERNS},
        **{name: kind._replace(colour=name) for name in world.COLOURS},
        **{name: kind._replace(shape=name) for name in world.SHAPES},
    }
    for name, other in others.items():
        if other != kind:
            assert apart(heard(kind, 0), heard(other, 9)) > 1.2 * within, name


def test_the_files_are_like_esc50(tmp_path):
    told = []
    folder = sounds.install(tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(k + 1, 960) for k in range(960)]
    dataset = esc50.load(folder)
    assert {fold: len(positions) for fold, positions in dataset.folds.items()} == dict.fromkeys(range(1, 6), 24 * 8)
    assert {clip.category.replace("_", " ") for clip in dataset.clips} == set(install.CLASSNAMES)
    labels = {clip.category.replace("_", " "): clip.label for clip in dataset.clips}
    assert [labels[name] for name in install.CLASSNAMES] != list(range(24))  # only names tie sounds to pictures
    samples = read(dataset.file(100), sounds.RATE, sounds.LENGTH)
    form = read_format(dataset.file(100))
    assert (form.rate, form.channels, form.length) == (8000, 1, 8000)
    assert 0.01 < samples.std() < 0.5
    before = {path.name: path.read_bytes() for path in (folder / "audio").iterdir()}
    table = (folder / "meta" / "esc50.csv").read_bytes()
    assert sounds.is_complete(folder)
    (folder / "meta" / "esc50.csv").unlink()  # as if it had been killed
    assert not sounds.is_complete(folder)
    (folder / "meta" / "esc50.csv").write_bytes(table)
    dataset.file(100).unlink()
    assert not sounds.is_complete(folder)
    sounds.install(tmp_path)
    assert {path.name: path.read_bytes() for path in (folder / "audio").iterdir()} == before
    assert (folder / "meta" / "esc50.csv").read_bytes() == table


def test_the_encoder_has_learned_what_it_never_heard():
    """It names kinds that are not in its training by their sounds, against the text encoder of demo-RN."""
    encoder, clip = audio_encoder.load(), load_encoder(pretrain_audio.CLIP).model
    assert audio_encoder.PATH.stat().st_size < 1 << 20
    accuracy = pretrain_audio.zero_shot_accuracy(encoder, clip, sounds.PRETRAINING, per_class=3, seed=5)
    assert accuracy > 50
    samples = torch.zeros(2, 1, sounds.LENGTH)
    assert encoder(samples).shape == (2, audio_encoder.DIMENSION)
    torch.testing.assert_close(encoder(samples).norm(dim=1), torch.ones(2))


def test_pretraining_hears_no_class_of_the_demo_and_learns(tmp_path, monkeypatch):
    kinds = []
    played = sounds.sound
    monkeypatch.setattr(sounds, "sound", lambda scene, *rest: kinds.append(scene.kind) or played(scene, *rest))
    clip = load_encoder(pretrain_audio.CLIP).model
    heard, images, texts = pretrain_audio.make_triples(48, 0, clip)
    assert len(kinds) == 48
    assert not set(kinds) & set(world.HELD_OUT)
    assert (heard.shape, images.shape, texts.shape) == ((48, 1, 8000), (48, 128), (48, 128))
    torch.manual_seed(0)
    encoder = audio_encoder.AudioEncoder()
    losses = list(pretrain_audio.train(encoder, heard, images, texts, steps=10, batch_size=48, seed=0))
    assert losses[-1] < losses[0] - 0.2
    pretrain_audio.save(encoder, tmp_path / "encoder.safetensors")
    again = audio_encoder.load(tmp_path / "encoder.safetensors")
    torch.testing.assert_close(again(heard[:4]), encoder(heard[:4]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", world.SHAPES)
def test_no_sound_is_clipped(shape):
    scene = world.Scene(world.Kind("plain", "brown", shape), "large", "middle", "white", False, "noisy")
    samples = sounds.sound(scene, sounds.DEMO, world.generator(0, shape, 0))
    assert samples.dtype == np.float32
    assert np.mean(np.abs(samples) > 0.99) < 1e-3
