"""A small world of generated pictures and captions.

Every picture shows one object: a *kind* (pattern, colour, shape) of some size at some place before some background,
perhaps among clutter, perhaps noisy or blurry. A caption mentions a few of these attributes, in varied wording.

`HELD_OUT` kinds never occur in pre-training (`pretraining_scene`), though each of their attributes does. They are the
classes of the demo dataset, and are drawn in other styles (`STYLES`) than the pre-training pictures: the domain gap.

A picture depends only on its scene, its style and its random generator. `generator(seed, purpose, index)` makes one
generator per picture, so neither call order nor the number of processes matters.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

IMAGE_SIZE = 64
_SUPERSAMPLING = 2
_CANVAS = IMAGE_SIZE * _SUPERSAMPLING

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 220, 60),
    "green": (50, 160, 70),
    "blue": (50, 90, 210),
    "purple": (130, 60, 170),
    "pink": (240, 130, 180),
    "brown": (125, 80, 45),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
PATTERNS = {
    "plain": "without a pattern",
    "striped": "with stripes",
    "dotted": "with dots",
    "checkered": "with checks",
}
SIZES = {"small": (11.0, 14.0), "medium": (15.0, 19.0), "large": (20.0, 24.0)}  # radius, pixels
PLACES = {"middle": (0, 0), "top": (0, -1), "bottom": (0, 1), "left": (-1, 0), "right": (1, 0)}
BACKGROUNDS = {"white": (236, 236, 236), "grey": (140, 140, 140), "black": (28, 28, 28), "beige": (215, 200, 170)}
QUALITIES = ("clear", "noisy", "blurry")


class Kind(NamedTuple):
    """The kind of an object. Its name is a class name of the demo dataset."""

    pattern: str
    colour: str
    shape: str

    @property
    def name(self) -> str:
        return " ".join(self)


@dataclass(frozen=True)
class Scene:
    """All the attributes of one picture, independent of each other."""

    kind: Kind
    size: str
    place: str
    background: str
    cluttered: bool
    quality: str


@dataclass(frozen=True)
class Style:
    """How scenes are drawn. The defaults are the style of the pre-training pictures.

    Colours are RGB out of 255; lengths are pixels of the 64 x 64 picture.
    """

    rotation: float = 20.0  # degrees, either way
    squash: float = 0.1  # the object shrinks along one axis by up to this fraction
    pattern_scale: tuple[float, float] = (0.9, 1.2)  # repeats of the pattern, relative
    accent: tuple[float, float] = (0.85, 1.0)  # strength of the pattern's second tone against the object's colour
    fade: float = 0.0  # colours move this far towards `fade_to`
    fade_to: tuple[int, int, int] = (128, 128, 128)
    hue_jitter: float = 12.0  # standard deviation of each channel of the object's colour
    texture: float = 6.0  # amplitude of cloudy texture over the background
    coloured_background: float = 0.0  # 0: the named background; 1: any muted colour
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)  # colour of the light: factors of the channels
    cast_jitter: float = 0.03  # standard deviation of the cast from picture to picture
    contrast: tuple[float, float] = (0.9, 1.0)
    blur: tuple[float, float] = (0.0, 0.0)  # radius
    noise: tuple[float, float] = (2.0, 6.0)  # standard deviation
    clutter: int = 0  # scraps in addition to a cluttered scene's
    distractors: int = 0  # small objects of other kinds around the object
    occluders: int = 0  # bars in front of it
    line_art: bool = False  # coloured pencil on paper: outlines and hatching only
    outline: float = 0.0  # width of a dark contour
    paper: bool = False  # always a white background
    posterise: int = 0  # levels per channel; 0: all of them


PRETRAINING = Style()

# The gap was tuned until the demo was neither trivial nor hopeless for encoders that were already trained. Few shots
# teach mostly the light, which moves every colour towards blue. The pattern's finer and fainter marks, the wider turns
# and the softer picture stay hard.
_DEMO = Style(
    rotation=25, squash=0.2, pattern_scale=(1.25, 1.5), accent=(0.5, 0.8), fade=0.38, fade_to=(90, 110, 200),
    hue_jitter=8, texture=8, coloured_background=0.1, cast_jitter=0.02, contrast=(0.85, 0.95), blur=(0.0, 0.3),
    noise=(3, 6), clutter=1,
)  # fmt: skip
STYLES = {
    "demo": _DEMO,
    "demo_v2": replace(_DEMO, rotation=30, fade=0.42, texture=12, noise=(5, 10)),
    "demo_sketch": Style(
        rotation=30, squash=0.2, line_art=True, outline=2.0, paper=True, texture=3, fade=0.1, fade_to=(90, 90, 90)
    ),
    "demo_a": replace(_DEMO, clutter=6, distractors=2, occluders=2),
    "demo_r": Style(
        rotation=30, squash=0.2, accent=(0.4, 0.8), fade=0.25, fade_to=(255, 255, 255), hue_jitter=18, outline=1.6,
        coloured_background=0.4, contrast=(0.9, 1.2), posterise=5,
    ),
}  # fmt: skip


def _held_out() -> tuple[Kind, ...]:
    """Return three kinds per colour and shape, six per pattern, no two of the same colour and shape; sorted by name."""
    patterns, colours, shapes = list(PATTERNS), list(COLOURS), list(SHAPES)
    steps = ((0, 0), (3, 1), (5, 2))  # (shape, pattern) relative to the colour's number
    return tuple(sorted(
        Kind(patterns[(number + pattern) % 4], colour, shapes[(number + shape) % 8])
        for number, colour in enumerate(colours)
        for shape, pattern in steps
    ))  # fmt: skip


HELD_OUT = _held_out()
SEEN = tuple(
    kind
    for kind in (Kind(p, c, s) for p in PATTERNS for c in COLOURS for s in SHAPES)
    if kind not in HELD_OUT
)  # fmt: skip


def generator(seed: int, purpose: str, index: int) -> Generator:
    """Return the random generator of picture `index` of `purpose`, independent of every other picture's."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), index])


