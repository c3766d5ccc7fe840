"""Makes ``fixtures/tiny``, the bundle that the runtime's tests run where the onnx package is not installed.

It is the bundle of ``bench/timing/tiny_bundle.py``. Run this after a change to the bundle's schema:
``python tests/runtime/make_fixture.py``.
"""

from __future__ import annotations

from pathlib import Path

from adaptrt.bench.timing.tiny_bundle import make, reference

__all__ = ["FOLDER", "make", "reference"]

FOLDER = Path(__file__).parent / "fixtures" / "tiny"

if __name__ == "__main__":
    make(FOLDER)
    print(f"wrote {FOLDER}")
