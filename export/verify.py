"""Prove a bundle on this machine without torch: its graph against the golden runs that it carries."""

from __future__ import annotations

from pathlib import Path

import onnx

from adaptrt.export.calibrate import price_knob
from adaptrt.export.errors import ExportError
from adaptrt.export.parity import TIE, GraphUnderTest, ParityReport
from adaptrt.export.reference import GOLDEN_FILE, read_golden
from adaptrt.runtime.bundle import read_bundle


def verify_bundle(folder: Path) -> ParityReport:
    """Compare a bundle's graph on this machine's ONNX Runtime with what torch computed at export.

    Raises:
        BundleError: The bundle is damaged.
        ExportError: ``golden.npz`` is missing or damaged.
        ParityError: The graph differs, or nothing was compared.
    """
    bundle = read_bundle(folder)
    golden = folder / GOLDEN_FILE
    if not golden.is_file():
        raise ExportError(f"{folder} has no {GOLDEN_FILE}, expected the runs to compare with; export the bundle again")
    graph = GraphUnderTest(onnx.load(str(folder / bundle.stages[0].file)))
    everything = price_knob(bundle).minimum
    rows = [
        graph.compare(reference, tie=0.0 if reference.price == everything else TIE) for reference in read_golden(golden)
    ]
    return ParityReport(rows).require(f"bundle {bundle.name!r}")
