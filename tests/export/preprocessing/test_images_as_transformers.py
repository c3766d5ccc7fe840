"""Pictures come out of the runtime bit for bit as out of transformers' image processors on Pillow."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from adaptrt.export.errors import ExportError
from adaptrt.export.preprocessing.folder import read_preprocessing
from adaptrt.export.preprocessing.image_settings import PROCESSORS
from adaptrt.runtime.bundle.bundle_file import TensorSpec
from adaptrt.runtime.preprocessing.image import preprocess_images

pytest.importorskip("transformers", reason="transformers is not installed: install adaptrt[dev]")

pytestmark = pytest.mark.slow("imports transformers")

SIZES = [(7, 5), (33, 47), (64, 64), (225, 301), (300, 129), (1, 40)]
"""Height and width of pictures."""
FILTERS = range(6)


def processor(name: str, **settings: Any) -> Any:
    """One of transformers' processors on Pillow."""
    short = name.removesuffix("ImageProcessor")
    folders = {"ChineseCLIP": "chinese_clip", "MobileNetV1": "mobilenet_v1", "MobileNetV2": "mobilenet_v2"}
    module = folders.get(short, short.lower())
    found = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(found, f"{name}Pil")(**settings)


def recipe_of(made: Any, folder: Path, height: int | str = "height", width: int | str = "width") -> TensorSpec:
    """The input that a processor's saved settings declare."""
    made.save_pretrained(folder)
    spec = TensorSpec("pixel_values", "float32", ["batch", 3, height, width])
    read = read_preprocessing(folder, [spec], {})
    return TensorSpec(spec.name, spec.dtype, spec.shape, read.images["pixel_values"])


