"""OpenVINO on the prepared graphs, as a session like ONNX Runtime's, so that the same comparison serves both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.targets.quality import QualityReport
from adaptrt.runtime.backends.backend_table import BACKENDS
from adaptrt.runtime.backends.openvino import import_openvino

Array = npt.NDArray[Any]
TOLERANCE = 1e-4


class _Port(NamedTuple):
    name: str


class OpenVinoSession:
    """A graph compiled for the CPU, computing in float32 (OpenVINO would take bfloat16 where the CPU has it).

    Raises:
        ExportError: OpenVINO refuses the graph.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        core = import_openvino().Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        try:
            model = core.read_model(io.BytesIO(graph.SerializeToString()))
            self._compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # openvino raises plain RuntimeErrors
            reason = " ".join(str(error).split())[:600]
            raise ExportError(
                f"OpenVINO {openvino_version()} refuses the prepared graph: {reason}; nothing was written, "
                "report this model"
            ) from error
        self._inputs = [value.name for value in graph.graph.input]
        self._read = {name for port in self._compiled.inputs for name in port.names}  # it drops inputs nobody reads
        self._outputs = [value.name for value in graph.graph.output]

    def get_inputs(self) -> list[_Port]:
        """The graph's inputs."""
        return [_Port(name) for name in self._inputs]

    def get_outputs(self) -> list[_Port]:
        """The graph's outputs."""
        return [_Port(name) for name in self._outputs]

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs by name, in that order."""
        results = self._compiled({name: array for name, array in feeds.items() if name in self._read})
        return [np.array(results[name]) for name in names]


def openvino_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return BACKENDS["openvino"].installed


def openvino_version() -> str:
    """As ``2026.4.1``."""
    return str(import_openvino().__version__).partition("-")[0]


def require_agreement(report: QualityReport, what: str) -> None:
    """Check that OpenVINO gives the logits of ONNX Runtime within 1e-4 wherever no decision is near a tie.

    Raises:
        ParityError: It does not, or nothing was compared.
    """
    if not report.rows or not all(row.samples for row in report.rows):
        raise ParityError(f"{what}: nothing was compared, expected golden runs; export the bundle again")
    for row in report.rows:
        if not row.clear_difference <= TOLERANCE:
            raise ParityError(
                f"{what}: OpenVINO's outputs differ from ONNX Runtime's by {row.clear_difference:.2e} at {row.knobs}, "
                f"expected at most {TOLERANCE:.0e}; nothing was written, report this model"
            )
