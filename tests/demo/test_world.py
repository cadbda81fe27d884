import re
from collections import Counter

import numpy as np
import pytest

from engine.demo import world

KIND = world.HELD_OUT[0]
# What each word of a caption claims about its scene; every other word claims nothing.
CLAIMS = {
    **{word: ("kind", 0, word) for word in world.PATTERNS},
    **{phrase.split()[-1]: ("kind", 0, word) for word, phrase in world.PATTERNS.items()},
    **{word: ("kind", 1, word) for word in world.COLOURS},
    **{word: ("kind", 2, word) for word in world.SHAPES},
    **{word: ("size", None, word) for word in world.SIZES},
    **{word: ("place", None, word) for word in world.PLACES},
    **{word: ("background", None, word) for word in world.BACKGROUNDS},
    **{word: ("quality", None, word) for word in world.QUALITIES},
    **dict.fromkeys(("clutter", "cluttered"), ("cluttered", None, True)),
}


def scenes(count, seed=0):
    for index in range(count):
        rng = world.generator(seed, "test", index)
        yield world.pretraining_scene(rng), rng


def test_the_held_out_kinds_are_balanced():
    assert len(set(world.HELD_OUT)) == 24
    patterns, colours, shapes = (Counter(values) for values in zip(*world.HELD_OUT, strict=True))
    assert set(patterns.values()) == {6}
    assert set(patterns) == set(world.PATTERNS)
    assert set(colours.values()) == set(shapes.values()) == {3}
    assert [kind.name for kind in world.HELD_OUT] == sorted(kind.name for kind in world.HELD_OUT)


def test_pretraining_never_shows_a_held_out_kind_but_every_other_one():
    drawn = {scene.kind for scene, _ in scenes(5000)}
    assert drawn.isdisjoint(world.HELD_OUT)
    assert len(drawn) == 4 * 8 * 8 - 24


def test_captions_claim_only_what_the_scene_shows():
    lengths, claimed = set(), Counter()
    for scene, rng in scenes(3000):
        words = re.findall(r"[a-z]+", world.caption(scene, rng))
        lengths.add(len(words))
        assert scene.kind.shape in words
        for field, part, value in (CLAIMS[word] for word in words if word in CLAIMS):
            truth = getattr(scene, field)
            assert (truth if part is None else truth[part]) == value, (words, scene)
            claimed[field] += 1
    assert set(claimed) == {"kind", "size", "place", "background", "quality", "cluttered"}
    assert len(lengths) > 10


@pytest.mark.parametrize("style", ["pretraining", *world.STYLES])
def test_a_picture_depends_on_its_seed_purpose_and_index_alone(style):
    drawn_as = world.STYLES.get(style, world.PRETRAINING)

    def picture(seed, purpose, index):
        rng = world.generator(seed, purpose, index)
        image = world.draw(world.random_scene(KIND, rng), drawn_as, rng)
        assert (image.size, image.mode) == ((64, 64), "RGB")
        return image.tobytes()

    forwards = [picture(1, "test", index) for index in range(4)]
    backwards = [picture(1, "test", index) for index in (3, 2, 1, 0)]
    assert forwards == backwards[::-1]
    assert len({*forwards, picture(2, "test", 0), picture(1, "train", 0)}) == 6


@pytest.mark.parametrize("shape", world.SHAPES)
def test_every_shape_covers_pixels_of_its_colour(shape):
    quiet = world.Style(hue_jitter=0, cast_jitter=0, contrast=(1, 1), noise=(0, 0))
    scene = world.Scene(world.Kind("plain", "blue", shape), "large", "middle", "white", False, "clear")
    pixels = np.asarray(world.draw(scene, quiet, world.generator(0, "shape", 0))).astype(int)
    covered = (np.abs(pixels - world.COLOURS["blue"]).max(axis=2) < 12).mean()
    assert 0.08 < covered < 0.6


def test_an_unknown_shape_is_refused():
    scene = world.Scene(world.Kind("plain", "red", "spiral"), "large", "middle", "white", False, "clear")
    with pytest.raises(ValueError, match="spiral"):
        world.draw(scene, world.PRETRAINING, world.generator(0, "shape", 0))