def picture(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Random pixels, with structure that filters see."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (*size, 4), dtype=np.uint8)
    rows, columns = np.indices(size)
    noise[..., 0] = (rows * 7 + columns * 3) % 256
    image = Image.fromarray(noise)
    if mode == "P":
        return image.convert("RGB").quantize(16)
    return image if mode == "RGBA" else image.convert(mode)


def same(made: Any, spec: TensorSpec, image: Image.Image, given: Any = None) -> None:
    expected = np.asarray(made(given if given is not None else image, return_tensors="np")["pixel_values"])
    (got,) = preprocess_images([image], spec).values()
    assert got.dtype == np.float32 and got.shape == expected.shape
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("name", PROCESSORS)
def test_as_each_type_stands(tmp_path: Path, name: str) -> None:
    made = processor(name)
    spec = recipe_of(made, tmp_path)
    for seed, size in enumerate(SIZES):
        same(made, spec, picture(size, seed=seed))


def test_another_setting_is_noticed(tmp_path: Path) -> None:
    """The comparison can fail: another filter, edge, mean or order of channels gives other bits."""
    made = processor("CLIPImageProcessor", size=40, crop_size=32)
    spec = recipe_of(made, tmp_path)
    same(made, spec, picture((50, 77)))
    others: list[dict[str, Any]] = [
        {"resample": "lanczos"}, {"size": [41]}, {"mean": [0.4814547, 0.4578275, 0.40821073]}, {"order": "bgr"},
        {"scale": 0.0039216},
    ]  # fmt: skip
    for other in others:
        changed = msgspec.structs.replace(spec.preprocessing, **other)
        with pytest.raises(AssertionError):
            same(made, msgspec.structs.replace(spec, preprocessing=changed), picture((50, 77)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
@pytest.mark.parametrize("name", ["CLIPImageProcessor", "SiglipImageProcessor"])
def test_pixels_of_other_modes(tmp_path: Path, name: str, mode: str) -> None:
    made = processor(name)
    spec = recipe_of(made, tmp_path)
    for seed, size in enumerate(SIZES[:3]):
        same(made, spec, picture(size, mode, seed))


def test_files_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    from transformers.image_utils import load_image

    made = processor("CLIPImageProcessor")
    spec = recipe_of(made, tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise
    picture((33, 47)).save(tmp_path / "turned.jpg", exif=exif)
    picture((33, 47), "P").save(tmp_path / "a.png")
    for file in ("turned.jpg", "a.png"):  # of what is not opaque load_image drops the alpha, the processor does not
        path = tmp_path / file
        expected = made(load_image(str(path)), return_tensors="np")["pixel_values"]
        assert np.array_equal(preprocess_images([path], spec)["pixel_values"], expected)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("name", ["ViTImageProcessor", "BitImageProcessor"])
def test_every_filter(tmp_path: Path, name: str, resample: int) -> None:
    made = processor(name, resample=resample)
    spec = recipe_of(made, tmp_path)
    same(made, spec, picture((50, 77)))
    same(made, spec, picture((300, 260)))


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "a size of its own": ("ViTImageProcessor", {"size": {"height": 17, "width": 40}}),
    "a number that is a square": ("ViTImageProcessor", {"size": 21}),
    "a number that is an edge": ("CLIPImageProcessor", {"size": 21, "crop_size": 20}),
    "a crop that is larger": ("DeiTImageProcessor", {"size": 20, "crop_size": {"height": 31, "width": 24}}),
    "a crop that is larger one way": ("CLIPImageProcessor", {"size": 25, "crop_size": {"height": 30, "width": 11}}),
    "odd crops": ("CLIPImageProcessor", {"size": 30, "crop_size": {"height": 13, "width": 28}}),
    "a crop alone": ("CLIPImageProcessor", {"do_resize": False, "crop_size": 32}),
    "no crop": ("DeiTImageProcessor", {"do_center_crop": False}),
    "pixels as they are": ("ViTImageProcessor", {"do_rescale": False}),
    "from 0 to 1": ("ViTImageProcessor", {"do_normalize": False}),
    "another factor": ("SiglipImageProcessor", {"rescale_factor": 1 / 127.5}),
    "means of its own": (
        "SiglipImageProcessor",
        {"image_mean": [0.1, 0.2, 0.7], "image_std": [0.3, 1.5, 0.01]},
    ),
    "one mean": ("ViTImageProcessor", {"image_mean": 0.4, "image_std": 0.3}),
    "ConvNeXT, cropped": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "ConvNeXT, another share": ("ConvNextImageProcessor", {"size": {"shortest_edge": 100}, "crop_pct": 0.95}),
    "RGB of MobileViT": ("MobileViTImageProcessor", {"do_flip_channel_order": False}),
}


@pytest.mark.parametrize(("name", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_settings(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    made = processor(name, **settings)
    spec = recipe_of(made, tmp_path)
    for seed, size in enumerate(SIZES[1:5]):
        same(made, spec, picture(size, seed=seed))


def test_a_batch_is_its_pictures(tmp_path: Path) -> None:
    made = processor("CLIPImageProcessor")
    spec = recipe_of(made, tmp_path)
    images = [picture(size, seed=seed) for seed, size in enumerate(SIZES)]
    got = preprocess_images(images, spec)["pixel_values"]
    assert np.array_equal(got, made(images, return_tensors="np")["pixel_values"])


def test_a_processor_saved_with_its_tokenizer(tmp_path: Path) -> None:
    made = processor("CLIPImageProcessor", size=40, crop_size=32)
    recipe = recipe_of(made, tmp_path)
    content = (tmp_path / "preprocessor_config.json").read_text()
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(f'{{"image_processor": {content}}}')
    assert read_preprocessing(tmp_path, [TensorSpec("pixel_values", "float32", ["batch", 3, 32, 32])], {}).images == {
        "pixel_values": recipe.preprocessing
    }


def test_pictures_of_another_size_than_the_input(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"makes pictures of \[3, 224, 224\], expected \[3, 32, 32\]"):
        recipe_of(processor("ViTImageProcessor"), tmp_path, 32, 32)
