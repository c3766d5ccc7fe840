"""Graphs of networks that tests export again and again: traced when first asked for, then given as copies.

Only for tests that are about something else than the trace: what a test changes in a network's code is not seen here.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import onnx
import pytest

from adaptrt.export import exporter
from adaptrt.export.calibration import family_scales
from adaptrt.export.calibration.evaluations import Progress
from adaptrt.export.graph.scale_metadata import scale_metadata
from adaptrt.export.graph.stage_files import trace_stages
from adaptrt.export.graph.trace import TracedStage, trace_dense
from adaptrt.models import Network
from adaptrt.models.staged_network import StagedNetwork


def identity(model: StagedNetwork) -> tuple[str, ...]:
    """Equal where two networks have the same graphs: shape, knobs, price scales and every weight."""
    assert isinstance(model, Network)
    weights = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        weights.update(tensor.detach().numpy().tobytes())
    return repr(model.config), repr(model.knob_specs()), repr(scale_metadata(model)), weights.hexdigest()


class SharedTraces:
    """What stands for the exporter's two ways to trace."""

    def __init__(self) -> None:
        self._traced: dict[tuple[object, ...], Any] = {}

    def _once(self, key: tuple[object, ...], trace: Callable[[], Any]) -> Any:
        if key not in self._traced:
            self._traced[key] = trace()
        return copy.deepcopy(self._traced[key])

    def stages(
        self, model: StagedNetwork, *, debug: bool, progress: Progress
    ) -> tuple[list[TracedStage], dict[str, int]]:
        stages, ops = self._once(
            ("stages", debug, *identity(model)), lambda: trace_stages(model, debug=debug, progress=progress)
        )
        return stages, ops

    def dense(self, model: StagedNetwork) -> onnx.ModelProto:
        graph = self._once(("dense", *identity(model)), lambda: trace_dense(model))
        assert isinstance(graph, onnx.ModelProto)
        return graph

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exports share their traces until the patch is undone."""
        monkeypatch.setattr(exporter, "trace_stages", self.stages)
        monkeypatch.setattr(exporter, "trace_dense", self.dense)
        monkeypatch.setattr(family_scales, "trace_stages", self.stages)
