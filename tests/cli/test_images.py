from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adaptrt.cli.background import Background, LaidOver, declared_background, parse_background
from adaptrt.cli.errors import CommandError
from adaptrt.cli.images import read_images, read_picture
from adaptrt.runtime.bundle.bundle_file import ImagePreprocessing, TensorSpec
from adaptrt.runtime.preprocessing.image import normalise

GREY = ImagePreprocessing(channels=1, height=8, width=8)
COLOUR = ImagePreprocessing(channels=3, height=2, width=3, mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.5])


def _spec(recipe):
    return TensorSpec("x", "float32", ["batch", recipe.channels, recipe.height, recipe.width], recipe)


def read_pixels(path, recipe, background=None):
    """Pixels of a picture that must be opaque where no background is given, and must not be where one is."""
    picture = read_picture(path, recipe, background or declared_background(recipe))
    assert picture.laid_over == (background is not None)
    return picture.pixels


def _save(path, array, **settings):
    Image.fromarray(array).save(path, **settings)
    return path


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)


def test_normalised_by_the_formula(tmp_path, noise):
    got, laid_over = read_images([_save(tmp_path / "a.png", noise)], _spec(COLOUR))
    assert laid_over is None
    expected = (noise / 255 - np.array(COLOUR.mean)) / np.array(COLOUR.std)
    assert got.dtype == np.float32 and got.shape == (1, 3, 2, 3)
    np.testing.assert_allclose(got[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert got.flags.c_contiguous


def test_several_are_one_batch_in_order(tmp_path):
    paths = [_save(tmp_path / f"{v}.png", np.full((8, 8), v, np.uint8)) for v in (255, 0, 51)]
    got, _ = read_images(paths, _spec(GREY))
    np.testing.assert_allclose(got[:, 0, 0, 0], [1.0, 0.0, 0.2], atol=1e-6)


def test_resized_and_turned_upright(tmp_path):
    wide = np.zeros((16, 32), np.uint8)
    wide[:, 16:] = 255
    assert read_pixels(_save(tmp_path / "wide.png", wide), GREY)[:, :, 0].mean(0)[[0, -1]].tolist() == [
        0,
        255,
    ]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise
    turned = read_pixels(_save(tmp_path / "turned.png", wide, exif=exif), GREY)[:, :, 0]
    assert turned.mean(1)[[0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
@pytest.mark.parametrize("recipe", [GREY, COLOUR], ids=["grey", "colour"])
def test_modes(tmp_path, mode, recipe):
    suffix = "tif" if mode == "CMYK" else "png"
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (5, 5), (255, 255, 255)).convert(mode).save(path)
    pixels = read_pixels(path, recipe)
    assert pixels.shape == (recipe.height, recipe.width, recipe.channels)
    assert pixels.min() == 255


def _png(depth, colour, rows, transparent=None):
    """A PNG of such samples and so many bits each, ``[H, W, C]``, which Pillow does not write."""
    rows = np.asarray(rows)
    height, width = rows.shape[:2]
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        digits = ["".join(f"{sample:0{depth}b}" for sample in row.ravel()) for row in rows]
        packed = [int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in digits]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if transparent is not None:
        chunks.append((b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed))), (b"IEND", b"")]
    written = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF"), ("LAB", "TIFF")],
)
@pytest.mark.parametrize("recipe", [GREY, COLOUR], ids=["grey", "colour"])
def test_pixels_of_another_kind(tmp_path, mode, kind, recipe):
    Image.new(mode, (4, 4)).save(tmp_path / "a.img", kind)
    with pytest.raises(CommandError, match=f"a.img' has pixels of mode {mode[0]}.*, expected 8 bits .*; convert"):
        read_pixels(tmp_path / "a.img", recipe)


