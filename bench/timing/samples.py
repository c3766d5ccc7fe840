"""The inputs that a bundle is timed on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.session_process import Array
from adaptrt.export.parity.reference import GOLDEN_FILE, read_golden
from adaptrt.models.data.padding import lengths, mask_name, only_axis
from adaptrt.runtime.bundle.bundle_file import Bundle, TensorSpec
from adaptrt.runtime.bundle.stage_validation import batch_axis

Inputs = dict[str, Array]

_NOISE = 64  # samples


def find_samples(folder: Path, bundle: Bundle, inputs: Array | None) -> tuple[Array, str]:
    """Samples to feed to a bundle of one input, ``[samples, ...]``, and where they come from.

    Args:
        folder: The bundle's.
        bundle: Its content.
        inputs: Samples that were given; None takes those in ``golden.npz``, or noise.

    Returns:
        The samples, and "given", "golden" or "random".

    Raises:
        BenchError: They do not fit the input, or there are none and noise cannot be made for it.
        ExportError: ``golden.npz`` is damaged.
    """
    spec = bundle.inputs[0]
    if inputs is not None:
        return _checked(np.asarray(inputs), spec), "given"
    golden = folder / GOLDEN_FILE
    if golden.is_file():
        kept = read_golden(golden)[0].inputs
        if spec.name not in kept:
            raise BenchError(
                f"{golden} has inputs {sorted(kept)}, expected {spec.name!r}; export the bundle again, or give inputs"
            )
        return _checked(kept[spec.name], spec), "golden"
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    if len(sizes) != len(spec.shape) - 1 or np.dtype(spec.dtype).kind != "f":
        raise BenchError(
            f"cannot make noise for input {spec.name!r} ({spec.dtype} {spec.shape}) of {bundle.name!r}; give inputs"
        )
    return np.random.default_rng(0).random((_NOISE, *sizes)).astype(spec.dtype), "random"


def find_inputs(folder: Path, bundle: Bundle, inputs: Array | Mapping[str, Array] | None) -> tuple[Inputs, str]:
    """Samples to feed to a bundle of one or several inputs, by name; see ``find_samples``.

    Args:
        folder: The bundle's.
        bundle: Its content.
        inputs: Samples that were given, of several inputs by name; None takes those in ``golden.npz``, or noise.

    Raises:
        BenchError: As there; or an input is missing, or there are not as many samples of each.
        ExportError: ``golden.npz`` is damaged.
    """
    specs = bundle.inputs
    if len(specs) == 1:
        single = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
        samples, origin = find_samples(folder, bundle, single)
        return {specs[0].name: samples}, origin
    given, origin = inputs, "given"
    if given is None and (folder / GOLDEN_FILE).is_file():
        given, origin = read_golden(folder / GOLDEN_FILE)[0].inputs, "golden"
    if given is None:
        given, origin = draw_inputs(bundle, _NOISE), "random"
    if not isinstance(given, Mapping) or not {spec.name for spec in specs} <= given.keys():
        names = sorted(given) if isinstance(given, Mapping) else "one array"
        raise BenchError(
            f"got inputs {names}, expected {', '.join(spec.name for spec in specs)}; give an .npz file of them"
        )
    found = {spec.name: _checked(np.asarray(given[spec.name]), spec) for spec in specs}
    if len({len(samples) for samples in found.values()}) > 1:
        counts = ", ".join(f"{len(samples)} of {name}" for name, samples in found.items())
        raise BenchError(f"got {counts}, expected as many samples of each input; give as many")
    return found, origin


def cut_to_length(inputs: Inputs, bundle: Bundle, length: int) -> Inputs:
    """Those samples that have as many tokens, cut to these, so that nothing is padding.

    Args:
        inputs: Of a bundle whose samples vary in length, by name.
        bundle: Its content.
        length: Tokens.

    Raises:
        BenchError: Nothing marks which tokens are real, or no sample has as many.
    """
    axis = only_axis(bundle.inputs)
    mask = mask_name(bundle.inputs, axis)
    if axis is None or mask is None:
        raise BenchError(f"got --length for {bundle.name!r}, whose samples have no mask of real tokens; leave it out")
    long = lengths(inputs[mask])
    rows = np.flatnonzero(long >= length)
    if not len(rows):
        raise BenchError(
            f"got samples of at most {int(long.max())} tokens, expected some of {length}; give longer ones"
        )
    found = {}
    for spec in bundle.inputs:
        cut = tuple(slice(length) if size == axis else slice(None) for size in spec.shape)
        found[spec.name] = np.ascontiguousarray(inputs[spec.name][rows][cut])
    return found


def draw_inputs(bundle: Bundle, batch: int) -> dict[str, Array]:
    """Noise for every input of a bundle, within the limits it declares; masks are all true, axes at their longest."""
    generator, arrays, counted = np.random.default_rng(0), {}, batch_axis(bundle)
    for spec in bundle.inputs:
        dtype = np.dtype(spec.dtype)
        sizes = [batch if size == counted else size for size in spec.shape]
        shape = [bundle.axes[size].longest or batch if isinstance(size, str) else size for size in sizes]
        if dtype.kind == "b":
            arrays[spec.name] = np.ones(shape, dtype)
        elif spec.minimum is not None and spec.maximum is not None:
            arrays[spec.name] = generator.integers(spec.minimum, spec.maximum, shape, dtype, endpoint=True)
        else:
            arrays[spec.name] = generator.random(shape).astype(dtype)
    return arrays


def batches_of(samples: Array, batch: int, most: int) -> list[Array]:
    """Divide samples into batches: as many as hold ``most`` samples or fewer, but one at least.

    They are spread over all samples, which may be sorted by class, and repeated where there are too few.
    """
    count = max(1, most // batch)
    have, wanted = len(samples), count * batch
    picked = np.arange(wanted) * have // wanted if have >= wanted else np.arange(wanted) % have
    return list(samples[picked].reshape(count, batch, *samples.shape[1:]))


def _checked(samples: Array, spec: TensorSpec) -> Array:
    fits = samples.ndim == len(spec.shape) and len(samples) > 0 and samples.dtype == np.dtype(spec.dtype)
    if not fits or any(
        isinstance(size, int) and size != got for size, got in zip(spec.shape[1:], samples.shape[1:], strict=True)
    ):
        raise BenchError(
            f"got inputs {samples.dtype} {list(samples.shape)}, expected at least one sample of "
            f"{spec.name!r}: {spec.dtype} {spec.shape}; give others"
        )
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise BenchError(f"got inputs with NaN or infinity for {spec.name!r}, expected finite numbers; give others")
    return samples