def random_scene(kind: Kind, rng: Generator) -> Scene:
    """Return a scene that shows `kind`, with all else at random."""
    return Scene(
        kind=kind,
        size=_pick(rng, list(SIZES)),
        place=_pick(rng, list(PLACES)),
        background=_pick(rng, list(BACKGROUNDS)),
        cluttered=bool(rng.random() < 0.3),
        quality=_pick(rng, QUALITIES),
    )


def pretraining_scene(rng: Generator) -> Scene:
    """Return a scene of a kind that is not held out."""
    return random_scene(_pick(rng, SEEN), rng)


# ------------------------------------------------------------------------------------------------------------ captions

# {a}: the object with its article; {}: without. {quality}: "", "noisy " or "blurry ".
_WORDINGS = (
    "a {quality}photo of {a}", "a {quality}photo of {a}", "a {quality}photo of {a}", "a {quality}picture of {a}",
    "an image of {a}", "a {quality}photo of the {}", "a {quality}picture of the {}", "a {quality}image of {a}",
    "a photo of one {}", "a photo of my {}", "a close-up photo of {a}", "{a} in a photo", "itap of {a}",
    "a drawing of {a}", "art of the {}", "a rendering of {a}",
    "there is {a} here", "this is {a}", "i see {a}", "look at the {}", "the {}", "{a}", "{a}", "{}", "{}",
)  # fmt: skip


