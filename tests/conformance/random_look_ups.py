"""Random rows of budget tables, of knobs of every kind of dtype, with what the Python runtime looks up in them.

    python -m tests.conformance.random_look_ups --count 1000

prints a line of JSON for each: ``row``, ``share``, the ``dtype`` of its only knob, and the ``answer``: knobs, work,
quality, whether the budget is met.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from adaptrt.runtime.bundle.schema import BudgetPoint, BudgetRow, KnobValue
from adaptrt.runtime.control.budget_table import look_up

LARGEST = {"float16": 65504.0, "float32": 3e38, "float64": 1e300}
"""Of the knobs' dtypes that are floats: a value near their end."""


def value(dtype: str, generator: random.Random) -> float:
    """Of a knob: usual ones, very small ones, and the largest."""
    if dtype not in LARGEST:
        return float(generator.randint(-5, 40))
    tiny = generator.uniform(0, 1) * 10.0 ** generator.randint(-9, 4)
    return generator.choice((0.0, generator.uniform(-2, 2), tiny, 6e-8, LARGEST[dtype]))


def look_ups(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """So many rows with what is looked up."""
    generator = random.Random(seed)
    for _ in range(count):
        dtype = generator.choice((*LARGEST, "int32"))

        def knobs(dtype: str = dtype) -> dict[str, KnobValue]:
            one = generator.random() < 0.5
            return {"k": value(dtype, generator) if one else [value(dtype, generator) for _ in range(3)]}

        work = generator.uniform(0, 0.5)
        end = work + generator.uniform(1e-9, 0.5)
        row = BudgetRow(0.0, work, generator.choice((None, 0.3)), knobs(), BudgetPoint(end, 0.9, knobs()))
        share = generator.choice((work, end, math.nextafter(end, 0), generator.uniform(0, end)))
        answer = look_up([row], share, {"k": dtype})
        yield {"row": msgspec.to_builtins(row), "share": share, "dtype": dtype, "answer": list(answer)}


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for one in look_ups(arguments.count, arguments.seed):
        sys.stdout.write(json.dumps(one) + "\n")


if __name__ == "__main__":
    main()
