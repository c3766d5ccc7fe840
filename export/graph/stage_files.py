"""All stages of a network as files: traced, bodies attached."""

from __future__ import annotations

from pathlib import Path

import msgspec

from adaptrt.export.calibration.evaluations import Progress
from adaptrt.export.errors import ExportError
from adaptrt.export.graph.bodies import attach_bodies
from adaptrt.export.graph.repeated_blocks import BlockGraphs
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.trace import TracedStage, trace_stage
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.bundle.bundle_file import Stage

MODEL_FILE = "model.onnx"


def trace_stages(
    model: StagedNetwork, *, debug: bool, progress: Progress, blocks: BlockGraphs | None = None
) -> tuple[list[TracedStage], dict[str, int]]:
    """Trace all stages and attach bodies; the number of learners per op name besides.

    Args:
        model: The network.
        debug: As for ``trace_stage``.
        progress: Told which stage it is.
        blocks: As for ``trace_stage``.

    Raises:
        ExportError: Two stages need different bodies for one op name.
    """
    names, stages = model.stage_names, []
    ops: dict[str, int] = {}
    for number in range(len(names)):
        what = "tracing the adaptive model" if len(names) == 1 else f"tracing stage {number + 1} of {len(names)}"
        progress(what, number / len(names))
        stage = trace_stage(model, number, debug=debug, blocks=blocks)
        for op, learners in attach_bodies(stage.graph).items():
            if ops.setdefault(op, learners) != learners:
                raise ExportError(
                    f"got {op} with {ops[op]} and with {learners} learners in one model, expected the same number "
                    "in all: one op name has one body per file; give all the same number, or other activations"
                )
        stages.append(stage)
    return stages, ops


def save_stages(stages: list[TracedStage], folder: Path) -> list[Stage]:
    """Write every stage's graph and give their entries in the bundle."""
    if len(stages) == 1:
        saved = save_graph(stages[0].graph, folder / MODEL_FILE)
        return [msgspec.structs.replace(saved, decisions=stages[0].decisions)]
    return [
        msgspec.structs.replace(
            save_graph(stage.graph, folder / f"stage{number}.onnx"),
            exit=stage.name,
            carry=stage.carry,
            decisions=stage.decisions,
        )
        for number, stage in enumerate(stages)
    ]


def save_unsplit(model: StagedNetwork, path: Path) -> Stage:
    """Write a network with exits as one graph without them: what its stages are to be compared with."""
    graph = trace_stage(model.unsplit(), 0).graph
    attach_bodies(graph)
    return save_graph(graph, path)
