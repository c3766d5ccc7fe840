"""What the calibrated points of a bundle must satisfy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from adaptrt.runtime.bundle.expectations import AGAIN, Invalid, expect, expect_finite, expect_text, short
from adaptrt.runtime.bundle.schema import (
    SNAPPING_SETTING,
    TOKEN_PRICE_KNOB,
    Bundle,
    CurvePoint,
    Knob,
    KnobValue,
)

MAX_CURVE_POINTS = 10_000
MAX_FRACTION = 100.0
"""An adaptive model that works a hundred times as much as the dense one is a mistake in the file."""

Signs = bool | tuple[bool, ...]


def check_curve(bundle: Bundle) -> None:
    """Check every point, and that what is between the points of a chain means something.

    Raises:
        Invalid: names the first point that was wrong, what was expected and what to do.
    """
    knobs = {knob.name: knob for knob in bundle.knobs}
    for number, point in enumerate(bundle.curve):
        _check_point(f"curve[{number}]", point, knobs)
    _check_chains(bundle, knobs)


def _check_point(where: str, point: CurvePoint, knobs: Mapping[str, Knob]) -> None:
    for name, value in point.knobs.items():
        knob = knobs.get(name)
        if knob is None:
            raise Invalid(f"{where}: unknown knob {short(name)}, expected one of {sorted(knobs)}; {AGAIN}")
        check_knob_value(f"{where}: {name}", value, knob)
    for fraction in (point.macs_fraction, point.calibration_macs_fraction):
        fine = fraction is None or 0 <= fraction <= MAX_FRACTION
        expect(fine, f"{where}: share {fraction} of the dense work", f"0 to {MAX_FRACTION:g}")
    expect_finite(f"{where} quality", (point.quality, point.calibration_quality))
    error = point.calibration_error
    expect(error is None or 0 <= error < math.inf, f"{where} calibration_error {error}", "a finite number, 0 or more")
    if point.setting:
        expect_text(f"{where} setting", point.setting)


def check_knob_value(where: str, value: KnobValue, knob: Knob) -> None:
    """A number for all elements of a knob, or a list with one for each.

    Raises:
        Invalid: it is not within the knob's limits, or not whole where the knob is.
    """
    size = math.prod(knob.shape)
    numbers = value if isinstance(value, list) else [value]
    if isinstance(value, list):
        expect(len(value) == size, f"{where} of {len(value)} values", f"{size}, or one number for all")
    whole = np.dtype(knob.dtype).kind != "f"
    for number in numbers:
        dtype = np.dtype(knob.dtype)
        held = dtype.kind != "f" or number == math.inf or abs(number) <= float(np.finfo(dtype).max)
        fine = knob.minimum <= number <= knob.maximum and number > -math.inf and held  # false for NaN
        expect(fine, f"{where} {number}", f"{knob.minimum} to {knob.maximum}")
        expect(not whole or float(number).is_integer(), f"{where} {number}", f"a whole number ({knob.dtype})")


def _check_chains(bundle: Bundle, knobs: Mapping[str, Knob]) -> None:
    """Refuse chains along which a knob goes from off to on: there is nothing between the two.

    Of a whole-number knob and of the tokens' own price, a negative value means that they are off.
    """
    switches = [name for name, knob in knobs.items() if name == TOKEN_PRICE_KNOB or np.dtype(knob.dtype).kind == "i"]
    seen: dict[tuple[bool, str], tuple[int, dict[str, Signs]]] = {}
    for number, point in enumerate(bundle.curve):
        if not point.setting or point.setting.startswith(SNAPPING_SETTING):
            continue
        off = {name: _below_zero(point.knobs.get(name, knobs[name].default)) for name in switches}
        first, expected = seen.setdefault((point.hard, point.setting), (number, off))
        for name in switches:
            expect(
                off[name] == expected[name],
                f"curve[{number}]: {name} is on where it was off, or the other way round, in curve[{first}] "
                f"of the same setting {short(point.setting)}",
                "a chain that keeps it as it is",
            )


def _below_zero(value: KnobValue) -> Signs:
    """Which elements are; one answer where it is the same for all, as for a number."""
    if not isinstance(value, list):
        return value < 0
    signs = tuple(number < 0 for number in value)
    return signs[0] if len(set(signs)) == 1 else signs
