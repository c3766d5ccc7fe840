"""Prove a bundle on this machine without torch: its graphs against the golden runs that it carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from adaptrt.export.errors import ExportError
from adaptrt.export.parity.comparison import ParityReport, compare, tie_allowed
from adaptrt.export.parity.reference import GOLDEN_FILE, read_golden
from adaptrt.export.parity.stage_graphs import StageFile, StageGraphs
from adaptrt.runtime.bundle.bundle_file import read_bundle


def verify_bundle(folder: Path) -> ParityReport:
    """Compare a bundle's graphs on this machine's ONNX Runtime with what torch computed at export.

    Raises:
        BundleError: The bundle is damaged.
        ExportError: ``golden.npz`` is missing or damaged.
        ParityError: A graph differs, or nothing was compared.
    """
    bundle = read_bundle(folder)
    golden = folder / GOLDEN_FILE
    if not golden.is_file():
        raise ExportError(f"{folder} has no {GOLDEN_FILE}, expected the runs to compare with; export the bundle again")
    stages = [
        StageFile(onnx.load(str(folder / stage.file)), list(stage.carry), list(stage.decisions))
        for stage in bundle.stages
    ]
    defaults = {knob.name: np.full(knob.shape, knob.default, knob.dtype) for knob in bundle.knobs}
    graphs = StageGraphs(stages, defaults)
    rows = [compare(graphs, reference, tie=tie_allowed(reference, defaults)) for reference in read_golden(golden)]
    return ParityReport(rows).require(f"bundle {bundle.name!r}")
