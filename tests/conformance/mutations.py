"""Bundles of the kit with random damage, and what the Python runtime says of each: for runtimes that say the same.

    python -m tests.conformance.mutations --count 1000

prints a line of JSON for each: ``text`` is a ``bundle.json``; ``message`` what its validation says, without the path,
or null where it is fine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from typing import Any

from adaptrt.runtime.bundle.expectations import Invalid
from adaptrt.runtime.bundle.json_form import decode_bundle
from adaptrt.runtime.bundle.validation import check_bundle
from tests.conformance.kit import INDEX, KIT, read_json

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-300, 1e300, 2**31, 2**63, -(2**63), 10**30,
    "", "x", "batch", "float32", "int64", "bool", "max_softmax", "a\nb", "..", "/x", "é…\U0001f600", "x" * 1001,
    [], [1], ["batch"], {}, {"x": 1}, [None],
)  # fmt: skip


def damaged(content: Any, generator: random.Random) -> None:
    """Change one thing somewhere in a JSON value, in place."""
    here = content
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = generator.choice(keys)
        inner = here[key]
        if isinstance(inner, dict | list) and inner and generator.random() < 0.85:
            here = inner
            continue
        break
    act = generator.random()
    if act < 0.2:
        del here[key]
    elif act < 0.3 and isinstance(here, list):
        here.append(json.loads(json.dumps(generator.choice(here))))
    elif act < 0.5 and isinstance(inner, int | float) and not isinstance(inner, bool):
        here[key] = generator.choice((inner + 1, inner - 1, -inner, inner * 1000, float(inner)))
    elif act < 0.55 and isinstance(inner, str):
        here[key] = generator.choice((inner + "x", inner[:-1], inner.upper(), f"'{inner}'"))
    else:
        here[key] = generator.choice(ODD_VALUES)


def said_of(text: bytes) -> str | None:
    """What is wrong with it; None if nothing."""
    try:
        check_bundle(decode_bundle(text))
    except Invalid as error:
        return str(error)
    return None


def mutations(count: int, seed: int) -> Iterator[dict[str, str | None]]:
    """So many texts with what is said of them."""
    folders = [KIT / read_json(KIT / entry["file"])["bundle"] for entry in read_json(KIT / INDEX)["cases"]]
    bundles = [(folder / "bundle.json").read_text() for folder in folders]
    generator = random.Random(seed)
    for _ in range(count):
        content = json.loads(generator.choice(bundles))
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            damaged(content, generator)
        text = json.dumps(content, ensure_ascii=False)
        yield {"text": text, "message": said_of(text.encode())}


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for one in mutations(arguments.count, arguments.seed):
        sys.stdout.write(json.dumps(one) + "\n")


if __name__ == "__main__":
    main()
