"""Checks what a caller feeds against what the bundle declares, cheaply enough for every call.

Nothing is cast, reshaped or copied: a wrong array is refused with the expression that mends it. Sizes and values
are checked as well, before any engine sees a byte: what an engine makes of a number outside its table, an error or
an answer that looks like any other, is its own affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import Axis, Knob, KnobValue, TensorSpec
from adaptrt.runtime.errors import InputError, shown

Array = np.ndarray[Any, Any]

_MISSING = object()
FEW = 96
"""Elements up to which Python is done before numpy's operators, which meet cold caches after every call, have begun."""
_BLOCK = 1 << 16
"""Elements looked at in one go, a truth value each in memory that should be in the caches already."""


class _ExpectedArray:
    """One input's requirements, split into what is quick to compare."""

    __slots__ = ("check_values", "dtype", "dynamic", "fixed", "latest", "limits", "name", "rank", "spec")

    def __init__(self, spec: TensorSpec, axes: Mapping[str, Axis]) -> None:
        self.spec = spec
        self.name = spec.name
        self.dtype = np.dtype(spec.dtype)
        self.rank = len(spec.shape)
        self.fixed = tuple((axis, size) for axis, size in enumerate(spec.shape) if isinstance(size, int))
        self.dynamic = tuple((axis, name) for axis, name in enumerate(spec.shape) if isinstance(name, str))
        self.limits = tuple(axes.get(name, Axis(0)) for _, name in self.dynamic)
        self.check_values = _CHECKS.get(self.dtype.kind)
        self.latest: tuple[int, ...] | None = None

    def check_shape(self, array: Array) -> None:
        """Refuse a number of axes or a size that is not as declared.

        Raises:
            InputError: one is not.
        """
        if array.ndim != self.rank or any(array.shape[axis] != size for axis, size in self.fixed):
            raise _wrong(array, self)
        for (axis, name), limits in zip(self.dynamic, self.limits, strict=True):
            longest = math.inf if limits.longest is None else limits.longest
            if not limits.shortest <= array.shape[axis] <= longest:
                raise _wrong_size(array, self, axis, name, limits.shortest, longest)


class InputContract:
    """The inputs of a bundle, knobs excluded; any number of threads may use one.

    Args:
        specs: the inputs.
        axes: how long the named axes may be; one that is not listed may have any size.
    """

    def __init__(self, specs: Sequence[TensorSpec], axes: Mapping[str, Axis]) -> None:
        self._expected = tuple(_ExpectedArray(spec, axes) for spec in specs)

    def check(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, int]]:
        """Check every array.

        Args:
            inputs: an array for each declared input and no other.

        Returns:
            The same arrays by name, in a new dictionary, and the size of every dynamic axis.

        Raises:
            InputError: a name is missing or unknown, something is no array or a masked one, or has another dtype,
                number of axes or size than declared, two inputs differ in a common axis, a whole number is out of
                its range, or a fraction is not finite.
        """
        if type(inputs) is not dict and not isinstance(inputs, Mapping):
            raise self._wrong_names(inputs)
        feeds: dict[str, Array] = {}
        sizes: dict[str, int] = {}
        for expected in self._expected:
            array: Any = inputs.get(expected.name, _MISSING)
            if (type(array) is not np.ndarray and not _is_plain(array)) or array.dtype != expected.dtype:
                raise self._wrong_names(inputs) if array is _MISSING else _wrong(array, expected)
            shape = array.shape
            if shape != expected.latest:  # calls of the same sizes follow each other
                expected.check_shape(array)
                expected.latest = shape
            for axis, name in expected.dynamic:
                size = shape[axis]
                if sizes.setdefault(name, size) != size:
                    raise InputError(
                        f"input {expected.name!r}: {name} is {size}, expected {sizes[name]} as in the inputs "
                        f"before it; feed arrays with the same {name}"
                    )
            if expected.check_values is not None:
                expected.check_values(array, expected.spec)
            feeds[expected.name] = array
        if len(inputs) != len(feeds):
            raise self._wrong_names(inputs)
        return feeds, sizes

    def _wrong_names(self, inputs: object) -> InputError:
        if not isinstance(inputs, Mapping):
            wanted = ", ".join(f"{expected.name!r}: array" for expected in self._expected)
            return InputError(f"inputs: got {type(inputs).__name__}, expected a dictionary; pass {{{wanted}}}")
        got = ", ".join(repr(name) for name in list(inputs)[:10]) or "none"
        names = ", ".join(repr(expected.name) for expected in self._expected)
        return InputError(
            f"inputs: got {got}, expected exactly {names}; rename, add or leave out (knobs go in `knobs`)"
        )


