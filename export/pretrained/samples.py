"""A network's inputs from texts, pictures and recordings, made as the bundle will make them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.description import input_specs
from adaptrt.export.errors import ExportError
from adaptrt.export.preprocessing.folder import Preprocessing, add_preprocessing
from adaptrt.models.data.files import RawData
from adaptrt.models.data.samples import Samples
from adaptrt.models.data.split import DataError
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.bundle.bundle_file import FORMAT_VERSION, Axis, Bundle, Dense
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.preprocessing.preprocessor import Preprocessor

_AT_ONCE = {"text": 500, "image": 16, "audio": 4}
"""Items that are made inputs of together, by kind."""


@dataclass(frozen=True)
class Prepared:
    """Samples, and what became of the items that they were made of.

    Attributes:
        samples: Inputs by name.
        kept: Numbers of the items that are in them, in order.
        skipped: What was said of each item that could not be read.
        cut: How many were longer than the network takes.
    """

    samples: Samples
    kept: npt.NDArray[np.int64]
    skipped: tuple[str, ...]
    cut: int


def make_samples(
    network: StagedNetwork,
    raw: RawData,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    skip_broken: bool = False,
    progress: Callable[[float], None] = lambda _share: None,
) -> Prepared:
    """Make a network's inputs of what was read.

    Args:
        network: Whose inputs they are.
        raw: Texts, paths, or inputs ready made.
        preprocessing: How.
        folder: For memory maps of pictures and recordings, which may be larger than memory.
        skip_broken: Leave out what cannot be read, instead of refusing all.
        progress: Told the share that is done.

    Raises:
        DataError: An item cannot be read, none can, or ready inputs do not fit.
        ExportError: The network's folder does not say how such inputs are made.
    """
    if raw.arrays is not None:
        specs = {spec.name: spec for spec in network.input_specs()}
        arrays = {
            name: array.astype(specs[name].dtype, copy=False) if name in specs else array
            for name, array in raw.arrays.items()
        }
        return Prepared(Samples.of(network, arrays), np.arange(len(raw)), (), 0)
    bundle = _described(network)
    with tempfile.TemporaryDirectory(prefix="adaptrt-inputs-") as scratch:
        bundle = add_preprocessing(bundle, preprocessing, Path(scratch))
        make = maker_for(Preprocessor(bundle, Path(scratch)), raw.kind, bundle)
        text, padding = bundle.text, {}
        if text is not None:
            values = {"ids": text.padding_id, "types": text.padding_type}
            padding = {name: values.get(role, 0) for role, name in text.inputs.items()}
        return _made(network, raw, make, folder, padding, skip_broken, progress)


def _described(network: StagedNetwork) -> Bundle:
    """As much of a bundle as says what the inputs are."""
    axes = {name: Axis(*limits) for name, limits in network.axis_limits().items()}
    return Bundle(
        format_version=FORMAT_VERSION,
        name="inputs",
        producer="adaptrt",
        inputs=input_specs(network),
        outputs=[],
        stages=[],
        knobs=[],
        dense=Dense(1, 1),
        axes=axes,
    )


def maker_for(preprocessor: Preprocessor, kind: str, bundle: Bundle) -> Callable[[Sequence[Any]], Any]:
    """What makes a bundle's inputs of some items of a kind.

    Raises:
        ExportError: The bundle takes no such items.
    """
    has = {
        "text": bundle.text is not None,
        "image": any(spec.preprocessing is not None for spec in bundle.inputs),
        "audio": bundle.audio is not None,
    }
    if not has[kind]:
        kinds = [name for name, there in has.items() if there]
        raise ExportError(
            f"got data of kind {kind}, expected {' or '.join(kinds) or 'inputs ready made, in an .npz file'}, which "
            "the model takes; give such data"
        )
    makers: dict[str, Callable[[Any], Any]] = {
        "text": preprocessor.text,
        "image": preprocessor.images,
        "audio": preprocessor.audio,
    }
    return makers[kind]


def _made(
    network: StagedNetwork,
    raw: RawData,
    make: Callable[[Sequence[Any]], Any],
    folder: Path,
    padding: Mapping[str, int],
    skip_broken: bool,
    progress: Callable[[float], None],
) -> Prepared:
    at_once, store = _AT_ONCE[raw.kind], _Store(folder, len(raw), padding)
    kept: list[int] = []
    skipped: list[str] = []
    cut = 0
    for start in range(0, len(raw), at_once):
        places = list(range(start, min(start + at_once, len(raw))))
        try:
            made = make([raw.items[place] for place in places])
        except InputError as error:
            made, good = {}, []
            for place in places:  # one by one: which of them is it?
                said = _refusal(make, raw.items[place])
                if said is None:
                    good.append(place)
                else:
                    skipped.append(said)
            if not skip_broken or not skipped:
                raise DataError(f"{skipped[-1] if skipped else error}; mend it, or pass --skip-broken") from error
            places = good
            if places:
                made = make([raw.items[place] for place in places])
        if places:
            store.add(made)
            kept += places
            cut += made.cut
        progress((start + at_once) / len(raw))
    if not kept:
        raise DataError(f"got {len(raw)} items, none of which can be read ({skipped[0]}), expected some that can")
    return Prepared(Samples.of(network, store.arrays()), np.asarray(kept, np.int64), tuple(skipped), cut)


def _refusal(make: Callable[[Sequence[Any]], Any], item: object) -> str | None:
    """What is said of an item that cannot be read; None of one that can."""
    try:
        make([item])
    except InputError as error:
        return str(error)
    return None


class _Store:
    """Inputs as they are made: those of one size in memory maps, texts, which are padded together, in memory."""

    def __init__(self, folder: Path, most: int, padding: Mapping[str, int]) -> None:
        self._folder, self._most, self._padding, self._count = folder, most, padding, 0
        self._maps: dict[str, npt.NDArray[Any]] = {}
        self._ragged: dict[str, list[npt.NDArray[Any]]] = {}

    def add(self, made: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take in a batch."""
        for name, array in made.items():
            if array.dtype.kind == "f" and array.ndim > 1:
                if name not in self._maps:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    file, shape = self._folder / f"{name}.npy", (self._most, *array.shape[1:])
                    self._maps[name] = np.lib.format.open_memmap(file, "w+", np.float32, shape)
                self._maps[name][self._count : self._count + len(array)] = array
            else:
                self._ragged.setdefault(name, []).append(array)
        self._count += len(next(iter(made.values())))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of them; texts padded to the longest, as the recipe pads."""
        found = {name: array[: self._count] for name, array in self._maps.items()}
        for name, parts in self._ragged.items():
            longest = max(part.shape[1] for part in parts)
            value = self._padding.get(name, 0)
            padded = [np.pad(part, ((0, 0), (0, longest - part.shape[1])), constant_values=value) for part in parts]
            found[name] = np.concatenate(padded)
        return found
