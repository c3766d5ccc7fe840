"""What ``bundle.json`` says of a network before it is calibrated."""

from __future__ import annotations

import math

import adaptrt
from adaptrt.export.errors import ExportError
from adaptrt.export.graph.trace import TracedStage
from adaptrt.models.folder import LoadedModel
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.bundle.bundle_file import (
    FORMAT_VERSION,
    Axis,
    Bundle,
    Dense,
    ImagePreprocessing,
    Knob,
    Stage,
    TensorSpec,
    TokenSet,
)
from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB


def describe_bundle(
    source: LoadedModel,
    stages: list[TracedStage],
    files: list[Stage],
    ops: dict[str, int],
    dense: Dense,
    *,
    debug: bool = False,
) -> Bundle:
    """What ``bundle.json`` says of a model before it is calibrated."""
    model = source.model
    outputs = [*stages[-1].outputs, TensorSpec(name="macs_fraction", dtype="float32", shape=["batch"])]
    if debug:
        gates = len(stages[0].decisions)  # trace_stage refuses exits and selections
        if not isinstance(model.token_axis, int) or not gates:
            raise ExportError(
                f"got --debug for {source.name!r}, expected gates over a fixed number of tokens; read the outputs "
                "learners_<gate>"
            )
        outputs.append(TensorSpec(name="learners", dtype="int32", shape=["batch", gates, model.token_axis]))
    knobs = [
        Knob(
            name=spec.name,
            dtype=spec.dtype,
            shape=list(spec.shape),
            minimum=spec.minimum,
            maximum=spec.maximum,
            default=spec.default,
        )
        for spec in model.knob_specs()
    ]
    if len(stages) > 1:
        # A confidence may have any range: what lets nobody leave is infinity, not some number.
        shape = [len(stages) - 1]
        knobs.append(Knob(THRESHOLDS_KNOB, "float32", shape, minimum=-math.inf, maximum=math.inf, default=math.inf))
    return Bundle(
        format_version=FORMAT_VERSION,
        name=source.name,
        producer=f"adaptrt {adaptrt.__version__}",
        inputs=input_specs(model),
        outputs=outputs,
        stages=files,
        knobs=knobs,
        dense=dense,
        curve=[],
        quality_metric=None,
        data={},
        ops=ops,
        exit_criterion=model.exit_criterion if len(stages) > 1 else None,
        task=model.task.name,
        class_names=list(model.class_names),
        tokens=_token_sets(model, stages),
        axes={name: Axis(*limits) for name, limits in model.axis_limits().items()},
    )


def _token_sets(model: StagedNetwork, stages: list[TracedStage]) -> dict[str, TokenSet]:
    """The tokens that stages decide about or carry a mask of."""
    if sets := model.row_sets():
        return {name: TokenSet(size) for name, size in sets.items()}
    masked = any(carry.name == "valid" for stage in stages for carry in stage.carry)
    if not masked and not any(stage.decisions for stage in stages):
        return {}
    return {"tokens": TokenSet(model.token_axis, "valid" if masked else None)}


def input_specs(model: StagedNetwork) -> list[TensorSpec]:
    """A network's inputs as a bundle describes them; pictures are those of 1 or 3 channels."""
    specs = []
    for spec in model.input_specs():
        image = None
        if spec.dtype == "float32" and len(spec.shape) == 4 and spec.shape[1] in (1, 3) and not spec.prepared:
            channels, height, width = (int(size) for size in spec.shape[1:])
            image = ImagePreprocessing(channels=channels, height=height, width=width)
        specs.append(TensorSpec(spec.name, spec.dtype, list(spec.shape), image, spec.minimum, spec.maximum))
    return specs