def caption(scene: Scene, rng: Generator) -> str:
    """Return a true sentence that mentions the object's shape and some other attributes of the scene."""
    thing = _object_phrase(scene, rng)
    article = "an" if thing[0] in "aeiou" else "a"
    quality = f"{scene.quality} " if scene.quality != "clear" and rng.random() < 0.5 else ""
    text = _pick(rng, _WORDINGS).format(thing, a=f"{article} {thing}", quality=quality)
    if rng.random() < 0.25:
        text += _pick(rng, (" on a {} background", " before {}", " on {}")).format(scene.background)
    if rng.random() < 0.15:
        where = (" in the {}",) if scene.place == "middle" else (" at the {}", " on the {} side")
        text += _pick(rng, where).format(scene.place)
    if scene.cluttered and rng.random() < 0.3:
        text += _pick(rng, (" among clutter", ", cluttered"))
    return text + ("." if rng.random() < 0.6 else "")


def _object_phrase(scene: Scene, rng: Generator) -> str:
    """Return words for the object: `large striped red star`, `star with stripes` or `red star`."""
    pattern, colour, shape = scene.kind
    named = rng.random()
    pattern = pattern if named < 0.85 else ""
    colour = colour if named < 0.7 or named > 0.8 else ""
    words = [pattern, colour, shape]
    order = rng.random()
    if pattern and order < 0.15:
        words = [colour, shape, PATTERNS[pattern]]
    elif pattern and colour and order < 0.25:
        words = [colour, pattern, shape]
    if scene.size != "medium" and rng.random() < 0.3:
        words.insert(0, scene.size)
    return " ".join(word for word in words if word)


# ------------------------------------------------------------------------------------------------------------- drawing


def draw(scene: Scene, style: Style, rng: Generator) -> Image.Image:
    """Return the 64 x 64 RGB picture of `scene` in `style`."""
    pixels = _background(scene, style, rng)
    radius = rng.uniform(*SIZES[scene.size])
    centre = _centre(scene.place, radius, rng)
    for _ in range(style.distractors):
        _add_distractor(pixels, centre, radius, style, rng)
    _add_object(pixels, scene.kind, centre, radius, style, rng)
    if style.occluders:
        pixels = _add_scraps(pixels, style.occluders, rng, width=(4, 7), length=(40, 90), around=centre)
    return _photograph(pixels, scene.quality, style, rng)


def _background(scene: Scene, style: Style, rng: Generator) -> np.ndarray:
    """Return the background with shading, texture and scraps; float array (64, 64, 3)."""
    base = np.array(BACKGROUNDS["white" if style.paper else scene.background], dtype=np.float32)
    other = rng.uniform(50, 220) + rng.uniform(-45, 45, size=3)
    base = base + style.coloured_background * (other - base)
    slope = rng.uniform(-12, 12, size=2)
    ramp = np.linspace(-1, 1, IMAGE_SIZE, dtype=np.float32)
    shade = slope[0] * ramp[:, None] + slope[1] * ramp[None, :]
    clouds = Image.fromarray(rng.normal(size=(10, 10)).astype(np.float32)).resize((IMAGE_SIZE,) * 2, Image.BICUBIC)
    shade = shade + style.texture * np.asarray(clouds)
    pixels = base + shade[:, :, None]
    scraps = style.clutter + (int(rng.integers(4, 9)) if scene.cluttered else 0)
    return _add_scraps(pixels, scraps, rng, width=(1, 3), length=(4, 22)) if scraps else pixels


def _add_scraps(
    pixels: np.ndarray,
    count: int,
    rng: Generator,
    *,
    width: tuple[int, int],
    length: tuple[int, int],
    around: np.ndarray | None = None,
) -> np.ndarray:
    """Return `pixels` with `count` muted bars drawn over them, anywhere or near `around`."""
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(count):
        middle = rng.uniform(0, IMAGE_SIZE, size=2) if around is None else around + rng.uniform(-12, 12, size=2)
        angle, reach = rng.uniform(0, np.pi), rng.uniform(*length) / 2
        step = reach * np.array([np.cos(angle), np.sin(angle)])
        grey = rng.uniform(40, 210) + rng.uniform(-25, 25, size=3)
        ends = [tuple(middle - step), tuple(middle + step)]
        fill = tuple(int(value) for value in np.clip(grey, 0, 255))
        pen.line(ends, fill=fill, width=int(rng.integers(*width, endpoint=True)))
    return np.asarray(image).astype(np.float32)


