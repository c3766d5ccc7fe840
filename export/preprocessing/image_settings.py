"""Image processors of transformers, as a bundle declares what they do.

Those that run on torchvision (``...Fast``) are declared as their twins on Pillow, whose pixels differ by a step or two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from adaptrt.export.errors import ExportError
from adaptrt.export.preprocessing.settings import PREPROCESSOR, convert, model_type, read_processor
from adaptrt.runtime.bundle.bundle_file import ImagePreprocessing, TensorSpec
from adaptrt.runtime.bundle.expectations import Invalid
from adaptrt.runtime.bundle.preprocessing_validation import check_image

Size = int | list[int] | dict[str, int | None]

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers."""
_STANDARD = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_BILINEAR, _BICUBIC = 2, 3
_WARPED_FROM = 384
"""ConvNeXT: pictures of that many pixels and more are stretched, smaller ones cropped."""
_WHITE = [255]


@dataclass(frozen=True)
class _Processor:
    """What a type of image processor does where its file leaves a key out.

    Attributes:
        size: Of resizing; a number is a square, or the shorter edge.
        square: Which of both a number is.
        crop: Edge of the square that is cropped; None: the type crops none unless told.
        normalizes: Whether it brings values to mean and deviation; None: whatever its file says.
        flips: Whether it gives blue first.
        warps: Whether it is ConvNeXT's, which crops by a share.
    """

    size: int
    square: bool = True
    crop: int | None = None
    resample: int = _BICUBIC
    mean: tuple[float, ...] = _STANDARD
    std: tuple[float, ...] = _STANDARD
    normalizes: bool | None = None
    flips: bool = False
    warps: bool = False


PROCESSORS = {
    "BeitImageProcessor": _Processor(224),
    "BitImageProcessor": _Processor(224, square=False, crop=224, mean=_OPENAI[0], std=_OPENAI[1]),
    "BlipImageProcessor": _Processor(384, mean=_OPENAI[0], std=_OPENAI[1]),
    "CLIPImageProcessor": _Processor(224, square=False, crop=224, mean=_OPENAI[0], std=_OPENAI[1]),
    "ChineseCLIPImageProcessor": _Processor(224, square=False, crop=224, mean=_OPENAI[0], std=_OPENAI[1]),
    "ConvNextImageProcessor": _Processor(384, square=False, warps=True),
    "DeiTImageProcessor": _Processor(256, crop=224),
    "MobileNetV1ImageProcessor": _Processor(256, square=False, crop=224, resample=_BILINEAR),
    "MobileNetV2ImageProcessor": _Processor(256, square=False, crop=224, resample=_BILINEAR),
    "MobileViTImageProcessor": _Processor(224, square=False, crop=256, normalizes=False, flips=True),
    "PvtImageProcessor": _Processor(224, mean=_IMAGENET[0], std=_IMAGENET[1]),
    "SiglipImageProcessor": _Processor(224, square=False),
    "ViTImageProcessor": _Processor(224, resample=_BILINEAR),
}
"""By type. SigLIP's default is a square although its numbers are edges: its files name height and width."""

_OF_MODELS = {
    "beit": "BeitImageProcessor", "bit": "BitImageProcessor", "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor", "convnext": "ConvNextImageProcessor",
    "convnextv2": "ConvNextImageProcessor", "deit": "DeiTImageProcessor", "dinov2": "BitImageProcessor",
    "dinov2_with_registers": "BitImageProcessor", "regnet": "ConvNextImageProcessor",
    "resnet": "ConvNextImageProcessor",
    "siglip": "SiglipImageProcessor", "siglip_vision_model": "SiglipImageProcessor", "swin": "ViTImageProcessor",
    "vit": "ViTImageProcessor",
}  # fmt: skip
"""Where the file names no type, as old ones do not."""


class _Settings(msgspec.Struct):
    do_resize: bool = True
    size: Size | None = None
    resample: int | None = None
    do_center_crop: bool | None = None
    crop_size: Size | None = None
    crop_pct: float = 224 / 256
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool | None = None
    image_mean: float | list[float] | None = None
    image_std: float | list[float] | None = None
    do_flip_channel_order: bool | None = None
    do_pad: bool = False
    default_to_square: bool | None = None


def read_image(folder: Path, spec: TensorSpec) -> ImagePreprocessing | None:
    """How a folder's image processor makes pictures.

    Args:
        folder: Of the model.
        spec: The input, float ``[batch, channels, height, width]``.

    Returns:
        None where the folder has no image processor.

    Raises:
        ExportError: Its type is unknown, it does what a bundle cannot declare, or its pictures are no input.
    """
    settings = read_processor(folder, "image_processor")
    if settings is None or (name := _type(folder, settings)) is None:
        return None
    recipe = _recipe(folder, name, convert(folder, settings, _Settings), spec)
    where = f"{folder / PREPROCESSOR}"
    try:
        check_image(name, recipe)
    except Invalid as error:
        raise ExportError(f"{where}: {error}") from None
    wanted = [recipe.channels, recipe.height, recipe.width]
    if any(isinstance(size, int) and size != got for size, got in zip(spec.shape[1:], wanted, strict=True)):
        raise ExportError(
            f"{where}: {name} makes pictures of {wanted}, expected {spec.shape[1:]}, as input {spec.name!r} takes; "
            "mend size or crop_size there"
        )
    return recipe


