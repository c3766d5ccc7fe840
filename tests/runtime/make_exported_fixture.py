"""Makes ``fixtures/exported``: a real export, small enough to keep, to run where torch and onnx cannot be had.

``test_exported_bundle`` runs it on the ONNX Runtime and Python that older devices are bound to. Its
``golden.npz`` is what torch computed. Needs torch and onnx; run it after a change to what an export
writes, from the repository's folder: ``python -m tests.runtime.make_exported_fixture``.
"""

from __future__ import annotations

from pathlib import Path

from adaptrt.export.exporter import export_bundle
from adaptrt.models.folder import LoadedModel
from tests.export.conftest import tiny_data, tiny_model

FOLDER = Path(__file__).parent / "fixtures" / "exported"
LARGEST = 150_000  # bytes that the repository can carry without a thought


def make(folder: Path) -> int:
    """Export the bundle, without a dense model beside it; gives its size in bytes."""
    source = LoadedModel("exported", tiny_model(learners=4), None, None)
    export_bundle(source, folder, calibration=tiny_data(), points=5)
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    size = make(FOLDER)
    print(f"wrote {FOLDER}, {size} bytes")
    if size > LARGEST:
        raise SystemExit(f"got {size} bytes, expected at most {LARGEST}; make the model smaller")
