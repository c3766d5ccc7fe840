"""OpenVINO as a target: it compiles the prepared graphs itself, here to be compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptrt.export.calibration.evaluations import Progress
from adaptrt.export.targets.openvino_check import (
    OpenVinoSession,
    openvino_installed,
    openvino_version,
    require_agreement,
)
from adaptrt.export.targets.prepare import Prepared
from adaptrt.export.targets.quality import compare_quality, require_quality
from adaptrt.export.targets.target_builder import BuildSettings, TargetBuilder
from adaptrt.runtime.bundle.schema import Bundle


class OpenVinoBuilder(TargetBuilder):
    """Prepared graphs, and the proof that OpenVINO computes from them what ONNX Runtime does."""

    def verified(
        self, folder: Path, bundle: Bundle, prepared: Sequence[Prepared], settings: BuildSettings, tell: Progress
    ) -> float | None:
        """Largest difference of OpenVINO's logits from ONNX Runtime's on the prepared graphs; None if not asked."""
        if not settings.verify or not openvino_installed():
            return None
        tell(f"comparing OpenVINO {openvino_version()} with ONNX Runtime", 0.0)
        graphs = [each.model for each in prepared]
        report = compare_quality(folder, bundle, graphs, graphs, OpenVinoSession)
        if settings.precision == "fp32":
            require_agreement(report, f"{bundle.name!r}")
        else:
            require_quality(
                f"{bundle.name!r} in OpenVINO",
                report.quality,
                report.reference_quality,
                report.flip_rate,
                settings.max_quality_drop,
            )
        return max(row.clear_difference for row in report.rows)