def _type(folder: Path, settings: dict[str, Any]) -> str | None:
    """The row of ``PROCESSORS``; None where the settings are of something else than pictures."""
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if name is None:
        return _OF_MODELS.get(model_type(folder) or "")
    name = str(name).removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name not in PROCESSORS:
        raise ExportError(
            f"{folder / PREPROCESSOR} is of a {name}, expected one of {', '.join(sorted(PROCESSORS))}; "
            "export without it and feed arrays"
        )
    return name


def _recipe(folder: Path, name: str, given: _Settings, spec: TensorSpec) -> ImagePreprocessing:
    usual = PROCESSORS[name]
    square = usual.square if given.default_to_square is None else given.default_to_square
    default: Size = usual.size if name != "SiglipImageProcessor" else [usual.size, usual.size]
    size = _named(default if given.size is None else given.size, square)
    crop = _named(usual.crop or usual.size if given.crop_size is None else given.crop_size, True)
    crops = usual.crop is not None if given.do_center_crop is None else given.do_center_crop
    resize, edges = ("none", []) if not given.do_resize else _resize(folder, name, size)
    if usual.warps and given.do_resize and resize == "shortest_edge":
        (edge,) = edges
        if not crops:
            crop = {"height": edge, "width": edge}
        if edge >= _WARPED_FROM:
            resize, edges = "stretch", [edge, edge]
        else:
            edges = [int(edge / given.crop_pct)]
            crops = _same_crop(folder, name, crop, edge)
    if given.do_pad or (not crops and resize != "stretch"):
        raise ExportError(
            f"{folder / PREPROCESSOR}: {name} makes pictures of several sizes (do_resize {given.do_resize}, size "
            f"{size}, do_center_crop {crops}, do_pad {given.do_pad}), expected one; give it a height and width, or "
            "a crop_size"
        )
    height, width = _height_and_width(folder, name, crop) if crops else (edges[0], edges[1])
    channels = spec.shape[1] if isinstance(spec.shape[1], int) else 3
    resample = usual.resample if given.resample is None else given.resample
    if resample not in _FILTERS:
        raise ExportError(f"{folder / PREPROCESSOR}: resample {resample}, expected 0 to 5, as Pillow has them; mend it")
    normalizes = given.do_normalize is not False if usual.normalizes is None else usual.normalizes
    flips = usual.flips if given.do_flip_channel_order is None else given.do_flip_channel_order
    return ImagePreprocessing(
        channels=channels,
        height=height,
        width=width,
        scale=given.rescale_factor if given.do_rescale else 1.0,
        mean=_values(given.image_mean, usual.mean) if normalizes else [0.0],
        std=_values(given.image_std, usual.std) if normalizes else [1.0],
        background=_WHITE,
        resize=resize,
        size=edges,
        resample=_FILTERS[resample],
        order="bgr" if flips and channels == 3 else "rgb",
    )


def _resize(folder: Path, name: str, size: dict[str, int]) -> tuple[str, list[int]]:
    if size.keys() == {"height", "width"}:
        return "stretch", [size["height"], size["width"]]
    if size.keys() == {"shortest_edge"}:
        return "shortest_edge", [size["shortest_edge"]]
    raise ExportError(
        f"{folder / PREPROCESSOR}: {name} has size {size}, expected height and width, or shortest_edge; mend it"
    )


def _height_and_width(folder: Path, name: str, size: dict[str, int]) -> tuple[int, int]:
    if size.keys() != {"height", "width"}:
        raise ExportError(f"{folder / PREPROCESSOR}: {name} has crop_size {size}, expected height and width; mend it")
    return size["height"], size["width"]


def _same_crop(folder: Path, name: str, crop: dict[str, int], edge: int) -> bool:
    """ConvNeXT crops to its size; another crop after that could only be declared where it is the same."""
    if crop != {"height": edge, "width": edge}:
        raise ExportError(
            f"{folder / PREPROCESSOR}: {name} crops to {edge} and again to {crop}, expected one crop; "
            "set do_center_crop to false"
        )
    return True


def _named(size: Size, square: bool) -> dict[str, int]:
    if isinstance(size, dict):
        return {key: value for key, value in size.items() if value is not None}
    if isinstance(size, list):
        return dict(zip(("height", "width"), size, strict=False))
    return {"height": size, "width": size} if square else {"shortest_edge": size}


def _values(given: float | list[float] | None, usual: tuple[float, ...]) -> list[float]:
    if given is None:
        return list(usual)
    return [given] if isinstance(given, float) else given