def test_one_transparent_colour_of_16_bits(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(_png(16, 0, [[0, 65535]], (0,)))
    with pytest.raises(CommandError, match="mode I"):
        read_pixels(path, GREY)
    path.write_bytes(_png(16, 2, [[[1, 2, 3], [258, 2, 3]]], (1, 2, 3)))
    with pytest.raises(CommandError, match="one colour that is transparent, expected 8 bits"):
        read_pixels(path, GREY)


RGBA = np.random.default_rng(3).integers(0, 256, (8, 8, 4), dtype=np.uint8)
RGBA[::3, :, 3], RGBA[1::3, :, 3] = 0, 255
GREYS = RGBA[..., [0, 0, 0, 3]]
SHARP = np.where(RGBA < 128, 0, 255).astype(np.uint8)  # every pixel opaque or not there, 8 colours
SHARP[SHARP[..., 3] == 0, :3] = 64
BLACK_GONE = np.repeat(np.arange(8, dtype=np.uint8)[None, :, None] // 2 * 85, 8, 0)[..., [0] * 4]
BLACK_GONE[..., 3] = np.where(BLACK_GONE[..., 0] == 0, 0, 255)  # 4 levels of grey, of which black is transparent


def _pillow(kind, array, mode="RGBA", **settings):
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


def _indexed(array):
    """As a palette, and the entry of what is transparent."""
    colours, indices = np.unique(array.reshape(-1, 4), axis=0, return_inverse=True)
    image = Image.fromarray(indices.reshape(8, 8).astype(np.uint8), "P")
    image.putpalette(colours[:, :3].tobytes())
    return image, int(np.flatnonzero(colours[:, 3] == 0).item())


def _palette(kind, array, **settings):
    image, gone = _indexed(array)
    buffer = io.BytesIO()
    image.save(buffer, kind, transparency=gone, **settings)
    return buffer.getvalue()


def _palette_with_alpha():
    image = _indexed(SHARP)[0].convert("PA")
    image.putalpha(Image.fromarray(SHARP[..., 3]))
    assert image.mode == "PA"
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    return buffer.getvalue()


def _palette_of_alphas():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), "P")
    image.putpalette(RGBA[..., :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=RGBA[..., 3].tobytes())
    return buffer.getvalue()


def _premultiplied_grey():
    made = np.round(GREYS[..., [0, 3]] * [1, 0] * (GREYS[..., 3:] / 255)) + GREYS[..., [0, 3]] * [0, 1]
    buffer = io.BytesIO()
    Image.fromarray(made.astype(np.uint8), "LA").save(buffer, "TIFF")
    tag = struct.Struct("<HHII")
    straight, multiplied = tag.pack(338, 3, 1, 2), tag.pack(338, 3, 1, 1)
    assert buffer.getvalue().count(straight) == 1
    return buffer.getvalue().replace(straight, multiplied)


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise
    return _pillow("PNG", np.rot90(RGBA).copy(), exif=exif)


def _animated():
    other = Image.new("RGBA", (8, 8), (1, 2, 3, 255))
    return _palette("GIF", SHARP, save_all=True, append_images=[other])


TRANSPARENT = {
    "RGBA": (lambda: _pillow("PNG", RGBA), RGBA),
    "RGBA turned": (_turned, RGBA),
    "RGBA of WebP": (lambda: _pillow("WEBP", RGBA, lossless=True, exact=True), RGBA),
    "RGBA of TIFF": (lambda: _pillow("TIFF", RGBA), RGBA),
    "RGBA of 16 bits": (lambda: _png(16, 6, RGBA * np.uint16(257)), RGBA),
    "LA": (lambda: _pillow("PNG", GREYS, "LA"), GREYS),
    "LA of 16 bits": (lambda: _png(16, 4, RGBA[..., [0, 3]] * np.uint16(257)), GREYS),
    "La": (_premultiplied_grey, GREYS),
    "PA": (_palette_with_alpha, SHARP),
    "P, alphas": (_palette_of_alphas, RGBA),
    "P, one colour": (lambda: _palette("PNG", SHARP), SHARP),
    "GIF, first frame": (_animated, SHARP),
    "L, one level": (lambda: _pillow("PNG", BLACK_GONE[..., 0], "L", transparency=0), BLACK_GONE),
    "L of 2 bits": (lambda: _png(2, 0, BLACK_GONE[..., :1] // 85, (0,)), BLACK_GONE),
    "L of 2 bits, inverse": (lambda: _png(2, 0, 3 - BLACK_GONE[..., :1] // 85, (3,)), BLACK_GONE ^ [255, 255, 255, 0]),
    "L of 4 bits": (lambda: _png(4, 0, 15 - BLACK_GONE[..., :1] // 17, (15,)), BLACK_GONE ^ [255, 255, 255, 0]),
    "RGB, one colour": (lambda: _pillow("PNG", BLACK_GONE[..., :3], "RGB", transparency=(0, 0, 0)), BLACK_GONE),
    "1 bit, black": (
        lambda: _png(1, 0, SHARP[..., :1] // 255, (0,)),
        np.where(SHARP[..., :1] == 255, 255, 0)[..., [0] * 4],
    ),
    "1 bit": (lambda: _png(1, 0, SHARP[..., :1] // 255 ^ 1, (1,)), np.where(SHARP[..., :1] == 255, [0, 0, 0, 255], 0)),
}


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (255, 128, 7)], ids=["black", "white", "orange"])
@pytest.mark.parametrize("form", TRANSPARENT)
def test_laid_over_a_ground(tmp_path, form, ground):
    content, (colour, alpha) = TRANSPARENT[form][0](), np.split(TRANSPARENT[form][1], [3], axis=2)
    (tmp_path / "a.img").write_bytes(content)
    flat = colour * (alpha / 255) + np.array(ground) * (1 - alpha / 255)
    grey, rgb = ImagePreprocessing(channels=1, height=8, width=8), ImagePreprocessing(channels=3, height=8, width=8)
    got = read_pixels(tmp_path / "a.img", rgb, Background(ground))
    np.testing.assert_allclose(got, flat, atol=2 if form == "La" else 0.51)
    got = read_pixels(tmp_path / "a.img", grey, Background(ground))
    np.testing.assert_allclose(got[..., 0], flat @ [0.299, 0.587, 0.114], atol=2 if form == "La" else 1.1)


def test_laid_over_before_it_shrinks(tmp_path):
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[..., :3] = 255  # under what is transparent there is white, which must not leak into the ground
    picture[:, ::2] = [200, 200, 200, 255]
    flat = np.where(picture[..., 3:] == 255, picture[..., :3], 0).astype(np.uint8)
    got = read_pixels(_save(tmp_path / "a.png", picture), GREY, Background((0, 0, 0)))
    np.testing.assert_array_equal(got, read_pixels(_save(tmp_path / "flat.png", flat), GREY))


def test_opaque_alpha_changes_nothing(tmp_path):
    opaque = RGBA | np.array([0, 0, 0, 255], np.uint8)
    expected = read_pixels(_save(tmp_path / "rgb.png", RGBA[..., :3]), COLOUR)
    for mode, kind in (("RGBA", "PNG"), ("RGBA", "TIFF")):
        (tmp_path / "a.img").write_bytes(_pillow(kind, opaque, mode))
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.img", COLOUR), expected)
    unused = Image.fromarray(RGBA[..., 0] | 1, "P")
    unused.putpalette(np.random.default_rng(0).bytes(768))
    unused.save(tmp_path / "all.png")
    unused.save(tmp_path / "unused.png", transparency=0)
    for recipe in (GREY, COLOUR):
        expected = read_pixels(tmp_path / "all.png", recipe)
        np.testing.assert_array_equal(read_pixels(tmp_path / "unused.png", recipe), expected)


def test_other_colour_spaces(tmp_path):
    recipe = ImagePreprocessing(channels=3, height=4, width=4)
    Image.new("CMYK", (4, 4), (10, 20, 30, 40)).save(tmp_path / "a.tif")
    expected = [255 * (1 - ink / 255) * (1 - 40 / 255) for ink in (10, 20, 30)]
    np.testing.assert_allclose(read_pixels(tmp_path / "a.tif", recipe)[0, 0], expected, atol=1)
    Image.new("YCbCr", (4, 4), (100, 90, 160)).save(tmp_path / "a.jpg", quality=100)
    blue, red = 90 - 128, 160 - 128
    expected = [100 + 1.402 * red, 100 - 0.344136 * blue - 0.714136 * red, 100 + 1.772 * blue]
    np.testing.assert_allclose(read_pixels(tmp_path / "a.jpg", recipe)[0, 0], expected, atol=2)
    np.testing.assert_allclose(read_pixels(tmp_path / "a.jpg", GREY)[0, 0], 100, atol=1)
    (tmp_path / "a.png").write_bytes(_png(1, 0, RGBA[..., :1] & 1))
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", GREY), (RGBA[..., :1] & 1) * 255)
    (tmp_path / "a.png").write_bytes(_png(16, 2, RGBA[..., :3] * np.uint16(257)))
    eight = ImagePreprocessing(channels=3, height=8, width=8)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", eight), RGBA[..., :3])


def test_what_was_laid_over_what(tmp_path):
    opaque, clear = _save(tmp_path / "a.png", RGBA[..., :3]), _save(tmp_path / "b.png", RGBA)
    _, laid_over = read_images([opaque, clear, clear], _spec(GREY))
    assert laid_over == LaidOver(2, 3, Background((0, 0, 0), declared=True))
    assert str(laid_over) == "2 of 3 pictures not opaque, laid over black as the bundle declares"
    _, laid_over = read_images([clear], _spec(GREY), Background((1, 1, 1)))
    assert str(laid_over) == "1 of 1 picture not opaque, laid over grey 1 as --background says"
    recipe = ImagePreprocessing(channels=3, height=8, width=8, background=[255, 128, 0])
    nothing = _save(tmp_path / "c.png", np.zeros((8, 8, 4), np.uint8))
    pixels, laid_over = read_images([nothing], _spec(recipe))
    assert "laid over #ff8000 as" in str(laid_over)
    np.testing.assert_allclose(pixels[0, :, 0, 0], [1.0, 128 / 255, 0.0], atol=1e-6)
    pixels, _ = read_images([nothing], _spec(ImagePreprocessing(channels=1, height=8, width=8, background=[51])))
    np.testing.assert_allclose(pixels, 0.2, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "colour", "name"),
    [
        ("black", (0, 0, 0), "black"),
        (" White ", (255, 255, 255), "white"),
        ("0", (0, 0, 0), "black"),
        ("255", (255, 255, 255), "white"),
        ("128", (128, 128, 128), "grey 128"),
        ("#FF8000", (255, 128, 0), "#ff8000"),
        ("#070707", (7, 7, 7), "grey 7"),
    ],
)
def test_backgrounds(text, colour, name):
    assert parse_background(text).colour == colour and str(parse_background(text)) == name


@pytest.mark.parametrize("text", ["", "256", "-1", "1.5", "red", "#fff", "#ff80000", "#gg0000", "ff8000", "٣", "0x10"])
def test_no_backgrounds(text):
    with pytest.raises(CommandError, match="got background .*, expected black, white, a grey level"):
        parse_background(text)


def test_no_image(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(CommandError, match="as an image"):
        read_pixels(tmp_path / "a.png", GREY)
    with pytest.raises(CommandError, match="no file"):
        read_pixels(tmp_path / "b.png", GREY)
    with pytest.raises(CommandError, match="no file"):
        read_pixels(tmp_path, GREY)


def test_picture_of_absurd_size(tmp_path, monkeypatch):
    path = _save(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(CommandError, match="exceeds limit"):
        read_pixels(path, GREY)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_pictures(tmp_path_factory, kind, data):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert read_picture(path, COLOUR, Background((0, 0, 0))).pixels.shape == (2, 3, 3)
    except CommandError as error:
        assert str(path) in str(error)


@given(
    scale=st.floats(1e-3, 1.0),
    mean=st.floats(-1, 1),
    std=st.floats(0.1, 2),
    pixel=st.integers(0, 255),
)
def test_formula(scale, mean, std, pixel):
    recipe = ImagePreprocessing(channels=1, height=1, width=1, scale=scale, mean=[mean], std=[std])
    got = normalise(np.full((1, 1, 1, 1), pixel, np.uint8), recipe)
    assert got.item() == pytest.approx((pixel * scale - mean) / std, rel=1e-4, abs=1e-4)
