"""A bundle in int8 as a bundle of its own, and what Python answers in int8.

    python -m tests.conformance.int8_answers build/digits FOLDER

builds the first in int8, in a copy, writes it to the folder, and prints a line of JSON for each budget: ``budget`` (a
share of the dense work), the ``shape`` and ``data`` of random pictures, ``logits``, ``macs_fraction``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.portable_int8 import write_int8_bundle
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.runtime import Budget, load

BUDGETS = (0.45, 0.6, 1.0)
SAMPLES = 8


def main() -> None:
    """Write it, print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(arguments.bundle, Path(scratch) / "bundle"))
        build_target(folder, BuildSettings("onnxruntime", "int8"))
        write_int8_bundle(folder, arguments.output)
        model = load(folder, precision="int8", threads=1)
        (spec,) = model.bundle.inputs
        shape = [SAMPLES, *(size for size in spec.shape if not isinstance(size, str))]
        pictures = np.random.default_rng(7).random(shape, np.float32)
        for budget in BUDGETS:
            result = model.run({spec.name: pictures}, budget=Budget.fraction(budget))
            answer = {
                "budget": budget,
                "shape": shape,
                "data": pictures.ravel().tolist(),
                "logits": result.outputs["logits"].ravel().tolist(),
                "macs_fraction": result.macs_fraction.tolist(),
            }
            print(json.dumps(answer))


if __name__ == "__main__":
    main()