def _centre(place: str, radius: float, rng: Generator) -> np.ndarray:
    """Return the object's centre (x, y) for `place`, with the object almost wholly inside the picture."""
    room = max(IMAGE_SIZE / 2 - radius, 6.0)
    offset = np.array(PLACES[place]) * rng.uniform(0.6, 0.95) * room
    return IMAGE_SIZE / 2 + offset + rng.uniform(-2.5, 2.5, size=2)


def _add_distractor(pixels: np.ndarray, centre: np.ndarray, radius: float, style: Style, rng: Generator) -> None:
    """Draw a small object of a random kind beside the one at `centre`, at most half hidden by it."""
    kind = Kind(_pick(rng, list(PATTERNS)), _pick(rng, list(COLOURS)), _pick(rng, SHAPES))
    angle = rng.uniform(0, 2 * np.pi)
    place = centre + (radius + 7) * np.array([np.cos(angle), np.sin(angle)])
    _add_object(pixels, kind, np.clip(place, 4, IMAGE_SIZE - 4), rng.uniform(5, 8), style, rng)


def _add_object(
    pixels: np.ndarray, kind: Kind, centre: np.ndarray, radius: float, style: Style, rng: Generator
) -> None:
    """Draw an object of `kind` into `pixels`, in place."""
    colour = np.array(COLOURS[kind.colour], dtype=np.float32)
    colour = colour + style.fade * (np.array(style.fade_to) - colour) + rng.normal(0, style.hue_jitter, size=3)
    tone = np.full(3, 245.0 if rng.random() < 0.5 else 20.0)
    accent = colour + rng.uniform(*style.accent) * (tone - colour)
    angle = np.deg2rad(rng.uniform(-style.rotation, style.rotation))
    stretch = np.array([1.0, 1.0 - rng.uniform(0, style.squash)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    mask, contour = _silhouette(kind.shape, centre, radius * (turn * stretch), style)
    marks = _pattern(kind.pattern, centre, radius, angle, style, rng)
    if style.line_art:
        _blend(pixels, np.maximum(contour, mask * marks), colour)
        return
    _blend(pixels, mask, colour)
    _blend(pixels, mask * marks, accent)
    if style.outline:
        _blend(pixels, contour, 0.35 * colour)


def _blend(pixels: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    pixels += alpha[:, :, None] * (colour - pixels)


def _silhouette(shape: str, centre: np.ndarray, transform: np.ndarray, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """Return the coverage (0 to 1) of the object and of its contour, each (64, 64)."""
    mask, contour = Image.new("L", (_CANVAS, _CANVAS)), Image.new("L", (_CANVAS, _CANVAS))
    fill, pen = ImageDraw.Draw(mask), ImageDraw.Draw(contour)
    width = max(1, round((style.outline or 1.0) * _SUPERSAMPLING))
    for path, inside in zip(_unit_paths(shape), (255, 0), strict=False):  # the second path is a hole
        points = [tuple(p) for p in ((path @ transform.T + centre) * _SUPERSAMPLING)]
        fill.polygon(points, fill=inside)
        if style.line_art or style.outline:
            pen.line([*points, points[0]], fill=255, width=width, joint="curve")
    return _coverage(mask), _coverage(contour)


def _coverage(canvas: Image.Image) -> np.ndarray:
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32) / 255


@cache
def _unit_paths(shape: str) -> tuple[np.ndarray, ...]:
    """Return the outline of a shape of radius about 1, y downwards; a second path is a hole. Each is (points, 2)."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    round_ = np.stack([np.sin(turn), -np.cos(turn)], axis=1)
    if shape == "circle":
        return (0.95 * round_,)
    if shape == "ring":
        return (round_, 0.5 * round_)
    if shape == "square":
        return (0.85 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),)
    if shape == "triangle":
        return (np.array([(0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),)
    if shape == "star":
        spokes = np.where(np.arange(10) % 2, 0.45, 1.1)[:, None]
        return (spokes * round_[::4],)
    if shape == "cross":
        corner, arm = 0.38, 1.0
        quarter = np.array([(corner, -arm), (corner, -corner), (arm, -corner)])
        spin = np.array([[0, -1], [1, 0]])  # a quarter turn, y downwards
        return (np.concatenate([quarter @ np.linalg.matrix_power(spin, k).T for k in range(4)]),)
    if shape == "heart":
        x = 16 * np.sin(turn) ** 3
        y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        return (np.stack([x, -y - 2.5], axis=1) / 16,)
    if shape == "moon":
        outer, inner = np.linspace(0.35, 2 * np.pi - 0.35, 30), np.linspace(2 * np.pi - 0.5, 0.5, 24)
        bow = np.stack([np.cos(outer), np.sin(outer)], axis=1)
        bay = np.stack([0.45 + 0.72 * np.cos(inner), 0.72 * np.sin(inner)], axis=1)
        return (np.concatenate([bow, bay]),)
    raise ValueError(f"unknown shape {shape!r}")


def _pattern(pattern: str, centre: np.ndarray, radius: float, angle: float, style: Style, rng: Generator) -> np.ndarray:
    """Return the coverage (0 to 1) of the pattern's second tone over the whole picture, (64, 64)."""
    if pattern == "plain":
        return np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    repeats = 2.4 * rng.uniform(*style.pattern_scale) / radius / _SUPERSAMPLING
    angle = angle + rng.uniform(-0.5, 0.5)
    axis = np.arange(_CANVAS, dtype=np.float32) + 0.5
    x, y = axis[None, :] - centre[0] * _SUPERSAMPLING, axis[:, None] - centre[1] * _SUPERSAMPLING
    shift = rng.uniform(0, 1, size=2)
    u = (np.cos(angle) * x + np.sin(angle) * y) * repeats + shift[0]
    v = (-np.sin(angle) * x + np.cos(angle) * y) * repeats + shift[1]
    u_fraction, v_fraction = u - np.floor(u), v - np.floor(v)
    thin = style.line_art
    if pattern == "striped":
        marks = u_fraction < (0.22 if thin else 0.5)
    elif pattern == "dotted":
        marks = (u_fraction - 0.5) ** 2 + (v_fraction - 0.5) ** 2 < (0.22 if thin else 0.32) ** 2
    elif thin:
        marks = (u_fraction < 0.18) | (v_fraction < 0.18)
    else:
        marks = (np.floor(u) + np.floor(v)) % 2 == 0
    return _coverage(Image.fromarray(marks.astype(np.uint8) * 255))


def _photograph(pixels: np.ndarray, quality: str, style: Style, rng: Generator) -> Image.Image:
    """Apply light, lens and sensor: cast, contrast, blur and noise of `style` and of the scene's quality."""
    light = np.array(style.cast) + rng.normal(0, style.cast_jitter, size=3)
    contrast = rng.uniform(*style.contrast)
    pixels = np.clip((pixels - 128) * contrast + 128, 0, 255) * light
    if style.posterise:
        step = 255 / (style.posterise - 1)
        pixels = np.round(pixels / step) * step
    blur = rng.uniform(*style.blur) + (rng.uniform(0.6, 1.1) if quality == "blurry" else 0.0)
    if blur > 0:
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(blur))).astype(np.float32)
    noise = rng.uniform(*style.noise) + (rng.uniform(8, 18) if quality == "noisy" else 0.0)
    pixels = pixels + noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _pick(rng: Generator, choices):
    """Return one of `choices` with equal probability. (rng.choice would convert them to an array, and is slow.)"""
    return choices[int(rng.integers(len(choices)))]
