"""Looking a budget up in a bundle's table: all that a runtime needs to know of its curve, in any language.

A row holds from its share of work up to the next row's. Below its own work the budget cannot be met, and it stands as
it is. Without ``to`` its knobs stand as they are; with it they lie on the line to those, so far along it as the share
lies between both ends' work. A float is rounded to its dtype towards the near end and never reaches the far one; a
whole number is rounded down. Where nothing moves the near end stands as it is, its work and its quality too. Nothing
lies between a threshold and infinity.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adaptrt.runtime.bundle.schema import BudgetRow, KnobValue

_BELOW_ONE = 1.0 - 2.0**-53
_ROUNDING = 1e-12
_FLOATS = {"float16": ("<e", "<H"), "float32": ("<f", "<I"), "float64": ("<d", "<Q")}
"""How ``struct`` writes a float of that dtype, and the whole number of the same bits."""


class Answer(NamedTuple):
    """What a budget comes to: values of all knobs, the share of work and the quality to expect, whether it is met."""

    knobs: dict[str, KnobValue]
    work: float
    quality: float | None
    reachable: bool


def look_up(rows: Sequence[BudgetRow], share: float, dtypes: Mapping[str, str]) -> Answer:
    """The answer to a budget of a share of the dense work.

    Args:
        rows: the table for soft budgets or the one for hard ones; the first row begins at 0.
        share: 0 or more.
        dtypes: of all knobs, by name.
    """
    row = rows[bisect_right(rows, share, key=lambda one: one.fraction) - 1]
    near = Answer(dict(row.knobs), row.work, row.quality, row.work <= share)
    if row.to is None or share < row.work:
        return near
    way = min((share - row.work) / (row.to.work - row.work), _BELOW_ONE)
    knobs = {name: _between(value, row.to.knobs[name], way, dtypes[name]) for name, value in row.knobs.items()}
    if knobs == row.knobs:
        return near
    quality = None
    if row.quality is not None and row.to.quality is not None:
        quality = row.quality + way * (row.to.quality - row.quality)
    return Answer(knobs, share, quality, True)


def _between(near: KnobValue, far: KnobValue, way: float, dtype: str) -> KnobValue:
    if not isinstance(near, list) and not isinstance(far, list):
        return _move(near, far, way, dtype)
    size = len(near) if isinstance(near, list) else len(far)  # type: ignore[arg-type]
    nears, fars = (value if isinstance(value, list) else [value] * size for value in (near, far))
    values = [_move(start, end, way, dtype) for start, end in zip(nears, fars, strict=True)]
    return near if values == nears else values


def _move(near: float, far: float, way: float, dtype: str) -> float:
    if math.isinf(near) or math.isinf(far):
        return near
    if dtype not in _FLOATS:
        whole = float(math.floor(near + way * (far - near) + _ROUNDING))
        return min(whole, far - 1) if far > near else whole
    start, end = _rounded(near, dtype), _rounded(far, dtype)
    exact = start + way * (end - start)
    value = _rounded(min(max(exact, min(start, end)), max(start, end)), dtype)
    if (value - exact) * (end - start) > 0 or value == end:
        value = _neighbour(value, start, dtype)
    return near if value == start else value


def _rounded(value: float, dtype: str) -> float:
    form, _ = _FLOATS[dtype]
    return float(struct.unpack(form, struct.pack(form, value))[0])


def _neighbour(value: float, towards: float, dtype: str) -> float:
    """The next float of a dtype in a direction."""
    if value == towards:
        return value
    form, bits = _FLOATS[dtype]
    if value == 0:
        return math.copysign(float(struct.unpack(form, struct.pack(bits, 1))[0]), towards)
    (number,) = struct.unpack(bits, struct.pack(form, value))
    number += 1 if (value > 0) == (towards > value) else -1  # away from zero is one bit more, whatever the sign
    return float(struct.unpack(form, struct.pack(bits, number))[0])