def _is_plain(array: object) -> bool:
    """Whether this is an array all of whose elements count; of a masked one some do not."""
    return isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)


def _check_finite(array: Array, spec: TensorSpec) -> None:
    """Refuse NaN and infinity: no answer to them means anything, and engines differ in the one they give.

    Raises:
        InputError: there is one.
    """
    # A sum in Python, with NaN or infinity in it, is neither finite nor anybody's warning.
    if array.size <= FEW and math.isfinite(sum(array.ravel().tolist())):
        return
    if array.size <= _BLOCK:
        fine = np.isfinite(array).all()
    else:  # what is looked at lies in memory once more, as a truth value each: not all of a large batch at once
        rows = max(_BLOCK * len(array) // array.size, 1)
        fine = np.bool_(all(np.isfinite(array[start : start + rows]).all() for start in range(0, len(array), rows)))
    if not fine:
        place = [int(index) for index in np.argwhere(~np.isfinite(array))[0]]
        raise InputError(
            f"input {spec.name!r}: got {array[tuple(place)]} at {place}, expected finite numbers; "
            "look where it comes from, or put a value in its place that the model knows"
        )


def _check_bytes(array: Array, spec: TensorSpec) -> None:
    """Refuse booleans that are neither 0 nor 1 in memory, as views of other bytes are: engines compute with the byte.

    Raises:
        InputError: there is one.
    """
    if array.size and array.view(np.uint8).max() > 1:
        place = [int(index) for index in np.argwhere(array.view(np.uint8) > 1)[0]]
        raise InputError(
            f"input {spec.name!r}: got a boolean whose byte is {array.view(np.uint8)[tuple(place)]} at {place}, "
            "expected 0 or 1; it is a view of other numbers, pass x.view(np.uint8) != 0"
        )


def _check_range(array: Array, spec: TensorSpec) -> None:
    """Refuse whole numbers that the model has nothing for.

    Raises:
        InputError: there is one.
    """
    least, most = spec.minimum, spec.maximum
    if least is None or most is None or not array.size or (array.min() >= least and array.max() <= most):
        return
    place = [int(index) for index in np.argwhere((array < least) | (array > most))[0]]
    raise InputError(
        f"input {spec.name!r}: got {array[tuple(place)]} at {place}, expected {least} to {most}; "
        "feed numbers in that range, such as the model's own tokenizer gives"
    )


_CHECKS = {"f": _check_finite, "i": _check_range, "u": _check_range, "b": _check_bytes}
"""What looks at the values of an input, by the kind of its dtype."""


def _wrong_size(
    array: Array, expected: _ExpectedArray, axis: int, name: str, shortest: int, longest: float
) -> InputError:
    sizes = f"at least {shortest}" if longest == math.inf else f"{shortest} to {int(longest)}"
    remedy = "cut it" if array.shape[axis] > longest else "give more"
    return InputError(
        f"input {expected.name!r}: got {list(array.shape)}, where {name} is {array.shape[axis]}, "
        f"expected {sizes}; {remedy}"
    )


def knob_arrays(knobs: Sequence[Knob], values: Mapping[str, KnobValue]) -> dict[str, Array]:
    """A read-only array for every knob, at ``values`` or else its default.

    Args:
        knobs: of the bundle.
        values: for each knob named, a number that fills its shape, or as many numbers as it has elements,
            in row-major order: a list, tuple or array of one axis.

    Raises:
        InputError: a name is unknown, a value is no finite number, out of the knob's limits, not a
            whole number where the knob takes whole numbers, or there are too few or too many of them.
    """
    by_name = {knob.name: knob for knob in knobs}
    if not isinstance(values, Mapping):
        raise InputError(f"knobs: got {shown(values)}, expected a dictionary; pass {{'price': 0.5}}")
    for name in values:
        if name not in by_name:
            known = ", ".join(repr(known) for known in by_name) or "none"
            raise InputError(f"knobs: got {name!r}, expected some of {known}; `adaptrt inspect` lists them")
    arrays = {}
    for knob in knobs:
        numbers = _numbers(knob, values.get(knob.name, knob.default))
        if isinstance(numbers, list):
            array = np.array(numbers, dtype=knob.dtype).reshape(knob.shape)
        else:
            array = np.full(knob.shape, numbers, dtype=knob.dtype)
        array.setflags(write=False)
        arrays[knob.name] = array
    return arrays


def _numbers(knob: Knob, value: object) -> float | int | list[float | int]:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return _number(knob, value)
    size = math.prod(knob.shape)
    if len(value) != size:
        raise InputError(f"knob {knob.name!r}: got {len(value)} values, expected {size}, or one number for all of them")
    return [_number(knob, number) for number in value]


def _number(knob: Knob, value: object) -> float | int:
    number, dtype = _as_float(value), np.dtype(knob.dtype)
    too_large = dtype.kind == "f" and float(np.finfo(dtype).max) < abs(number) < math.inf
    if too_large:
        raise InputError(
            f"knob {knob.name!r}: got {shown(value)}, expected a number that {knob.dtype} can hold, or infinity; "
            "pass that"
        )
    if not knob.minimum <= number <= knob.maximum:
        wanted = "a number" if math.prod(knob.shape) == 1 else f"a number, or {math.prod(knob.shape)} of them,"
        raise InputError(
            f"knob {knob.name!r}: got {shown(value)}, expected {wanted} from {knob.minimum:g} to {knob.maximum:g}; "
            "pass that"
        )
    if dtype.kind == "f":
        return number
    if number != int(number):
        raise InputError(f"knob {knob.name!r}: got {shown(value)}, expected a whole number ({knob.dtype}); round it")
    return int(number)


def _as_float(value: object) -> float:
    """NaN for what is no number, or too large for one; so is True, which is not meant as 1."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _wrong(array: object, expected: _ExpectedArray) -> InputError:
    spec = expected.spec
    want = f"{spec.dtype} [{', '.join(str(size) for size in spec.shape)}]"
    if isinstance(array, np.ma.MaskedArray):
        return InputError(
            f"input {spec.name!r}: got a masked array, expected a plain one {want}, as no engine knows masks; "
            "say what stands for the masked elements with x.filled(value)"
        )
    if not isinstance(array, np.ndarray):
        kind = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
        return InputError(
            f"input {spec.name!r}: got {kind}, expected a numpy array {want}; "
            f"pass np.asarray(x, dtype={_named(np.dtype(spec.dtype))})"
        )
    got = f"{array.dtype} {list(array.shape)}"
    remedy = _remedy(array, expected)
    return InputError(f"input {spec.name!r}: got {got}, expected {want}; {remedy}")


def _named(dtype: np.dtype[Any]) -> str:
    """As every numpy has it; ``np.bool`` is missing in some."""
    return "bool" if dtype.kind == "b" else f"np.{dtype.name}"


def _remedy(array: Array, expected: _ExpectedArray) -> str:
    if array.dtype != expected.dtype:
        return f"convert it with x.astype({_named(expected.dtype)})"
    if array.ndim + 1 == expected.rank:
        return "add the missing axis, for one sample with x[None]"
    return "reshape or resize it to that"
