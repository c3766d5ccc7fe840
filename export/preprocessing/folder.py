"""What a transformers folder says of its inputs, all kinds together, and how a bundle gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from adaptrt.export.preprocessing.audio_settings import read_audio
from adaptrt.export.preprocessing.image_settings import read_image
from adaptrt.export.preprocessing.text_settings import TOKENIZER, read_text
from adaptrt.export.staging import write_preprocessing
from adaptrt.runtime.bundle.bundle_file import (
    AudioPreprocessing,
    Axis,
    Bundle,
    ImagePreprocessing,
    TensorSpec,
    TextPreprocessing,
)
from adaptrt.runtime.bundle.preprocessing_schema import TOKENIZER_ROLE

_TEXT_NAMES = {
    "ids": ("input_ids", "tokens"),
    "mask": ("attention_mask", "mask"),
    "types": ("token_type_ids",),
}
"""Names of inputs by what they are: transformers', then those of this package's own text networks."""
_IMAGE = "pixel_values"
_AUDIO = ("input_features", "input_values")


@dataclass(frozen=True)
class Preprocessing:
    """How a network's inputs are made.

    Attributes:
        images: By the names of inputs.
        text: Of texts; None where there are none.
        audio: Of recordings; None where there are none.
        files: What they need: role → name and content.
    """

    images: Mapping[str, ImagePreprocessing] = field(default_factory=dict)
    text: TextPreprocessing | None = None
    audio: AudioPreprocessing | None = None
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)


def read_preprocessing(folder: Path, inputs: Sequence[TensorSpec], axes: Mapping[str, Axis]) -> Preprocessing:
    """Read how a transformers folder makes the inputs of a network.

    Some classes of tokenizers (MPNet's, XLM-R's, T5's, CamemBERT's in transformers 5) take the words of
    ``tokenizer.json`` and nothing else from it. A folder that ``AutoTokenizer.from_pretrained(A).save_pretrained(B)``
    wrote says what they do; one that was downloaded need not.

    Args:
        folder: With ``tokenizer.json``, ``preprocessor_config.json`` and the like, as ``save_pretrained`` writes them.
        inputs: Of the network; only what they take is read.
        axes: How long their named axes may be.

    Raises:
        ExportError: A file is damaged, of an unknown type, or makes something else than the inputs.
    """
    specs = {spec.name: spec for spec in inputs}
    images = {}
    for spec in inputs:
        picture = spec.dtype.startswith("float") and len(spec.shape) == 4
        if picture and (spec.name == _IMAGE or spec.shape[1] in (1, 3)):
            recipe = read_image(folder, spec)
            if recipe is not None:
                images[spec.name] = recipe
    audio = None
    heard = next((specs[name] for name in _AUDIO if name in specs), None)
    if heard is not None:
        mask = next((name for name in _TEXT_NAMES["mask"] if name in specs and len(heard.shape) == 2), None)
        audio = read_audio(folder, heard.name, mask)
    named = {what: next((name for name in names if name in specs), None) for what, names in _TEXT_NAMES.items()}
    filled = {what: name for what, name in named.items() if name is not None}
    text, files = None, {}
    if "ids" in filled:
        ids = specs[filled["ids"]]
        size = ids.shape[-1]
        longest = size if isinstance(size, int) else axes[size].longest if size in axes else None
        read = read_text(folder, filled, ids, longest)
        if read is not None:
            text, files = read[0], {TOKENIZER_ROLE: (TOKENIZER, read[1])}
    return Preprocessing(images, text, audio, files)


def add_preprocessing(bundle: Bundle, preprocessing: Preprocessing, folder: Path) -> Bundle:
    """Write what the preprocessing needs into a bundle's folder; the bundle that declares it.

    Args:
        bundle: Whose inputs it was read for.
        preprocessing: How they are made.
        folder: Of the bundle.

    Raises:
        ExportError: A file cannot be written.
    """
    written = [write_preprocessing(folder, name, data, role) for role, (name, data) in preprocessing.files.items()]
    roles = {entry.role for entry in written}
    inputs = [
        msgspec.structs.replace(spec, preprocessing=preprocessing.images.get(spec.name, spec.preprocessing))
        for spec in bundle.inputs
    ]
    return msgspec.structs.replace(
        bundle,
        inputs=inputs,
        text=preprocessing.text or bundle.text,
        audio=preprocessing.audio or bundle.audio,
        files=[*(entry for entry in bundle.files if entry.role not in roles), *written],
    )
