"""Views of an image: bit-equal to torchvision's transforms on PIL images; random crops are reproducible."""

import random
import struct
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

from engine import images
from engine import transforms as module
from engine.features.views import training_views
from engine.images import inspect
from engine.preprocessing import Preprocessing
from engine.transforms import normalise, open_fast, open_rgb, render

SIZE = 32
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP = transforms.Compose(
    [
        transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(SIZE),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)
CLIPS = Preprocessing(SIZE, MEAN, STD)
BOTH = (open_rgb, open_fast)
SIZES = {"square": (50, 50), "landscape": (77, 41), "portrait": (45, 90), "small": (20, 13), "exact": (32, 32)}


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def draw(image, view, seed="demo/train/0"):
    return normalise(render(image, view, CLIPS, seed), CLIPS)


@pytest.fixture(params=["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "P with transparency", "GIF"])
def mode_file(request, tmp_path):
    """An image file of each mode in datasets."""
    image = noise(60, 47)
    if request.param == "CMYK":
        image.convert("CMYK").save(tmp_path / "image.jpg")
        return tmp_path / "image.jpg"
    path = tmp_path / "image.png"
    if request.param == "GIF":  # animated
        image.save(path, format="GIF", save_all=True, append_images=[noise(60, 47).rotate(180)])
    elif request.param == "I;16":
        values = np.random.default_rng(0).integers(0, 2**16, (47, 60), dtype=np.uint16)
        Image.fromarray(values).save(path)
    elif request.param == "P with transparency":
        image.convert("P").save(path, transparency=3)
    else:
        image.convert(request.param).save(path)
    return path


def in_rgb(path):
    """Convert an image file with PIL, which has no scale for 16-bit grey: its upper 8 bits are used."""
    with Image.open(path) as image:
        grey = Image.fromarray((np.asarray(image) // 256).astype(np.uint8)) if image.mode == "I;16" else image
        return grey.convert("RGB")


def test_every_mode_equals_torchvision(mode_file):
    expected = CLIP(in_rgb(mode_file))
    found = draw(open_rgb(mode_file), "none")
    assert found.dtype == torch.float32
    assert found.shape == (3, SIZE, SIZE)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_shape_equals_torchvision(size):
    image = noise(*size)
    assert torch.equal(draw(image, "none"), CLIP(image))
    assert torch.equal(draw(image, "flip"), CLIP(image).flip(-1))


def test_fast_decoding_is_close_in_every_mode(mode_file):
    expected = CLIP(in_rgb(mode_file))
    found = draw(open_fast(mode_file), "none")
    assert found.shape == (3, SIZE, SIZE)
    assert (found - expected).abs().max() < 0.12  # of noise, whose resampling overshoots
    assert (found - expected).abs().mean() < 0.01


def test_fast_decoding_of_photographs_is_off_by_a_grey_level_here_and_there(tmp_path):
    noise(9, 6).resize((500, 375), Image.Resampling.BICUBIC).save(tmp_path / "smooth.jpg")
    slow, fast = (render(decode(tmp_path / "smooth.jpg"), "none", Preprocessing(224), "").int() for decode in BOTH)
    assert (slow - fast).abs().max() <= 2
    assert 0 < (slow != fast).float().mean() < 0.02


def test_fast_decoding_draws_the_same_crops(tmp_path):
    noise(90, 50).save(tmp_path / "image.png")
    for seed in range(20):
        slow, fast = (draw(decode(tmp_path / "image.png"), "randomcrop_0", f"{seed}") for decode in BOTH)
        assert (slow - fast).abs().mean() < 0.01


def test_files_that_are_not_images_raise(tmp_path):
    noise(64, 64).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "empty.png"):
        for decode in BOTH:
            with pytest.raises(OSError, match=r"."):
                decode(tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("decode", BOTH)
def test_photographs_are_rotated_on_request(decode, ending, tmp_path):
    """By their EXIF orientation as PIL reads it; damaged EXIF data are ignored."""
    path, lossless = tmp_path / f"image.{ending}", {"quality": 100, "subsampling": 0, "lossless": True}
    upright = Image.fromarray(np.repeat(np.arange(80, dtype=np.uint8).reshape(8, 10, 1) * 3, 3, axis=2))
    turns = {3: [Image.ROTATE_180], 6: [Image.ROTATE_90], 7: [Image.TRANSVERSE], 8: [Image.ROTATE_270], 1: []}
    for orientation, (*turn,) in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright.transpose(*turn) if turn else upright
        stored.save(path, exif=exif, **lossless)
        for asked, expected in ((True, upright), (False, stored)):
            found = F.pil_to_tensor(image) if isinstance(image := decode(path, asked), Image.Image) else image
            assert found.shape == F.pil_to_tensor(expected).shape
            assert (found.int() - F.pil_to_tensor(expected).int()).abs().max() <= 3
    stored.save(path, exif=b"Exif\0\0 and nothing that makes sense", **lossless)
    assert F.get_image_size(decode(path, True)) == [10, 8]


@pytest.mark.parametrize("decode", BOTH)
def test_16_bit_grey_keeps_its_shades(decode, tmp_path):
    """In all PIL modes for them; PIL's own conversion is white from 256 on."""
    ramp = np.linspace(0, 2**16 - 1, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    Image.fromarray(ramp.astype(">u2")).save(tmp_path / "big_endian.tif")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "ramp.pgm")
    modes = set()
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as image:
            modes.add(image.mode)
        pixels = render(decode(path), "none", CLIPS, "")
        assert all(np.array_equal(channel, ramp // 256) for channel in pixels)
    assert modes == {"I;16", "I;16B", "I"}


@pytest.mark.parametrize("decode", BOTH)
@pytest.mark.parametrize(("largest", "depth"), [(2, 8), (255, 8), (256, 10), (4095, 12), (9000, 14), (65535, 16)])
def test_inspect_returns_the_smallest_sufficient_depth(largest, depth, decode, tmp_path):
    ramp = np.linspace(0, largest, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    for name, kind in (("a.png", np.uint16), ("b.tif", ">u2"), ("c.tif", np.int32)):
        Image.fromarray(ramp.astype(kind)).save(tmp_path / name)
        assert inspect(tmp_path / name) == depth
        pixels = render(decode(tmp_path / name, depth=depth), "none", CLIPS, "")
        assert all(np.array_equal(channel, ramp >> (depth - 8)) for channel in pixels)
        if depth > 8:
            with pytest.raises(ValueError, match=f"its values go up to {largest}, and the other images of its dataset"):
                decode(tmp_path / name, depth=8)
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "grey.png")
    assert inspect(tmp_path / "grey.png") is None


def png_of_16_bits(colours):
    """Return a PNG of colours, uint16 [height, width, 3], which PIL can read but not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    size = (*colours.shape[1::-1],)
    chunks = {b"IHDR": struct.pack(">2I5B", *size, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    framed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def tiff_of_16_bits(colours, order, deflate=False):
    """Return the same as a TIFF of byte order `<` or `>`; libtiff decodes it if it is deflated."""
    data = colours.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if deflate else data
    height, width, _ = colours.shape
    numbers = {256: width, 257: height, 259: 8 if deflate else 1, 262: 2, 273: 8, 277: 3, 278: height, 279: len(data)}
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    tags = [struct.pack(f"{order}2H2I", tag, 4, 1, number) for tag, number in numbers.items()]
    tags.insert(2, struct.pack(f"{order}2H2I", 258, 3, 3, 8 + len(data)))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data) + len(bits))
    return head + data + bits + struct.pack(f"{order}H", len(tags)) + b"".join(tags) + bytes(4)


@pytest.mark.parametrize("decode", BOTH)
@pytest.mark.parametrize("largest", [255, 4095, 65535])
def test_colours_of_16_bits_have_a_depth_too(largest, decode, tmp_path):
    colours = np.random.default_rng(0).integers(0, largest, (SIZE, SIZE, 3), endpoint=True).astype(np.uint16)
    colours[0, 0, 0] = largest
    written = {"a.png": png_of_16_bits(colours), "b.tif": tiff_of_16_bits(colours, "<")}
    written |= {"c.tif": tiff_of_16_bits(colours, ">"), "d.tif": tiff_of_16_bits(colours, ">", deflate=True)}
    depth = largest.bit_length()
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
        assert inspect(tmp_path / name) == depth
        pixels = render(decode(tmp_path / name, depth=depth), "none", CLIPS, "")
        assert np.array_equal(pixels.permute(1, 2, 0), colours >> (depth - 8))
        assert np.array_equal(np.asarray(open_rgb(tmp_path / name)), colours >> 8)
        if depth > 8:
            with pytest.raises(ValueError, match=f"its values go up to {largest}, and the other images of its dataset"):
                decode(tmp_path / name, depth=8)


TRANSPARENT = ("RGBA", "LA", "P", "RGB", "L", "I;16", "gif", "webp", "tif")


@pytest.mark.parametrize("decode", BOTH)
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_pixels_are_white(kind, decode, tmp_path):
    """In a black picture with a transparent rectangle, in every file format with transparency."""
    path = tmp_path / (f"image.{kind}" if kind.islower() else "image.png")
    alpha = np.full((SIZE, SIZE), 255, dtype=np.uint8)
    alpha[4:20, 8:] = 0
    image = Image.new("RGBA", (SIZE, SIZE))
    image.putalpha(Image.fromarray(alpha))
    key = {"P": 1, "gif": 1, "RGB": (9, 9, 9), "L": 9, "I;16": 999}.get(kind)
    if key is None:
        image.convert("RGBA" if kind.islower() else kind).save(path, **({"lossless": True} if kind == "webp" else {}))
    elif kind in ("P", "gif"):
        palette = Image.fromarray((alpha == 0).astype(np.uint8), mode="P")
        palette.putpalette([0, 0, 0, 200, 10, 10])
        palette.save(path, transparency=key)
    else:
        values = np.where(alpha[..., None] == 0, key, 0).astype(np.uint16 if kind == "I;16" else np.uint8)
        values = values if kind == "RGB" else values[..., 0]
        Image.fromarray(values).save(path, transparency=key)
    pixels = render(decode(path, background="white"), "none", CLIPS, "")
    assert torch.equal(pixels, torch.from_numpy(255 - alpha).expand(3, -1, -1))
    assert not torch.equal(render(decode(path), "none", CLIPS, ""), pixels)


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    Image.new("RGBA", (9, 2000), (200, 100, 0, 51)).save(tmp_path / "image.png")
    assert open_rgb(tmp_path / "image.png", background="white").getcolors() == [(18_000, (244, 224, 204))]


@pytest.mark.parametrize("decode", BOTH)
def test_pixels_without_a_scale_are_refused(decode, tmp_path):
    Image.fromarray(np.full((9, 9), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((9, 9), 1 << 20, dtype=np.int32)).save(tmp_path / "int.tif")
    for name in ("float.tif", "int.tif"):
        with pytest.raises(ValueError, match="save it with 8 bits"):
            decode(tmp_path / name)


@pytest.mark.parametrize("decode", BOTH)
def test_images_that_need_too_much_memory_are_refused(decode, tmp_path):
    """The size in the header decides: the file has no pixels."""
    Image.new("1", (20_000, 8)).save(tmp_path / "strip.png")
    content = bytearray((tmp_path / "strip.png").read_bytes())
    content[20:24] = (20_000).to_bytes(4)  # the height, in the first chunk, whose checksum follows
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / "large.png").write_bytes(content)
    with pytest.raises(OSError, match="more than 178,956,970 pixels, too many to decode; make it smaller"):
        decode(tmp_path / "large.png")
    Image.new("1", (20_000, 4)).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match="20000 x 4 pixels are too narrow a strip"):
        render(decode(tmp_path / "strip.png"), "none", Preprocessing(224), "")


@pytest.mark.parametrize("mode", ["squash", "longest"])
def test_squashed_or_padded_strips_are_allowed(mode):
    """Unless the intermediate image, with one side resized, is too large."""
    kind = Preprocessing(224, resize_mode=mode)
    for view in ("none", "randomcrop_0"):
        assert render(Image.new("RGB", (4, 20_000)), view, kind, "").shape == (3, 224, 224)
        with pytest.raises(ValueError, match="900000 x 1 pixels are too narrow a strip"):
            render(Image.new("RGB", (1, 900_000)), view, kind, "")


@pytest.mark.parametrize("ending", ["webp", "jp2"])
def test_memory_hungry_formats_may_have_half_the_pixels(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 50)
    for kind, error in (
        ("png", None),
        (ending, "more than 1,500 pixels, too many to decode of .*save it as JPEG or PN"),
    ):
        noise(60, 50).save(tmp_path / f"image.{kind}")
        for decode in BOTH:
            with pytest.raises(OSError, match=error) if error else nullcontext():
                decode(tmp_path / f"image.{kind}")


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_random_crop_is_a_crop_of_the_resized_image(size):
    image = noise(*size)
    resized = F.normalize(F.to_tensor(F.resize(image, SIZE, F.InterpolationMode.BICUBIC)), MEAN, STD)
    windows = resized.unfold(1, SIZE, 1).unfold(2, SIZE, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    places = set()
    for seed in range(20):
        crop = draw(image, "randomcrop_0", f"{seed}")
        same = [(window == crop).all() or (window.flip(-1) == crop).all() for window in windows]
        assert sum(same) == 1
        places.add(same.index(True))
    assert (len(places) > 5) == (len(windows) > 1)


@pytest.mark.parametrize("size", [(400, 400), (500, 400), (400, 900)], ids=["square", "landscape", "narrow"])
def test_a_random_crop_of_a_squashed_image_is_one_of_open_clips_training_crops(size):
    """At least 9/10 of the image, 3:4 to 4:3; if there is no such crop, the largest in the centre. The colours of the
    image encode the position of the crop."""
    width, height = size
    across, down = (np.linspace(0, 255, side) for side in size)
    shades = np.stack([*np.meshgrid(across, down), np.zeros((height, width))], axis=2)
    image, kind = Image.fromarray(shades.round().astype(np.uint8)), Preprocessing(64, resize_mode="squash")
    boxes, flips = [], 0
    for seed in range(60):
        crop = render(image, "randomcrop_0", kind, f"{seed}").double() / 255
        flipped = bool(crop[0, 0, 0] > crop[0, 0, -1])
        left, right = sorted((crop[0, :, 0].mean().item() * width, crop[0, :, -1].mean().item() * width))
        top, bottom = crop[1, 0].mean().item() * height, crop[1, -1].mean().item() * height
        boxes.append((left, top, (right - left) * 64 / 63, (bottom - top) * 64 / 63))
        flips += flipped
    assert 15 < flips < 45
    if size == (400, 900):
        assert np.allclose(boxes, [0, 900 / 2 - 400 / 0.75 / 2, 400, 400 / 0.75], atol=12)
        return
    assert all(0.86 < wide * high / width / height < 1.02 for _, _, wide, high in boxes)
    assert all(0.72 < wide / high < 1.37 for _, _, wide, high in boxes)
    spread = np.ptp(boxes, axis=0)
    assert (spread > 10).all()


def test_a_random_crop_of_a_squashed_image_uses_the_encoders_interpolation():
    """A crop of the whole 4:3 image has only one position."""
    image = noise(80, 60)
    for way in ("bicubic", "bilinear"):
        kind = Preprocessing(SIZE, interpolation=way, resize_mode="squash")
        whole = [render(image, view, kind, "") for view in ("none", "flip")]
        draws = [render(image, "randomcrop_0", kind, f"{seed}") for seed in range(20)]
        assert any(torch.equal(draw, same) for draw in draws for same in whole)


def test_a_random_crop_depends_on_its_seed_alone():
    image = noise(90, 50)
    draws = [draw(image, "randomcrop_0", f"demo/train/{k}/randomcrop_0") for k in range(10)]
    again = [draw(image, "randomcrop_7", f"demo/train/{k}/randomcrop_0") for k in range(10)]
    assert all(torch.equal(*pair) for pair in zip(draws, again, strict=True))
    assert len({crop.numpy().tobytes() for crop in draws}) > 5


def test_half_of_the_random_crops_are_flipped():
    image = Image.new("L", (SIZE, SIZE))
    image.paste(255, (0, 0, SIZE // 2, SIZE))  # left half white; as large as the crop, so there is one position
    image = image.convert("RGB")
    flipped = sum(bool(draw(image, "randomcrop_0", f"{seed}")[0, 0, 0] < 0) for seed in range(200))
    assert 75 < flipped < 125


def test_training_views():
    assert training_views("none", 0) == ["none"]
    assert training_views("flip", 1) == ["none", "flip"]
    assert training_views("randomcrop", 3) == ["none", "randomcrop_0", "randomcrop_1", "randomcrop_2"]
    assert training_views("randomresizedcrop", 2) == ["none", "randomresizedcrop_0", "randomresizedcrop_1"]


def test_a_random_resized_crop_is_torchvisions_given_the_same_draw(monkeypatch):
    """For encoders that crop and for those that resize both sides, of which the draws are the same."""
    boxes, image = [], noise(90, 70)
    whole = module._random_box
    monkeypatch.setattr(module, "_random_box", lambda *how: boxes.append(whole(*how)) or boxes[-1])
    for mode in ("shortest", "squash"):
        for seed in range(20):
            found = render(image, "randomresizedcrop_0", Preprocessing(SIZE, resize_mode=mode), f"{seed}")
            theirs = transforms.RandomResizedCrop(SIZE, interpolation=F.InterpolationMode.BICUBIC)
            monkeypatch.setattr(theirs, "get_params", lambda *_, box=boxes[-1]: box)
            wanted = F.pil_to_tensor(theirs(image))
            assert torch.equal(found, wanted) or torch.equal(found, wanted.flip(-1))
    assert boxes[:20] == boxes[20:]


def test_random_resized_crops_are_spread_as_torchvisions():
    """In place and size, half of them mirrored; a strip has one crop, the widest in the centre."""
    image, seeds = Image.new("RGB", (400, 300)), range(2000)
    boxes = torch.tensor([module._random_box(random.Random(seed), 300, 400, (0.08, 1)) for seed in seeds])
    torch.manual_seed(0)
    theirs = torch.tensor([transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in seeds])
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        found, wanted = (own.double().quantile(quantile, 0) for own in (boxes, theirs))
        assert torch.allclose(found, wanted, atol=16), quantile
    assert module._random_box(random.Random(0), 1000, 30, (0.08, 1)) == (480, 0, 40, 30)
    half = Image.new("RGB", (SIZE, SIZE))
    half.paste((255, 0, 0), (0, 0, SIZE // 2, SIZE))
    kind = Preprocessing(SIZE)
    reds = [render(half, "randomresizedcrop_0", kind, f"{seed}")[0].double().mean(0) for seed in range(300)]
    mirrored = [bool(red[0] < red[-1]) for red in reds if red[0] != red[-1]]
    assert 0.4 < sum(mirrored) / len(mirrored) < 0.6
