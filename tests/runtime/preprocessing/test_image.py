"""Pictures as a bundle's inputs. Files of every kind are read in tests/cli/test_images.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.runtime import InputError, load
from adaptrt.runtime.bundle.bundle_file import ImagePreprocessing, TensorSpec
from adaptrt.runtime.preprocessing.image import normalise, preprocess_images, read_picture


def spec_of(recipe, dtype="float32"):
    return TensorSpec("x", dtype, ["batch", recipe.channels, recipe.height, recipe.width], recipe)


def raw(height, width, channels=3, **keys):
    """Pixels as they are."""
    return ImagePreprocessing(channels, height, width, scale=1.0, **keys)


Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: install adaptrt[image]")

FIXTURES = Path(__file__).parents[1] / "fixtures"
NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("fixture", ["exported", "format_1/exported"])
def test_a_loaded_model_runs_pictures(fixture, tmp_path):
    model = load(FIXTURES / fixture, threads=1)
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    got = model.preprocess.images([tmp_path / "a.png", str(tmp_path / "a.png"), NOISE, Image.fromarray(NOISE)])
    (array,) = got.values()
    recipe = model.bundle.inputs[0].preprocessing
    assert array.shape == (4, 1, recipe.height, recipe.width) and array.dtype == np.float32 and got.laid_over == 0
    size = recipe.width, recipe.height
    grey = np.asarray(Image.fromarray(NOISE).convert("L").resize(size, Image.Resampling.BILINEAR))
    assert np.array_equal(array[:, 0], np.stack([(grey / 255).astype(np.float32)] * 4))
    assert len(model.run(got).outputs["logits"]) == 4


def test_files_arrays_and_pictures_are_the_same():
    picture = Image.fromarray(NOISE)
    (got,) = preprocess_images([picture, NOISE], spec_of(raw(5, 7))).values()
    assert np.array_equal(got, np.stack([NOISE.transpose(2, 0, 1)] * 2))
    (got,) = preprocess_images([NOISE[..., 0], NOISE[..., :1]], spec_of(raw(5, 7, 1))).values()
    assert np.array_equal(got, np.stack([NOISE[None, ..., 0]] * 2))
    clear = np.concatenate([NOISE, np.full((5, 7, 1), 0, np.uint8)], 2)
    got = preprocess_images([clear, NOISE], spec_of(raw(5, 7, background=[9])))
    assert (got["x"][0] == 9).all() and got.laid_over == 1
    assert (preprocess_images([clear], spec_of(raw(5, 7)), (1, 2, 3))["x"][0, :, 0, 0] == [1, 2, 3]).all()


def test_no_pictures():
    got = preprocess_images([], spec_of(raw(5, 7), "float16"))["x"]
    assert got.shape == (0, 3, 5, 7) and got.dtype == np.float16


def test_a_picture_is_left_as_it_was():
    picture = Image.new("P", (4, 4))
    picture.putpalette([7, 8, 9] * 256)
    picture.info["transparency"] = 1
    for _ in range(2):
        preprocess_images([picture], spec_of(raw(4, 4)))
        assert picture.mode == "P" and picture.info["transparency"] == 1


def test_the_order_of_channels():
    (got,) = preprocess_images([NOISE], spec_of(raw(5, 7, order="bgr", mean=[1.0, 2.0, 3.0]))).values()
    assert np.array_equal(got[0], NOISE.transpose(2, 0, 1)[::-1] - np.array([1, 2, 3], np.float32)[:, None, None])


@pytest.mark.parametrize(
    ("given", "keys", "size"),
    [
        ((10, 30), {"resize": "shortest_edge", "size": [5]}, (5, 15)),
        ((30, 10), {"resize": "shortest_edge", "size": [7]}, (21, 7)),
        ((10, 33), {"resize": "shortest_edge", "size": [7]}, (7, 23)),
        ((10, 30), {"size": [9, 8]}, (9, 8)),
        ((10, 30), {}, (6, 4)),
        ((10, 30), {"resize": "none"}, (10, 30)),
    ],
)
def test_the_size_before_the_crop(given, keys, size):
    """What is cut out of the middle, and what is put around: told by a picture that is white."""
    white = np.full((*given, 3), 255, np.uint8)
    pixels = read_picture(white, raw(6, 4, **keys)).pixels
    assert pixels.shape == (6, 4, 3)
    rows, columns = (pixels[:, :, 0] > 0).any(1).sum(), (pixels[:, :, 0] > 0).any(0).sum()
    assert (rows, columns) == (min(size[0], 6), min(size[1], 4))


def test_the_middle():
    given = np.arange(35, dtype=np.uint8).reshape(5, 7)
    cut = read_picture(given, raw(2, 4, 1, resize="none")).pixels[..., 0]
    assert np.array_equal(cut, given[1:3, 1:5])
    padded = read_picture(given, raw(8, 8, 1, resize="none")).pixels[..., 0]
    assert np.array_equal(padded[2:7, 1:], given) and padded.sum() == given.sum()


def test_a_line_of_pixels_that_would_become_huge():
    line = np.zeros((1, 3_000, 3), np.uint8)
    with pytest.raises(InputError, match="picture 0 has 3000 x 1 pixels and would become 672000 x 224, expected"):
        preprocess_images([line], spec_of(raw(224, 224, resize="shortest_edge", size=[224])))


def test_values_are_rounded_as_declared():
    recipe = ImagePreprocessing(3, 1, 256, mean=[0.48145466, 0.4578275, 0.4], std=[0.26862954, 0.26130258, 0.3])
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[None, None, :, None], 3, 3)
    scaled = (pixels * np.float64(1 / 255)).astype(np.float32)
    expected = (scaled - np.array(recipe.mean, np.float32)) / np.array(recipe.std, np.float32)
    assert np.array_equal(normalise(pixels, recipe), expected.transpose(0, 3, 1, 2))


WRONG = {
    "fractions": np.zeros((4, 4, 3), np.float32),
    "five channels": np.zeros((4, 4, 5), np.uint8),
    "a batch": np.zeros((1, 4, 4, 3), np.uint8),
    "nothing": np.zeros((0, 4), np.uint8),
    "a number": 3,
    "None": None,
}


@pytest.mark.parametrize("source", WRONG.values(), ids=WRONG)
def test_no_picture(source):
    with pytest.raises(
        InputError, match="picture 1: got .*, expected a path, a picture of Pillow's, or uint8"
    ) as caught:
        preprocess_images([NOISE, source], spec_of(raw(5, 7)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sources", ["a.png", b"a.png", None, 3])
def test_no_list(sources):
    with pytest.raises(InputError, match=r"expected a list of them; pass \[picture\] for one"):
        preprocess_images(sources, spec_of(raw(5, 7)))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match=r"no file '.*gone\.png', expected a picture"):
        preprocess_images([tmp_path / "gone.png"], spec_of(raw(5, 7)))
    Image.fromarray(NOISE).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"cannot read '.*cut\.png' as an image .*, expected PNG") as caught:
        preprocess_images([NOISE, tmp_path / "cut.png"], spec_of(raw(5, 7)))
    assert "\n" not in str(caught.value)


def test_a_bundle_without_pictures(tiny):
    with pytest.raises(InputError, match="got pictures, expected arrays: this bundle's inputs are 'x'"):
        load(tiny, threads=1).preprocess.images([NOISE])


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from(["stretch", "shortest_edge", "none"]),
    st.sampled_from(["nearest", "bilinear", "lanczos"]),
)
def test_every_picture_fits(given, wanted, resize, resample):
    size = {"shortest_edge": [9]}.get(resize, [])
    pixels = np.random.default_rng(0).integers(0, 256, (*given, 3), dtype=np.uint8)
    recipe = raw(*wanted, resize=resize, size=size, resample=resample)
    got = preprocess_images([pixels, pixels[:1]], spec_of(recipe))["x"]
    assert got.shape == (2, 3, *wanted) and got.min() >= 0 and got.max() <= 255
    assert np.array_equal(got[:1], preprocess_images([pixels], spec_of(recipe))["x"])
