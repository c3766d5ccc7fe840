from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adaptrt.cli.errors import CommandError
from adaptrt.cli.images import normalise, read_images, read_pixels
from adaptrt.runtime.bundle import ImagePreprocessing, TensorSpec

GREY = ImagePreprocessing(channels=1, height=8, width=8)
COLOUR = ImagePreprocessing(channels=3, height=2, width=3, mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.5])


def _spec(recipe):
    return TensorSpec("x", "float32", ["batch", recipe.channels, recipe.height, recipe.width], recipe)


def _save(path, array, **settings):
    Image.fromarray(array).save(path, **settings)
    return path


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)


def test_normalised_by_the_formula(tmp_path, noise):
    got = read_images([_save(tmp_path / "a.png", noise)], _spec(COLOUR))
    expected = (noise / 255 - np.array(COLOUR.mean)) / np.array(COLOUR.std)
    assert got.dtype == np.float32 and got.shape == (1, 3, 2, 3)
    np.testing.assert_allclose(got[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert got.flags.c_contiguous


def test_several_are_one_batch_in_order(tmp_path):
    paths = [_save(tmp_path / f"{v}.png", np.full((8, 8), v, np.uint8)) for v in (255, 0, 51)]
    got = read_images(paths, _spec(GREY))
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


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.float32)])
def test_pixels_of_more_than_8_bits(tmp_path, array):
    with pytest.raises(CommandError, match="8 bits"):
        read_pixels(_save(tmp_path / "deep.tif", array), GREY)


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
        assert read_pixels(path, COLOUR).shape == (2, 3, 3)
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
